"""Forms that drivers and their users write: a bind with a cast behind it, lists for DatabaseMetaData."""

from __future__ import annotations

import pytest

from hoop_core.errors import StatementRefused
from hoop_core.model import Kind, NameContext
from hoop_core.sql.statement import analyse

HERE = NameContext("DB", "S")


@pytest.mark.parametrize(
    "sql",
    ["SELECT a FROM t WHERE b = ?::DATE", "SELECT ? ::DATE FROM t", "SELECT (?::VARIANT):x FROM t"],
)
def test_a_bind_variable_may_be_cast(sql: str) -> None:
    assert [str(t) for t in analyse(sql, HERE).statement.reads] == ["DB.S.T"]


@pytest.mark.parametrize(
    "sql",
    ["SELECT a?::DATE FROM t", "SELECT ?:: FROM t", "SELECT ?? FROM t", "SELECT a ?:: b FROM t"],
)
def test_it_is_no_operator_of_its_own(sql: str) -> None:
    with pytest.raises(StatementRefused):
        analyse(sql, HERE)


@pytest.mark.parametrize(
    "sql",
    [
        "show /* JDBC:DatabaseMetaData.getForeignKeys() */ exported keys in table t",
        "SHOW EXPORTED KEYS IN DB.S.T",
        "SHOW IMPORTED KEYS IN TABLE T",
    ],
)
def test_keys_of_a_table_are_read_of_that_table(sql: str) -> None:
    statement = analyse(sql, HERE).statement
    assert (statement.kind, [str(t) for t in statement.reads]) == (Kind.SHOW, ["DB.S.T"])


@pytest.mark.parametrize(
    "sql",
    [
        "SHOW EXPORTED KEYS",
        "SHOW EXPORTED KEYS IN ACCOUNT",
        "SHOW EXPORTED KEYS IN SCHEMA S",
        "SHOW EXPORTED KEYS IN TABLE T; SELECT 1",
        "SHOW EXPORTED KEYS IN TABLE T ->> SELECT * FROM $1",
        "SHOW EXPORTED TABLES",
    ],
)
def test_exported_keys_are_told_of_one_table_only(sql: str) -> None:
    with pytest.raises(StatementRefused):
        analyse(sql, HERE)


@pytest.mark.parametrize(
    "sql",
    [
        "show /* JDBC:DatabaseMetaData.getProcedures() */ procedures in schema s",
        "SHOW PROCEDURES LIKE 'x%' IN DATABASE d",
        "SHOW FUNCTIONS IN ACCOUNT",
    ],
)
def test_routines_are_listed(sql: str) -> None:
    statement = analyse(sql, HERE).statement
    assert (statement.kind, statement.reads) == (Kind.SHOW, ())


@pytest.mark.parametrize(
    "sql",
    [
        "SHOW PROCEDURES IN APPLICATION x",
        "SHOW PROCEDURES IN CLASS x",
        "SHOW EXTERNAL FUNCTIONS",
        "SHOW USER PROCEDURES",
        "SHOW FUNCTIONS IN MODEL m",
    ],
)
def test_other_lists_of_routines_are_refused(sql: str) -> None:
    with pytest.raises(StatementRefused):
        analyse(sql, HERE)
