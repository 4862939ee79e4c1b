"""What it costs to understand, decide, rewrite and verify: on TPC-DS, from the cache, and by length."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache, partial

from hoop_core.analysts.pool import Analysts
from hoop_core.analysts.question import Question
from hoop_core.bench.corpus import GROUP, NAMES, Corpus, permissive_policy
from hoop_core.bench.figures import Spread, between_collections, timed
from hoop_core.config import AnalysisSettings
from hoop_core.judge import analyse, judge_text
from hoop_core.model import Identity, Json, Outcome, RunContext, TableName, quote_part
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.dialect import SNOWFLAKE

_ANALYST = Identity("https://idp", "analyst", "analyst", (GROUP,), "oidc", "")
_WARM = 20
_WORKERS = 2
SIZES = (100, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
"""Words (tokens) of a statement; the last is the most that is analysed."""

Cases = list[tuple[str, Policy]]
"""Statements, each with a policy that masks one column of one of its tables."""


def cases(corpus: Corpus, rounds: int) -> Cases:
    """Every statement `rounds` times, each time with another column of one of its own tables masked."""
    policy = cache(permissive_policy)
    found: Cases = []
    for n in range(rounds):
        for i, sql in enumerate(corpus.statements):
            tables = base_tables(sql)
            table = tables[(i + n) % len(tables)]
            columns = list(corpus.tables[table])
            found.append((sql, policy(table, columns[(i + n) % len(columns)])))
    return found


def base_tables(sql: str) -> list[str]:
    """The upper-case names of the tables that a statement reads. Raises StatementRefused."""
    return sorted({t.name.upper() for t in analyse(sql, NAMES).statement.reads})


def cold(corpus: Corpus, wanted: Cases) -> list[Json]:
    """Uncached, in this process. The corpus holds each query as published and as optimised, in turn."""
    for sql, policy in wanted[:_WARM]:
        _judge(corpus, sql, policy)
    for policy in {policy.digest: policy for _, policy in wanted}.values():
        # what depends on policy and table alone is worked out once, not for each statement
        for name in _masked_tables(policy):
            _judge(corpus, f"SELECT * FROM {name}", policy)  # noqa: S608 - a name of our own corpus
    times: dict[str, list[float]] = {"as published": [], "as optimised": []}
    with between_collections() as collect:
        for i, (sql, policy) in enumerate(wanted):
            kind = "as optimised" if i % len(corpus.statements) % 2 else "as published"
            times[kind].append(timed(partial(_judge, corpus, sql, policy)))
            collect()
    everything = [t for kind in times.values() for t in kind]
    return [
        _row(f"in this process, {kind}", taken, "ms", 1e3)
        for kind, taken in {**times, "all": everything}.items()
    ]


def _masked_tables(policy: Policy) -> list[str]:
    return [".".join(map(quote_part, p.parts[:3])) for m in policy.masks for p in m.columns]


def _judge(corpus: Corpus, sql: str, policy: Policy) -> None:
    verdict = judge_text(
        sql, NAMES, identity=_ANALYST, policy=policy, catalog=corpus.catalog, run=RunContext(),
        now=datetime.now(UTC),
    )  # fmt: skip
    if verdict.decision.outcome is not Outcome.ALLOW or not verdict.decision.masked:
        raise AssertionError(f"not allowed, or nothing masked: {verdict.decision.reasons}")


def _row(what: str, seconds: list[float], unit: str, per_second: float) -> Json:
    spread = Spread.of(seconds, per_second)
    return {
        "decision": what, "runs": len(seconds),
        "p50": spread.p50, "p95": spread.p95, "p99": spread.p99, "unit": unit,
    }  # fmt: skip


def as_the_gateway(corpus: Corpus, wanted: Cases) -> list[Json]:
    """The way a statement goes in the gateway: a worker process with a deadline, or the decision cache."""
    return asyncio.run(_as_the_gateway(corpus, wanted))


async def _as_the_gateway(corpus: Corpus, wanted: Cases) -> list[Json]:
    async def known(_tables: Iterable[TableName]) -> Catalog:
        return corpus.catalog

    analysts = Analysts(AnalysisSettings(workers=_WORKERS, deadline_seconds=20))
    analysts.start(permissive_policy())
    try:
        asked = [_question(sql, policy) for sql, policy in wanted[: len(corpus.statements)]]
        asked.sort(key=lambda question: question.policy.digest)
        times: dict[str, list[float]] = {"through a worker": [], "from the cache": []}
        for taken in times.values():
            policy = None
            for question in asked:
                if (
                    question.policy is not policy
                ):  # a gateway has one: reading it is not what is measured
                    policy = question.policy
                    await analysts.judge(_question("SELECT 1", policy), known)
                begun = time.perf_counter()
                await analysts.judge(question, known)
                taken.append(time.perf_counter() - begun)
        hits = analysts.counters.cache_hits
    finally:
        await analysts.close()
    if hits < len(times["from the cache"]):
        raise AssertionError(f"only {hits} decisions came from the cache")
    return [
        _row("through a worker", times["through a worker"], "ms", 1e3),
        _row("from the cache", times["from the cache"], "µs", 1e6),
    ]


def _question(sql: str, policy: Policy) -> Question:
    return Question(
        sql=sql, names=NAMES, identity=_ANALYST, policy=policy, run=RunContext(),
        now=datetime.now(UTC), session="bench",
    )  # fmt: skip


def by_length(corpus: Corpus, runs: int) -> list[Json]:
    """Median milliseconds by the number of words; `us_per_word` is flat where cost is linear."""
    policy = permissive_policy("STORE", "S_STORE_NAME")
    _judge(corpus, long_text(SIZES[0]), policy)
    found = []
    for size in SIZES:
        sql = long_text(size)
        words = _words(sql)
        times = []
        with between_collections() as collect:
            for _ in range(runs):
                times.append(timed(partial(_judge, corpus, sql, policy)))
                collect()
        taken = statistics.median(times)
        found.append(
            {
                "words": words,
                "ms": round(taken * 1e3, 2),
                "us_per_word": round(taken * 1e6 / words, 2),
            }
        )
    return found


_BLOCK = (
    "c{i} AS (SELECT s.s_state, s.s_city, COUNT(*) AS n, MIN(s.s_store_name) AS a, MAX(s.s_zip) AS b, "
    "SUM(CASE WHEN s.s_number_employees > {i} THEN 1 ELSE 0 END) AS k, AVG(s.s_floor_space) AS f "
    "FROM store s WHERE s.s_market_id BETWEEN {i} AND 9 AND s.s_store_name LIKE 'a%' "
    "AND COALESCE(s.s_county, 'none') <> 'x' GROUP BY s.s_state, s.s_city HAVING COUNT(*) > 1)"
)
"""One common table expression over the table whose column is masked."""


def _words(sql: str) -> int:
    return len(SNOWFLAKE.tokenize(sql))


def long_text(words: int) -> str:
    """A statement of about so many words, never more: common table expressions, one after the other."""
    last = "SELECT n, a FROM c0 WHERE n > 0"
    block = _words(f"WITH {_BLOCK.format(i=0)} {last}") - _words(last)
    count = max(1, (words - _words(last)) // block)
    return "WITH " + ", ".join(_BLOCK.format(i=i) for i in range(count)) + " " + last
