"""Column lineage, over the caller's own text; what cannot be traced is unknown, never clean."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlglot import exp, parse_one
from sqlglot.lineage import lineage as sqlglot_lineage
from sqlglot.optimizer import build_scope
from sqlglot.optimizer.qualify import qualify
from sqlglot.schema import MappingSchema

from hoop_core.bench.corpus import tpcds
from hoop_core.errors import ConfigError, StatementRefused
from hoop_core.model import ColumnLineage, NameContext, TableName
from hoop_core.sql import lineage
from hoop_core.sql.catalog import Catalog, load_catalog
from hoop_core.sql.lineage import column_lineage
from hoop_core.sql.names import resolve
from hoop_core.sql.statement import Analysis, analyse

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
        (
            "SELECT OBJECT_CONSTRUCT(*) AS o FROM customers",
            {"O": "CUSTOMERS.BALANCE CUSTOMERS.EMAIL CUSTOMERS.ID CUSTOMERS.NAME CUSTOMERS.SSN"},
        ),
        ("SELECT t.$3 AS x FROM customers t", {"X": "CUSTOMERS.EMAIL"}),
        ("UPDATE out1 SET v = c.ssn FROM customers c WHERE c.id = out1.id", {"V": "CUSTOMERS.SSN"}),
        (
            "MERGE INTO out1 USING customers c ON c.id = out1.id WHEN NOT MATCHED THEN INSERT (id, v) "
            "VALUES (c.id, c.ssn)",
            {"ID": "CUSTOMERS.ID", "V": "CUSTOMERS.SSN"},
        ),
        ("UPDATE out1 SET v = 'x', id = out1.id + 1", {"V": "?", "ID": "OUT1.ID"}),
        ("UPDATE out1 SET v = (SELECT MAX(ssn) FROM customers)", {"V": "CUSTOMERS.SSN"}),
        (
            "MERGE INTO out1 o USING (SELECT id, email e FROM customers) c ON c.id = o.id "
            "WHEN MATCHED THEN UPDATE SET v = c.e || o.v WHEN NOT MATCHED THEN INSERT VALUES (c.id, 'x')",
            {"ID": "CUSTOMERS.ID", "V": "?"},
        ),
        ("DELETE FROM out1 WHERE v = 'x'", {}),
        ("INSERT INTO out1 SELECT id, email FROM customers", {"ID": "CUSTOMERS.ID", "V": "CUSTOMERS.EMAIL"}),
        (
            "INSERT INTO out1 VALUES (1, (SELECT MAX(email) FROM customers)), (2, 'x')",
            {"ID": "?", "V": "CUSTOMERS.EMAIL"},
        ),
        (
            "WITH RECURSIVE r (n, a, b) AS (SELECT id, name, email FROM customers UNION ALL "
            "SELECT n + 1, b, a FROM r WHERE n < 3) SELECT n, a FROM r",
            {"N": "CUSTOMERS.ID", "A": "CUSTOMERS.EMAIL CUSTOMERS.NAME"},
        ),
        (
            "WITH r AS (SELECT id AS x FROM orders UNION ALL SELECT c.ssn FROM r JOIN customers c ON c.id = r.x) "
            "SELECT x FROM r",
            {"X": "CUSTOMERS.SSN ORDERS.ID"},
        ),
        (
            "WITH customers AS (SELECT id AS email FROM orders) SELECT email FROM customers",
            {"EMAIL": "ORDERS.ID"},
        ),
        (
            "WITH a AS (SELECT email AS x FROM customers), a2 AS (WITH a AS (SELECT ts AS x FROM orders) "
            "SELECT x FROM a) SELECT a.x, a2.x AS y FROM a, a2",
            {"X": "CUSTOMERS.EMAIL", "Y": "ORDERS.TS"},
        ),
        ("SELECT EXISTS (SELECT 1 FROM customers WHERE ssn = '1') AS e FROM orders", {"E": "CUSTOMERS.SSN"}),
        ("SELECT email AS e, e || 'x' AS f FROM customers", {"E": "CUSTOMERS.EMAIL", "F": "CUSTOMERS.EMAIL"}),
        ("SELECT ssn AS id, id || 'x' AS f FROM customers", {"ID": "CUSTOMERS.SSN", "F": "CUSTOMERS.ID"}),
        ("SELECT * EXCLUDE (name, ssn, balance) FROM customers", {"ID": "CUSTOMERS.ID", "EMAIL": "CUSTOMERS.EMAIL"}),
        ("SELECT c.* RENAME (ts AS t) EXCLUDE id FROM orders c", None),
        (
            "SELECT x.* FROM (SELECT ssn, id FROM customers) AS x (a, b)",
            {"A": "CUSTOMERS.SSN", "B": "CUSTOMERS.ID"},
        ),
        (
            "SELECT * FROM (SELECT id, email, ssn FROM customers) UNPIVOT (v FOR n IN (email, ssn))",
            {"ID": "CUSTOMERS.ID", "N": "CUSTOMERS.EMAIL CUSTOMERS.SSN", "V": "CUSTOMERS.EMAIL CUSTOMERS.SSN"},
        ),
        (
            "SELECT * FROM (SELECT name, ssn, id FROM customers) PIVOT (COUNT(id) FOR name IN ('a', 'b')) AS p (s, a, b)",
            {"S": "CUSTOMERS.SSN", "A": "CUSTOMERS.ID CUSTOMERS.NAME", "B": "CUSTOMERS.ID CUSTOMERS.NAME"},
        ),
        ("SELECT * FROM orders NATURAL JOIN out1", {"ID": "?", "CUST_ID": "?", "TS": "?", "V": "?"}),
        ("SELECT ts FROM orders JOIN out1 USING (id)", {"TS": "ORDERS.TS"}),
        (
            "SELECT f.value AS v FROM customers, LATERAL FLATTEN(INPUT => SPLIT(email, '@')) f",
            {"V": "CUSTOMERS.EMAIL"},
        ),
        ("SELECT SUM(balance) OVER (PARTITION BY ssn) AS s FROM customers", {"S": "CUSTOMERS.BALANCE CUSTOMERS.SSN"}),
        ("SELECT COUNT(*) + id AS n FROM customers GROUP BY id", {"N": "?"}),
        ("SELECT * ILIKE '%mail%' FROM customers", {"*": "?"}),
        ("SELECT nothing AS n FROM customers", {"N": "?"}),
        ("SELECT 1 AS one", {}),
        ("DESC TABLE customers", {}),
    ],
)  # fmt: skip
def test_sources_of_each_output(sql: str, expected: dict[str, str] | None) -> None:
    if expected is None:  # the parser wants EXCLUDE before RENAME
        with pytest.raises(StatementRefused):
            trace(sql)
    else:
        assert trace(sql) == expected


def test_a_value_that_goes_round_in_a_recursion_is_still_its_source() -> None:
    names = [f"c{i}" for i in range(30)]
    turned = [*names[1:], names[0]]
    sql = (
        f"WITH RECURSIVE r ({', '.join(names)}) AS (SELECT ssn, {', '.join(['id'] * 29)} FROM customers "
        f"UNION ALL SELECT {', '.join(turned)} FROM r) SELECT c17 FROM r"
    )
    assert trace(sql) == {"C17": "CUSTOMERS.ID CUSTOMERS.SSN"}


@pytest.mark.parametrize("every", range(4))
def test_no_source_that_another_implementation_finds_is_missing(every: int) -> None:
    """sqlglot's own lineage, over TPC-DS: ours names at least as many sources, or says unknown."""
    corpus = tpcds()
    compared = 0
    for sql in corpus.statements[every * 7 :: 28]:
        analysis = analyse(sql, NameContext("DB", "PUBLIC"))
        ours = column_lineage(analysis, corpus.catalog)
        theirs = _sqlglot_lineage(analysis, corpus.catalog)
        assert list(dict.fromkeys(c.output for c in ours)) == list(theirs), sql
        for column in ours:
            found = {(t.name, c) for t, c in column.sources}
            assert column.unknown or theirs[column.output] <= found, (sql, column)
            compared += not column.unknown
    assert compared > 20


def _sqlglot_lineage(analysis: Analysis, catalog: Catalog) -> dict[str, set[tuple[str, str]]]:
    schema = MappingSchema(dialect="snowflake", normalize=False)
    for table in analysis.tables:
        node = exp.table_(table.name, table.schema, table.database, quoted=True)
        columns = dict.fromkeys(catalog.columns(table) or (), "VARCHAR")
        schema.add_table(node, columns, dialect="snowflake")
    tree = parse_one(analysis.statement.sql, dialect="snowflake")
    for node in list(tree.find_all(exp.Table)):
        found = resolve(node, NameContext("DB", "PUBLIC"))
        if found in analysis.tables:
            if not node.alias:
                node.set("alias", exp.TableAlias(this=exp.to_identifier(found.name, quoted=True)))
            for part, name in zip(
                ("this", "db", "catalog"), (found.name, found.schema, found.database), strict=True
            ):
                node.set(part, exp.to_identifier(name, quoted=True))
    qualified = qualify(
        tree,
        dialect="snowflake",
        schema=schema,
        validate_qualify_columns=False,
        identify=False,
        quote_identifiers=False,
    )
    traced = sqlglot_lineage(
        None, qualified, schema, dialect="snowflake", scope=build_scope(qualified), copy=False
    )
    return {
        name: {
            (node.expression.name, node.name.rsplit(".", 1)[-1].strip('"'))
            for node in traced[name].walk()
            if isinstance(node.expression, exp.Table)
        }
        for name in (s.alias_or_name for s in qualified.selects)
    }


def test_two_outputs_of_one_name_are_told_apart() -> None:
    found = column_lineage(
        analyse("SELECT c.id, o.id FROM customers c, orders o", NameContext("DB", "PUBLIC")),
        CATALOG,
    )
    assert [(c.output, [t.name for t, _ in c.sources], c.unknown) for c in found] == [
        ("ID", ["CUSTOMERS"], False),
        ("ID", ["ORDERS"], False),
    ]


def test_what_cannot_be_traced_reads_everything_and_never_raises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*args: object, **named: object) -> None:
        raise RecursionError

    monkeypatch.setattr(lineage, "Walk", broken)
    found = lineage.trace(analyse("SELECT id FROM orders", NameContext("DB", "PUBLIC")), CATALOG)
    assert found.lineage == (ColumnLineage("*", (), unknown=True),)
    assert found.columns == ((TableName("DB", "PUBLIC", "ORDERS"), ("ID", "CUST_ID", "TS")),)


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
