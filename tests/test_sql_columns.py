"""Columns read: an upper bound of what can matter for a statement, and no more than that where it is plain."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hoop_core.errors import StatementRefused
from hoop_core.model import NameContext, TableName
from hoop_core.sql.catalog import Catalog, load_catalog
from hoop_core.sql.columns import columns_read
from hoop_core.sql.limits import Limits
from hoop_core.sql.statement import analyse

CATALOG = load_catalog(Path(__file__).parent / "data" / "adversarial_catalog.yaml")
NAMES = NameContext("DB", "PUBLIC")
ALL = "CUSTOMERS(ID NAME EMAIL SSN BALANCE)"


def read(sql: str, catalog: Catalog = CATALOG) -> str:
    found = columns_read(analyse(sql, NAMES), catalog)
    return " ".join(f"{t.name}({' '.join(columns)})" for t, columns in found)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT name FROM customers", "CUSTOMERS(NAME)"),
        ('SELECT "NAME", c."ID" FROM customers c', "CUSTOMERS(ID NAME)"),
        ("SELECT name FROM customers WHERE ssn = '1'", "CUSTOMERS(NAME SSN)"),
        ("SELECT COUNT(*) FROM customers", ""),
        ("SELECT COUNT(email) FROM customers", "CUSTOMERS(EMAIL)"),
        ("SELECT COUNT(c.*) FROM customers c", ALL),
        ("SELECT COUNT(DISTINCT *) FROM customers", ALL),
        ("SELECT id FROM customers ORDER BY email", "CUSTOMERS(ID EMAIL)"),
        ("SELECT id FROM customers GROUP BY id, email HAVING MIN(ssn) > 'a'", "CUSTOMERS(ID EMAIL SSN)"),
        (
            "SELECT id FROM customers QUALIFY ROW_NUMBER() OVER (PARTITION BY email ORDER BY ssn) = 1",
            "CUSTOMERS(ID EMAIL SSN)",
        ),
        ("SELECT SUM(id) OVER (ORDER BY ssn) FROM customers", "CUSTOMERS(ID SSN)"),
        ("SELECT LISTAGG(id) WITHIN GROUP (ORDER BY email) FROM customers", "CUSTOMERS(ID EMAIL)"),
        ("SELECT o.ts FROM orders o JOIN customers c ON c.id = o.cust_id", "CUSTOMERS(ID) ORDERS(CUST_ID TS)"),
        ("SELECT ts FROM orders JOIN customers USING (id)", "CUSTOMERS(ID) ORDERS(ID TS)"),
        ("SELECT ts FROM orders NATURAL JOIN customers", "CUSTOMERS(ID) ORDERS(ID TS)"),
        ("SELECT * FROM customers", ALL),
        ("SELECT * EXCLUDE (email, ssn) FROM customers", "CUSTOMERS(ID NAME BALANCE)"),
        ("SELECT * EXCLUDE email FROM customers", "CUSTOMERS(ID NAME SSN BALANCE)"),
        ("SELECT * REPLACE ('x' AS email) FROM customers", "CUSTOMERS(ID NAME SSN BALANCE)"),
        ("SELECT * REPLACE (ssn AS email) FROM customers", "CUSTOMERS(ID NAME SSN BALANCE)"),
        ("SELECT * RENAME (email AS x) EXCLUDE ssn FROM customers", None),
        ("SELECT * ILIKE '%mail%' FROM customers", ALL),
        ("SELECT o.* FROM orders o, customers c WHERE c.id = 1", "CUSTOMERS(ID) ORDERS(ID CUST_ID TS)"),
        ("SELECT OBJECT_CONSTRUCT(*) FROM customers", ALL),
        ("SELECT HASH(*) FROM customers", ALL),
        ("SELECT {*} FROM customers", ALL),
        ("SELECT $3 FROM customers", "CUSTOMERS(EMAIL)"),
        ("SELECT c.$3 FROM customers c, orders", "CUSTOMERS(EMAIL)"),
        ("SELECT $3 FROM customers, orders", f"{ALL} ORDERS(ID CUST_ID TS)"),
        ("SELECT $9 FROM customers", ALL),
        ("SELECT email AS e, e || 'x' FROM customers", "CUSTOMERS(EMAIL)"),
        ("SELECT name AS email, email FROM customers", "CUSTOMERS(NAME EMAIL)"),
        ("SELECT id AS x FROM customers WHERE x = 1", "CUSTOMERS(ID)"),
        ("SELECT (SELECT MAX(ssn) FROM customers) FROM orders", "CUSTOMERS(SSN)"),
        (
            "SELECT 1 FROM orders WHERE EXISTS (SELECT 1 FROM customers WHERE customers.id = cust_id)",
            "CUSTOMERS(ID) ORDERS(CUST_ID)",
        ),
        ("SELECT ts FROM orders WHERE id IN (SELECT email FROM customers)", "CUSTOMERS(EMAIL) ORDERS(ID TS)"),
        ("SELECT 1 FROM customers WHERE (SELECT email) = 'x'", "CUSTOMERS(EMAIL)"),
        ("WITH c AS (SELECT email m FROM customers) SELECT 1 FROM c", "CUSTOMERS(EMAIL)"),
        ("WITH c (x) AS (SELECT email FROM customers) SELECT x FROM c", "CUSTOMERS(EMAIL)"),
        ("SELECT v FROM (SELECT id FROM customers) PIVOT (COUNT(id) FOR id IN (1)) AS p (v)", "CUSTOMERS(ID)"),
        ("SELECT id FROM customers PIVOT (MAX(ssn) FOR name IN ('a')) AS p", ALL),
        ("SELECT id FROM customers UNPIVOT (v FOR c IN (email, ssn))", "CUSTOMERS(ID EMAIL SSN)"),
        (
            "SELECT m FROM customers MATCH_RECOGNIZE (PARTITION BY name ORDER BY id MEASURES a.ssn AS m "
            "PATTERN (a) DEFINE a AS a.email > 'x')",
            "CUSTOMERS(ID NAME EMAIL SSN)",
        ),
        (
            "SELECT id FROM customers START WITH email = 'x' CONNECT BY PRIOR ssn = name",
            "CUSTOMERS(ID NAME EMAIL SSN)",
        ),
        ("SELECT f.value FROM customers c, LATERAL FLATTEN(INPUT => SPLIT(c.email, '@')) f", "CUSTOMERS(EMAIL)"),
        ("SELECT value FROM customers, TABLE(SPLIT_TO_TABLE(email, '@'))", "CUSTOMERS(EMAIL)"),
        (
            "SELECT l.e FROM orders o, LATERAL (SELECT c.email e FROM customers c WHERE c.id = o.id) l",
            "CUSTOMERS(ID EMAIL) ORDERS(ID)",
        ),
        ("SELECT TRANSFORM([id], x -> x || ssn) FROM customers", "CUSTOMERS(ID SSN)"),
        ("SELECT DATEADD(day, 1, ts), LAST_DAY(ts, month) FROM orders", "ORDERS(TS)"),
        ("SELECT ts FROM orders GROUP BY ALL ORDER BY ALL", "ORDERS(TS)"),
        ("SELECT c.id FROM (customers c JOIN orders o ON c.ssn = o.id)", "CUSTOMERS(ID SSN) ORDERS(ID)"),
        ("SELECT j.ts FROM (customers c JOIN orders o USING (id)) AS j", "CUSTOMERS(ID) ORDERS(ID TS)"),
        ("SELECT customers.email, db.public.customers.ssn FROM customers", "CUSTOMERS(EMAIL SSN)"),
        ("SELECT id FROM orders UNION SELECT ssn FROM customers ORDER BY 1", "CUSTOMERS(SSN) ORDERS(ID)"),
        ("SELECT id FROM orders LIMIT 5", "ORDERS(ID)"),
        ("VALUES (1)", None),
        ("SELECT c.id FROM customers c AT(OFFSET => -60) WHERE c.ssn = '1'", "CUSTOMERS(ID SSN)"),
        ("INSERT INTO out1 SELECT id, email FROM customers", "CUSTOMERS(ID EMAIL)"),
        ("INSERT INTO out1 VALUES (1, (SELECT MAX(ssn) FROM customers))", "CUSTOMERS(SSN)"),
        ("CREATE TABLE scratch AS SELECT email AS e FROM customers", "CUSTOMERS(EMAIL)"),
        ("UPDATE out1 SET v = c.ssn FROM customers c WHERE c.id = out1.id", "CUSTOMERS(ID SSN) OUT1(ID)"),
        ("UPDATE out1 SET v = 'x'", ""),
        ("UPDATE out1 SET v = v || id", "OUT1(ID V)"),
        ("DELETE FROM out1 USING customers c WHERE out1.id = c.id AND c.email = 'x'", "CUSTOMERS(ID EMAIL) OUT1(ID)"),
        (
            "MERGE INTO out1 o USING (SELECT id, email FROM customers WHERE ssn = '1') c ON o.id = c.id "
            "WHEN MATCHED AND o.v = 'x' THEN UPDATE SET v = c.email "
            "WHEN NOT MATCHED THEN INSERT (id, v) VALUES (c.id, c.email)",
            "CUSTOMERS(ID EMAIL SSN) OUT1(ID V)",
        ),
        ("DELETE FROM out1", ""),
        ("TRUNCATE TABLE out1", ""),
        ("DROP TABLE out1", ""),
        ("DESC TABLE customers", ""),
    ],
)  # fmt: skip
def test_columns_of_each_clause(sql: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(StatementRefused):
            analyse(sql, NAMES)
    else:
        assert read(sql) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT nothing FROM customers",
        "SELECT x.email FROM customers c",
        "SELECT PRIOR FROM customers",
        "SELECT a.b.c.d FROM customers",
        "SELECT nobody.* FROM customers",
    ],
)
def test_a_name_that_resolves_to_nothing_may_be_any_column(sql: str) -> None:
    found = columns_read(analyse(sql, NAMES), CATALOG)
    assert {"ID", "NAME", "EMAIL", "SSN", "BALANCE"} <= set(dict(found)[customers()])


def customers() -> TableName:
    return TableName("DB", "PUBLIC", "CUSTOMERS")


def test_a_column_newer_than_the_catalog_is_listed() -> None:
    assert read("SELECT c.phone FROM customers c, orders") == "CUSTOMERS(PHONE)"
    assert "PHONE" in read("SELECT phone FROM customers")


def test_without_known_columns_every_name_may_be_one() -> None:
    empty = Catalog.from_mapping(
        {customers(): {}, TableName("DB", "PUBLIC", "ORDERS"): {"ID": "X"}}
    )
    assert read("SELECT email FROM customers", empty) == "CUSTOMERS(EMAIL)"
    assert read("SELECT * FROM customers", empty) == "CUSTOMERS(*)"
    assert read("SELECT id FROM customers, orders", empty) == "CUSTOMERS(ID) ORDERS(ID)"
    assert read("WITH c AS (SELECT * FROM customers) SELECT ssn FROM c", empty) == "CUSTOMERS(*)"


def test_a_table_that_the_catalog_does_not_hold_is_like_one_without_columns() -> None:
    assert read("SELECT a FROM elsewhere") == "ELSEWHERE(A)"


@pytest.mark.parametrize(
    "kind", ["names", "joins", "unions", "stars", "flatten", "aliases", "ctes"]
)
def test_the_cost_grows_with_the_text_and_not_faster(kind: str) -> None:
    """No wall clock: the work is counted in calls of Python functions."""
    small, large = (_calls(text(kind, n)) for n in (40, 160))
    assert large < 8 * small  # four times the text; quadratic would be sixteen


def text(kind: str, n: int) -> str:
    if kind == "names":
        return f"SELECT {', '.join(['email'] * n)} FROM customers"
    if kind == "joins":
        return "SELECT t0.id FROM customers t0 " + " ".join(
            f"JOIN customers t{i} ON t{i}.id = t{i - 1}.id" for i in range(1, n)
        )
    if kind == "unions":
        return " UNION ALL ".join(["SELECT id, email FROM customers"] * n)
    if kind == "stars":
        return f"SELECT {', '.join(['*'] * n)} FROM customers"
    if kind == "flatten":
        return "SELECT id FROM customers" + "".join(
            f", LATERAL FLATTEN(INPUT => email) f{i}" for i in range(n)
        )
    if kind == "aliases":
        return (
            "SELECT id AS a0"
            + "".join(f", a{i} + 1 AS a{i + 1}" for i in range(n))
            + " FROM customers"
        )
    ctes = ", ".join(f"c{i + 1} AS (SELECT * FROM c{i})" for i in range(n))
    return f"WITH c0 AS (SELECT * FROM customers), {ctes} SELECT id FROM c{n}"


def _calls(sql: str) -> int:
    analysis = analyse(sql, NAMES, Limits(max_table_reads=1_000))
    count = 0

    def counting(frame: object, what: str, arg: object) -> None:
        nonlocal count
        count += what in {"call", "c_call"}

    sys.setprofile(counting)
    try:
        columns_read(analysis, CATALOG)
    finally:
        sys.setprofile(None)
    return count


def test_doubling_stars_end_in_everything_and_not_in_2_to_the_n() -> None:
    ctes = ", ".join(f"c{i + 1} AS (SELECT a.*, b.* FROM c{i} a, c{i} b)" for i in range(40))
    sql = f"WITH c0 AS (SELECT * FROM customers), {ctes} SELECT COUNT(*) FROM c40"
    assert read(sql) == ALL


# Generated statements, executed: a column that is not read can be dropped and nothing changes.

TABLES = {"T": ("ID", "A", "B", "C"), "U": ("ID", "A", "D", "E")}
SMALL = Catalog.from_mapping(
    {
        TableName("DB", "PUBLIC", t): dict.fromkeys(columns, "NUMBER")
        for t, columns in TABLES.items()
    }
)
ROWS = {
    "T": [(1, 2, 3, 4), (2, 3, 1, 7), (3, 1, 1, 9)],
    "U": [(1, 5, 2, 1), (3, 2, 2, 8), (4, 4, 1, 3)],
}
Frame = list[tuple[str, tuple[str, ...]]]


@st.composite
def queries(
    draw: st.DrawFn, depth: int = 3, around: tuple[str, ...] = (), ctes: Frame | None = None
) -> str:
    """A SELECT over T and U in Snowflake's SQL as far as DuckDB shares it; many are valid, some are not."""
    ctes = list(ctes or [])
    prefix = ""
    if depth > 1 and draw(st.integers(0, 3)) == 0:
        body = draw(queries(depth=depth - 1, ctes=ctes))
        name = f"q{len(ctes)}"
        recursive = draw(st.booleans())
        if recursive:
            prefix = (
                f"WITH RECURSIVE {name} (a, b) AS (SELECT a, id FROM t UNION ALL "
                f"SELECT b, a + 1 FROM {name} WHERE a < 4 AND b < 4) "
            )
            ctes.append((name, ("A", "B")))
        else:
            prefix = f"WITH {name} AS ({body}) "
            ctes.append((name, ("A", "ID", "X")))
    sources = draw(st.integers(1, 2))
    frame: Frame = []
    items = []
    for i in range(sources):
        alias = f"s{depth}{i}"
        choice = draw(st.integers(0, 5))
        if choice <= 2 or depth <= 1:
            table = draw(st.sampled_from(sorted(TABLES)))
            items.append(f"{table.lower()} AS {alias}")
            frame.append((alias, TABLES[table]))
        elif choice == 3 and ctes:
            name, columns = draw(st.sampled_from(ctes))
            items.append(f"{name} AS {alias}")
            frame.append((alias, columns))
        else:
            body = draw(queries(depth=depth - 1, ctes=ctes))
            items.append(f"({body}) AS {alias}")
            frame.append((alias, ("A", "ID", "X")))
    columns = [f"{a}.{c.lower()}" for a, names in frame for c in names]
    columns += [c.lower() for _, names in frame for c in names] + list(around)
    column = st.sampled_from(columns)
    joined = items[0]
    if sources == 2:
        how = draw(st.integers(0, 3))
        joined += [
            f" JOIN {items[1]} USING (id)",
            f" NATURAL JOIN {items[1]}",
            f" LEFT JOIN {items[1]} ON {draw(column)} = {draw(column)}",
            f", {items[1]}",
        ][how]
    value = _values(column, depth, tuple(columns[:4]), ctes)
    listed = [draw(value) for _ in range(draw(st.integers(1, 2)))]
    selected = f"{listed[0]} AS a"
    if len(listed) == 2:
        selected += f", {listed[1]} AS id, a + id AS x"
    selected = draw(
        st.sampled_from([selected, selected, selected, "*", f"{frame[0][0]}.*", "* EXCLUDE (a)"])
    )
    where = f" WHERE {draw(value)} > {draw(value)}" if draw(st.booleans()) else ""
    ordered = f" ORDER BY {draw(column)}" if draw(st.integers(0, 3)) == 0 else ""
    qualify = ""
    if draw(st.integers(0, 4)) == 0:
        qualify = f" QUALIFY ROW_NUMBER() OVER (PARTITION BY {draw(column)} ORDER BY {draw(column)}, 1) <= 2"
    query = f"{prefix}SELECT {selected} FROM {joined}{where}{qualify}{ordered}"
    if depth > 1 and not prefix and not ordered and draw(st.integers(0, 4)) == 0:
        query += f" UNION ALL {draw(queries(depth=1, ctes=ctes))}"
    return query


def _values(
    column: st.SearchStrategy[str], depth: int, around: tuple[str, ...], ctes: Frame
) -> st.SearchStrategy[str]:
    plain = st.one_of(
        column,
        column,
        st.tuples(column, column).map(lambda c: f"{c[0]} + {c[1]}"),
        column.map(lambda c: f"CASE WHEN {c} > 2 THEN 1 ELSE 0 END"),
        st.tuples(column, column).map(lambda c: f"SUM({c[0]}) OVER (PARTITION BY {c[1]})"),
        st.just("COUNT(*) OVER ()"),
        st.just("1"),
    )
    if depth <= 1:
        return plain
    inner = queries(depth=1, around=around, ctes=ctes)
    return st.one_of(
        plain,
        plain,
        inner.map(lambda q: f"(SELECT MAX(z.a) FROM ({q}) z)"),
        st.tuples(column, inner).map(lambda p: f"CASE WHEN EXISTS ({p[1]}) THEN {p[0]} END"),
        column.map(lambda c: f"(SELECT COUNT(*) FROM u WHERE u.d = {c})"),
    )


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def _filled(
    connection: duckdb.DuckDBPyConnection,
    *,
    changed: Collection[tuple[str, str]] = (),
    without: Collection[tuple[str, str]] = (),
) -> None:
    for table, columns in TABLES.items():
        shown = [c for c in columns if (table, c) not in without]
        typed = ", ".join(f"{c} INTEGER" for c in shown or ["NOTHING"])
        connection.execute(f"CREATE OR REPLACE TABLE {table} ({typed})")
        for row in ROWS[table]:
            cells = {
                c: (v * 7 + 2) % 5 if (table, c) in changed else v
                for c, v in zip(columns, row, strict=True)
            }
            values = ", ".join(str(cells[c]) for c in shown) or "0"
            connection.execute(f"INSERT INTO {table} VALUES ({values})")


def _answer(connection: duckdb.DuckDBPyConnection, sql: str) -> list[str] | str:
    try:
        return sorted(map(repr, connection.execute(sql).fetchall()))
    except duckdb.Error as e:
        return type(e).__name__


def _check(connection: duckdb.DuckDBPyConnection, sql: str, seen: Counter[str]) -> None:
    seen["generated"] += 1
    try:
        found = columns_read(analyse(sql, NAMES), SMALL)
    except StatementRefused:
        return
    _filled(connection)
    before = _answer(connection, sql)
    if isinstance(before, str):  # not what DuckDB takes
        return
    seen["executed"] += 1
    read_ = {(t.name, c) for t, names in found for c in names}
    unread = {(t, c) for t, names in TABLES.items() for c in names} - read_
    seen["with columns not read"] += bool(unread)
    _filled(connection, changed=unread)
    assert _answer(connection, sql) == before, (sql, sorted(unread))
    if "EXCLUDE" not in sql:  # which names a column without reading it
        _filled(connection, without=unread)
        assert _answer(connection, sql) == before, (sql, sorted(unread))
    _filled(connection, changed=read_)
    seen["differing with the columns read"] += _answer(connection, sql) != before


_QUICK = 150


def _does_without(connection: duckdb.DuckDBPyConnection, examples: int) -> None:
    seen: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples <= _QUICK,  # so few have shares that vary widely
        suppress_health_check=list(HealthCheck),
    )
    @given(queries())
    def check(sql: str) -> None:
        _check(connection, sql, seen)

    check()
    # the generator must keep producing statements that say something
    assert seen["executed"] > 0.2 * seen["generated"], seen
    assert seen["with columns not read"] > 0.3 * seen["executed"], seen
    assert seen["differing with the columns read"] > 0.3 * seen["executed"], seen


def test_a_statement_does_without_the_columns_that_it_does_not_read(
    database: duckdb.DuckDBPyConnection,
) -> None:
    _does_without(database, _QUICK)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_a_statement_does_without_the_columns_that_it_does_not_read_at_length(
    database: duckdb.DuckDBPyConnection,
) -> None:
    _does_without(database, 2_000)
