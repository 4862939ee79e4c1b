"""Worker processes: whatever a text does to one of them is a deny, and the next statement is served."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hoop_core.analysts.pool import Analysts
from hoop_core.analysts.process import Worker, WorkerGone
from hoop_core.analysts.question import Judged
from hoop_core.analysts.wire import Ask
from hoop_core.config import AnalysisSettings
from hoop_core.errors import AnalysisUnavailable, SnowflakeUnavailable
from hoop_core.judge import judge_text
from hoop_core.model import Outcome, TableName
from hoop_core.policy.file import parse_policy
from hoop_core.sql.catalog import Catalog
from tests.analysts_world import (
    CATALOG,
    CUSTOMERS,
    HEAVY,
    JOIN,
    ORDERS,
    POLICY,
    RULES,
    asked,
    code,
    known,
    runs,
)


def settings(**changes: Any) -> AnalysisSettings:
    return AnalysisSettings(**{"workers": 2, "cache_entries": 0, "deadline_seconds": 20} | changes)


@asynccontextmanager
async def running(**changes: Any) -> AsyncIterator[Analysts]:
    analysts = Analysts(settings(**changes))
    analysts.start(POLICY)
    try:
        yield analysts
    finally:
        await analysts.close()


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


def exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


# ---------------------------------------------------------------- the verdict is the same


TEXTS = (
    JOIN,
    "SELECT * FROM customers",
    "DELETE FROM orders",
    "SELECT * FROM nowhere",
    "SELECT 'unfinished",
    "ALTER SESSION SET TIMEZONE = 'UTC'",
    "SELECT 'Zoë — 東京', $$x$$ FROM customers WHERE since > '2020-01-01'::DATE",
    "",
)


def test_a_worker_gives_the_verdicts_that_the_same_process_would_give() -> None:
    async def go() -> list[Judged]:
        async with running(started=1) as analysts:
            return [await analysts.judge(asked(sql), known) for sql in TEXTS]

    for sql, judged in zip(TEXTS, runs(go), strict=True):
        question = asked(sql)
        here = judge_text(
            sql,
            question.names,
            identity=question.identity,
            policy=POLICY,
            catalog=CATALOG,
            run=question.run,
            now=question.now,
        )
        assert replace(judged.verdict, elapsed_us=0) == replace(here, elapsed_us=0), sql
        assert judged.catalog_digest == CATALOG.digest(judged.wanted)


def test_what_was_wanted_of_the_catalog_is_told_and_vouched_for() -> None:
    async def go() -> tuple[Judged, Judged]:
        async with running(started=1) as analysts:
            return (
                await analysts.judge(asked(JOIN), known),
                await analysts.judge(asked("SELECT id FROM orders"), known),
            )

    join, orders = runs(go)
    assert join.wanted == (CUSTOMERS, ORDERS) and orders.wanted == (ORDERS,)
    assert join.catalog_digest != orders.catalog_digest


# ---------------------------------------------------------------- killed, crashed, refused


def test_a_text_that_takes_too_long_is_denied_and_the_next_one_is_served() -> None:
    async def go() -> None:
        async with running(deadline_seconds=0.002) as analysts:
            slow = await analysts.judge(asked(HEAVY), known)
            assert slow.verdict.decision.outcome is Outcome.DENY
            assert code(slow) == "ANALYSIS_TIMEOUT" and slow.verdict.rewritten is None
            assert analysts.counters.timeouts == 1
            analysts._deadline = 20.0
            assert (await analysts.judge(asked(JOIN), known)).verdict.rewritten

    runs(go)


def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    async def go() -> None:
        async with running(deadline_seconds=0.5) as analysts:
            await until(lambda: analysts.crew.idle == 3)
            before = analysts.crew.pids
            for pid in before:
                os.kill(pid, signal.SIGSTOP)
            assert code(await analysts.judge(asked(JOIN), known)) == "ANALYSIS_TIMEOUT"
            await until(lambda: len(before & analysts.crew.pids) == 2)
            await until(lambda: len(analysts.crew.pids) == 3)
            await until(lambda: sum(map(exists, before)) == 2)
            for pid in before & analysts.crew.pids:
                os.kill(pid, signal.SIGCONT)
            assert (await analysts.judge(asked(JOIN), known)).verdict.rewritten

    runs(go)


def test_a_worker_that_is_killed_under_a_statement_denies_that_statement_only() -> None:
    async def go() -> None:
        async with running() as analysts:
            await until(lambda: analysts.crew.idle == 3)
            before = analysts.crew.pids

            async def killing(_tables: Iterable[TableName]) -> Catalog:
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
                return CATALOG

            denied = await analysts.judge(asked(JOIN), killing)
            assert code(denied) == "ANALYSIS_FAILED" and denied.verdict.rewritten is None
            await until(lambda: not any(map(exists, before)))
            for _ in range(4):  # that the idle ones are gone is noticed before they are asked
                assert (await analysts.judge(asked(JOIN), known)).verdict.rewritten
            assert analysts.counters.crashes >= 1 and analysts.counters.timeouts == 0

    runs(go)


def test_a_worker_cannot_take_all_memory() -> None:
    async def go() -> None:
        async with running(started=1, memory_mb=256) as analysts:
            await until(lambda: analysts.crew.idle == 1)
            (pid,) = analysts.crew.pids
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert f"{256 * 1024 * 1024}" in next(
                line for line in limits.splitlines() if line.startswith("Max address space")
            )

    runs(go)


def test_a_text_of_20_mb_never_reaches_a_worker() -> None:
    async def go() -> None:
        async with running(started=1) as analysts:
            judged = await analysts.judge(asked("SELECT '" + "x" * 20_000_000 + "'"), known)
            assert code(judged) == "TOO_LONG"
            assert analysts.turns.held == 0 and analysts.counters.crashes == 0
            assert "20000009" in judged.verdict.decision.reasons[0].message

    runs(go)


def test_a_worker_is_replaced_after_many_statements() -> None:
    async def go() -> None:
        async with running(renew_after=1, started=1) as analysts:
            await until(lambda: analysts.crew.idle == 1)
            first = analysts.crew.pids
            assert (await analysts.judge(asked(JOIN), known)).verdict.rewritten
            assert not first & analysts.crew.pids and analysts.counters.renewed == 1
            assert (await analysts.judge(asked(JOIN), known)).verdict.rewritten

    runs(go)


# ---------------------------------------------------------------- the catalog


def test_a_worker_is_free_while_the_catalog_is_asked() -> None:
    async def go() -> None:
        async with running() as analysts:
            answer = asyncio.Event()
            asked_for: list[tuple[TableName, ...]] = []

            async def slow(tables: tuple[TableName, ...]) -> Catalog:
                asked_for.append(tables)
                await answer.wait()
                return CATALOG

            many = [
                asyncio.create_task(analysts.judge(asked(JOIN, who=f"p{i}"), slow))
                for i in range(10)
            ]
            await until(lambda: len(asked_for) == 10 and analysts.turns.held == 0)
            assert (await analysts.judge(asked(JOIN), known)).verdict.rewritten
            answer.set()
            for judged in await asyncio.gather(*many):
                assert judged.verdict.rewritten and judged.wanted == (CUSTOMERS, ORDERS)
            assert len(asked_for) == 10  # what was found is not asked for again

    runs(go)


def test_a_catalog_that_fails_costs_no_worker() -> None:
    async def broken(_tables: Iterable[TableName]) -> Catalog:
        raise SnowflakeUnavailable("Snowflake does not answer.")

    async def go() -> None:
        async with running() as analysts:
            await until(lambda: analysts.crew.idle == 3)
            before = analysts.crew.pids
            with pytest.raises(SnowflakeUnavailable):
                await analysts.judge(asked(JOIN), broken)
            assert (await analysts.judge(asked(JOIN), known)).verdict.rewritten
            assert analysts.crew.pids == before

    runs(go)


def test_the_catalogs_time_is_not_the_analysis_time() -> None:
    async def go() -> None:
        async with running(deadline_seconds=1.0) as analysts:
            await until(lambda: analysts.crew.idle == 3)

            async def slow(_tables: Iterable[TableName]) -> Catalog:
                await asyncio.sleep(1.2)
                return CATALOG

            assert (await analysts.judge(asked(JOIN), slow)).verdict.rewritten

    runs(go)


# ---------------------------------------------------------------- policies


def test_every_statement_is_judged_by_the_policy_it_came_with() -> None:
    closed = parse_policy(RULES.replace("DB.PUBLIC.*", "OTHER.X.*"), "test")

    async def go() -> None:
        async with running(started=1) as analysts:
            for policy, outcome in ((POLICY, Outcome.ALLOW), (closed, Outcome.DENY)) * 3:
                judged = await analysts.judge(asked(JOIN, policy=policy), known)
                assert judged.verdict.decision.outcome is outcome
                assert judged.verdict.decision.policy_digest == policy.digest

    runs(go)


def test_more_policies_than_a_worker_keeps_are_read_again() -> None:
    policies = [parse_policy(RULES.replace("all-read", f"r{i}"), "test") for i in range(7)]

    async def go() -> None:
        async with running(started=1) as analysts:
            for i in (*range(7), 0, 6, 3):
                judged = await analysts.judge(asked(JOIN, policy=policies[i]), known)
                assert judged.verdict.decision.rules == (f"r{i}",)

    runs(go)


def test_a_policy_that_reads_differently_in_the_worker_judges_nothing() -> None:
    forged = replace(POLICY, text=RULES.replace("DB.PUBLIC.*", "*.*.*"))

    async def go() -> None:
        async with running(started=1) as analysts:
            for bad in (replace(forged, digest="0" * 64), replace(POLICY, digest="1", text="")):
                with pytest.raises(AnalysisUnavailable):
                    await analysts.judge(asked(JOIN, policy=bad), known)
            assert (await analysts.judge(asked(JOIN), known)).verdict.rewritten

    runs(go)


# ---------------------------------------------------------------- life and death


def test_closing_leaves_no_process_and_no_open_pipe() -> None:
    async def go() -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        async with running() as analysts:
            await until(lambda: analysts.crew.idle == 3)
            assert (await analysts.judge(asked(JOIN), known)).verdict.rewritten
            pids = analysts.crew.pids
            assert all(map(exists, pids))
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)  # not even as a zombie
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    runs(go)


def test_closing_while_workers_start_and_statements_wait_leaves_no_process() -> None:
    async def go() -> None:
        analysts = Analysts(settings())
        analysts.start(POLICY)
        waiting = [asyncio.create_task(analysts.judge(asked(JOIN), known)) for _ in range(4)]
        await until(lambda: bool(analysts.crew.pids))
        pids = analysts.crew.pids
        await analysts.close()
        for done in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(done, AnalysisUnavailable)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids | analysts.crew.pids)

    runs(go)


def test_a_statement_under_analysis_is_denied_when_the_gateway_closes() -> None:
    async def go() -> None:
        analysts = Analysts(settings())
        analysts.start(POLICY)
        await until(lambda: analysts.crew.idle == 3)
        for pid in analysts.crew.pids:
            os.kill(pid, signal.SIGSTOP)
        judging = asyncio.create_task(analysts.judge(asked(JOIN), known))
        await until(lambda: analysts.crew.idle == 2)
        await asyncio.sleep(0.05)
        await analysts.close()
        assert code(await judging) == "ANALYSIS_FAILED"

    runs(go)


def test_a_task_that_is_cancelled_gives_its_turn_back() -> None:
    async def go() -> None:
        async with running() as analysts:
            await until(lambda: analysts.crew.idle == 3)
            for pid in analysts.crew.pids:
                os.kill(pid, signal.SIGSTOP)
            stopped = analysts.crew.pids
            judging = asyncio.create_task(analysts.judge(asked(JOIN), known))
            await until(lambda: analysts.turns.held == 1)
            judging.cancel()
            with pytest.raises(asyncio.CancelledError):
                await judging
            assert analysts.turns.held == 0
            for pid in stopped & analysts.crew.pids:
                os.kill(pid, signal.SIGCONT)
            assert (await analysts.judge(asked(JOIN), known)).verdict.rewritten

    runs(go)


_GATEWAY = textwrap.dedent(
    """
    import asyncio, os, signal, sys
    sys.path[:0] = {path!r}
    assert __name__ == "__main__"  # no worker may import the program that Hoop is embedded in
    from hoop_core.analysts.pool import Analysts
    from hoop_core.config import AnalysisSettings
    from hoop_core.policy.file import parse_policy

    async def main():
        analysts = Analysts(AnalysisSettings(workers=2, deadline_seconds=0.2))
        analysts.start(parse_policy({rules!r}, "test"))
        while analysts.crew.idle < 3:
            await asyncio.sleep(0.01)
        child = os.fork() or signal.pause()
        print(child)
        print(*analysts.crew.pids, flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
    """
)


def test_workers_end_with_a_gateway_that_is_killed_even_if_a_forked_child_lives_on(
    tmp_path: Path,
) -> None:
    # Airflow's executors fork from a process that may hold an embedded gateway
    child, *pids = _killed_gateway(tmp_path)
    try:
        _all_gone(pids)
        assert exists(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_stuck_worker_without_a_gateway_is_ended_by_its_own_alarm() -> None:
    async def go() -> None:
        worker = Worker.spawn(memory_mb=1024, alarm_seconds=0.002)
        await worker.ready()
        await worker.load(POLICY)
        with pytest.raises(WorkerGone):
            await worker.exchange(Ask(POLICY.digest, asked(HEAVY).arguments(), {}))
        assert await worker.reap() == -signal.SIGALRM

    runs(go)


def _killed_gateway(folder: Path) -> list[int]:
    script = folder / "gateway.py"
    script.write_text(_GATEWAY.format(path=sys.path, rules=RULES))
    gateway = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    assert gateway.stdout is not None
    try:
        printed: list[int] = []
        while len(printed) < 4:
            line = gateway.stdout.readline()
            assert line, "the gateway ended"
            printed += map(int, line.split())
        assert all(map(exists, printed))
    finally:
        gateway.kill()
        gateway.wait()
        gateway.stdout.close()
    return printed


def _all_gone(pids: list[int]) -> None:
    async def gone() -> None:
        await until(lambda: not any(map(exists, pids)))

    runs(gone)


def test_a_worker_knows_none_of_the_gateways_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOP_TEST_SECRET", "hunter2")

    async def go() -> None:
        async with running(started=1) as analysts:
            await until(lambda: analysts.crew.idle == 1)
            (pid,) = analysts.crew.pids
            assert b"HOOP_TEST_SECRET" not in Path(f"/proc/{pid}/environ").read_bytes()
            open_files = [str(f.readlink()) for f in Path(f"/proc/{pid}/fd").iterdir()]
            assert sorted(set(map(_sort_of, open_files))) == ["/dev/null", "socket"]
            assert len([f for f in open_files if f.startswith("socket")]) == 1

    runs(go)


def _sort_of(opened: str) -> str:
    return opened.split(":")[0]


def test_a_large_gateway_does_not_make_its_workers_seem_large() -> None:
    # the child of a process that has used much memory, as the pool starts it
    program = (
        "import subprocess, sys; big = bytearray(300 * 2**20); "
        "ask = 'from hoop_core.analysts.analyst import peak_mb; print(peak_mb())'; "
        "sys.exit(subprocess.run([sys.executable, '-c', ask]).returncode)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert 0 < int(shown.stdout) < 250
