"""Published analytic queries: all of them allowed, none with a changed meaning."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest
from sqlglot import Token, TokenType
from sqlglot.errors import ErrorLevel

from hoop_core.bench.analysis import base_tables
from hoop_core.bench.corpus import (
    GROUP,
    NAMES,
    Corpus,
    permissive_policy,
    read_corpus,
    tpcds,
)
from hoop_core.judge import judge_text
from hoop_core.model import Identity, Outcome, RunContext, Verdict
from hoop_core.policy.model import Policy
from hoop_core.sql.dialect import SNOWFLAKE
from tests import tpch

DATA = Path(__file__).parent / "data"
CORPORA: dict[str, Corpus] = {
    "tpch": read_corpus((DATA / "tpch.sql").read_text(), tpch.TABLES),
    "tpcds": tpcds(),
}
STATEMENTS = [(name, i) for name, corpus in CORPORA.items() for i in range(len(corpus.statements))]
NOTHING = permissive_policy()
_policy = cache(permissive_policy)


def ask(corpus: Corpus, sql: str, policy: Policy) -> Verdict:
    return judge_text(
        sql,
        NAMES,
        identity=Identity("https://issuer", "s", "analyst", (GROUP,), "oidc", "d"),
        policy=policy,
        catalog=corpus.catalog,
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
    )


def words(text: str) -> list[tuple[bool, str]]:
    """The tokens of a text, in stored case where they are names: (quoted or a literal, text)."""
    literal = {TokenType.STRING, TokenType.RAW_STRING, TokenType.IDENTIFIER}

    def word(token: Token) -> tuple[bool, str]:
        kept = token.token_type in literal
        return kept, token.text if kept else token.text.upper()

    return [word(t) for t in SNOWFLAKE.tokenize(text)]


# One column is masked, so the nesting inside the masking subquery is known.
WRAPPER = re.compile(
    r"\(SELECT (?:[^()]|\([^()]*\))* FROM \"DB\"\.\"PUBLIC\"\.\"(?P<t>\w+)\" AS _g\)"
)
FULL = re.compile(r"\"DB\"\.\"PUBLIC\"\.(\"\w+\")")


def assert_same_words(sql: str, rewritten: str) -> None:
    """Without what Hoop puts in, the rewritten text is the caller's own, token for token.

    Put in are: quoted full names, masking subqueries, and the table's name as the alias of one.
    """
    mine = words(FULL.sub(r"\1", WRAPPER.sub(r'"\g<t>"', rewritten)))
    at, before = 0, ""
    for literal, word in words(sql):
        alias = mine[at : at + 2] == [(False, "AS"), (True, before)]
        if alias and (literal, word) != (False, "AS"):
            at += 2
        named = mine[at] == (True, word) and not literal
        assert named or mine[at] == (literal, word)
        at, before = at + 1, word
    assert mine[at:] in ([], [(False, "AS"), (True, before)])


def fixpoint(text: str) -> bool:
    """sqlglot's own text of the statement is the same when it is read again."""
    for _ in range(3):  # sqlglot renames some functions in two steps
        (tree,) = SNOWFLAKE.parse(text)
        assert tree is not None
        again = tree.sql(dialect=SNOWFLAKE, unsupported_level=ErrorLevel.IGNORE)
        if again == text:
            return True
        text = again
    return False


def test_the_corpora_are_complete() -> None:
    assert [len(c.statements) for c in CORPORA.values()] == [44, 198]


@pytest.mark.parametrize("name", CORPORA)
def test_every_statement_keeps_its_words_when_nothing_is_protected(name: str) -> None:
    corpus = CORPORA[name]
    for sql in corpus.statements:
        verdict = ask(corpus, sql, NOTHING)
        assert verdict.decision.outcome is Outcome.ALLOW, (sql, verdict.decision.reasons)
        assert verdict.decision.masked == ()
        assert "AS _g" not in (verdict.rewritten or "")
        assert_same_words(sql, verdict.rewritten or "")


@pytest.mark.parametrize("name", CORPORA)
def test_every_statement_is_allowed_with_one_protected_table(name: str) -> None:
    """A different table and column for each statement, out of those that it reads."""
    corpus = CORPORA[name]
    protected = set()
    for i, sql in enumerate(corpus.statements):
        tables = base_tables(sql)
        table = tables[i % len(tables)]
        columns = list(corpus.tables[table])
        column = columns[i % len(columns)]
        protected.add((table, column))
        verdict = ask(corpus, sql, _policy(table, column))
        assert verdict.decision.outcome is Outcome.ALLOW, (sql, verdict.decision.reasons)
        masked = {(m.table.name.upper(), m.column.upper()) for m in verdict.decision.masked}
        assert masked == {(table, column)}
        text = verdict.rewritten or ""
        assert "AS _g)" in text
        assert_same_words(sql, text)
        assert fixpoint(text)
    assert len(protected) >= len(corpus.statements) // 4


# --- TPC-H, executed --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database() -> Iterator[Any]:
    connection = duckdb.connect()
    connection.execute("SET threads = 1")
    connection.execute("SET lambda_syntax = 'ENABLE_SINGLE_ARROW'")
    connection.execute("ATTACH ':memory:' AS \"DB\"")
    connection.execute('CREATE SCHEMA "DB"."PUBLIC"')
    connection.execute('USE "DB"."PUBLIC"')
    tpch.fill(connection, random.Random(7))
    yield connection
    connection.close()


def rows(database: Any, sql: str) -> list[str]:
    (tree,) = SNOWFLAKE.parse(sql)
    assert tree is not None
    found = database.execute(tree.sql(dialect="duckdb")).fetchall()
    return sorted(map(repr, found))


@pytest.mark.parametrize("number", range(44))
def test_tpch_gives_equal_results(number: int, database: Any) -> None:
    """The caller's text and Hoop's: with nothing protected, and with a column masked that is not used."""
    corpus = CORPORA["tpch"]
    sql = corpus.statements[number]
    expected = rows(database, sql)
    assert rows(database, ask(corpus, sql, NOTHING).rewritten or "") == expected
    for table in base_tables(sql):
        unused = [c for c in corpus.tables[table] if c.lower() not in sql.lower()]
        if not unused or re.search(r"\*\s+from", sql, re.IGNORECASE):
            continue
        text = ask(corpus, sql, _policy(table, unused[0])).rewritten or ""
        assert "AS _g)" in text
        assert rows(database, text) == expected


def test_tpch_has_something_to_compare(database: Any) -> None:
    filled = [s for s in CORPORA["tpch"].statements if rows(database, s) not in ([], ["(None,)"])]
    assert len(filled) >= 42


def test_masking_a_column_that_is_used_does_change_results(database: Any) -> None:
    corpus = CORPORA["tpch"]
    sql = corpus.statements[0]
    masked = ask(corpus, sql, _policy("LINEITEM", "L_QUANTITY")).rewritten or ""
    assert rows(database, masked) != rows(database, sql)
