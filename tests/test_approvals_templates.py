"""Statements with gaps: what fits differs from the template in the literals of its gaps, and in nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.http import BadRequest
from hoop_core.model import NameContext
from hoop_core.sql import templates
from hoop_core.sql.counting import count_of
from hoop_core.sql.limits import Scan, scan
from hoop_core.sql.statement import analyse
from hoop_core.sql.templates import Template

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
NUMBER = {"type": "number", "min": -5, "max": 100}
DAY = {"type": "date", "days_before": 7, "days_after": 0}
PLACE = {"type": "text", "one_of": ["EU", "US"]}
TEXT = "DELETE FROM A.B.C WHERE N = {n} AND DAY = {day} AND PLACE IN ({place}, 'X')"
WHOLE = Template.read(TEXT, {"n": NUMBER, "day": DAY, "place": PLACE})


def sql(n: str = "7", day: str = "'2026-11-20'", place: str = "'EU'") -> str:
    return TEXT.format(n=n, day=day, place=place)


def test_a_statement_with_literals_within_their_bounds_fits() -> None:
    fit = WHOLE.fit(sql(), None, NOW)
    assert fit.fits
    assert fit.values == {"n": "7", "day": "2026-11-20", "place": "EU"}


def test_white_space_and_comments_are_no_other_text() -> None:
    assert WHOLE.fit(sql().replace(" AND", "\n  /* and */ AND"), None, NOW).fits


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"n": "101"}, "n is above 100"),
        ({"n": "-6"}, "n is below -5"),
        ({"n": "1e9"}, "n is above 100"),
        ({"n": "'7'"}, "n is not a number"),
        ({"n": "7."}, "n is not a number"),
        ({"n": "1e99999999999999999999"}, "n is not a number"),
        ({"day": "'٢٠٢٦-١١-٢٠'"}, "is not a date"),
        ({"day": "'2026-11-15'"}, "is before 2026-11-16"),
        ({"day": "'2026-11-24'"}, "is after 2026-11-23"),
        ({"day": "'2026-11-20 '"}, "is not a date"),
        ({"day": "'20261120'"}, "is not a date"),
        ({"day": "'2026-W47-5'"}, "is not a date"),
        ({"day": "20261120"}, "is not a date"),
        ({"place": "'eu'"}, "is not one of"),
        ({"place": "7"}, "is not one of"),
    ],
)
def test_a_value_out_of_its_bounds_does_not_fit(changed: dict[str, str], says: str) -> None:
    fit = WHOLE.fit(sql(**changed), None, NOW)
    assert fit.same_text
    assert not fit.fits
    assert says in str(fit.why)


@pytest.mark.parametrize(
    "changed",
    [
        {"n": "7 OR 1 = 1"},
        {"n": "(7)"},
        {"n": "N"},
        {"n": "7 + 0"},
        {"n": "- -7"},
        {"n": "NULL"},
        {"n": "?"},
        {"n": ".7"},
        {"place": "'EU' OR 'a' = 'a'"},
        {"place": "'EU', 'US'"},
        {"place": "'E''U'"},
        {"place": r"'E\u0055'"},
        {"place": "$$EU$$"},
        {"place": "x'4555'"},
        {"place": "UPPER('eu')"},
        {"day": "DATE '2026-11-20'"},
    ],
)
def test_more_than_a_literal_in_a_gap_is_another_text(changed: dict[str, str]) -> None:
    assert not WHOLE.fit(sql(**changed), None, NOW).same_text


@pytest.mark.parametrize(
    "other", [sql() + " OR TRUE", sql().replace("A.B.C", "A.B.D"), "SELECT 1", "'", ""]
)
def test_another_text_does_not_fit(other: str) -> None:
    assert not WHOLE.fit(other, None, NOW).same_text


LITERALS = st.one_of(
    st.integers(-200, 200).map(str),
    st.text("EU'\\- ;$/*abc0", max_size=8).map(lambda t: f"'{t}'"),
    st.text("EU'\\- ();$/*abc0,=", max_size=12),
)


@given(LITERALS, LITERALS, LITERALS)
def test_what_fits_has_the_tokens_of_the_template(n: str, day: str, place: str) -> None:
    given_ = sql(n, day, place)
    fit = WHOLE.fit(given_, None, NOW)
    if not fit.fits:
        return
    expected = TEXT.format(**{k: v if k == "n" else f"'{v}'" for k, v in fit.values.items()})
    assert scan(given_).canonical.split() == scan(expected).canonical.split()
    assert -5 <= float(fit.values["n"]) <= 100
    assert fit.values["place"] in {"EU", "US"}


BOUND = Template.read("UPDATE A.B.C SET X = ? WHERE Y = ?", {"1": NUMBER, "2": DAY})


@pytest.mark.parametrize(
    ("bindings", "fits"),
    [
        (
            {"1": {"type": "FIXED", "value": "5"}, "2": {"type": "TEXT", "value": "2026-11-22"}},
            True,
        ),
        (
            {"1": {"type": "FIXED", "value": "5"}, "2": {"type": "DATE", "value": "1795305600000"}},
            True,
        ),
        (
            {"1": {"type": "FIXED", "value": "500"}, "2": {"type": "TEXT", "value": "2026-11-22"}},
            False,
        ),
        (
            {"1": {"type": "TEXT", "value": "5"}, "2": {"type": "TEXT", "value": "2026-11-22"}},
            False,
        ),
        (
            {
                "1": {"type": "FIXED", "value": ["5", "6"]},
                "2": {"type": "TEXT", "value": "2026-11-22"},
            },
            False,
        ),
        (
            {"1": {"type": "FIXED", "value": "NaN"}, "2": {"type": "TEXT", "value": "2026-11-22"}},
            False,
        ),
        ({"1": {"type": "FIXED", "value": "5"}}, False),
        (None, False),
    ],
)
def test_bound_values_have_bounds_too(bindings: dict[str, Any] | None, fits: bool) -> None:
    assert BOUND.fit("UPDATE A.B.C SET X = ? WHERE Y = ?", bindings, NOW).fits is fits


def sent(value: object, type_: str = "FIXED", **more: object) -> dict[str, Any]:
    return {"1": {"type": type_, "value": value, **more}}


@pytest.mark.parametrize(
    "value", ["1_0", " 5", "5 ", "5\n", "٣", "+5", "5.", ".5", "0x5", "1e", "", "Infinity", "sNaN"]
)
def test_a_bound_number_is_written_as_every_reader_reads_it(value: str) -> None:
    one = Template.read("DELETE FROM T WHERE N = ?", {"1": NUMBER})
    assert not one.fit("DELETE FROM T WHERE N = ?", sent(value), NOW).fits
    assert one.fit("DELETE FROM T WHERE N = ?", sent("-1.5e0"), NOW).fits


@pytest.mark.parametrize(
    ("binding", "fits"),
    [
        (sent("EU", "TEXT"), True),
        (sent("EU", "TEXT", fmt=None, schema=None), True),
        (sent("EU", "TEXT", fmt="json"), False),
        (sent("EU", "TEXT", schema={"type": "VARIANT"}), False),
        (sent("EU", "TEXT", nullable=False), False),
        (sent("EU", "BINARY"), False),
    ],
)
def test_a_binding_that_says_more_than_its_value_is_not_compared(
    binding: dict[str, Any], fits: bool
) -> None:
    one = Template.read("DELETE FROM T WHERE P = ?", {"1": PLACE})
    assert one.fit("DELETE FROM T WHERE P = ?", binding, NOW).fits is fits


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ("1795132800000", True),
        ("1795132800", False),  # Snowflake would take it for seconds
        ("1795132800000000", False),  # and this for microseconds
        ("1_795132800000", False),
        (" 1795132800000", False),
    ],
)
def test_a_bound_date_is_a_number_of_milliseconds_beyond_doubt(value: str, fits: bool) -> None:
    long_ago = {"type": "date", "from": "1970-01-01", "to": "2100-01-01"}
    one = Template.read("DELETE FROM T WHERE D = ?", {"1": long_ago})
    assert one.fit("DELETE FROM T WHERE D = ?", sent(value, "DATE"), NOW).fits is fits


def test_a_template_is_no_longer_than_can_be_compared_with_each_statement() -> None:
    text = "DELETE FROM T WHERE N = {n} AND M IN (" + "1, " * 1000 + "1)"
    with pytest.raises(BadRequest, match="at most 2000"):
        Template.read(text, {"n": NUMBER})


def test_a_template_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Template.read("DELETE FROM ONCE WHERE N = {n}", {"n": NUMBER})
    scanned: list[str] = []

    def noting(sql: str, *limits: Any) -> Scan:
        scanned.append(sql)
        return scan(sql, *limits)

    monkeypatch.setattr(templates, "scan", noting)
    for n in range(3):
        assert one.fit(f"DELETE FROM ONCE WHERE N = {n}", None, NOW).fits
    assert one.text not in scanned
    assert len(scanned) == 3


@pytest.mark.parametrize(
    ("text", "bounds", "says"),
    [
        (TEXT, {"n": NUMBER, "day": DAY}, "but not both"),
        ("DELETE FROM T WHERE N = {n}", {"n": NUMBER, "m": NUMBER}, "but not both"),
        ("DELETE FROM T WHERE N = {n} OR M = {n}", {"n": NUMBER}, "twice"),
        ("DELETE FROM T", {}, "no gap"),
        ("DELETE FROM T WHERE N = ?", {}, "but not both"),
        ("DELETE FROM T WHERE N = {n}", {"n": {"type": "number", "min": 1}}, "both sides"),
        (
            "DELETE FROM T WHERE N = {n}",
            {"n": {"type": "number", "min": 1, "max": "Infinity"}},
            "both",
        ),
        ("DELETE FROM T WHERE N = {n}", {"n": {"type": "date", "days_before": 3}}, "both sides"),
        ("DELETE FROM T WHERE N = {n}", {"n": {"type": "text", "one_of": []}}, "cannot be read"),
        ("DELETE FROM T WHERE N = {n}", {"n": {"type": "text", "like": "%"}}, "unknown key"),
        ("DELETE FROM T WHERE N = {n}", {"n": 5}, "has no type"),
        ("DELETE FROM T WHERE N = '{n}'", {"n": NUMBER}, "no gap"),
        ("'", {}, "cannot be read"),
        ("DELETE FROM T WHERE N = {n}", [], "must be an object"),
    ],
)
def test_a_template_without_a_bound_for_each_gap_is_refused(
    text: str, bounds: Any, says: str
) -> None:
    with pytest.raises(BadRequest, match=says):
        Template.read(text, bounds)


def test_a_sample_is_written_as_literals() -> None:
    assert WHOLE.filled({"n": 7, "day": "2026-11-20", "place": "EU"}) == sql()


@pytest.mark.parametrize(
    "values",
    [
        {"n": 7, "day": "2026-11-20"},
        {"n": "7 OR 1 = 1", "day": "2026-11-20", "place": "EU"},
        {"n": 7, "day": "2026-11-20", "place": "EU' OR 'a' = 'a"},
        {"n": True, "day": "2026-11-20", "place": "EU"},
        {"n": None, "day": "2026-11-20", "place": "EU"},
    ],
)
def test_a_sample_cannot_bring_more_than_literals(values: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        WHOLE.filled(values)


@pytest.mark.parametrize(
    ("text", "sql", "binds"),
    [
        ("DELETE FROM A.B.C WHERE X = ?", "SELECT COUNT(*) FROM A.B.C WHERE X = ?", (1,)),
        ("DELETE FROM T USING S WHERE T.A = S.A", "SELECT COUNT(*) FROM T, S WHERE T.A = S.A", ()),
        ("UPDATE T SET A = ? WHERE B = ?", "SELECT COUNT(*) FROM T WHERE B = ?", (2,)),
        (
            "UPDATE T SET A = (SELECT 1 FROM U WHERE 1 = 1)",
            "SELECT COUNT(*) FROM T",
            (),
        ),
        (
            "UPDATE T AS Q SET A = S.B FROM S WHERE Q.C = S.C AND S.Z = ?",
            "SELECT COUNT(*) FROM T AS Q, S WHERE Q.C = S.C AND S.Z = ?",
            (1,),
        ),
        (
            "MERGE INTO T USING (SELECT * FROM S WHERE A = ?) AS S ON T.A = S.A WHEN MATCHED THEN "
            "UPDATE SET B = ?",
            "SELECT COUNT(*) FROM (SELECT * FROM S WHERE A = ?) AS S JOIN T ON T.A = S.A",
            (1,),
        ),
        (
            "INSERT INTO T (A) SELECT A FROM S WHERE Z = ?",
            "SELECT COUNT(*) FROM (SELECT A FROM S WHERE Z = ?)",
            (1,),
        ),
        ("CREATE TABLE A.B.T AS SELECT * FROM S", "SELECT COUNT(*) FROM (SELECT * FROM S)", ()),
        ("TRUNCATE TABLE A.B.T", "SELECT COUNT(*) FROM A.B.T", ()),
    ],
)
def test_a_change_is_counted_by_a_select_of_its_own_words(
    text: str, sql: str, binds: tuple[int, ...]
) -> None:
    count = count_of(analyse(text, NameContext("D", "S")).statement)
    assert count is not None
    assert (count.sql, count.binds) == (sql, binds)
    analyse(count.sql, NameContext("D", "S"))


def test_the_rows_of_values_are_counted_without_a_query() -> None:
    count = count_of(
        analyse("INSERT INTO T VALUES (1, 2), (3, (4))", NameContext("D", "S")).statement
    )
    assert count is not None
    assert (count.rows, count.sql) == (2, "")


@pytest.mark.parametrize(
    "text", ["SELECT * FROM T", "ALTER TABLE T ADD COLUMN X INT", "SHOW TABLES"]
)
def test_what_changes_no_rows_is_not_counted(text: str) -> None:
    assert count_of(analyse(text, NameContext("D", "S")).statement) is None
