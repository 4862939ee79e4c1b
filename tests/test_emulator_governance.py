"""The stand-in runs the setup's own SQL: network policies, hash function and its key, twice over."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
import snowflake.connector
from snowflake.connector.errors import DatabaseError, ProgrammingError

from hoop_core.devstack.emulator.process import Running, key_pair, running
from hoop_core.snowflake.setup import SetupNames, SetupPlan, sections
from hoop_core.snowflake.setup_grants import ReaderRole, Write

Run = Callable[[str], list[tuple[Any, ...]]]
CALL = "GOVERNANCE.HOOP.MASK_HASH"


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("governance")) as started:
        yield started


@contextmanager
def session(standin: Running, **options: Any) -> Iterator[Run]:
    connection = snowflake.connector.connect(**standin.options(**options))
    try:
        yield lambda sql: connection.cursor().execute(sql).fetchall()
    finally:
        with suppress(DatabaseError):
            connection.close()


@pytest.fixture
def admin(standin: Running) -> Iterator[Run]:
    with session(standin) as run:
        yield run


@pytest.fixture
def vault(standin: Running) -> Iterator[Run]:
    with session(standin, user=standin.vault_user, private_key=standin.vault_key) as run:
        yield run


@contextmanager
def minted(standin: Running, vault: Run, name: str, properties: str = "") -> Iterator[bytes]:
    """A user made as Vault makes it; yields its private key."""
    private, public = key_pair()
    vault(f"CREATE USER {name} TYPE = SERVICE RSA_PUBLIC_KEY = '{public}' "
          f"DEFAULT_ROLE = ML_READER DEFAULT_WAREHOUSE = ML_WH {properties}")  # fmt: skip
    vault(f"GRANT ROLE ML_READER TO USER {name}")
    try:
        yield private
    finally:
        vault(f"DROP USER IF EXISTS {name}")


@pytest.fixture
def elsewhere(admin: Run) -> Iterator[None]:
    """For the length of a test Hoop's address is another one."""
    admin("ALTER NETWORK RULE GOVERNANCE.HOOP.HOOP_ADDRESSES SET VALUE_LIST = ('203.0.113.7')")
    yield
    admin("ALTER NETWORK RULE GOVERNANCE.HOOP.HOOP_ADDRESSES SET VALUE_LIST = ('127.0.0.1/32')")


def errno(error: pytest.ExceptionInfo[Any]) -> int:
    return int(error.value.errno or 0)


# -- network policies -------------------------------------------------------------------------------


def test_a_minted_user_signs_in_from_hoops_address(standin: Running, vault: Run) -> None:
    with (
        minted(standin, vault, "V_IN", "NETWORK_POLICY = HOOP_ONLY") as key,
        session(standin, user="V_IN", private_key=key) as run,
    ):
        assert run("SELECT CURRENT_USER()") == [("V_IN",)]


def test_a_leaked_key_is_worth_nothing_from_another_address(
    standin: Running, vault: Run, admin: Run, elsewhere: None
) -> None:
    with minted(standin, vault, "V_OUT", "NETWORK_POLICY = HOOP_ONLY") as key:
        with pytest.raises(DatabaseError, match=r"127\.0\.0\.1 is not allowed") as caught:
            snowflake.connector.connect(**standin.options(user="V_OUT", private_key=key))
        assert "390422" in str(caught.value) or errno(caught) == 250001
    logged = admin(
        "SELECT ERROR_CODE, CLIENT_IP FROM SNOWFLAKE.ACCOUNT_USAGE.LOGIN_HISTORY "
        "WHERE USER_NAME = 'V_OUT' AND IS_SUCCESS = 'NO'"
    )
    assert logged == [("390422", "127.0.0.1")]


def test_a_wrong_key_learns_nothing_of_the_network_policy(
    standin: Running, vault: Run, elsewhere: None
) -> None:
    other, _ = key_pair()
    with (
        minted(standin, vault, "V_WRONG", "NETWORK_POLICY = HOOP_ONLY"),
        pytest.raises(DatabaseError, match="JWT token is invalid"),
    ):
        snowflake.connector.connect(**standin.options(user="V_WRONG", private_key=other))


def test_an_open_session_ends_where_its_address_is_no_longer_allowed(
    standin: Running, vault: Run, admin: Run
) -> None:
    rule = "ALTER NETWORK RULE GOVERNANCE.HOOP.HOOP_ADDRESSES SET VALUE_LIST = "
    with (
        minted(standin, vault, "V_OPEN", "NETWORK_POLICY = HOOP_ONLY") as key,
        session(standin, user="V_OPEN", private_key=key) as run,
    ):
        assert run("SELECT 1") == [(1,)]
        admin(rule + "('203.0.113.7')")
        try:
            with pytest.raises(DatabaseError, match="is not allowed"):
                run("SELECT 1")
        finally:
            admin(rule + "('127.0.0.1/32')")
        assert run("SELECT 1") == [(1,)]


def test_a_header_cannot_claim_an_address(standin: Running, admin: Run, vault: Run) -> None:
    admin("CREATE USER P_FORGED PASSWORD = 'forged-pass-1' NETWORK_POLICY = HOOP_VAULT_ONLY")
    body = {
        "data": {"ACCOUNT_NAME": "HOOPDEV", "LOGIN_NAME": "P_FORGED", "PASSWORD": "forged-pass-1"}
    }
    admin("ALTER NETWORK RULE GOVERNANCE.HOOP.VAULT_ADDRESSES SET VALUE_LIST = ('203.0.113.7')")
    try:
        answer = httpx.post(
            f"{standin.url}/session/v1/login-request?requestId=1",
            json=body,
            headers={"X-Forwarded-For": "203.0.113.7", "Forwarded": "for=203.0.113.7"},
            trust_env=False,
        ).json()
    finally:
        admin("ALTER NETWORK RULE GOVERNANCE.HOOP.VAULT_ADDRESSES SET VALUE_LIST = ('127.0.0.1')")
        admin("DROP USER P_FORGED")
    assert (answer["success"], answer["code"]) == (False, "390422")


def test_only_the_owner_of_both_brings_a_policy_to_a_user(
    standin: Running, admin: Run, vault: Run
) -> None:
    with pytest.raises(ProgrammingError) as caught:
        vault("CREATE USER V_X TYPE = SERVICE NETWORK_POLICY = HOOP_VAULT_ONLY")
    assert errno(caught) == 3001
    assert not [r for r in admin("SHOW USERS LIKE 'V_X'") if r[0] == "V_X"]
    with pytest.raises(ProgrammingError) as caught:
        vault(f"ALTER USER {standin.vault_user} SET NETWORK_POLICY = HOOP_ONLY")
    assert errno(caught) == 3001
    with pytest.raises(ProgrammingError) as caught:
        vault("ALTER NETWORK RULE GOVERNANCE.HOOP.HOOP_ADDRESSES SET VALUE_LIST = ('0.0.0.0/0')")
    assert errno(caught) in (2003, 3001)


def test_a_policy_in_use_is_neither_dropped_nor_replaced(admin: Run) -> None:
    for sql in (
        "DROP NETWORK POLICY HOOP_VAULT_ONLY",
        "CREATE OR REPLACE NETWORK POLICY HOOP_VAULT_ONLY ALLOWED_NETWORK_RULE_LIST = ()",
        "DROP NETWORK RULE GOVERNANCE.HOOP.HOOP_ADDRESSES",
    ):
        with pytest.raises(ProgrammingError, match="in use"):
            admin(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE NETWORK RULE IF NOT EXISTS GOVERNANCE.HOOP.R TYPE = IPV4 VALUE_LIST = () MODE = INGRESS",
        "CREATE NETWORK RULE GOVERNANCE.HOOP.R TYPE = IPV4 VALUE_LIST = ('x') MODE = INGRESS",
        "CREATE NETWORK RULE GOVERNANCE.HOOP.R TYPE = IPV4 VALUE_LIST = ('1.2.3.4') MODE = EGRESS",
        "CREATE NETWORK POLICY P ALLOWED_NETWORK_RULE_LIST = ('GOVERNANCE.HOOP.NONE')",
        "CREATE NETWORK POLICY P ALLOWED_IP_LIST = ('1.2.3.4')",
        "CREATE USER U NETWORK_POLICY = NO_SUCH_POLICY",
        "ALTER USER HOOP_ADMIN SET AUTHENTICATION POLICY GOVERNANCE.HOOP.NONE",
    ],
)
def test_what_the_service_would_refuse_is_refused(admin: Run, sql: str) -> None:
    with pytest.raises(ProgrammingError):
        admin(sql)


def test_an_authentication_policy_takes_passwords_away(standin: Running, admin: Run) -> None:
    admin("CREATE USER P_KEYS PASSWORD = 'keys-only-pass-1'")
    try:
        admin("ALTER USER P_KEYS SET AUTHENTICATION POLICY GOVERNANCE.HOOP.KEY_PAIR_ONLY")
        with pytest.raises(ProgrammingError, match="already has"):
            admin("ALTER USER P_KEYS SET AUTHENTICATION POLICY GOVERNANCE.HOOP.KEY_PAIR_ONLY")
        with pytest.raises(DatabaseError, match="authentication policy"):
            snowflake.connector.connect(
                **standin.options(user="P_KEYS", password="keys-only-pass-1")
            )
    finally:
        admin("DROP USER P_KEYS")


# -- the hash ---------------------------------------------------------------------------------------


@pytest.fixture
def reader(standin: Running, vault: Run) -> Iterator[Run]:
    with (
        minted(standin, vault, "V_READER", "NETWORK_POLICY = HOOP_ONLY") as key,
        session(standin, user="V_READER", private_key=key) as run,
    ):
        yield run


def test_the_hash_is_keyed_and_knows_its_domain(admin: Run, reader: Run) -> None:
    """Recomputed from the key, as somebody who holds it could: outer and inner key, then the value."""
    admin("USE ROLE HOOP_GOVERNANCE")
    key = str(admin("SELECT SECRET FROM GOVERNANCE.HOOP.HASH_KEY")[0][0])
    admin("USE ROLE ACCOUNTADMIN")

    def expected(value: str, domain: str) -> str:
        message = f"{key[64:]}{len(domain)}:{domain}:{value}"
        inner = hashlib.sha256(message.encode()).hexdigest()
        return hashlib.sha256((key[:64] + inner).encode()).hexdigest()

    assert len(key) == 128 and len(set(key)) > 10
    for value, domain in [
        ("jane@x.example", "people"),
        ("jane@x.example", "mail"),
        ("ß日", ""),
        ("", "d"),
    ]:
        assert reader(f"SELECT {CALL}('{value}', '{domain}')") == [(expected(value, domain),)]
    assert reader(f"SELECT {CALL}(NULL, 'd'), {CALL}('v', NULL)") == [(None, None)]
    assert reader(f"SELECT {CALL}('1:a:b', 'x') = {CALL}('b', 'x1:a')") == [(False,)]


def test_nobody_but_its_owner_reads_the_key(admin: Run, reader: Run) -> None:
    with pytest.raises(ProgrammingError) as caught:
        reader("SELECT * FROM GOVERNANCE.HOOP.HASH_KEY")
    assert errno(caught) == 2003
    with pytest.raises(ProgrammingError):
        reader("GRANT SELECT ON TABLE GOVERNANCE.HOOP.HASH_KEY TO ROLE ML_READER")
    held = {(r[1], r[5]) for r in admin("SHOW GRANTS ON TABLE GOVERNANCE.HOOP.HASH_KEY")}
    assert held == {("OWNERSHIP", "HOOP_GOVERNANCE")}


def test_the_key_is_in_no_statement_that_was_sent(admin: Run, reader: Run) -> None:
    reader(f"SELECT {CALL}('x', 'd')")
    admin("USE ROLE HOOP_GOVERNANCE")
    key = str(admin("SELECT SECRET FROM GOVERNANCE.HOOP.HASH_KEY")[0][0])
    admin("USE ROLE ACCOUNTADMIN")
    texts = [
        str(r[0]) for r in admin("SELECT QUERY_TEXT FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    ]
    assert any("INSERT INTO GOVERNANCE.HOOP.HASH_KEY" in t for t in texts)
    assert not any(key[:16] in t or key[-16:] in t for t in texts)


def test_without_usage_the_function_is_unknown(admin: Run) -> None:
    admin("USE SECONDARY ROLES NONE")
    admin("USE ROLE USERADMIN")
    with pytest.raises(ProgrammingError) as caught:
        admin(f"SELECT {CALL}('x', 'd')")
    assert errno(caught) == 2140


def test_a_two_part_name_depends_on_where_the_session_stands(reader: Run) -> None:
    reader("USE DATABASE PROD")
    with pytest.raises(ProgrammingError) as caught:
        reader("SELECT HOOP.MASK_HASH('x', 'd')")
    assert errno(caught) == 2140
    reader("USE DATABASE GOVERNANCE")
    assert reader(f"SELECT HOOP.MASK_HASH('x', 'd') = {CALL}('x', 'd')") == [(True,)]
    reader("USE DATABASE PROD")
    assert len(reader(f"SELECT {CALL}('x', 'd')")[0][0]) == 64


def test_the_hash_works_wherever_a_mask_can_stand(reader: Run) -> None:
    table = f"(SELECT _g.CUSTOMER_ID, LEFT({CALL}(_g.EMAIL, 'd'), 12)::VARCHAR(12) AS E "
    table += "FROM PROD.CRM.CUSTOMERS AS _g)"
    for sql, rows in (
        (f"SELECT COUNT(DISTINCT E) FROM {table} AS t", [(50_000,)]),
        (f"SELECT COUNT(*) FROM {table} AS a JOIN {table} AS b ON a.E = b.E", [(50_000,)]),
        (f"WITH t AS (SELECT * FROM {table} AS x) SELECT MAX(LENGTH(E)) FROM t", [(12,)]),
        (f"SELECT COUNT(*) FROM {table} AS t WHERE E IN (SELECT E FROM {table} AS u)", [(50_000,)]),
    ):
        assert reader(sql) == rows
    reader(f"CREATE TABLE PROD.FEATURES.HASHED AS SELECT E FROM {table} AS t LIMIT 3")
    assert len(reader("SELECT E FROM PROD.FEATURES.HASHED")) == 3
    reader("DROP TABLE PROD.FEATURES.HASHED")


def test_setting_up_again_changes_no_hash_and_loses_no_grant(
    standin: Running, admin: Run, reader: Run
) -> None:
    before = reader(f"SELECT {CALL}('jane', 'people')")
    _, public = key_pair()
    readers = (
        ReaderRole("ml-reader", "ML_READER", "ML_WH", (("PROD", "CRM", "*"), ("PROD", "*", "*")),
                   (Write(("PROD", "FEATURES", "*"), ("INSERT", "CREATE TABLE")),)),
        ReaderRole("odd", 'odd "role"', None, (("PROD", "CRM", "CUSTOMERS"),)),
    )  # fmt: skip
    home = ("127.0.0.1/32",)
    for _ in range(2):
        for part in sections(SetupPlan(home, home, public, readers, SetupNames())):
            for sql in part.statements:
                admin(sql)
    assert reader(f"SELECT {CALL}('jane', 'people')") == before
    with session(standin, user=standin.vault_user, private_key=standin.vault_key) as again:
        assert again("SELECT CURRENT_ROLE()") == [("VAULT_MINTER",)]


def test_a_managed_schema_lets_an_owner_of_a_table_grant_nothing(admin: Run) -> None:
    admin("USE ROLE ACCOUNTADMIN")
    admin("CREATE ROLE KEEPER")
    admin("GRANT ROLE KEEPER TO ROLE ACCOUNTADMIN")
    admin("GRANT USAGE ON DATABASE GOVERNANCE TO ROLE KEEPER")
    admin("GRANT USAGE, CREATE TABLE ON SCHEMA GOVERNANCE.HOOP TO ROLE KEEPER")
    admin("USE SECONDARY ROLES NONE")
    admin("USE ROLE KEEPER")
    admin("CREATE TABLE GOVERNANCE.HOOP.MINE (A INT)")
    with pytest.raises(ProgrammingError) as caught:
        admin("GRANT SELECT ON TABLE GOVERNANCE.HOOP.MINE TO ROLE PUBLIC")
    assert errno(caught) == 3001
    admin("DROP TABLE GOVERNANCE.HOOP.MINE")
    admin("USE ROLE ACCOUNTADMIN")
    admin("DROP ROLE KEEPER")


def test_the_observer_ends_minted_users_and_no_others(
    standin: Running, admin: Run, vault: Run
) -> None:
    ours, quoted = "V_TOKEN_HOOP_ABCDEF_0123_X", "v_token_hoop_abcdef_0124_x"
    others = ("V_JWT_SOMEBODY_X", "HOOP_OWNER", "XV_TOKEN_HOOP_ABCDEF_0123_X")
    for name in (ours, f'"{quoted}"', *others):
        vault(f"CREATE USER {name} TYPE = SERVICE")
    with minted(standin, vault, "EYES", "DEFAULT_SECONDARY_ROLES = ()") as key:
        vault("GRANT ROLE HOOP_OBSERVER TO USER EYES")
        with session(standin, user="EYES", private_key=key, role="HOOP_OBSERVER") as observer:
            for name in (ours, quoted):
                assert observer(f"CALL GOVERNANCE.HOOP.END_MINTED_USER('{name}')") == [("ended",)]
            for name in (*others, standin.vault_user, standin.admin_user, ours + '" X "'):
                assert observer(f"CALL GOVERNANCE.HOOP.END_MINTED_USER('{name}')") == [("refused",)]
            with pytest.raises(ProgrammingError):
                observer(f"DROP USER {others[0]}")
        with (
            session(standin, user="EYES", private_key=key, role="ML_READER") as reader,
            pytest.raises(ProgrammingError, match="Unknown user-defined function"),
        ):
            reader(f"CALL GOVERNANCE.HOOP.END_MINTED_USER('{others[0]}')")
    left = {row[0] for row in admin("SHOW USERS")}
    assert set(others) <= left and not {ours, quoted} & left
    for name in others:
        vault(f"DROP USER {name}")
