"""Error texts of Snowflake: values go, what the caller knows anyhow and Snowflake's own words stay."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hoop_core.masking.scrub import _TYPES, HIDDEN, _vocabulary, scrub

SQL = "SELECT TO_NUMBER(EMAIL), '2024' FROM CRM.CUSTOMERS WHERE NAME = 'bob smith'"
NAMES = ("PROD", "CRM", "CUSTOMERS", "EMAIL")


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Numeric value 'jane@x.example' is not recognized", "Numeric value [hidden] is not recognized"),
        ("100038 (22018): Numeric value 'x1' is not recognized",
         "100038 (22018): Numeric value [hidden] is not recognized"),
        ("Date '1999-01-01' is not recognized", "Date [hidden] is not recognized"),
        ('Failed to cast variant value {"ssn": 123} to FIXED', "Failed to cast variant value {[hidden]} to FIXED"),
        ("Failed to cast variant value 123456789 to BOOLEAN", "Failed to cast variant value [hidden] to BOOLEAN"),
        ("Duplicate row detected during DML action\nRow Values: [11, \"a,]\n b\", 'c']",
         "Duplicate row detected during DML action\nRow Values: [hidden]"),
        ("User character length limit (10) exceeded by string 'Electronics'\n  File 'a.csv', line 5, character 18",
         "User character length limit (10) exceeded by string [hidden]\n  File [hidden], line 5, character 18"),
        ("Number out of representable range: type FIXED[SB4](10,0){not null}, value 1234567",
         "Number out of representable range: type FIXED[SB4](10,0){not null}, value [hidden]"),
        ("Something new about 52000 and Jane", "[hidden] new [hidden] and [hidden]"),
    ],
)  # fmt: skip
def test_values_are_hidden(message: str, shown: str) -> None:
    assert scrub(message, SQL, NAMES) == shown


@pytest.mark.parametrize(
    "message",
    [
        "SQL compilation error: error line 1 at position 7\ninvalid identifier 'EMAIL'",
        "SQL compilation error:\nObject 'PROD.CRM.CUSTOMERS' does not exist or not authorized.",
        "Numeric value 'bob smith' is not recognized",
        "Division by zero",
        "NULL result in a non-nullable column",
        "SQL compilation error: Expression type does not match column data type, expecting NUMBER(38,0) but got "
        "VARCHAR(16777216) for column EMAIL",
        "Statement reached its statement or warehouse timeout of 10 second(s) and was canceled.",
        "SQL execution canceled",
    ],
)
def test_what_the_caller_knows_and_where_it_failed_stays(message: str) -> None:
    assert scrub(message, SQL, NAMES) == message


def test_a_part_of_what_the_caller_wrote_is_not_what_the_caller_wrote() -> None:
    assert "example" not in scrub("Numeric value 'bob smith@x.example' is not recognized", SQL)
    shown = scrub("Numeric value 'a.b' is not recognized", "SELECT 'a.bc', 'xa.b'")
    assert shown == "Numeric value [hidden] is not recognized"


SHAPES = (
    "Numeric value '{}' is not recognized", 'Failed to cast variant value "{}" to FIXED', "{}",
    "Failed to cast variant value {} to FIXED", "Error parsing JSON: {}, pos 5", "Row Values: [1, {}]",
    "Something else happened with {}: ({})", "String '{}' is too long", "Bad `{}`", "error line 1 {} at 2",
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SHAPES), st.text(min_size=1, max_size=40))
@example("Numeric value '{}' is not recognized", "O'Brien 4242")
@example("{}", "line 5 jane")
@example("Failed to cast variant value {} to FIXED", "jane to FIXED 'x' value 7 is not")
def test_no_word_survives_that_is_neither_the_callers_nor_snowflakes(
    shape: str, value: str
) -> None:
    shown = scrub(shape.replace("{}", value), SQL, NAMES).replace(HIDDEN, " ")
    own = {w.lower() for w in (*re.findall(r"[\w$]+", SQL), *_TYPES)} | _vocabulary() | {"prod"}
    places = set(re.findall(r"\d{1,9}", shape)) | {"sql"}
    for word in re.findall(r"[\w$]+", value):
        if word.lower() not in own | places and not re.search(r"\d", word):
            assert word not in re.findall(r"[\w$]+", shown)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SHAPES), st.from_regex(r"[0-9]{3}-[0-9]{2}-[0-9]{4}|[0-9]{10,19}|J[a-z]{3}q[0-9]{2}@x\.q",
                                              fullmatch=True))  # fmt: skip
def test_numbers_and_addresses_never_survive(shape: str, value: str) -> None:
    assert value not in scrub(shape.replace("{}", value), SQL, NAMES)


def test_a_huge_message_is_cut() -> None:
    assert len(scrub("is " * 100_000, SQL)) <= 4_100


@pytest.mark.timeout(30)
@pytest.mark.parametrize("mark", ["!", "-", ".", "a", "'!!!!' ", "`!` "])
def test_a_long_quote_against_a_long_statement_is_cheap(mark: str) -> None:
    quoted = mark * (3_800 // len(mark))
    for end in ("", "b"):
        for times in range(4):
            statement = f"SELECT {times}, '{mark * (2_000_000 // len(mark))}'"
            assert "Numeric value" in scrub(f"Numeric value '{quoted}{end}' is bad", statement)


def test_only_so_many_quotes_are_looked_for() -> None:
    shown = scrub(
        " ".join(f"'a b{i}'" for i in range(100)), " ".join(f"a b{i}," for i in range(100))
    )
    assert 0 < shown.count("'a b") <= 40 and HIDDEN in shown
