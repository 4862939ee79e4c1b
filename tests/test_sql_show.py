"""SHOW COLUMNS tells the columns of one table that a rule grants, never of a whole schema."""

from __future__ import annotations

import pytest

from hoop_core.errors import StatementRefused
from hoop_core.model import NameContext
from hoop_core.sql.statement import analyse

HERE = NameContext("DB", "S")


@pytest.mark.parametrize(
    "scope",
    [
        "",
        " LIKE '%'",
        " IN ACCOUNT",
        " IN DATABASE",
        " IN DATABASE db",
        " IN SCHEMA",
        " IN SCHEMA db.s",
        " LIKE 'a%' IN SCHEMA s LIMIT 5",
    ],
)
def test_columns_of_more_than_one_table_are_not_listed(scope: str) -> None:
    with pytest.raises(StatementRefused, match="Name the table") as caught:
        analyse(f"SHOW COLUMNS{scope}", HERE)
    assert caught.value.reason == "UNSERVED_COMMAND"


@pytest.mark.parametrize(
    "sql", ["SHOW COLUMNS IN TABLE t", "SHOW COLUMNS IN t", "SHOW COLUMNS IN VIEW s.t"]
)
def test_columns_of_one_table_are_read_of_that_table(sql: str) -> None:
    assert [str(t) for t in analyse(sql, HERE).statement.reads] == ["DB.S.T"]
