"""Statements that load files: what is understood, what is refused, and that one text is what runs."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.errors import StatementRefused
from hoop_core.model import NameContext, TableName
from hoop_core.sql.loading import (
    CopyInto,
    CreateStage,
    InferSchema,
    Loading,
    Put,
    Rename,
    Stage,
    written,
)
from hoop_core.sql.loading_reader import read_loading
from hoop_core.sql.settling import settle

HERE = NameContext("PROD", "FEATURES")
OWN = TableName("PROD", "FEATURES", "STG")


def text(*values: str) -> dict[str, dict[str, str]]:
    return {str(i + 1): {"type": "TEXT", "value": v} for i, v in enumerate(values)}


def read(sql: str, *bound: str) -> Loading:
    found = read_loading(settle(sql, text(*bound) or None).sql, HERE)
    assert found is not None
    again = read_loading(found.sql, NameContext())
    assert again is not None and again.sql == found.sql
    return found


def refused(sql: str, *bound: str) -> str:
    """Why; a text that is none of ours would be refused by the other grammars."""
    try:
        found = read_loading(settle(sql, text(*bound) or None).sql, HERE)
    except StatementRefused as e:
        return e.reason
    assert found is None, found
    return "NOT_OURS"


@pytest.mark.parametrize(
    ("sql", "bound", "sent"),
    [
        (  # write_pandas
            "CREATE TEMP STAGE /* Python:x */ identifier(?) FILE_FORMAT=(TYPE=PARQUET COMPRESSION=gzip)",
            ['"Prod"."F x"."stg"'],
            'CREATE TEMPORARY STAGE "Prod"."F x"."stg" FILE_FORMAT = (TYPE = PARQUET COMPRESSION = GZIP)',
        ),
        (  # array binds of the connector, and of JDBC and Node
            "create or replace temporary stage SYSTEMBIND file_format=(type=csv field_optionally_enclosed_by='\"')",
            [],
            'CREATE OR REPLACE TEMPORARY STAGE "PROD"."FEATURES"."SYSTEMBIND" '
            "FILE_FORMAT = (TYPE = CSV FIELD_OPTIONALLY_ENCLOSED_BY = '\"')",
        ),
        (
            "put file:///tmp/placeholder/1 '@SYSTEM$BIND/ab-cd/1' overwrite=true auto_compress=false "
            "source_compression=gzip;",
            [],
            'PUT \'file://1\' \'@"PROD"."FEATURES"."SYSTEM$BIND"/ab-cd/1\' OVERWRITE = TRUE '
            "AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = GZIP",
        ),
        (  # as the Node.js driver writes it
            "PUT file://1'@SYSTEM$BIND/a-b' overwrite=true",
            [],
            'PUT \'file://1\' \'@"PROD"."FEATURES"."SYSTEM$BIND"/a-b\' OVERWRITE = TRUE',
        ),
        (
            r"PUT 'file://C:\\temp\\it\'s\\a b.csv' ? parallel=4",
            ['@"PROD"."FEATURES"."STG"'],
            'PUT \'file://a b.csv\' \'@"PROD"."FEATURES"."STG"\' PARALLEL = 4',
        ),
        (
            'COPY INTO identifier(?) /* x */ ("A","B") FROM (SELECT $1:"A",$1:"B"::NUMBER(3, 0) FROM '
            '\'@"P"."F"."S"\') FILE_FORMAT=(TYPE=PARQUET USE_VECTORIZED_SCANNER=False COMPRESSION=auto) '
            "PURGE=TRUE ON_ERROR=?",
            ["t", "abort_statement"],
            'COPY INTO "PROD"."FEATURES"."T" ("A", "B") FROM (SELECT $1:"A", $1:"B"::NUMBER(3, 0) FROM '
            '\'@"P"."F"."S"\') FILE_FORMAT = (TYPE = PARQUET COMPRESSION = AUTO '
            "USE_VECTORIZED_SCANNER = FALSE) PURGE = TRUE ON_ERROR = ABORT_STATEMENT",
        ),
        (
            "SELECT COLUMN_NAME, TYPE FROM table(infer_schema(location=>?, file_format=>?))",
            ['@"P"."F"."S"', '"P"."F"."X"'],
            'SELECT COLUMN_NAME, TYPE FROM TABLE(INFER_SCHEMA(LOCATION => \'@"P"."F"."S"\', '
            'FILE_FORMAT => \'"P"."F"."X"\'))',
        ),
        (
            "COPY INTO t FROM (SELECT s.$1, TO_DATE(s.$2, 'YYYY'), s.METADATA$FILENAME, -1 FROM @stg/a s) "
            "ON_ERROR = 'SKIP_FILE_5%' FILES = ('x.csv', 'd/y.csv')",
            [],
            'COPY INTO "PROD"."FEATURES"."T" FROM (SELECT "S".$1, TO_DATE("S".$2, \'YYYY\'), '
            '"S".METADATA$FILENAME, -1 FROM \'@"PROD"."FEATURES"."STG"/a\' "S") '
            "ON_ERROR = 'SKIP_FILE_5%' FILES = ('x.csv', 'd/y.csv')",
        ),
    ],
)
def test_what_drivers_send_is_understood_and_written_anew(
    sql: str, bound: list[str], sent: str
) -> None:
    assert read(sql, *bound).sql == sent


def test_a_statement_says_what_it_changes() -> None:
    assert written(read("COPY INTO d.s.t FROM @stg")) == (TableName("D", "S", "T"),)
    both = (TableName("PROD", "FEATURES", "A"), TableName("PROD", "FEATURES", "B"))
    assert written(read("ALTER TABLE b RENAME TO a")) == both
    assert written(read("PUT file://a @stg")) == ()
    assert isinstance(read("ALTER TABLE identifier(?) RENAME TO identifier(?)", "a", "b"), Rename)


def test_the_clients_path_is_not_sent_on() -> None:
    put = read("PUT file:///home/eve/secret/a.csv @~/x")
    assert isinstance(put, Put)
    assert put.file == "/home/eve/secret/a.csv" and "eve" not in put.sql
    assert put.stage == Stage(None, ("x",))


@pytest.mark.parametrize(
    "stage",
    [
        "@~/../x", "@stg/..", "@stg/a/../b", "@stg//a", "'@stg/a//b'", "@%t", "@%t/x", "'@%t'", "@~x/..", "@stg/.a",
        "@a.b.c.d", "'s3://bucket/x'", "'stg'", "'@'", "'@stg/a b\n'", "'@stg/a;b'", "'@stg/a''b'", "'@\"a/b\"'",
        "'@\"x''y\"'", "@INFORMATION_SCHEMA.x", "@SNOWFLAKE.a.b", "'@stg/%41'", "@stg/*", "'@~/~'", "?", "@",
    ],
)  # fmt: skip
def test_places_that_are_no_own_stage_are_refused(stage: str) -> None:
    assert refused(f"PUT file://a.csv {stage}") in {
        "STAGE", "UNSERVED_STATEMENT", "UNREADABLE_TOKEN", "METADATA_OBJECT",
    }  # fmt: skip
    assert refused(f"COPY INTO t FROM {stage}") in {
        "STAGE", "UNSERVED_STATEMENT", "UNREADABLE_TOKEN", "METADATA_OBJECT",
    }  # fmt: skip


@pytest.mark.parametrize(
    "sql",
    [
        "GET @stg file:///tmp", "get @~ file:///tmp", "/* x */ GET @stg/a file:///tmp", "LIST @stg", "ls @~",
        "REMOVE @stg", "rm @stg/a", "COPY INTO @stg FROM t", "COPY INTO '@stg/x' FROM (SELECT 1)",
        "COPY INTO 's3://b/x' FROM t", "CREATE STAGE s", "CREATE OR REPLACE STAGE s", "CREATE SCOPED STAGE s",
        "CREATE TRANSIENT STAGE s", "CREATE TEMP STAGE s URL = 's3://b'", "CREATE FILE FORMAT f TYPE = CSV",
        "CREATE TEMP STAGE s STORAGE_INTEGRATION = i", "CREATE TEMP STAGE s CREDENTIALS = (AWS_KEY_ID = 'x')",
        "CREATE TEMP STAGE s ENCRYPTION = (TYPE = 'NONE')", "CREATE TEMP STAGE s DIRECTORY = (ENABLE = TRUE)",
        "CREATE TEMP STAGE s FILE_FORMAT = (FORMAT_NAME = 'x')", "CREATE TEMP STAGE s CLONE other",
        "CREATE TEMP STAGE s FILE_FORMAT = (FORMAT_NAME = 'x' TYPE = CSV)", "CREATE TEMP STAGE IDENTIFIER($x)",
        "COPY INTO t FROM @stg FILE_FORMAT = (FORMAT_NAME = 'x')", "COPY INTO t FROM @stg FILE_FORMAT = 'x'",
        "COPY INTO t FROM @stg FILE_FORMAT = (TYPE = PARQUET FIELD_DELIMITER = ',')",
        "COPY INTO t FROM @stg FILE_FORMAT = (TYPE = CSV) FILE_FORMAT = (TYPE = JSON)",
        "COPY INTO t FROM @stg FILE_FORMAT = (TYPE = XML)", "COPY INTO t FROM @stg STORAGE_INTEGRATION = i",
        "COPY INTO t FROM @stg CREDENTIALS = (AWS_TOKEN = 'x')", "COPY INTO t FROM @stg ENCRYPTION = (TYPE = 'NONE')",
        "COPY INTO t FROM @stg VALIDATION_MODE = RETURN_ERRORS", "COPY INTO t FROM @stg FILES = ('../a')",
        "COPY INTO t FROM @stg FILES = ('a', '/b')", "COPY INTO t FROM @stg ON_ERROR = 'x'", "COPY INTO t FROM other",
        "COPY INTO t FROM (SELECT * FROM @stg)", "COPY INTO t FROM (SELECT $1 FROM PROD.CRM.CUSTOMERS)",
        "COPY INTO t FROM (SELECT (SELECT ssn FROM customers) FROM @stg)", "COPY INTO t FROM (SELECT c.ssn FROM @stg c)",
        "COPY INTO t FROM (SELECT $1 FROM @stg, customers)", "COPY INTO t FROM (SELECT $1 FROM @stg s JOIN customers c)",
        "COPY INTO t FROM (SELECT s.$1 FROM @stg x)", "COPY INTO t FROM (SELECT $secret FROM @stg)",
        "COPY INTO t FROM (SELECT my_udf($1) FROM @stg)", "COPY INTO t FROM (SELECT db.s.f($1) FROM @stg)",
        "COPY INTO t FROM (SELECT SYSTEM$WAIT(1) FROM @stg)", "COPY INTO t FROM (SELECT seq.NEXTVAL FROM @stg)",
        'COPY INTO t FROM (SELECT "METADATA$FILENAME" FROM @stg)', 'COPY INTO t FROM (SELECT "TO_DATE"($1) FROM @stg)',
        "COPY INTO t FROM (SELECT $1::my_type FROM @stg)", "COPY INTO t FROM (SELECT $1 FROM @stg (FILE_FORMAT => 'x'))",
        "COPY INTO t FROM (SELECT $1 FROM @stg WHERE 1 = 1)", "COPY INTO t FROM (SELECT $1 FROM @stg UNION SELECT 1)",
        "COPY INTO t FROM @stg; DROP TABLE t", "PUT file://a @stg; GET @stg file://b", "PUT 'https://x/a' @stg",
        "PUT file://a.csv @stg EVIL = TRUE", "PUT file://a.csv @stg PARALLEL = 'x'", "PUT file:// @stg", "PUT @stg file://a",
        "PUT file:///tmp/.hidden @stg", "PUT 'file:///tmp/a''b.csv' @stg", "PUT 'file:///tmp/é.csv' @stg",
        "PUT file://a @stg /* a /* b */ c */", "PUT file://a @stg // x", "PUT file://a @stg\x00", "PUT file://a @stg `x`",
        "PUT 'file://a\\x41' @stg", "PUT file://a '@stg'OVERWRITE=TRUE", "DROP STAGE s CASCADE", "DROP STAGE",
        "SELECT * FROM TABLE(INFER_SCHEMA(LOCATION => '@stg'))", "SELECT 1, * FROM TABLE(INFER_SCHEMA(LOCATION => '@s'))",
        "SELECT COLUMN_NAME FROM TABLE(INFER_SCHEMA(LOCATION => '@s', FILE_FORMAT => 'f')) JOIN customers",
        "SELECT $1 FROM @stg", "SELECT * FROM '@stg'", "ALTER STAGE s SET URL = 's3://x'", "ALTER TABLE IF EXISTS a RENAME TO b",
    ],
)  # fmt: skip
def test_hostile_forms_are_refused(sql: str) -> None:
    assert refused(sql) in {
        "STAGE", "UNSERVED_STATEMENT", "UNREADABLE_TOKEN", "MULTI_STATEMENT", "NOT_OURS",
    }  # fmt: skip


@pytest.mark.parametrize(
    "sql",
    ["SELECT $1 FROM @stg", "SELECT * FROM '@stg'", "ALTER STAGE s SET URL = 's3://x'", "CREATE TRANSIENT STAGE s",
     "SELECT * FROM TABLE(INFER_SCHEMA(LOCATION => '@s', FILE_FORMAT => $f))", "ALTER TABLE IF EXISTS a RENAME TO b"],
)  # fmt: skip
def test_what_this_grammar_leaves_alone_the_analysis_refuses(sql: str) -> None:
    from hoop_core.sql.statement import analyse

    with pytest.raises(StatementRefused):
        analyse(sql, HERE)


@pytest.mark.parametrize(
    "sql",
    ["SELECT 1", "CREATE TABLE stage (id INT)", "DROP TABLE stage", "ALTER TABLE t RENAME COLUMN a TO b",
     "CREATE TABLE file (format INT)", "INSERT INTO t VALUES ('PUT file://a @b')", "SELECT 'FROM TABLE(INFER_SCHEMA('",
     "SELECT '@stg' FROM t"],
)  # fmt: skip
def test_other_statements_are_none_of_its_business(sql: str) -> None:
    assert read_loading(sql, HERE) is None


def test_bound_names_are_put_in_their_places_and_values_stay_bound() -> None:
    settled = settle("INSERT INTO identifier(?) VALUES (?, ?)", text("d.s.t", "a", "b"))
    assert settled.sql == "INSERT INTO d.s.t VALUES (?, ?)"
    assert settled.bindings == text("a", "b")
    assert settle("DROP TABLE IDENTIFIER( 'x' )", None).sql == "DROP TABLE x"


@pytest.mark.parametrize(
    "name",
    ["t; DROP TABLE x", "t --", "t/**/", "a.b.c.d", "t, u", "(SELECT 1)", "t t", "", " t", "1t", 't"', '"a" "b"', "*", "d.s.*"],
)  # fmt: skip
def test_a_bound_name_that_is_none_changes_nothing(name: str) -> None:
    sql = "TRUNCATE TABLE identifier(?)"
    assert settle(sql, text(name)).sql == sql


@pytest.mark.parametrize(
    "bindings",
    [
        {"1": {"type": "TEXT", "value": ["a", "b"]}},
        {"1": {"type": "FIXED", "value": "1"}},
        {"1": {"type": "TEXT", "value": None}},
        {"1": {"type": "TEXT", "value": "a"}, "2": {"type": "TEXT", "value": "b"}},
        {"x": {"type": "TEXT", "value": "a"}},
        None,
    ],
)
def test_bindings_that_do_not_fit_change_nothing(bindings: dict[str, object] | None) -> None:
    sql = "TRUNCATE TABLE identifier(?)"
    settled = settle(sql, bindings)
    assert (settled.sql, settled.bindings) == (sql, bindings)


def test_a_question_mark_in_a_text_or_a_comment_is_no_bind() -> None:
    sql = "INSERT INTO identifier(?) /* ? */ VALUES ('?', ?, \"?\")"
    settled = settle(sql, text("t", "v"))
    assert settled.sql == "INSERT INTO t /* ? */ VALUES ('?', ?, \"?\")"
    assert settled.bindings == text("v")


NAMES = st.text(string.ascii_letters + string.digits + ' "$_.;-?@/é', min_size=1, max_size=12)
FILES = st.text(string.ascii_letters + string.digits + "_.+= -/'\"\\*?[];", max_size=20)


@given(name=NAMES, column=NAMES, file=FILES)
def test_what_is_understood_means_the_same_when_read_again(
    name: str, column: str, file: str
) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    path = file.replace("\\", "\\\\").replace("'", "\\'")
    columns = '"' + column.replace('"', '""') + '"'
    for sql in (
        f"CREATE TEMP STAGE {quoted}",
        f"PUT 'file://{path}' @{quoted}/x",
        f"COPY INTO {quoted} ({columns}) FROM (SELECT $1:{columns}::DATE FROM @{quoted}) PATTERN = '{path}'",
    ):
        try:
            found = read_loading(sql, HERE)
        except StatementRefused:
            continue
        assert isinstance(found, CreateStage | Put | CopyInto)
        again = read_loading(found.sql, NameContext())
        assert again is not None and again.sql == found.sql
        assert written(again) == written(found)
        if isinstance(found, CopyInto):
            assert found.table == TableName("PROD", "FEATURES", name) and found.columns == (column,)


@given(
    st.text(string.printable, max_size=60),
    st.sampled_from(["PUT ", "COPY INTO ", "CREATE TEMP STAGE "]),
)
def test_nothing_but_a_refusal_comes_of_any_text(rest: str, head: str) -> None:
    try:
        found = read_loading(head + rest, HERE)
    except StatementRefused:
        return
    assert found is None or not isinstance(found, InferSchema)
