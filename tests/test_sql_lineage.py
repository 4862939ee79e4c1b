"""Column lineage, over the caller's own text; what cannot be traced is unknown, never clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from hoop_core.errors import ConfigError
from hoop_core.model import ColumnLineage, NameContext, TableName
from hoop_core.sql import lineage
from hoop_core.sql.catalog import Catalog, load_catalog
from hoop_core.sql.lineage import column_lineage
from hoop_core.sql.statement import analyse

CATALOG = load_catalog(Path(__file__).parent / "data" / "adversarial_catalog.yaml")


def trace(sql: str, catalog: Catalog = CATALOG) -> dict[str, str]:
    found = column_lineage(analyse(sql, NameContext("DB", "PUBLIC")), catalog)
    return {
        c.output: "?" if c.unknown else " ".join(f"{t.name}.{column}" for t, column in c.sources)
        for c in found
    }


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT UPPER(email) AS e FROM customers", {"E": "CUSTOMERS.EMAIL"}),
        ("SELECT c.name || ssn AS x FROM customers c", {"X": "CUSTOMERS.NAME CUSTOMERS.SSN"}),
        (
            "WITH a AS (SELECT email AS m FROM customers) SELECT m, o.ts FROM a, orders o",
            {"M": "CUSTOMERS.EMAIL", "TS": "ORDERS.TS"},
        ),
        ("SELECT id FROM orders UNION ALL SELECT ssn FROM customers", {"ID": "CUSTOMERS.SSN ORDERS.ID"}),
        ("SELECT * FROM orders", {"ID": "ORDERS.ID", "CUST_ID": "ORDERS.CUST_ID", "TS": "ORDERS.TS"}),
        ("INSERT INTO out1 (id, v) SELECT id, ssn FROM customers", {"ID": "CUSTOMERS.ID", "V": "CUSTOMERS.SSN"}),
        ("CREATE TABLE scratch AS SELECT email AS e FROM customers", {"E": "CUSTOMERS.EMAIL"}),
        ("SELECT (SELECT MAX(ssn) FROM customers) AS m FROM orders", {"M": "CUSTOMERS.SSN"}),
        ("SELECT COUNT(*) AS n FROM customers WHERE ssn = '1'", {"N": "?"}),
        ("SELECT OBJECT_CONSTRUCT(*) AS o FROM customers", {"O": "?"}),
        ("SELECT t.$3 AS x FROM customers t", {"X": "CUSTOMERS.EMAIL"}),
        ("UPDATE out1 SET v = c.ssn FROM customers c WHERE c.id = out1.id", {"V": "?"}),
        (
            "MERGE INTO out1 USING customers c ON c.id = out1.id WHEN NOT MATCHED THEN INSERT (id, v) "
            "VALUES (c.id, c.ssn)",
            {"ID": "?", "V": "?"},
        ),
        ("SELECT 1 AS one", {}),
        ("DESC TABLE customers", {}),
    ],
)  # fmt: skip
def test_sources_of_each_output(sql: str, expected: dict[str, str]) -> None:
    assert trace(sql) == expected


def test_two_outputs_of_one_name_are_both_there_and_unknown() -> None:
    found = column_lineage(
        analyse("SELECT c.id, o.id FROM customers c, orders o", NameContext("DB", "PUBLIC")),
        CATALOG,
    )
    assert [(c.output, c.unknown) for c in found] == [("ID", True), ("ID", True)]


def test_lineage_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **named: object) -> None:
        raise RecursionError

    monkeypatch.setattr(lineage, "qualify", broken)
    assert column_lineage(
        analyse("SELECT email FROM customers", NameContext("DB", "PUBLIC")), CATALOG
    ) == (ColumnLineage("*", (), unknown=True),)


def test_a_table_without_known_columns_makes_its_star_unknown() -> None:
    empty = Catalog.from_mapping({TableName("DB", "PUBLIC", "ORDERS"): {}})
    assert trace("SELECT * FROM orders", empty) == {"*": "?"}


def test_a_catalog_file_keeps_order_and_stored_case_and_digests_follow_it(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('tables:\n  db.s."t": {b: NUMBER, a: VARCHAR, \'"q"\': DATE}\n  D.S.EMPTY:\n')
    catalog = load_catalog(path)
    table = TableName("DB", "S", "t")
    assert list((catalog.columns(table) or {}).items()) == [
        ("B", "NUMBER"),
        ("A", "VARCHAR"),
        ("q", "DATE"),
    ]
    assert catalog.columns(TableName("D", "S", "EMPTY")) == {}
    assert catalog.columns(TableName("DB", "S", "T")) is None
    other = Catalog.from_mapping({table: {"A": "VARCHAR", "B": "NUMBER"}})
    assert catalog.digest([table]) != other.digest([table])
    assert catalog.digest([table]) == catalog.digest([table, table])


@pytest.mark.parametrize(
    "text", ["", "tables: []", "tables: {a.b: {}}", "tables: {a.b.c: 3}", "x: {}", "{"]
)
def test_a_wrong_catalog_file_is_a_config_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_catalog(path)
    with pytest.raises(ConfigError):
        load_catalog(tmp_path / "none.yaml")
