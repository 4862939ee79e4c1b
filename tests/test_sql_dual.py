"""FROM DUAL is taken out where a SELECT reads nothing else, and left everywhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.sql.dual import without_dual


@pytest.mark.parametrize(
    ("sql", "left"),
    [
        ("SELECT 1 FROM DUAL", "SELECT 1"),
        ("select 1\n from dual;", "select 1;"),
        ("SELECT CURRENT_TIMESTAMP() FROM dual LIMIT 1", "SELECT CURRENT_TIMESTAMP() LIMIT 1"),
        ("SELECT 'FROM DUAL' FROM DUAL", "SELECT 'FROM DUAL'"),
        ("SELECT 1 FROM DUAL UNION ALL SELECT 2 FROM DUAL", "SELECT 1 UNION ALL SELECT 2"),
        ("SELECT a FROM t WHERE EXISTS (SELECT 1 FROM DUAL)", "SELECT a FROM t WHERE EXISTS (SELECT 1)"),
        ("INSERT INTO t SELECT 1 FROM DUAL WHERE 1 = 1", "INSERT INTO t SELECT 1 WHERE 1 = 1"),
        ("WITH c AS (SELECT 1 AS a FROM DUAL) SELECT a FROM c", "WITH c AS (SELECT 1 AS a) SELECT a FROM c"),
    ],
)  # fmt: skip
def test_a_select_that_reads_nothing_loses_its_dual(sql: str, left: str) -> None:
    assert without_dual(sql) == left


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 FROM \"DUAL\"",
        "SELECT 1 FROM PUBLIC.DUAL",
        "SELECT 1 FROM DUAL.T",
        "SELECT 1 FROM DUAL, t",
        "SELECT 1 FROM DUAL d",
        "SELECT 1 FROM DUAL JOIN t ON TRUE",
        "SELECT 1 FROM t, DUAL",
        "SELECT DUAL.a FROM DUAL",
        "WITH DUAL AS (SELECT 1 AS a UNION ALL SELECT 2) SELECT 1 FROM DUAL",
        "WITH \"DUAL\" AS (SELECT 1) SELECT 1 FROM DUAL",
        "DELETE FROM DUAL",
        "DELETE FROM DUAL WHERE 1 = 1",
        "SELECT EXTRACT(YEAR FROM DUAL) FROM t",
        "SELECT TRIM('x' FROM DUAL) FROM t",
        "SELECT 'FROM DUAL'",
        "SELECT 1 -- FROM DUAL",
        "SELECT 1 FROM DUAL // comment",
        "SELECT 1 FROM DUAL AT (OFFSET => -1)",
        "SELECT * FROM (SELECT 1 FROM DUAL) DUAL",
    ],
)  # fmt: skip
def test_what_is_something_else_is_left(sql: str) -> None:
    assert without_dual(sql) == sql


@given(st.lists(st.sampled_from(
    ["SELECT", "1", "FROM", "DUAL", "(", ")", ",", ";", "WHERE", "'FROM DUAL'", '"DUAL"', "--x\n", "t", ".", "\x00"]
)).map(" ".join))  # fmt: skip
def test_no_text_makes_it_fail_and_only_the_two_words_go(sql: str) -> None:
    left = without_dual(sql)
    assert without_dual(left) == left
    assert left.split() == sql.split() or len(left.split()) < len(sql.split())
