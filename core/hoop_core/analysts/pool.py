"""The analysts: worker processes that judge statements, each of which may be killed at any moment.

A statement takes a turn (turns.py), a worker (crew.py) and at most the deadline's time of analysis. While
its objects are being looked up at Snowflake it holds neither: when the catalog does not answer at once, the
analysis is dropped, and begun again with what is then known.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass, replace

import structlog

from hoop_core.analysts.cache import DecisionCache
from hoop_core.analysts.crew import Counters, Crew
from hoop_core.analysts.process import Worker, WorkerGone
from hoop_core.analysts.question import Judged, Question, Snapshot, judged
from hoop_core.analysts.turns import Turn, Turns
from hoop_core.analysts.wire import Answer, Ask, Tell
from hoop_core.config import AnalysisSettings
from hoop_core.errors import AnalysisUnavailable, StatementRefused
from hoop_core.model import Outcome, TableName, Verdict
from hoop_core.policy.engine import refusal
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.limits import check_length

_log = structlog.get_logger(__name__)

_HOLD_SECONDS = 0.02
"""How long a worker waits for the catalog: enough for what is cached there, too short for Snowflake."""
_MOST_ROUNDS = 100
_MOST_OBJECTS = 5_000

Known = dict[TableName, CatalogObject | None]


@dataclass(frozen=True, slots=True)
class _Found:
    verdict: Verdict
    wanted: tuple[TableName, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class _Lookup:
    """The catalog takes its time: the worker is free again, and the analysis begins anew afterwards."""

    wanted: tuple[TableName, ...]
    catalog: asyncio.Future[Catalog]


class _NoVerdict(Exception):
    """There is no verdict, and so the statement is denied."""

    def __init__(self, code: str, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(code)


class Analysts:
    """Start it in the event loop that uses it; `close` ends every process."""

    def __init__(self, settings: AnalysisSettings) -> None:
        self._deadline = settings.deadline_seconds
        workers = settings.workers or min(max(4, os.cpu_count() or 1), 16)
        self.counters = Counters()
        self.turns = Turns(
            workers, waiting=settings.waiting, waiting_seconds=settings.waiting_seconds
        )
        one_to_spare = workers + 1  # a killed worker is replaced at once
        self.crew = Crew(settings, one_to_spare, self.counters)
        self.cache = DecisionCache(
            entries=settings.cache_entries, most_bytes=settings.cache_mb * 1024 * 1024
        )

    def start(self, policy: Policy) -> None:
        """Begin to start workers, and return; each is given the policy before its first statement."""
        self.crew.start(policy)

    async def close(self) -> None:
        """End every process and wait for its end. Statements under analysis are denied."""
        await self.crew.close()

    async def judge(self, question: Question, snapshot: Snapshot) -> Judged:
        """The verdict on a statement: from the cache, or from a worker.

        Raises what `snapshot` raises, and AnalysisUnavailable when no worker was free in time. A worker that
        had to be killed, or that crashed, is a verdict: deny.
        """
        self.counters.judged += 1
        try:
            check_length(question.sql, question.limits)
        except StatementRefused as e:
            return _denied(question, e.reason, e.text)
        begun = time.perf_counter_ns()
        key = self.cache.key(question)
        kept = None if key is None else self.cache.find(key)
        known: Known = {}
        if kept is not None:
            asked = time.perf_counter_ns()
            catalog = await snapshot(kept.judged.wanted) if kept.judged.wanted else Catalog()
            begun += time.perf_counter_ns() - asked  # waiting for the catalog is not our time
            if kept.fits(catalog):
                self.counters.cache_hits += 1
                elapsed = (time.perf_counter_ns() - begun) // 1000
                verdict = replace(kept.judged.verdict, elapsed_us=elapsed)
                return replace(kept.judged, verdict=verdict)
            known = {t: catalog.get(t) for t in kept.judged.wanted}
        self.counters.cache_misses += key is not None
        try:
            found = await self._found(question, snapshot, known)
        except AnalysisUnavailable:
            self.counters.unavailable += 1
            raise
        except _NoVerdict as e:
            return _denied(question, e.code, e.message)
        objects = {t: known[t] for t in found.wanted}
        result = judged(found.verdict, objects)
        if key is not None:
            self.cache.keep(key, result, objects, found.bytes)
        return result

    async def _found(self, question: Question, snapshot: Snapshot, known: Known) -> _Found:
        """Adds to `known` what was looked up. Raises _NoVerdict, and what `judge` raises."""
        turn = Turn(question.identity.key, question.session)
        for _ in range(_MOST_ROUNDS):
            async with self.turns.turn(turn):
                result = await self._in_a_worker(question, snapshot, known)
            if isinstance(result, _Found):
                return result
            catalog = await result.catalog
            known.update({t: catalog.get(t) for t in result.wanted})
        raise _NoVerdict(*_TOO_MANY_OBJECTS)

    async def _in_a_worker(
        self, question: Question, snapshot: Snapshot, known: Known
    ) -> _Found | _Lookup:
        try:
            worker = await self.crew.borrow(question.policy)
            try:
                return await self._conversation(worker, question, snapshot, known)
            except BaseException:
                self.crew.end(worker)  # nobody knows what it is doing now
                raise
        except TimeoutError:
            self.counters.timeouts += 1
            _log.warning("an analysis was killed at its deadline", seconds=self._deadline)
            raise _NoVerdict(
                "ANALYSIS_TIMEOUT",
                f"The statement could not be analysed within {self._deadline:g} s. Nothing was executed. "
                "Split it into smaller statements, for example with temporary tables.",
            ) from None
        except WorkerGone:
            self.counters.crashes += 1
            _log.error("an analysis worker ended without a verdict")
            raise _NoVerdict(
                "ANALYSIS_FAILED",
                "The analysis of the statement broke off. Nothing was executed. Try it once more; if it "
                "breaks off again, split the statement.",
            ) from None

    async def _conversation(
        self, worker: Worker, question: Question, snapshot: Snapshot, known: Known
    ) -> _Found | _Lookup:
        """Raises TimeoutError at the deadline, and WorkerGone; the worker is given back otherwise."""
        left = self._deadline
        message: Ask | Tell = Ask(question.policy.key, question.arguments(), known)
        for _ in range(_MOST_ROUNDS):
            begun = time.monotonic()
            async with asyncio.timeout(left):
                answer, size = await worker.exchange(message)
            left -= time.monotonic() - begun  # looking things up is no analysis
            if answer.verdict is not None:
                found = _checked(question, answer, size, known)
                self.crew.give_back(worker, answer.peak_mb)
                return found
            if len(known) + len(answer.wanted) > _MOST_OBJECTS:
                break
            looking = asyncio.ensure_future(snapshot(answer.wanted))
            try:
                await asyncio.wait({looking}, timeout=_HOLD_SECONDS)
            except BaseException:
                looking.cancel()
                raise
            if not looking.done() or looking.exception() is not None:
                await worker.drop()
                self.crew.give_back(worker)
                return _Lookup(answer.wanted, looking)
            catalog = looking.result()
            objects = {t: catalog.get(t) for t in answer.wanted}
            known.update(objects)
            message = Tell(objects)
        raise _NoVerdict(*_TOO_MANY_OBJECTS)


_TOO_MANY_OBJECTS = (
    "TOO_MANY_READS",
    "The statement reads too many objects, those inside its views included. Nothing was executed. "
    "Split the statement.",
)


def _checked(question: Question, answer: Answer, size: int, known: Known) -> _Found:
    """The verdict, if it can be one on this question. Raises WorkerGone."""
    verdict = answer.verdict
    if (
        verdict is None
        or verdict.decision.policy_digest != question.policy.digest
        or (verdict.decision.outcome is Outcome.DENY) != (verdict.rewritten is None)
        or not known.keys() >= set(answer.wanted)
    ):
        raise WorkerGone
    if verdict.statement is not None:
        verdict = replace(verdict, statement=replace(verdict.statement, sql=question.sql))
    return _Found(verdict, answer.wanted, size)


def _denied(question: Question, code: str, message: str) -> Judged:
    decision = refusal(question.policy.digest, code, message)
    return judged(Verdict(decision, None, None), {})
