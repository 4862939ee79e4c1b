"""The account statements of the stand-in: grammar, names, wildcards, the two first users' file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.devstack.emulator import account_sql, bootstrap
from hoop_core.devstack.emulator.account_statements import (
    AccountStatement,
    Alter,
    Create,
    Drop,
    GrantPrivileges,
    GrantRole,
    Show,
    Target,
    Use,
)
from hoop_core.devstack.emulator.accounts import ACCOUNT, Account, Kind, Securable
from hoop_core.devstack.emulator.errors import SqlError
from hoop_core.devstack.emulator.listing import like
from hoop_core.devstack.emulator.process import key_pair
from hoop_core.errors import ConfigError


def parse(sql: str) -> AccountStatement | None:
    return account_sql.parse(account_sql.tokens_of(sql))


def test_names_fold_up_unless_quoted() -> None:
    assert parse("drop user v_Job") == Drop(Kind.USER, ("V_JOB",), False)
    assert parse('drop user if exists "v_Job"') == Drop(Kind.USER, ("v_Job",), True)
    assert parse('drop user "a ""b"""') == Drop(Kind.USER, ('a "b"',), False)


def test_properties_keep_their_values_and_hide_them() -> None:
    made = parse(
        "CREATE USER U PASSWORD='it''s' DAYS_TO_EXPIRY = -1, DISABLED=FALSE DEFAULT_ROLE=r"
    )
    assert isinstance(made, Create)
    assert {k: (v.form, v.text) for k, v in made.properties.items()} == {
        "PASSWORD": ("string", "it's"),
        "DAYS_TO_EXPIRY": ("number", "-1"),
        "DISABLED": ("boolean", "FALSE"),
        "DEFAULT_ROLE": ("name", "R"),
    }
    assert "it's" not in repr(made)


def test_vaults_statements_are_understood() -> None:
    altered = parse("ALTER USER IF EXISTS V_X SET DISABLED = TRUE;")
    assert isinstance(altered, Alter)
    assert (altered.name, altered.if_exists, altered.unset) == (("V_X",), True, False)
    assert parse("GRANT ROLE ML_READER TO USER V_X") == GrantRole(
        "ML_READER", Kind.USER, "V_X", False
    )


def test_privileges_on_single_all_and_future_objects() -> None:
    assert parse("GRANT SELECT, CREATE TABLE ON FUTURE TABLES IN SCHEMA A.B TO ROLE R") == (
        GrantPrivileges(
            ("SELECT", "CREATE TABLE"),
            Target(Kind.SCHEMA, ("A", "B"), "future"),
            "R",
            revoke=False,
            grant_option=False,
        )
    )
    assert parse("REVOKE ALL ON A.B.C FROM R CASCADE") == GrantPrivileges(
        (), Target(Kind.TABLE, ("A", "B", "C")), "R", revoke=True, grant_option=False
    )


def test_other_statements() -> None:
    assert parse("use a.b") == Use("SCHEMA", ("A", "B"))
    assert parse("SHOW TERSE USERS LIKE 'v\\\\_%' LIMIT 5 FROM 'V'") == Show(
        "USERS", terse=True, like="v\\_%", limit=5, after="V"
    )
    for data in (
        "SELECT 1",
        "CREATE TABLE T (A INT)",
        "DROP TABLE T",
        "SHOW TABLES",
        "DESC TABLE T",
    ):
        assert parse(data) is None


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE USER",
        "CREATE USER 'x'",
        "CREATE USER A B",
        "CREATE USER A PASSWORD",
        "CREATE USER A PASSWORD = 'x' PASSWORD = 'y'",
        "CREATE USER A.B",
        "DROP USER A B",
        "DROP USER IF EXISTS",
        "ALTER USER A",
        "ALTER USER A DISABLE",
        "GRANT ROLE A TO B",
        "GRANT ROLE A",
        "GRANT SELECT ON TABLE T",
        "GRANT FROB ON TABLE T TO ROLE R",
        "GRANT SELECT ON TABLE A.B.C.D TO ROLE R",
        "USE",
        "USE ROLE",
        "SHOW USERS FROB",
        "SHOW USERS LIKE x",
        "SHOW GRANTS TO",
        "ALTER SESSION",
        "DESCRIBE USER",
    ],
)
def test_what_is_not_in_the_grammar_is_refused(sql: str) -> None:
    with pytest.raises(SqlError) as caught:
        parse(sql)
    assert caught.value.code == "001003"


def test_a_syntax_error_shows_no_string() -> None:
    with pytest.raises(SqlError) as caught:
        parse("CREATE USER A PASSWORD 'top-secret'")
    assert "top-secret" not in caught.value.message


_TEXT = st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=12)


@given(_TEXT)
def test_an_escaped_name_matches_itself_in_any_case_and_nothing_longer(name: str) -> None:
    matches = like(re.sub(r"([\\%_])", r"\\\1", name))
    assert matches(name)
    assert matches(name.upper())
    assert not matches(name + "x")


@given(_TEXT, _TEXT)
def test_like_agrees_with_its_definition(pattern: str, name: str) -> None:
    plain = pattern.replace("\\", "")

    def agrees(p: str, n: str) -> bool:
        if not p:
            return not n
        if p[0] == "%":
            return any(agrees(p[1:], n[i:]) for i in range(len(n) + 1))
        return bool(n) and (p[0] == "_" or p[0].lower() == n[0].lower()) and agrees(p[1:], n[1:])

    assert like(plain)(name) == agrees(plain, name)


ROLE = st.sampled_from(["A", "B", "C", "D"])
TABLE = Securable(Kind.TABLE, ("DB", "S", "T"))


@given(st.lists(st.tuples(st.booleans(), ROLE, ROLE), max_size=20), ROLE)
def test_inheritance_is_the_transitive_closure_even_of_a_cycle(
    steps: list[tuple[bool, str, str]], start: str
) -> None:
    from datetime import UTC, datetime

    from hoop_core.devstack.emulator.accounts import Role

    account = Account("X")
    for name in "ABCD":
        account.roles[name] = Role(name, "", datetime.now(UTC))
    edges: set[tuple[str, str]] = set()
    for give, parent, child in steps:
        if give:
            account.roles[parent].members[child] = ""
            edges.add((parent, child))
        else:
            account.roles[parent].members.pop(child, None)
            edges.discard((parent, child))
    reached, grown = {start}, True
    while grown:
        more = {c for p, c in edges if p in reached} - reached
        reached, grown = reached | more, bool(more)
    assert account.inherited([start]) == reached | {"PUBLIC"}


def test_a_dropped_object_takes_its_grants_along() -> None:
    account = Account("X")
    schema = Securable(Kind.SCHEMA, ("DB", "S"))
    account.created(Securable(Kind.DATABASE, ("DB",)), "SYSADMIN")
    account.created(schema, "SYSADMIN")
    account.created(TABLE, "SYSADMIN")
    account.grant("SELECT", TABLE, "PUBLIC", by="SYSADMIN")
    assert account.holds(frozenset({"PUBLIC"}), TABLE, "SELECT")
    account.forget(schema)
    account.created(TABLE, "SYSADMIN")
    assert not account.holds(frozenset({"PUBLIC"}), TABLE)
    assert account.holds(account.inherited(["ACCOUNTADMIN"]), ACCOUNT, "MANAGE GRANTS")


def test_the_bootstrap_file_must_be_private_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    good = {
        "admin_user": "ADMIN",
        "admin_password": "s3cret",
        "vault_user": "V",
        "vault_public_key": key_pair()[1],
    }
    path.write_text(json.dumps(good))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="0600"):
        bootstrap.read(path)
    path.chmod(0o600)
    read = bootstrap.read(path)
    assert read.admin_user == "ADMIN"
    assert "s3cret" not in repr(read)
    for bad in ({**good, "more": "x"}, {"admin_user": "A"}, {**good, "vault_user": "a; drop"}, []):
        path.write_text(json.dumps(bad))
        with pytest.raises(ConfigError):
            bootstrap.read(path)
    with pytest.raises(ConfigError):
        bootstrap.read(tmp_path / "none.json")
