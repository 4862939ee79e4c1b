"""What a statement is and touches: kinds, names, functions, facts, and what is refused outright."""

from __future__ import annotations

import pytest

from hoop_core.errors import StatementRefused
from hoop_core.model import Kind, NameContext, TableName
from hoop_core.sql import functions
from hoop_core.sql.statement import FACT_NAMES, Analysis, analyse

NAMES = NameContext("DB", "PUBLIC")


def look(sql: str, names: NameContext = NAMES) -> Analysis:
    return analyse(sql, names)


def reason(sql: str, names: NameContext = NAMES) -> str:
    with pytest.raises(StatementRefused) as caught:
        analyse(sql, names)
    return caught.value.reason


@pytest.mark.parametrize(
    ("sql", "kind", "reads", "writes"),
    [
        ("SELECT 1", "select", "", ""),
        ("(SELECT a FROM t) UNION SELECT a FROM u", "select", "T U", ""),
        ("WITH c AS (SELECT * FROM t) SELECT * FROM c", "select", "T", ""),
        ("SELECT * FROM t, LATERAL FLATTEN(input => t.a) f", "select", "T", ""),
        ("SELECT * FROM TABLE(GENERATOR(ROWCOUNT => 3))", "select", "", ""),
        ("SELECT a FROM t WHERE b IN (SELECT b FROM u)", "select", "T U", ""),
        ("SELECT * FROM (VALUES (1, 2)) AS v (a, b)", "select", "", ""),
        ("SHOW TABLES LIKE 'a%' IN SCHEMA db.public", "show", "", ""),
        ("SHOW TERSE SCHEMAS IN DATABASE db LIMIT 10 FROM 'a'", "show", "", ""),
        ("SHOW COLUMNS IN TABLE t", "show", "T", ""),
        ("SHOW PRIMARY KEYS IN TABLE public.t", "show", "T", ""),
        ("DESCRIBE TABLE t", "describe", "T", ""),
        ('DESC TABLE db."PUBLIC".t TYPE = COLUMNS', "describe", "T", ""),
        ("USE DATABASE x", "session", "", ""),
        ("USE SCHEMA x.y", "session", "", ""),
        ('USE WAREHOUSE "w"', "session", "", ""),
        ("ALTER SESSION SET TIMEZONE = 'UTC', WEEK_START = 1", "session", "", ""),
        ("ALTER SESSION SET autocommit=True", "session", "", ""),
        ("ALTER SESSION UNSET TIMEZONE", "session", "", ""),
        ("BEGIN", "transaction", "", ""),
        ("BEGIN TRANSACTION NAME t1", "transaction", "", ""),
        ("START TRANSACTION", "transaction", "", ""),
        ("COMMIT WORK", "transaction", "", ""),
        ("ROLLBACK", "transaction", "", ""),
        ("INSERT INTO t (a, b) VALUES (?, :1)", "insert", "", "T"),
        ("INSERT INTO t (SELECT a FROM u)", "insert", "U", "T"),
        ("INSERT OVERWRITE INTO t SELECT a FROM u", "insert_overwrite", "U", "T"),
        ("UPDATE t SET a = u.a FROM u WHERE t.id = u.id", "update", "U", "T"),
        ("DELETE FROM t USING u WHERE t.id = u.id", "delete", "U", "T"),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", "merge", "U", "T"),
        ("TRUNCATE TABLE IF EXISTS t", "truncate", "", "T"),
        ("CREATE TABLE t (a INT NOT NULL DEFAULT 1, PRIMARY KEY (a))", "create_table", "", "T"),
        ("CREATE OR REPLACE TEMP TABLE t AS SELECT * FROM u", "create_table_as", "U", "T"),
        ("CREATE TRANSIENT TABLE t CLUSTER BY (a) AS SELECT 1 AS a", "create_table_as", "", "T"),
        ("ALTER TABLE t ADD COLUMN a INT", "alter_table", "", "T"),
        ("ALTER TABLE t RENAME COLUMN a TO b", "alter_table", "", "T"),
        ("ALTER TABLE t DROP COLUMN a, b", "alter_table", "", "T"),
        ("DROP TABLE IF EXISTS t CASCADE", "drop_table", "", "T"),
    ],
)
def test_kinds_reads_and_writes(sql: str, kind: str, reads: str, writes: str) -> None:
    analysis = look(sql)
    assert analysis.statement.kind is Kind(kind)
    assert [t.name for t in analysis.statement.reads] == reads.split()
    assert [t.name for t in analysis.statement.writes] == writes.split()
    assert set(analysis.tables) == {*analysis.statement.reads, *analysis.statement.writes}
    assert tuple(analysis.statement.facts) == FACT_NAMES


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM IDENTIFIER('t')",
        "SELECT * FROM IDENTIFIER(?)",
        "INSERT INTO IDENTIFIER('t') VALUES (1)",
        "SELECT * FROM TABLE('t')",
        "SELECT * FROM TABLE(t)",
        "SELECT * FROM TABLE(?)",
        "SELECT * FROM TABLE($v)",
        "SELECT * FROM ?",
        "SELECT * FROM :1",
        "SELECT * FROM $v",
        "SELECT $v",
        "SELECT * FROM :name",
        "SELECT * FROM TABLE(:name)",
        "SELECT * FROM IDENTIFIER(:name)",
        "INSERT INTO :name SELECT 1",
        "SELECT * FROM f(1)",
        "SELECT * FROM TABLE(db.public.f(1))",
        "SELECT * FROM t, LATERAL f(t.a)",
        "SELECT * FROM TABLE(RESULT_SCAN(LAST_QUERY_ID()))",
        "SELECT * FROM a.b.c.d",
        "SELECT s.NEXTVAL",
        "SELECT db.public.s.nextval",
        "SELECT * FROM t CHANGES(INFORMATION => DEFAULT) AT(OFFSET => -1)",
        "SELECT a INTO x FROM t",
        "TABLE t",
        "VALUES (1)",
        "ASYNC (SELECT 1)",
        "SET x = (SELECT 1)",
        "UNSET x",
        "GRANT SELECT ON t TO ROLE r",
        "REVOKE SELECT ON t FROM ROLE r",
        "CREATE VIEW v AS SELECT * FROM t",
        "CREATE DYNAMIC TABLE d TARGET_LAG = '1 minute' WAREHOUSE = w AS SELECT 1",
        "CREATE EXTERNAL TABLE t (a INT)",
        "CREATE TABLE t CLONE u",
        "CREATE TABLE t LIKE u",
        "CREATE TABLE t COPY GRANTS AS SELECT 1 AS a",
        "CREATE TABLE t (a INT REFERENCES u (a))",
        "CREATE TABLE t (a INT MASKING POLICY p)",
        "CREATE TABLE t USING TEMPLATE (SELECT 1)",
        "CREATE STAGE s",
        "CREATE FUNCTION f() RETURNS INT AS '1'",
        "CREATE SCHEMA s",
        "CREATE USER u",
        "ALTER TABLE t SWAP WITH u",
        "ALTER TABLE t ADD ROW ACCESS POLICY p ON (a)",
        "ALTER TABLE t UNSET DATA_RETENTION_TIME_IN_DAYS",
        "ALTER TABLE t MODIFY COLUMN a UNSET MASKING POLICY",
        "ALTER USER u SET PASSWORD = 'x'",
        "ALTER ACCOUNT SET x = 1",
        "ALTER SESSION SET QUOTED_IDENTIFIERS_IGNORE_CASE = TRUE",
        "ALTER SESSION SET MULTI_STATEMENT_COUNT = 0",
        "ALTER SESSION SET SEARCH_PATH = 'x'",
        "ALTER SESSION SET TIMEZONE = (SELECT 1)",
        """ALTER SESSION SET "TIMEZONE" = 'Asia/Tokyo'""",
        "DROP VIEW v",
        "DROP SCHEMA s",
        "DROP TABLE t, u",
        "UNDROP TABLE t",
        "USE ROLE accountadmin",
        "USE SECONDARY ROLES ALL",
        "SHOW USERS",
        "SHOW GRANTS",
        "SHOW TABLES HISTORY",
        "SHOW PARAMETERS IN ACCOUNT",
        "SHOW TABLES; SELECT 1",
        "DESCRIBE USER u",
        "DESCRIBE RESULT LAST_QUERY_ID()",
        "BEGIN SELECT 1",
        "BEGIN TRANSACTION; SELECT 1",
        "DECLARE x INT; BEGIN SELECT 1; END",
        "COPY INTO @s FROM t",
        "GET @s file:///tmp",
        "LIST @s",
        "INSERT ALL INTO t INTO u SELECT 1",
        "INSERT INTO t SELECT 1 RETURNING a",
        "COMMENT ON TABLE t IS 'x'",
        "WITH p AS PROCEDURE () RETURNS INT LANGUAGE SQL AS 'x' CALL p()",
    ],
)
def test_what_is_outside_the_closed_world_is_refused(sql: str) -> None:
    reason(sql)


@pytest.mark.parametrize(
    "call",
    [
        "f(a)", "db.public.f(a)", "public.f(a)", '"f"(a)', 'public."f"(a)', "SYSTEM$TYPEOF(a)",
        "SYSTEM$GENERATE_SCIM_ACCESS_TOKEN('x')", "GET_DDL('table', 't')", "LAST_QUERY_ID()",
        "AI_COMPLETE('m', a)", "SNOWFLAKE.CORTEX.COMPLETE('m', a)", "GETVARIABLE('x')",
        "CURRENT_SESSION()", "CURRENT_IP_ADDRESS()", "BUILD_STAGE_FILE_URL('s', 'f')",
        "TO_QUERY('x')", "IS_ROLE_IN_SESSION('r')", "INVOKER_ROLE()", "ALL_USER_NAMES()",
        "BIND_VALUES('x')", "CURRENT_TRANSACTION()", "EXPLAIN_JSON('x')", "ARRAY_ALL(a, b)", "FIRST(a)", "CLASSIFIER()", "STRING(a)", "MAP(a)", "COLUMN(a)",
    ],
)  # fmt: skip
def test_functions_that_reach_further_than_their_arguments_are_refused(call: str) -> None:
    assert reason(f"SELECT {call} FROM t") in {
        "UNKNOWN_FUNCTION", "QUALIFIED_FUNCTION", "UNKNOWN_SYNTAX"
    }  # fmt: skip


@pytest.mark.parametrize(
    "word", sorted(functions._sections()["syntax"] | functions._sections()["types"])
)
def test_no_keyword_lets_a_user_function_through(word: str) -> None:
    """Words that may stand before a parenthesis are no way to call something that is not listed."""
    if word in functions.listed():
        return
    try:
        analysis = look(f"SELECT {word}(email) FROM t")
    except StatementRefused:
        return
    assert analysis.tree is not None
    # reserved words of Snowflake: nothing can be named so, and so nothing is called
    assert word in {"ALL", "ANY", "AS", "DISTINCT", "EXISTS", "NOT", "SELECT", "SOME"}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT COALESCE(a, 1), IFF(a > 1, 2, 3), LISTAGG(b, ',') WITHIN GROUP (ORDER BY b) FROM t",
        "SELECT DATEADD(day, -1, CURRENT_DATE), TO_TIMESTAMP_NTZ(a, 6), x:y.z[0]::varchar(10) FROM t",
        "SELECT SUM(a) OVER (PARTITION BY b ORDER BY c ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
        "SELECT a, COUNT(*) FROM t GROUP BY GROUPING SETS ((a), ()) HAVING COUNT(*) > 1",
        "SELECT * FROM t UNPIVOT (v FOR n IN (a, b))",
        "SELECT * EXCLUDE (a) RENAME (b AS c) FROM t QUALIFY ROW_NUMBER() OVER (ORDER BY a) = 1",
        "SELECT t.$1, a ILIKE ANY ('x', 'y'), b RLIKE 'z' FROM t",
        "SELECT OBJECT_CONSTRUCT(*), {'a': 1}, [1, 2], ARRAY_AGG(DISTINCT a) FROM t GROUP BY ALL",
        "SELECT TRANSFORM(a, x -> x + 1), FILTER(a, x -> x > 1) FROM t",
        "SELECT CASE WHEN a BETWEEN 1 AND 2 THEN 'x' ELSE NULL END FROM t ORDER BY 1 NULLS LAST LIMIT 5",
        "SELECT EXTRACT(year FROM a), TRIM(b), POSITION('x' IN b), INTERVAL '1 day' FROM t",
        "SELECT LOCALTIMESTAMP, SYSDATE(), CURRENT_USER(), CURRENT_TIMESTAMP(3) FROM t FOR UPDATE",
        "SELECT * FROM a ASOF JOIN b MATCH_CONDITION (a.t >= b.t) ON a.i = b.i",
        "SELECT * FROM t START WITH a IS NULL CONNECT BY b = PRIOR a",
        "SELECT * FROM t TABLESAMPLE BERNOULLI (5) SEED (3)",
        "SELECT CAST(a AS OBJECT(b VARCHAR(3), c NUMBER(1, 0))), d::ARRAY(NUMBER(3, 0)) FROM t",
        "SELECT * FROM t MATCH_RECOGNIZE (ORDER BY a MEASURES FIRST(b) AS c PATTERN (x+) DEFINE x AS a > 1)",
        "SELECT * FROM t UNPIVOT INCLUDE NULLS (v FOR n IN (a, b))",
    ],
)
def test_ordinary_analytic_sql_is_understood(sql: str) -> None:
    assert look(sql).statement.kind is Kind.SELECT


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("t", "DB.PUBLIC.T"),
        ('"t"', 'DB.PUBLIC."t"'),
        ("s.t", "DB.S.T"),
        ("d.s.t", "D.S.T"),
        ("d..t", "D.PUBLIC.T"),
        ('"D"."s"."T ""x"""', 'D."s"."T ""x"""'),
    ],
)
def test_names_are_folded_and_fully_qualified(written: str, meant: str) -> None:
    assert [str(t) for t in look(f"SELECT * FROM {written}").statement.reads] == [meant]


def test_a_bare_name_without_a_current_schema_is_refused() -> None:
    assert reason("SELECT * FROM t", NameContext()) == "NO_CURRENT_SCHEMA"
    assert reason("SELECT * FROM s.t", NameContext(None, "S")) == "NO_CURRENT_SCHEMA"
    assert look("SELECT * FROM d.s.t", NameContext()).statement.reads == (TableName("D", "S", "T"),)


@pytest.mark.parametrize(
    "name",
    [
        "information_schema.load_history",
        "db.INFORMATION_SCHEMA.applicable_roles",
        "snowflake.account_usage.users",
        "snowflake.information_schema.tables",
    ],
)
def test_metadata_is_refused_by_name(name: str) -> None:
    assert reason(f"SELECT * FROM {name}") == "METADATA_OBJECT"
    assert reason(f"DESCRIBE TABLE {name}") == "METADATA_OBJECT"


@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        ("WITH t AS (SELECT * FROM t) SELECT * FROM t", "T"),
        ("WITH t AS (SELECT 1) SELECT * FROM t, public.t", "T"),
        ("WITH t AS (SELECT 1) SELECT * FROM t", ""),
        ("WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b", "B"),
        ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r", ""),
        ("WITH r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r", ""),
        ("WITH r AS (SELECT n FROM r UNION ALL SELECT 1) SELECT * FROM r", "R"),
        ("SELECT * FROM (WITH c AS (SELECT 1) SELECT * FROM c) JOIN c ON 1 = 1", "C"),
        ('WITH "t" AS (SELECT 1) SELECT * FROM t', "T"),
    ],
)
def test_common_table_expressions_hide_tables_only_where_they_are_in_scope(
    sql: str, reads: str
) -> None:
    assert [t.name for t in look(sql).statement.reads] == reads.split()


def test_the_fingerprint_ignores_comments_and_space_and_minds_names_and_text() -> None:
    one = look("SELECT a FROM t").statement.fingerprint
    assert look("SELECT  a -- x\n FROM /* y */ t ;").statement.fingerprint == one
    assert look("SELECT a FROM t", NameContext("DB", "OTHER")).statement.fingerprint != one
    assert look("SELECT 'a' FROM t").statement.fingerprint != one


def test_functions_are_listed_once_and_sorted() -> None:
    assert look("SELECT max(a), MIN(b), Max(c) FROM t").statement.functions == ("MAX", "MIN")


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE t AS (SELECT * FROM t) SELECT * FROM t",
        "WITH t(a) AS (SELECT 0 UNION SELECT a FROM t) SELECT * FROM t",
        "WITH t(a) AS (SELECT 0 EXCEPT SELECT a FROM t) SELECT * FROM t",
        "WITH RECURSIVE t(a) AS (SELECT a FROM t UNION ALL SELECT 1) SELECT * FROM t",
        "WITH t(a) AS (SELECT 0 UNION ALL SELECT a FROM t UNION ALL SELECT 1) SELECT * FROM t",
        "WITH t(a) AS (SELECT 0 UNION ALL SELECT 1 WHERE 1 IN (SELECT a FROM t)) SELECT * FROM t",
        "SELECT (WITH RECURSIVE t AS (SELECT MAX(a) m FROM t) SELECT m FROM t)",
    ],
)
def test_a_name_means_the_table_where_no_recursion_is_documented(sql: str) -> None:
    assert look(sql).statement.reads == (TableName("DB", "PUBLIC", "T"),)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH t(a) AS (SELECT 0 UNION ALL SELECT a + 1 FROM t WHERE a < 9) SELECT * FROM t",
        "WITH RECURSIVE t(a) AS (SELECT 0 UNION ALL (SELECT a + 1 FROM t)) SELECT * FROM t",
    ],
)
def test_the_recursive_clause_may_name_its_own_expression(sql: str) -> None:
    assert look(sql).statement.reads == ()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 0 AS a UNION ALL WITH t AS (SELECT 1 a) SELECT * FROM t UNION ALL SELECT * FROM t",
        "WITH x AS (TABLE t) SELECT * FROM x",
        "WITH x AS (t) SELECT * FROM x",
        "SELECT 1 WHERE 90000 IN t",
        "SELECT 1 WHERE 1 = ANY t",
        "SELECT GROUP BY$$a$$ FROM t",
    ],
)
def test_what_readers_may_take_for_a_table_in_an_odd_place_is_refused(sql: str) -> None:
    assert reason(sql) in {"UNKNOWN_SYNTAX", "UNPARSEABLE", "UNREADABLE_TOKEN", "INDIRECT_TABLE"}
