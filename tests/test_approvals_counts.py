"""How many rows a change touches is never more than the number that people and standing approvals go by."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.errors import StatementRefused
from hoop_core.model import NameContext, Statement
from hoop_core.sql.counting import Count, count_of
from hoop_core.sql.statement import analyse

NAMES = NameContext("D", "S")


def understood(sql: str) -> Statement:
    return analyse(sql, NAMES).statement


def counted(sql: str, bindings: dict[str, Any] | None = None) -> Count:
    count = count_of(understood(sql), bindings)
    assert count is not None
    for question in (count.sql, count.lost_sql):
        if question:
            analyse(question, NAMES)
    return count


# ------------------------------------------------------------------ what Snowflake would do, done by DuckDB


class Tables:
    """T and U with 20 rows each, whose IDs overlap by half; each is as it was before every statement."""

    def __init__(self) -> None:
        self.duck = duckdb.connect(":memory:")
        self.duck.execute("ATTACH ':memory:' AS D")
        self.duck.execute("CREATE SCHEMA D.S")
        self.duck.execute("USE D.S")
        self.duck.execute(
            "CREATE TABLE T AS SELECT I AS ID, I % 3 AS A, I % 4 AS B FROM range(20) R(I)"
        )
        self.duck.execute(
            "CREATE TABLE U AS SELECT I + 10 AS ID, I % 3 AS A, I % 5 AS C FROM range(20) R(I)"
        )

    def number(self, sql: str) -> int:
        found = self.duck.execute(sql).fetchone()
        assert found is not None
        return int(found[0])

    def touched(self, sql: str) -> int:
        """Rows that a statement changes, by its own account, and those of T that are gone after it."""
        self.duck.execute("BEGIN")
        before = self.number("SELECT COUNT(*) FROM T")
        try:
            if "REPLACE" in sql:
                self.duck.execute(sql)
                return before + self.number("SELECT COUNT(*) FROM T")
            if "OVERWRITE" in sql:
                return before + self.number(sql.replace("OVERWRITE ", ""))
            return self.number(sql)
        except duckdb.InvalidInputException as e:
            assert "same target row more than once" in str(e)  # as Snowflake refuses it
            return 0
        finally:
            self.duck.execute("ROLLBACK")


@pytest.fixture(scope="module")
def tables() -> Tables:
    return Tables()


CONDITIONS = (
    "T.ID >= 5",
    "T.A IS DISTINCT FROM 1",
    "T.A IS NOT DISTINCT FROM T.B",
    "CASE WHEN T.A = 1 THEN TRUE ELSE T.B = 2 END",
    "T.ID IN (SELECT ID FROM U WHERE C = 1)",
    "T.B = 9",
)
JOINED = (*CONDITIONS, "T.ID = U.ID", "T.A = U.A", "T.A IS DISTINCT FROM U.C AND U.ID < 12")
VALUES = (
    "7",
    "CASE WHEN T.A IS DISTINCT FROM T.B THEN 1 ELSE 0 END",
    "(SELECT MAX(C) FROM U WHERE U.A = 1)",
    "CAST(T.A IS NOT DISTINCT FROM T.B AS INT)",
)
BARE = "T.A IS DISTINCT FROM T.ID"


@st.composite
def changes(draw: st.DrawFn) -> str:
    condition, joined = draw(st.sampled_from(CONDITIONS)), draw(st.sampled_from(JOINED))
    value = draw(st.sampled_from(VALUES))
    source = draw(
        st.sampled_from(
            ["U", "(SELECT * FROM U WHERE C < 2) AS U", "(SELECT 1 AS ID, 2 AS A, 3 AS C) U"]
        )
    )
    matched = draw(
        st.sampled_from(
            ["", "WHEN MATCHED THEN DELETE", f"WHEN MATCHED THEN UPDATE SET A = {value}"]
        )
    )
    missing = draw(
        st.sampled_from(["", "WHEN NOT MATCHED THEN INSERT (ID, A, B) VALUES (U.ID, 0, 0)"])
    )
    merged = f"{matched} {missing}".strip() or "WHEN MATCHED THEN DELETE"
    # not of T itself: DuckDB's INSERT would meet rows that it has just inserted
    query = f"SELECT * FROM (SELECT ID, A, C AS B FROM U) AS T WHERE {condition}"
    return draw(
        st.sampled_from(
            [
                f"DELETE FROM T WHERE {condition}",
                "DELETE FROM T",
                f"DELETE FROM T USING {source} WHERE {joined}",
                f"UPDATE T SET A = {value}",
                f"UPDATE T SET A = {value}, B = 3 WHERE {condition}",
                f"UPDATE T SET A = {value} FROM {source} WHERE {joined}",
                f"MERGE INTO T USING {source} ON {joined} {merged}",
                f"INSERT INTO T {query}",
                f"INSERT INTO T (ID, A, B) (SELECT 1, 2, 3) UNION ALL {query}",
                f"INSERT INTO T (ID, A, B) WITH W AS ({query}) SELECT * FROM W",
                "INSERT INTO T VALUES (1, 2, 3), (4, (5), 6)",
                f"INSERT OVERWRITE INTO T {query}",
                "INSERT OVERWRITE INTO T VALUES (1, 2, 3)",
                f"CREATE OR REPLACE TABLE T AS {query}",
                f"CREATE OR REPLACE TABLE T AS (SELECT 1 AS ID, 2 AS A, 3 AS B) UNION ALL {query}",
            ]
        )
    )


@given(sql=changes())
def test_no_change_touches_more_rows_than_were_counted(tables: Tables, sql: str) -> None:
    count = counted(sql)
    assert count.bounds
    rows = tables.number(count.sql) if count.rows is None else count.rows
    lost = tables.number(count.lost_sql) if count.lost_sql else 0
    assert tables.touched(sql) <= rows + lost


def test_a_merge_whose_source_has_one_row_is_counted_by_what_it_deletes(tables: Tables) -> None:
    sql = "MERGE INTO T USING (SELECT 1 AS X) S ON T.ID >= 5 WHEN MATCHED THEN DELETE"
    assert tables.number(counted(sql).sql) == tables.touched(sql) == 15


# ------------------------------------------------------------------ words that are two things


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        (f"UPDATE T SET FLAG = {BARE}", "SELECT COUNT(*) FROM T"),
        (f"UPDATE T SET FLAG = {BARE} WHERE X = 1", "SELECT COUNT(*) FROM T WHERE X = 1"),
        (f"UPDATE T SET FLAG = {BARE} FROM U", "SELECT COUNT(*) FROM T, U"),
        ("UPDATE T SET Y = EXTRACT(YEAR FROM D)", "SELECT COUNT(*) FROM T"),
        (
            'UPDATE "FROM" SET "SET" = "WHERE" FROM "USING"',
            'SELECT COUNT(*) FROM "FROM", "USING"',
        ),
        ('DELETE FROM "USING" "WHERE"', 'SELECT COUNT(*) FROM "USING" "WHERE"'),
        ("DELETE FROM T WHERE X = ' WHERE '", "SELECT COUNT(*) FROM T WHERE X = ' WHERE '"),
        (
            "DELETE FROM T USING S JOIN R USING (ID) WHERE T.ID = S.ID",
            "SELECT COUNT(*) FROM T, S JOIN R USING (ID) WHERE T.ID = S.ID",
        ),
        (
            "MERGE INTO T USING S ON CASE WHEN MATCHED THEN TRUE END WHEN MATCHED THEN DELETE",
            "SELECT COUNT(*) FROM S JOIN T ON CASE WHEN MATCHED THEN TRUE END",
        ),
    ],
)
def test_a_clause_is_not_taken_for_another(text: str, sql: str) -> None:
    assert counted(text).sql == sql


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE T SET A = T.FROM",
        "UPDATE T SET A = T.DISTINCT FROM S",
        "UPDATE T SET A = NTH_VALUE(X, 2) FROM FIRST OVER (ORDER BY X)",
        "MERGE INTO T USING S ON T.A = S.A WHEN NOT MATCHED BY SOURCE THEN DELETE",
        "MERGE INTO T USING S INNER ON T.A = S.A WHEN NOT MATCHED THEN INSERT (A) VALUES (1)",
        "MERGE INTO T USING S ON T.WHEN = 1 WHEN MATCHED THEN DELETE",
        "INSERT OVERWRITE T SELECT 1",
        "INSERT INTO T VALUES (:1)",
    ],
)
def test_where_a_word_may_be_something_else_there_is_no_count(text: str) -> None:
    try:
        statement = understood(text)
    except StatementRefused:
        return  # it does not run at all
    assert count_of(statement) is None


def test_a_merge_without_a_condition_is_refused() -> None:
    with pytest.raises(StatementRefused, match="MERGE needs ON"):
        understood("MERGE INTO T USING S WHEN MATCHED THEN DELETE")


WORDS = st.sampled_from(
    [
        *("FROM", "USING", "SET", "WHERE", "ON", "WHEN", "MATCHED", "NOT", "CASE", "END", "IS"),
        *("DISTINCT", "AS", ".", ",", "(", ")", "=", "T", "S", "X", "1", "?", "VALUES", "SELECT"),
        *("THEN", "INNER", "LEFT", "JOIN", "X = 1", "FROM S", "WHERE X = 1", "IS DISTINCT FROM"),
        *("ON T.X = S.X", "WHEN MATCHED THEN DELETE", "(SELECT 1 AS X)", "CASE WHEN", "THEN 1 END"),
    ]
)


@given(
    st.sampled_from(
        ["UPDATE T SET X = ", "DELETE FROM T ", "MERGE INTO T USING S ", "INSERT INTO T "]
    ),
    st.lists(WORDS, max_size=12),
)
def test_any_text_that_is_understood_has_a_count_that_is_understood_or_none(
    begin: str, words: list[str]
) -> None:
    try:
        statement = understood(begin + " ".join(words))
    except StatementRefused:
        return
    count = count_of(statement)
    if count is not None and count.sql:
        shape = analyse(count.sql, NAMES).statement
        assert set(shape.reads) >= set(statement.writes) or begin.startswith("INSERT")


# ------------------------------------------------------------------ rows that are lost, and by chance


@pytest.mark.parametrize(
    ("text", "rows", "lost"),
    [
        ("INSERT OVERWRITE INTO T SELECT * FROM U", None, "SELECT COUNT(*) FROM D.S.T"),
        ("INSERT OVERWRITE INTO T VALUES (1), (2)", 2, "SELECT COUNT(*) FROM D.S.T"),
        ("CREATE OR REPLACE TABLE T AS SELECT * FROM U", None, "SELECT COUNT(*) FROM D.S.T"),
        ("CREATE OR REPLACE TABLE T (A INT)", 0, "SELECT COUNT(*) FROM D.S.T"),
        ("CREATE TABLE T AS SELECT * FROM U", None, ""),
        ("INSERT INTO T SELECT * FROM U", None, ""),
    ],
)
def test_what_is_overwritten_is_counted_too(text: str, rows: int | None, lost: str) -> None:
    count = counted(text)
    assert (count.rows, count.lost_sql) == (rows, lost)


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("DELETE FROM T WHERE UNIFORM(0, 9, RANDOM()) < 5", False),
        ("DELETE FROM T USING U SAMPLE (10) WHERE T.ID = U.ID", False),
        ("DELETE FROM T WHERE A IN (SELECT A FROM U LIMIT 1)", False),
        (
            "MERGE INTO T USING (SELECT TOP 1 * FROM U) U ON T.A = U.A WHEN MATCHED THEN DELETE",
            False,
        ),
        ("UPDATE T SET A = UUID_STRING() WHERE B = 1", True),
        ("UPDATE T SET A = 1 WHERE UUID_STRING() < '8'", False),
        ("INSERT INTO T SELECT * FROM U LIMIT 5", True),
    ],
)
def test_a_number_that_chance_may_change_bounds_nothing(text: str, bounds: bool) -> None:
    assert counted(text).bounds is bounds


# ------------------------------------------------------------------ many values in one place


def bound(*values: object) -> dict[str, Any]:
    return {str(n): {"type": "FIXED", "value": v} for n, v in enumerate(values, 1)}


@pytest.mark.parametrize(
    ("text", "bindings", "rows"),
    [
        ("INSERT INTO T VALUES (?, ?)", bound(["1"] * 1000, ["2"] * 1000), 1000),
        ("INSERT INTO T VALUES (?), (?)", bound(["1"] * 5, ["2"] * 5), 10),
        ("INSERT INTO T VALUES (?, 1)", bound("1"), 1),
        ("INSERT INTO T VALUES (?, ?)", bound(["1"] * 3, ["2"] * 2), None),
        ("INSERT INTO T VALUES (?, ?)", bound(["1"] * 3, "2"), None),
        ("INSERT INTO T VALUES (?, ?)", bound("1"), None),
        ("INSERT INTO T VALUES (?, ?)", None, None),  # they lie in a stage
        ("INSERT INTO T VALUES (1, 2)", bound(["1"] * 3), None),
        ("INSERT INTO T SELECT A FROM U WHERE B = ?", bound(["1"] * 3), None),
        ("DELETE FROM T WHERE A = ? AND B = ?", bound(["1"] * 3, "2"), None),
    ],
)
def test_a_statement_runs_as_often_as_there_are_values(
    text: str, bindings: dict[str, Any] | None, rows: int | None
) -> None:
    count = count_of(understood(text), bindings)
    assert (None if count is None else count.rows) == rows
