"""What a role may do in the stand-in: privileges, ownership, inheritance, and what it may see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import snowflake.connector
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import Error

from hoop_core.devstack.emulator.process import Running, key_pair, running

pytestmark = pytest.mark.e2e

Run = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("emulator")) as found:
        yield found


def runner(connection: SnowflakeConnection) -> Run:
    def run(sql: str) -> list[tuple[Any, ...]]:
        return [tuple(r) for r in connection.cursor().execute(sql).fetchall()]

    return run


@pytest.fixture(scope="module")
def admin(emulator: Running) -> Iterator[Run]:
    with snowflake.connector.connect(**emulator.options(database="PROD")) as connection:
        yield runner(connection)


@pytest.fixture(scope="module")
def as_role(emulator: Running, admin: Run) -> Iterator[Callable[[str], Run]]:
    """Sessions of users that have one role each."""
    private, public = key_pair()
    opened: dict[str, SnowflakeConnection] = {}

    def get(role: str) -> Run:
        if role not in opened:
            admin(
                f"CREATE USER U_{role} TYPE = SERVICE RSA_PUBLIC_KEY = '{public}' "
                f"DEFAULT_ROLE = {role} DEFAULT_WAREHOUSE = ML_WH"
            )
            admin(f"GRANT ROLE {role} TO USER U_{role}")
            opened[role] = snowflake.connector.connect(
                **emulator.options(user=f"U_{role}", private_key=private, database="PROD")
            )
        return runner(opened[role])

    yield get
    for connection in opened.values():
        connection.close()


def fails(run: Run, sql: str) -> tuple[int, str | None]:
    with pytest.raises(Error) as caught:
        run(sql)
    return caught.value.errno or 0, caught.value.sqlstate


HIDDEN = [
    "SELECT * FROM HR.SALARIES",
    "SELECT * FROM PROD.HR.SALARIES",
    'SELECT * FROM "PROD"."HR"."SALARIES"',
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM HR.SALARIES)",
    "SELECT (SELECT MAX(SALARY) FROM HR.SALARIES)",
    "WITH S AS (SELECT * FROM HR.SALARIES) SELECT 1 FROM S",
    "WITH SALARIES AS (SELECT 1 A) SELECT * FROM HR.SALARIES",
    "SELECT * FROM CRM.ORDERS O JOIN HR.SALARIES S ON S.EMPLOYEE_ID = O.ORDER_ID",
    "SELECT * FROM CRM.ORDERS O, LATERAL (SELECT * FROM HR.SALARIES) S",
    "SELECT ORDER_ID FROM CRM.ORDERS UNION ALL SELECT SALARY FROM HR.SALARIES",
    "SELECT ORDER_ID FROM CRM.ORDERS ORDER BY (SELECT MIN(SALARY) FROM HR.SALARIES)",
    "SELECT * FROM (VALUES (1)) V(A) WHERE A IN (SELECT SALARY FROM HR.SALARIES)",
    "CREATE TABLE FEATURES.STOLEN AS SELECT * FROM HR.SALARIES",
    "CREATE TABLE FEATURES.STOLEN CLONE HR.SALARIES",
    "CREATE TABLE FEATURES.STOLEN LIKE HR.SALARIES",
    "INSERT INTO FEATURES.CHURN_STAGING SELECT SALARY, 1, NULL FROM HR.SALARIES",
    "UPDATE FEATURES.CHURN_STAGING SET SCORE = (SELECT MAX(SALARY) FROM HR.SALARIES)",
    "DELETE FROM FEATURES.CHURN_STAGING USING HR.SALARIES S WHERE S.SALARY = SCORE",
    "MERGE INTO FEATURES.CHURN_STAGING T USING HR.SALARIES S ON T.CUSTOMER_ID = S.EMPLOYEE_ID "
    "WHEN MATCHED THEN UPDATE SET SCORE = S.SALARY",
    "MERGE INTO FEATURES.CHURN_STAGING T USING (SELECT * FROM CRM.ORDERS) S "
    "ON T.CUSTOMER_ID = S.ORDER_ID WHEN NOT MATCHED THEN INSERT (CUSTOMER_ID) "
    "VALUES ((SELECT MAX(SALARY) FROM HR.SALARIES))",
    "DESCRIBE TABLE HR.SALARIES",
    "SET X = (SELECT MAX(SALARY) FROM HR.SALARIES)",
]


@pytest.mark.parametrize("sql", HIDDEN)
def test_a_table_without_privilege_is_not_there_wherever_it_is_named(
    as_role: Callable[[str], Run], sql: str
) -> None:
    errno, sqlstate = fails(as_role("ML_READER"), sql)
    assert (errno, sqlstate) == (2003, "02000")


def test_what_is_not_there_and_what_is_forbidden_look_alike(
    as_role: Callable[[str], Run],
) -> None:
    run = as_role("ML_READER")
    for sql in ("SELECT * FROM CRM.NOPE", 'SELECT * FROM CRM."customers"'):
        assert fails(run, sql) == (2003, "42S02")
    assert fails(run, "SELECT * FROM NOPE.A.B") == (2003, "02000")
    assert fails(run, "SELECT * FROM PROD.NOPE.B") == (2003, "02000")


def test_engine_internals_and_files_are_out_of_reach(admin: Run) -> None:
    for sql in (
        "SELECT * FROM READ_CSV('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM DUCKDB_TABLES()",
        "SELECT * FROM TABLE(DUCKDB_SETTINGS())",
        "SELECT * FROM PROD._FS_INFORMATION_SCHEMA._FS_TABLES",
        "SELECT * FROM _FS_GLOBAL._FS_INFORMATION_SCHEMA._FS_USERS",
        "SELECT * FROM SYSTEM.INFORMATION_SCHEMA.TABLES",
        "SELECT CURRENT_SETTING('threads')",
        "ATTACH 'x.db' AS X",
        "COPY INTO 'x' FROM CRM.ORDERS",
        "PRAGMA version",
        "INSTALL httpfs",
        "CALL pragma_version()",
    ):
        with pytest.raises(Error):
            admin(sql)


def test_a_readers_writes_need_the_privilege_on_the_table(as_role: Callable[[str], Run]) -> None:
    run = as_role("PII_READER")
    assert run("SELECT COUNT(*) FROM CRM.CUSTOMERS") == [(50_000,)]
    for sql in (
        "INSERT INTO CRM.ORDERS SELECT * FROM CRM.ORDERS",
        "UPDATE CRM.ORDERS SET STATUS = 'x'",
        "DELETE FROM CRM.ORDERS",
        "TRUNCATE TABLE CRM.ORDERS",
        "DROP TABLE CRM.ORDERS",
        "ALTER TABLE CRM.ORDERS ADD COLUMN X INT",
        "CREATE TABLE FEATURES.X (A INT)",
        "CREATE OR REPLACE TABLE FEATURES.CHURN_STAGING (A INT)",
        "CREATE VIEW FEATURES.V AS SELECT 1 A",
        "INSERT OVERWRITE INTO FEATURES.CHURN_STAGING SELECT * FROM FEATURES.CHURN_STAGING",
    ):
        assert fails(run, sql) == (3001, "42501"), sql
    assert run("SELECT COUNT(*) FROM CRM.ORDERS") == [(200_000,)]


def test_each_dml_privilege_stands_for_itself(admin: Run, as_role: Callable[[str], Run]) -> None:
    admin("CREATE TABLE PROD.FEATURES.DML (A INT)")
    admin("CREATE ROLE ONE_BY_ONE")
    for grant in ("DATABASE PROD", "SCHEMA PROD.FEATURES", "WAREHOUSE ML_WH"):
        admin(f"GRANT USAGE ON {grant} TO ROLE ONE_BY_ONE")
    run = as_role("ONE_BY_ONE")
    merge = (
        "MERGE INTO FEATURES.DML T USING (SELECT 1 A) S ON T.A = S.A "
        "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (A) VALUES (S.A)"
    )
    steps = [
        ("INSERT", "INSERT INTO FEATURES.DML VALUES (1)"),
        ("UPDATE", "UPDATE FEATURES.DML SET A = 2"),
        ("DELETE", "DELETE FROM FEATURES.DML WHERE A = 9"),
        ("SELECT", merge),
        ("TRUNCATE", "TRUNCATE TABLE FEATURES.DML"),
    ]
    for privilege, sql in steps:
        assert fails(run, sql)[0] in (2003, 3001)
        admin(f"GRANT {privilege} ON TABLE PROD.FEATURES.DML TO ROLE ONE_BY_ONE")
        run(sql)
    for privilege, sql in steps:
        admin(f"REVOKE {privilege} ON TABLE PROD.FEATURES.DML FROM ROLE ONE_BY_ONE")
        assert fails(run, sql)[0] in (2003, 3001)


def test_references_suffice_to_describe_and_not_to_read(as_role: Callable[[str], Run]) -> None:
    run = as_role("HOOP_OBSERVER")
    columns = run("DESCRIBE TABLE PROD.HR.SALARIES")
    assert [c[:2] for c in columns] == [
        ("EMPLOYEE_ID", "NUMBER(38,0)"),
        ("SALARY", "NUMBER(38,0)"),
    ]
    assert run('DESC TABLE "PROD"."CRM"."CUSTOMERS"')[7][:2] == ("SIGNED_UP", "DATE")
    assert fails(run, "SELECT * FROM PROD.HR.SALARIES") == (3001, "42501")
    assert fails(run, "DESCRIBE TABLE PROD.HR.NOPE") == (2003, "42S02")
    assert len(run("SHOW USERS LIKE 'hoop\\\\_admin'")) == 1


def test_describe_works_from_any_place(emulator: Running, admin: Run) -> None:
    admin("CREATE DATABASE IF NOT EXISTS ELSEWHERE")
    for place in ({}, {"database": "ELSEWHERE"}):
        with snowflake.connector.connect(**emulator.options(**place)) as connection:
            assert len(runner(connection)("DESCRIBE TABLE PROD.CRM.CUSTOMERS")) == 9
    admin("USE DATABASE PROD")


@pytest.mark.parametrize(
    "sql",
    [
        "WITH CUSTOMERS AS (SELECT * FROM CUSTOMERS) SELECT * FROM CUSTOMERS",
        "WITH RECURSIVE CUSTOMERS AS (SELECT * FROM CUSTOMERS) SELECT * FROM CUSTOMERS",
        "WITH RECURSIVE CUSTOMERS AS (SELECT * FROM CUSTOMERS UNION ALL SELECT * FROM CUSTOMERS) "
        "SELECT * FROM CUSTOMERS",
        "WITH A AS (SELECT * FROM CUSTOMERS), CUSTOMERS AS (SELECT 1 X) SELECT * FROM A",
        "SELECT * FROM (WITH CUSTOMERS AS (SELECT 1 X) SELECT * FROM CUSTOMERS) S, CUSTOMERS",
        "WITH B AS (SELECT 1 X) SELECT * FROM B WHERE X IN (SELECT CUSTOMER_ID FROM CUSTOMERS)",
        'WITH "customers" AS (SELECT 1 X) SELECT * FROM CUSTOMERS',
        "WITH CUSTOMERS AS (SELECT 1 X) SELECT * FROM CRM.CUSTOMERS",
    ],
)
def test_a_common_table_expression_hides_no_table(as_role: Callable[[str], Run], sql: str) -> None:
    run = as_role("HOOP_OBSERVER")
    run("USE SCHEMA PROD.CRM")
    assert fails(run, sql) == (3001, "42501")


def test_references_to_common_table_expressions_need_nothing(
    as_role: Callable[[str], Run],
) -> None:
    run = as_role("HOOP_OBSERVER")
    run("USE SCHEMA PROD.CRM")
    assert run("WITH CUSTOMERS AS (SELECT 1 X) SELECT * FROM CUSTOMERS") == [(1,)]
    assert run("WITH A AS (SELECT 1 X), B AS (SELECT X + 1 FROM A) SELECT * FROM B") == [(2,)]
    counted = run(
        "WITH RECURSIVE N AS (SELECT 1 X UNION ALL SELECT X + 1 FROM N WHERE X < 3) "
        "SELECT COUNT(*) FROM N"
    )
    assert counted == [(3,)]


def test_a_creator_owns_and_the_parents_of_its_role_see_it(
    admin: Run, as_role: Callable[[str], Run]
) -> None:
    run = as_role("ML_READER")
    run("CREATE TABLE FEATURES.MINE AS SELECT CUSTOMER_ID, MRR FROM CRM.CUSTOMERS LIMIT 10")
    run("INSERT INTO FEATURES.MINE VALUES (1, 2)")
    run("ALTER TABLE FEATURES.MINE RENAME TO MINE_TOO")
    assert admin("SELECT COUNT(*) FROM PROD.FEATURES.MINE_TOO") == [(11,)]
    assert as_role("PII_READER")("SELECT COUNT(*) FROM FEATURES.MINE_TOO") == [(11,)]
    assert fails(as_role("PII_READER"), "DROP TABLE FEATURES.MINE_TOO") == (3001, "42501")
    run("CREATE OR REPLACE TABLE FEATURES.MINE_TOO (A INT)")
    assert fails(run, "CREATE TABLE FEATURES.MINE_TOO (A INT)") == (2002, "42710")
    run("CREATE TABLE FEATURES.SHAPE LIKE CRM.ORDERS")
    assert run("SELECT COUNT(*) FROM FEATURES.SHAPE") == [(0,)]
    run("DROP TABLE FEATURES.SHAPE")
    run("DROP TABLE FEATURES.MINE_TOO")
    assert fails(run, "SELECT * FROM FEATURES.MINE_TOO") == (2003, "42S02")
    assert "already dropped" in run("DROP TABLE IF EXISTS FEATURES.MINE_TOO")[0][0]


def test_a_dropped_tables_grants_do_not_come_back(
    admin: Run, as_role: Callable[[str], Run]
) -> None:
    admin("CREATE TABLE PROD.HR.BONUS (A INT)")
    admin("GRANT USAGE ON SCHEMA PROD.HR TO ROLE PII_READER")
    admin("GRANT SELECT ON TABLE PROD.HR.BONUS TO ROLE PII_READER")
    run = as_role("PII_READER")
    assert run("SELECT * FROM HR.BONUS") == []
    admin("DROP TABLE PROD.HR.BONUS")
    admin("CREATE TABLE PROD.HR.BONUS (A INT)")
    assert fails(run, "SELECT * FROM HR.BONUS") == (2003, "42S02")
    admin("DROP TABLE PROD.HR.BONUS")
    admin("REVOKE USAGE ON SCHEMA PROD.HR FROM ROLE PII_READER")


def test_a_warehouse_is_needed_to_read_and_must_be_granted(
    admin: Run, as_role: Callable[[str], Run]
) -> None:
    admin("CREATE ROLE NO_WAREHOUSE")
    for grant in ("USAGE ON DATABASE PROD", "USAGE ON SCHEMA PROD.CRM"):
        admin(f"GRANT {grant} TO ROLE NO_WAREHOUSE")
    admin("GRANT SELECT ON ALL TABLES IN SCHEMA PROD.CRM TO ROLE NO_WAREHOUSE")
    run = as_role("NO_WAREHOUSE")
    assert run("SELECT CURRENT_WAREHOUSE()") == [(None,)]
    assert fails(run, "SELECT COUNT(*) FROM CRM.ORDERS") == (606, "57P03")
    assert fails(run, "USE WAREHOUSE ML_WH") == (2043, "02000")
    admin("GRANT USAGE ON WAREHOUSE ML_WH TO ROLE NO_WAREHOUSE")
    run("USE WAREHOUSE ML_WH")
    assert run("SELECT COUNT(*) FROM CRM.ORDERS") == [(200_000,)]
    admin("REVOKE USAGE ON WAREHOUSE ML_WH FROM ROLE NO_WAREHOUSE")
    assert fails(run, "SELECT COUNT(*) FROM CRM.ORDERS") == (606, "57P03")


def test_roles_inherit_and_lose_what_they_inherit(
    admin: Run, as_role: Callable[[str], Run]
) -> None:
    admin("CREATE ROLE PARENT")
    run = as_role("PARENT")
    assert fails(run, "SELECT 1 FROM PROD.CRM.ORDERS LIMIT 1")[0] == 2003
    admin("GRANT ROLE PII_READER TO ROLE PARENT")
    run("USE WAREHOUSE ML_WH")
    assert run("SELECT 1 FROM PROD.CRM.ORDERS LIMIT 1") == [(1,)]
    run("USE ROLE PII_READER")
    run("USE ROLE PARENT")
    with pytest.raises(Error, match="cycle"):
        admin("GRANT ROLE PARENT TO ROLE PII_READER")
    admin("REVOKE ROLE PII_READER FROM ROLE PARENT")
    assert fails(run, "SELECT 1 FROM PROD.CRM.ORDERS LIMIT 1")[0] == 2003
    assert fails(run, "USE ROLE PII_READER") == (3013, "42501")


def test_secondary_roles_add_privileges_only_when_in_use(admin: Run, emulator: Running) -> None:
    admin("CREATE USER TWO_ROLES PASSWORD = 'pw' DEFAULT_WAREHOUSE = ML_WH")
    admin("GRANT ROLE PII_READER TO USER TWO_ROLES")
    options = emulator.options(user="TWO_ROLES", password="pw", role="PUBLIC", database="PROD")
    with snowflake.connector.connect(**options) as connection:
        run = runner(connection)
        assert run("SELECT COUNT(*) FROM CRM.ORDERS") == [(200_000,)]
        run("USE SECONDARY ROLES NONE")
        assert fails(run, "SELECT COUNT(*) FROM CRM.ORDERS")[0] == 2003
    admin("DROP USER TWO_ROLES")


def test_lists_show_only_what_the_role_may_see(admin: Run, as_role: Callable[[str], Run]) -> None:
    run = as_role("ML_READER")
    assert ("HR", "SALARIES") in {(r[3], r[1]) for r in admin("SHOW TABLES IN DATABASE PROD")}
    shown = {r[3] for r in run("SHOW TABLES IN DATABASE PROD")}
    assert shown == {"CRM", "FEATURES"}
    assert {r[1] for r in run("SHOW SCHEMAS IN DATABASE PROD")} == {"CRM", "FEATURES"}
    assert {r[1] for r in run("SHOW DATABASES")} == {"GOVERNANCE", "PROD"}
    listed = run("SELECT DISTINCT TABLE_SCHEMA FROM PROD.INFORMATION_SCHEMA.COLUMNS ORDER BY 1")
    assert listed == [("CRM",), ("FEATURES",)]
    assert (
        run("SELECT T.TABLE_NAME FROM INFORMATION_SCHEMA.TABLES T WHERE T.TABLE_SCHEMA = 'HR'")
        == []
    )


def test_account_statements_need_their_privileges(as_role: Callable[[str], Run]) -> None:
    run = as_role("ML_READER")
    for sql in (
        "CREATE USER MALLORY PASSWORD = 'x'",
        "CREATE ROLE MALLORY",
        "CREATE DATABASE MALLORY",
        "CREATE WAREHOUSE MALLORY",
        "CREATE SCHEMA PROD.MALLORY",
        "ALTER USER HOOP_ADMIN SET PASSWORD = 'x'",
        "ALTER USER U_ML_READER SET DISABLED = FALSE",
        "DROP USER HOOP_ADMIN",
        "DROP ROLE PII_READER",
        "DROP SCHEMA PROD.CRM",
        "DROP DATABASE PROD",
        "GRANT ROLE ACCOUNTADMIN TO USER U_ML_READER",
        "GRANT ROLE PII_READER TO ROLE ML_READER",
        "GRANT SELECT ON TABLE PROD.HR.SALARIES TO ROLE ML_READER",
        "GRANT MANAGE GRANTS ON ACCOUNT TO ROLE ML_READER",
        "GRANT OWNERSHIP ON TABLE PROD.HR.SALARIES TO ROLE ML_READER REVOKE CURRENT GRANTS",
        "ALTER USER HOOP_ADMIN ABORT ALL QUERIES",
    ):
        assert fails(run, sql) == (3001, "42501"), sql
    assert fails(run, "USE ROLE ACCOUNTADMIN") == (3013, "42501")
    assert fails(run, "SELECT * FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY") == (2003, "02000")


def test_the_minter_makes_users_and_hands_on_only_its_roles(emulator: Running) -> None:
    options = emulator.options(user="VAULT_MINTER_SVC", private_key=emulator.vault_key)
    _, public = key_pair()
    with snowflake.connector.connect(**options) as connection:
        run = runner(connection)
        run(f"CREATE USER V_NEW TYPE = SERVICE RSA_PUBLIC_KEY = '{public}' DAYS_TO_EXPIRY = 1")
        run("GRANT ROLE ML_READER TO USER V_NEW")
        assert fails(run, "GRANT ROLE SYSADMIN TO USER V_NEW") == (3001, "42501")
        assert fails(run, "DROP USER HOOP_ADMIN") == (3001, "42501")
        assert fails(run, "SELECT * FROM PROD.CRM.CUSTOMERS")[0] == 2003
        run("ALTER USER IF EXISTS V_NEW SET DISABLED = TRUE")
        run("DROP USER IF EXISTS V_NEW")
        assert "already dropped" in run("DROP USER IF EXISTS V_NEW")[0][0]
        assert fails(run, "DROP USER V_NEW") == (2003, "02000")


def test_future_grants_reach_new_tables(admin: Run, as_role: Callable[[str], Run]) -> None:
    admin("CREATE TABLE PROD.CRM.LATER (A INT)")
    assert as_role("ML_READER")("SELECT * FROM CRM.LATER") == []
    assert as_role("HOOP_OBSERVER")("DESCRIBE TABLE PROD.CRM.LATER")[0][0] == "A"
    admin("DROP TABLE PROD.CRM.LATER")


def test_a_view_is_read_with_its_own_privilege(admin: Run, as_role: Callable[[str], Run]) -> None:
    admin("CREATE VIEW PROD.CRM.TOP_SALARY AS SELECT MAX(SALARY) HIGHEST FROM PROD.HR.SALARIES")
    run = as_role("ML_READER")
    assert fails(run, "SELECT HIGHEST FROM CRM.TOP_SALARY") == (2003, "42S02")
    admin("GRANT SELECT ON VIEW PROD.CRM.TOP_SALARY TO ROLE ML_READER")
    assert len(run("SELECT HIGHEST FROM CRM.TOP_SALARY")) == 1
    admin("DROP VIEW PROD.CRM.TOP_SALARY")
