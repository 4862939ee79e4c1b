"""Which outputs are a base column as it is: never one that is worked out, however it is called."""

from __future__ import annotations

import pytest

from hoop_core.model import NameContext, TableName
from hoop_core.replay.direct import direct_outputs
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.statement import analyse

PEOPLE, ORDERS, VIEW = (TableName("D", "S", n) for n in "COV")
CATALOG = Catalog.of(
    {
        PEOPLE: CatalogObject({"ID": "NUMBER(38,0)", "EMAIL": "VARCHAR"}),
        ORDERS: CatalogObject({"ID": "NUMBER(38,0)", "X": "VARCHAR"}),
        VIEW: CatalogObject({"EMAIL": "VARCHAR"}, definition="SELECT email FROM c"),
    }
)


def direct(sql: str, *outputs: str) -> list[str | None]:
    found = direct_outputs(analyse(sql, NameContext("D", "S")), CATALOG, list(outputs))
    return [None if f is None else f"{f[0].name}.{f[1]}" for f in found]


@pytest.mark.parametrize(
    ("sql", "outputs", "expected"),
    [
        ("SELECT id, email FROM c", ("ID", "EMAIL"), ["C.ID", "C.EMAIL"]),
        ("SELECT * FROM c", ("ID", "EMAIL"), ["C.ID", "C.EMAIL"]),
        ('SELECT email AS "e", id email FROM c', ("e", "EMAIL"), ["C.EMAIL", "C.ID"]),
        ("SELECT a.email FROM c a LEFT JOIN o ON o.id = a.id", ("EMAIL",), ["C.EMAIL"]),
        ("WITH q AS (SELECT * FROM c) SELECT q.email FROM q, o", ("EMAIL",), ["C.EMAIL"]),
        ("SELECT email FROM (SELECT email, id FROM c) ORDER BY 1", ("EMAIL",), ["C.EMAIL"]),
        ("SELECT email FROM c GROUP BY email", ("EMAIL",), ["C.EMAIL"]),
        ("(SELECT email FROM c)", ("EMAIL",), ["C.EMAIL"]),
        ("WITH c AS (SELECT x AS email FROM o) SELECT email FROM c", ("EMAIL",), ["O.X"]),
    ],
)
def test_a_column_that_passes_as_it_is_is_found(
    sql: str, outputs: tuple[str, ...], expected: list[str]
) -> None:
    assert direct(sql, *outputs) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT UPPER(email) AS email FROM c",
        "SELECT email || '!' AS email FROM c",
        "SELECT MAX(email) AS email FROM c",
        "SELECT 'x' AS email FROM c",
        "SELECT (SELECT email FROM c LIMIT 1) AS email FROM o",
        "WITH q AS (SELECT UPPER(email) AS email FROM c) SELECT email FROM q",
        "SELECT email FROM (SELECT LOWER(email) AS email FROM c)",
        "SELECT email FROM c UNION ALL SELECT x FROM o",
        "SELECT email FROM c NATURAL JOIN o",
        "SELECT email FROM c JOIN o USING (id)",
        "SELECT email FROM c, o",
        "SELECT email FROM v",
        "SELECT * REPLACE ('x' AS email) FROM c",
        "WITH q(email, id) AS (SELECT x, id FROM o) SELECT email FROM q",
        "SELECT email FROM (SELECT x, id FROM o) AS t(email, id)",
        "SELECT id AS email, email AS email FROM c",
        "SELECT c.*, o.x AS email FROM c, o",
    ],
)
def test_what_is_worked_out_or_not_plain_to_see_is_not(sql: str) -> None:
    assert direct(sql, "EMAIL") == [None]


def test_outputs_of_the_same_name_are_not_told_apart() -> None:
    assert direct("SELECT id AS a, email AS a FROM c", "A", "A") == [None, None]


def test_a_statement_that_returns_no_rows_of_tables_has_none() -> None:
    assert direct("DELETE FROM c WHERE id = 1", "number of rows deleted") == [None]
