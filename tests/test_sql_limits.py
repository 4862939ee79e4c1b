"""Caps and lexical guards: hostile and ambiguous texts are refused before they are parsed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hoop_core import judge
from hoop_core.errors import StatementRefused
from hoop_core.model import Identity, NameContext, RunContext
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.limits import Limits, scan
from hoop_core.sql.statement import analyse

NAMES = NameContext("DB", "PUBLIC")


def reason(sql: str, limits: Limits | None = None) -> str:
    with pytest.raises(StatementRefused) as caught:
        analyse(sql, NAMES, limits or Limits())
    assert caught.value.hint
    return caught.value.reason


HOSTILE = {
    "parentheses": ("SELECT " + "(" * 10_000 + "1" + ")" * 10_000, {"TOO_MANY_TOKENS", "TOO_DEEP"}),
    "parentheses within the tokens": ("SELECT " + "(" * 60 + "1" + ")" * 60, {"TOO_DEEP"}),
    "brackets": ("SELECT a" + "[" * 60 + "1" + "]" * 60, {"TOO_DEEP"}),
    "CASE": ("SELECT " + "CASE WHEN " * 60 + "1" + " THEN 1 END" * 60, {"TOO_DEEP"}),
    "NOT": ("SELECT " + "NOT " * 9_000 + "1", {"TOO_DEEP"}),
    "minus": ("SELECT " + "- " * 9_000 + "1", {"TOO_DEEP"}),
    "unions": ("SELECT 1" + " UNION ALL SELECT 1" * 4_000, {"TOO_MANY_READS"}),
    "subqueries": ("SELECT * FROM " + "(SELECT * FROM " * 2_000 + "t" + ")" * 2_000, {"TOO_DEEP"}),
    "joins without ON": ("SELECT 1 FROM a" + " JOIN a" * 30, {"TOO_MANY_READS"}),
    "joins without ON in parentheses": (
        "SELECT 1 FROM " + "(a JOIN b JOIN " * 9 + "a" + ")" * 9,
        {"TOO_MANY_READS"},
    ),
    "types in types": ("SELECT " + "DATE(" * 24 + "'2020'" + ")" * 24, {"TOO_DEEP"}),
    "joins behind names": ("SELECT 1 FROM o AS o" + " JOIN o AS natural" * 18, {"TOO_MANY_READS"}),
    "straight joins": ("SELECT 1 FROM o" + " STRAIGHT_JOIN o" * 18, {"TOO_MANY_READS"}),
    "pivots in pivots": (
        "SELECT * FROM o" + " PIVOT (MAX(a) FOR b IN (SELECT 1 FROM o" * 14 + "))" * 14,
        {"TOO_DEEP"},
    ),
    "ends that end nothing": (
        "SELECT " + "x.end, " * 600 + "UPPER(" * 500 + "x" + ")" * 500 + " FROM t",
        {"TOO_DEEP"},
    ),
    "comma joins": ("SELECT 1 FROM a" + ",a" * 9_000, {"TOO_MANY_READS"}),
    "tokens": ("SELECT " + "1," * 15_000 + "1", {"TOO_MANY_TOKENS"}),
    "characters": ("SELECT '" + "x" * 20_000_000 + "'", {"TOO_LONG"}),
    "comments": ("SELECT 1 --" + "x" * 20_000_000, {"TOO_LONG"}),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_refused_quickly(name: str) -> None:
    sql, reasons = HOSTILE[name]
    assert reason(sql) in reasons


@pytest.mark.parametrize("step", ["analyse", "decide", "rewrite", "verify"])
def test_recursion_in_any_step_is_a_deny(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_deep(*_: object, **__: object) -> None:
        raise RecursionError

    monkeypatch.setattr(judge, step, too_deep)
    verdict = judge.judge_text(
        "SELECT 1",
        NAMES,
        identity=Identity("i", "s", "n", ("g",), "oidc", "d"),
        policy=parse_policy("version: 1\nrules:\n  - {name: r, then: allow}\n", "p.yaml"),
        catalog=Catalog(),
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
    )
    assert [r.code for r in verdict.decision.reasons] == ["TOO_DEEP"]
    assert verdict.rewritten is None


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT \x00 1", "NUL"),
        ("SELECT * FROM `t`", "BACKTICK"),
        ("SELECT `a` FROM t", "BACKTICK"),
        ("SELECT caf\u00e9 FROM t", "NON_ASCII"),
        ("SELECT \u017fsn FROM t", "NON_ASCII"),  # upper-cases to S
        ("SELECT * FROM @stage/x.csv", "UNREADABLE_TOKEN"),
        ("SELECT * FROM t ->> SELECT * FROM $1", "UNREADABLE_TOKEN"),
        ("SELECT {{ x }} FROM t", "UNREADABLE_TOKEN"),
        ("SELECT 1_000", "UNREADABLE_TOKEN"),
        ("SELECT e'a'", "UNREADABLE_TOKEN"),
        ("SELECT N'a'", "UNREADABLE_TOKEN"),
        ("SELECT 'a'b", "UNREADABLE_TOKEN"),
        ("SELECT a & b FROM t", "UNREADABLE_TOKEN"),
        ("SELECT a <=> b FROM t", "UNREADABLE_TOKEN"),
        ("SELECT 'open", "UNPARSEABLE"),
        ('SELECT "open', "UNPARSEABLE"),
        ("SELECT 1 /* open", "UNPARSEABLE"),
        ("", "EMPTY"),
        (" ; -- nothing\n;", "EMPTY"),
        ("SELECT 1; SELECT 2", "MULTI_STATEMENT"),
        ("SELECT 1;; DROP TABLE t", "MULTI_STATEMENT"),
        ("EXPLAIN SELECT 1", "UNSERVED_STATEMENT"),
        ("CALL p()", "UNSERVED_STATEMENT"),
        ("EXECUTE IMMEDIATE 'SELECT 1'", "UNSERVED_STATEMENT"),
    ],
)
def test_texts_that_can_be_read_in_two_ways_are_refused(sql: str, code: str) -> None:
    assert reason(sql) == code


def test_parse_errors_and_several_statements_have_snowflakes_own_numbers() -> None:
    for sql, errno, sqlstate in (
        ("SELEC 1 FROM", 1003, "42000"),
        ("SELECT 1; SELECT 2", 8, "0A000"),
        ("SELECT f(1)", 3001, "42501"),
    ):
        with pytest.raises(StatementRefused) as caught:
            analyse(sql, NAMES)
        assert (caught.value.errno, caught.value.sqlstate) == (errno, sqlstate)


def test_the_message_of_a_parse_error_does_not_quote_the_statement() -> None:
    with pytest.raises(StatementRefused) as caught:
        analyse("SELECT 'jane@corp.example' FROM FROM", NAMES)
    assert "jane" not in caught.value.text


@pytest.mark.parametrize(
    ("sql", "text"),
    [
        ("SELECT  1 -- comment\n ;", "SELECT 1"),
        ("SELECT/* x */1", "SELECT 1"),
        ("SELECT 1 // comment\n, 2", "SELECT 1 , 2"),
        ("SELECT '--', '/*', $$ // $$", "SELECT '--', '/*', $$ // $$"),
        ("SELECT a.b:c[0]::int FROM t", "SELECT a.b:c[0]::int FROM t"),
        ("SELECT 'it''s', 'a\\'b', \"q\"\"q\"", "SELECT 'it''s', 'a\\'b', \"q\"\"q\""),
        ("SELECT a GROUP   BY\n1", "SELECT a GROUP BY 1"),
        ("SELECT 1 -- x\r, 2", "SELECT 1 , 2"),
    ],
)
def test_comments_go_and_everything_else_stays(sql: str, text: str) -> None:
    assert scan(sql).canonical == text


def test_limits_can_be_set() -> None:
    assert reason("SELECT a, b FROM t", Limits(max_tokens=5)) == "TOO_MANY_TOKENS"
    assert reason("SELECT ((1))", Limits(max_depth=1)) == "TOO_DEEP"
    assert reason("SELECT * FROM a, b", Limits(max_table_reads=1)) == "TOO_MANY_READS"
