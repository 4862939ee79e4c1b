"""The list of functions: a tidy file, everything in it can be called, and nothing in it reaches out."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files

import pytest

from hoop_core.errors import StatementRefused
from hoop_core.model import NameContext
from hoop_core.sql import functions
from hoop_core.sql.statement import analyse

NAMES = NameContext("DB", "PUBLIC")
SECTIONS = ("scalar", "aggregate", "window", "table", "optimiser", "pattern", "syntax", "types")
CALLABLE = SECTIONS[:5]
GRAMMAR = {  # what has a form of its own, or is written without parentheses
    "CASE": "CASE WHEN a THEN 1 END",
    "CAST": "CAST(a AS INT)",
    "TRY_CAST": "TRY_CAST(a AS INT)",
    "EXTRACT": "EXTRACT(YEAR FROM a)",
    "DATE_PART": "DATE_PART(YEAR, a)",
    "POSITION": "POSITION('x' IN a)",
    "ILIKE": "a ILIKE 'x'",
    "LIKE": "a LIKE 'x'",
    "REDUCE": "REDUCE(a, 0, (x, y) -> x + y)",
    "REGEXP": "a REGEXP 'x'",
    "RLIKE": "a RLIKE 'x'",
    "COLLATE": "COLLATE(a, 'en')",
}


def _sections() -> dict[str, list[list[str]]]:
    """Section -> groups of names; a comment begins a new group."""
    found: dict[str, list[list[str]]] = {}
    section = ""
    text = files("hoop_core.sql").joinpath("functions.txt").read_text(encoding="ascii")
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            found[section] = [[]]
        elif line.startswith("#"):
            found.get(section, []).append([])
        else:
            found[section][-1] += line.split()
    return found


def test_the_file_is_sorted_in_its_groups_upper_case_and_has_known_sections_only() -> None:
    found = _sections()
    assert tuple(found) == SECTIONS
    for group in (g for groups in found.values() for g in groups):
        assert group == sorted(group)
        assert all(name == name.upper() for name in group)


def test_every_function_is_in_one_section_once() -> None:
    names = [name for s in CALLABLE for group in _sections()[s] for name in group]
    assert [name for name, times in Counter(names).items() if times > 1] == []
    assert functions.listed() == set(names)


def _called(name: str) -> list[str]:
    if name in functions.table_functions():
        return [
            f"SELECT * FROM TABLE({name}({a}))"
            for a in ("a", "'a', ','", "ROWCOUNT => 3", "INPUT => [1]")
        ]
    arguments = [", ".join(["a"] * n) for n in range(7)] + [
        "'day', a",
        "day, 1, a",
        "day, a, a",
        "a, 1, 'day'",
    ]
    texts = [GRAMMAR[name]] if name in GRAMMAR else [f"{name}({a})" for a in arguments]
    texts += [f"{name}({a}) OVER (ORDER BY a)" for a in arguments]
    return [f"SELECT {t} FROM t" for t in texts]


@pytest.mark.parametrize("name", sorted(functions.listed()))
def test_every_listed_function_can_be_called(name: str) -> None:
    refusals = []
    for sql in _called(name):
        try:
            analyse(sql, NAMES)
        except StatementRefused as e:
            refusals.append(f"{sql}: {e}")
        else:
            return
    pytest.fail("\n".join(refusals))


@pytest.mark.parametrize(
    "expression",
    [
        "IFF(a > 1, NVL(a, 0), ZEROIFNULL(a))",
        "BITAND(a, 3) + BITSHIFTLEFT(a, 1)",
        "TRY_TO_NUMBER(a, 10, 2), TO_UUID(a)",
        "UUID_STRING(), UNIFORM(1, 10, RANDOM())",
        "DATE_TRUNC('month', a), TIME_SLICE(a, 1, 'MONTH'), LAST_DAY(a)",
        "SHA2(a, 256), MD5_NUMBER_LOWER64(a), ENCRYPT(a, 'p')",
        "ST_DISTANCE(ST_MAKEPOINT(a, a), ST_GEOGFROMTEXT(a)), H3_LATLNG_TO_CELL(a, a, 8)",
        "FILTER(a, x -> x > 1), TRANSFORM(a, x -> x + 1)",
        "WIDTH_BUCKET(a, 1, 10, 5), HAVERSINE(a, a, a, a)",
        "REGEXP_SUBSTR(a, 'x'), REGEXP_COUNT(a, 'x')",
        "ARRAY_REPEAT(a, 3), MAP_ENTRIES(a), OBJECT_KEYS(a), XMLGET(a, 'x')",
        "SEARCH(a, 'x'), SEARCH_IP(a, '10.0.0.0/8'), PARSE_IP(a, 'inet'), COMPRESS(a, 'ZSTD')",
        "VECTOR_L2_DISTANCE(a, a), VECTOR_NORMALIZE(a)",
        "DATASKETCHES_HLL(a), HLL(a), MINHASH(10, a), APPROX_TOP_K(a, 3), VECTOR_SUM(a)",
        "REGR_SLOPE(a, a), BITMAP_AND_AGG(a), LISTAGG(a, ',') WITHIN GROUP (ORDER BY a)",
        "INTERPOLATE_LINEAR(a) OVER (ORDER BY a), RATIO_TO_REPORT(a) OVER (PARTITION BY a)",
    ],
)
def test_a_sample_of_each_documented_category_passes(expression: str) -> None:
    assert analyse(f"SELECT {expression} FROM t", NAMES).statement.functions


@pytest.mark.parametrize(
    "call",
    [
        # account, role and session state
        "CURRENT_IP_ADDRESS()",
        "CURRENT_SESSION()",
        "CURRENT_STATEMENT()",
        "CURRENT_TRANSACTION()",
        "CURRENT_AVAILABLE_ROLES()",
        "CURRENT_SECONDARY_ROLES()",
        "CURRENT_ORGANIZATION_USER()",
        "SYS_CONTEXT('SNOWFLAKE$SESSION', 'ROLE')",
        "INVOKER_ROLE()",
        "INVOKER_SHARE()",
        "IS_ROLE_IN_SESSION('x')",
        "IS_DATABASE_ROLE_IN_SESSION('x')",
        "ALL_USER_NAMES()",
        "GETVARIABLE('x')",
        "LAST_QUERY_ID()",
        "LAST_TRANSACTION()",
        # system functions
        "SYSTEM$WAIT(1)",
        "SYSTEM$TYPEOF(a)",
        "SYSTEM$GENERATE_SCIM_ACCESS_TOKEN('x')",
        "SYSTEM$SEND_EMAIL('i', 'a@b.c', 's', 't')",
        "SYSTEM$CANCEL_ALL_QUERIES(1)",
        "GENERATE_POSTGRES_ACCESS_TOKEN_FOR_USER('x')",
        # metadata
        "GET_DDL('table', 't')",
        "GET_OBJECT_REFERENCES(database_name => 'd')",
        "EXTRACT_SEMANTIC_CATEGORIES('t')",
        "GENERATE_COLUMN_DESCRIPTION('t')",
        "ESTIMATE_REMAINING_DP_AGGREGATES('t')",
        "EXPLAIN_JSON('x')",
        # files and stages
        "GET_PRESIGNED_URL(@s, 'x')",
        "GET_PRESIGNED_URL('@s', 'x')",
        "BUILD_SCOPED_FILE_URL('@s', 'x')",
        "BUILD_STAGE_FILE_URL('@s', 'x')",
        "GET_STAGE_LOCATION('@s')",
        "GET_ABSOLUTE_PATH('@s', 'x')",
        "TO_FILE('@s', 'x')",
        "TRY_TO_FILE('@s/x')",
        "FL_GET_SIZE('@s/x')",
        # models
        "AI_COMPLETE('m', a)",
        "AI_AGG(a, 'x')",
        "AI_EMBED('m', a)",
        "AI_FILTER(a)",
        "AI_SIMILARITY(a, a)",
        "AI_TRANSLATE(a, 'a', 'b')",
        "SNOWFLAKE.CORTEX.COMPLETE('m', a)",
        "EXECUTE_AI_EVALUATION('x')",
        "MODEL_MONITOR_DRIFT_METRIC('m', 'd', 'c')",
        "AGG(a)",
        # notifications, functions of users, dynamic SQL
        "APPLICATION_JSON('x')",
        "EMAIL_INTEGRATION_CONFIG('i')",
        "TO_QUERY('SELECT 1')",
        "ANYBODYS_FUNCTION(a)",
        "PUBLIC.ANYBODYS_FUNCTION(a)",
        '"ABS"(a)',
    ],
)  # fmt: skip
def test_what_reaches_data_network_session_or_account_is_refused(call: str) -> None:
    with pytest.raises(StatementRefused):
        analyse(f"SELECT {call} FROM t", NAMES)


@pytest.mark.parametrize(
    "source",
    [
        "RESULT_SCAN(LAST_QUERY_ID())",
        "INFORMATION_SCHEMA.QUERY_HISTORY()",
        "QUERY_HISTORY()",
        "BIND_VALUES('x')",
        "TAG_REFERENCES('t', 'table')",
        "GET_QUERY_OPERATOR_STATS('x')",
        "INFER_SCHEMA(LOCATION => '@s', FILE_FORMAT => 'f', LIMIT => 9)",
        "VALIDATE(t, JOB_ID => '_last')",
        "SEARCH_OPTIMIZATION_HISTORY()",
        "EXPLAIN_JSON('x')",
        "'t'",
        "$t",
    ],
)
def test_table_functions_that_are_not_listed_are_refused(source: str) -> None:
    with pytest.raises(StatementRefused):
        analyse(f"SELECT * FROM TABLE({source})", NAMES)


@pytest.mark.parametrize(
    "call", ["DATE_TRUNC()", "DATE_TRUNC(a)", "OBJECT_CONSTRUCT(a)", "OBJECT_CONSTRUCT(a, a, a)"]
)
def test_a_call_with_too_few_arguments_is_refused_like_any_wrong_text(call: str) -> None:
    with pytest.raises(StatementRefused) as refused:
        analyse(f"SELECT {call} FROM t", NAMES)
    assert refused.value.reason == "UNPARSEABLE"
