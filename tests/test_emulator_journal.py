"""What a stand-in with a journal still knows when it is started again."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import snowflake.connector

from hoop_core.devstack.emulator.accounts import Account, Kind, Securable, User
from hoop_core.devstack.emulator.journal import Journal
from hoop_core.devstack.emulator.process import Running, key_pair, running
from hoop_core.devstack.emulator.user_keys import Password, load_public_key
from hoop_core.errors import ConfigError

_, PUBLIC = key_pair()


def account(*names: str) -> Account:
    made = Account("A")
    for name in names:
        made.users[name] = User(name, name, "USERADMIN", datetime.now(UTC))
        made.created(Securable(Kind.USER, (name,)), "USERADMIN")
    return made


def kept(path: Path) -> Account:
    """What the next process begins with, whatever it was seeded with."""
    found = account("SEEDED")
    Journal(path).restore(found)
    return found


def test_users_come_back_with_all_that_they_are(tmp_path: Path) -> None:
    first = account("ADA", "BOB")
    Journal(tmp_path / "j").restore(first)
    ada = first.users["ADA"]
    ada.type, ada.roles, ada.disabled = "SERVICE", {"PUBLIC": "X"}, True
    ada.public_keys["RSA_PUBLIC_KEY"] = load_public_key(PUBLIC, "RSA_PUBLIC_KEY")
    ada.password, ada.authentication_policy = Password.of("secret"), ("D", "S", "P")
    first.grant("MONITOR", Securable(Kind.USER, ("ADA",)), "SYSADMIN", by="Y", option=True)
    first.on_change()
    again = kept(tmp_path / "j")
    assert set(again.users) == {"ADA", "BOB"}
    there = again.users["ADA"]
    assert there.password and there.password.matches("secret")
    for name in ("type", "roles", "disabled", "created_on", "authentication_policy"):
        assert getattr(there, name) == getattr(ada, name)
    assert there.public_keys["RSA_PUBLIC_KEY"] == ada.public_keys["RSA_PUBLIC_KEY"]
    (grant,) = again.grants_on(Securable(Kind.USER, ("ADA",)))
    assert (grant.role, grant.granted_by, grant.grant_option) == ("SYSADMIN", "Y", True)
    assert again.owners[Securable(Kind.USER, ("ADA",))] == "USERADMIN"
    assert "secret" not in (tmp_path / "j").read_text()


def test_a_dropped_user_stays_dropped(tmp_path: Path) -> None:
    first = account("ADA", "BOB")
    Journal(tmp_path / "j").restore(first)
    del first.users["BOB"]
    first.on_change()
    assert set(kept(tmp_path / "j").users) == {"ADA"}


def test_a_line_that_was_cut_short_by_the_crash_does_not_count(tmp_path: Path) -> None:
    Journal(tmp_path / "j").restore(account("ADA"))
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole + b'{"dropped": "AD')
    assert set(kept(tmp_path / "j").users) == {"ADA"}
    assert (tmp_path / "j").read_bytes() == whole


@pytest.mark.parametrize("line", ["nothing", "[]", '{"other": 1}', '{"dropped": "X"}'])
def test_another_file_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "j").write_text(line + "\n")
    with pytest.raises(ConfigError, match="journal"):
        Journal(tmp_path / "j")


def test_a_query_that_never_ended_is_an_incident(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.began({"QUERY_ID": "1", "QUERY_TEXT": "A"})
    journal.began({"QUERY_ID": "2", "QUERY_TEXT": "B"})
    journal.ended({"QUERY_ID": "1", "QUERY_TEXT": "A", "EXECUTION_STATUS": "SUCCESS"})
    found = [(q["QUERY_TEXT"], q["EXECUTION_STATUS"]) for q in Journal(tmp_path / "j").queries()]
    assert found == [("A", "SUCCESS"), ("B", "INCIDENT")]


def ask(emulator: Running, sql: str, **options: Any) -> list[Any]:
    with snowflake.connector.connect(**emulator.options(**options)) as connection:
        return list(connection.cursor().execute(sql).fetchall())


@pytest.mark.e2e
@pytest.mark.nightly
def test_a_stand_in_that_is_started_again_knows_its_users_and_what_they_ran(tmp_path: Path) -> None:
    private, public = key_pair()
    arguments = ("--journal", str(tmp_path / "j"))
    with running(tmp_path, *arguments) as first:
        ask(first, f"CREATE USER MINTED TYPE = SERVICE RSA_PUBLIC_KEY = '{public}'")
        ask(first, "CREATE USER BRIEF")
        ask(first, "DROP USER BRIEF")
        ask(first, "ALTER SESSION SET QUERY_TAG = 'before'", user="MINTED", private_key=private)
    assert (tmp_path / "j").stat().st_mode & 0o077 == 0
    with running(tmp_path, *arguments) as second:
        second = dataclasses.replace(second, admin_password=first.admin_password)
        assert {r[0] for r in ask(second, "SHOW USERS")} == {
            "HOOP_ADMIN",
            "VAULT_MINTER_SVC",
            "MINTED",
        }
        ask(second, "ALTER SESSION SET QUERY_TAG = 'after'", user="MINTED", private_key=private)
        ran = ask(
            second,
            "SELECT QUERY_TEXT, EXECUTION_STATUS FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY "
            "WHERE USER_NAME = 'MINTED' ORDER BY START_TIME",
        )
        assert ran == [
            ("ALTER SESSION SET QUERY_TAG = 'before'", "SUCCESS"),
            ("ALTER SESSION SET QUERY_TAG = 'after'", "SUCCESS"),
        ]
        signed_in = ask(
            second,
            "SELECT COUNT(*) FROM SNOWFLAKE.ACCOUNT_USAGE.LOGIN_HISTORY WHERE USER_NAME = 'MINTED'",
        )
        assert signed_in == [(2,)]
    lines = (tmp_path / "j").read_text().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
