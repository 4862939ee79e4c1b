"""The worker processes: started ahead, replaced when one ends, all ended with the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from hoop_core.analysts.process import Worker, WorkerGone
from hoop_core.config import AnalysisSettings
from hoop_core.errors import AnalysisUnavailable
from hoop_core.policy.model import Policy

_log = structlog.get_logger(__name__)

_READY_SECONDS = 30.0
_STARTING_AT_ONCE = 2
_RETRY_SECONDS = 0.2
_LONGEST_RETRY_SECONDS = 10.0
_ORPHAN_SECONDS = 10.0
"""How long after the deadline a worker without a gateway ends itself; never before the gateway kills."""
_GROWN = 4  # a worker that has needed this part of the memory it may have is replaced


@dataclass(slots=True)
class Counters:
    """What has happened since the start, for the operator."""

    judged: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    timeouts: int = 0
    """Workers that were killed at the deadline."""
    crashes: int = 0
    """Workers that ended by themselves or by the kernel's hand, or that made no sense."""
    starts: int = 0
    renewed: int = 0
    """Workers replaced after many statements or because they had grown."""
    unavailable: int = 0
    """Statements for which no worker was free in time."""


class Crew:
    """At most `most` processes, of which the caller borrows one at a time. For one event loop."""

    def __init__(self, settings: AnalysisSettings, most: int, counters: Counters) -> None:
        self._settings, self._counters = settings, counters
        self.most = most
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._freed = asyncio.Event()
        self._unborn = 0  # starts that have no process yet
        self._starting = asyncio.Semaphore(_STARTING_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._policy: Policy | None = None
        self._closing = asyncio.Event()

    def start(self, policy: Policy) -> None:
        """Begin to start workers and return; each is given the policy before its first statement."""
        self._policy = policy
        for _ in range(self._settings.started or self.most):
            self._start_one()

    async def close(self) -> None:
        """End every process and wait for its end."""
        self._closing.set()
        self._freed.set()
        for worker in list(self._workers):
            self.end(worker)
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(w.pid for w in self._workers)

    @property
    def idle(self) -> int:
        return len(self._idle)

    # ------------------------------------------------------------------ borrowing

    async def borrow(self, policy: Policy) -> Worker:
        """A worker that knows the policy, for one statement; then `give_back` or `end` it.

        Raises AnalysisUnavailable when none gets ready, and WorkerGone.
        """
        try:
            async with asyncio.timeout(_READY_SECONDS):
                worker = await self._free_one()
        except TimeoutError:
            raise AnalysisUnavailable(
                "No analysis worker got ready; nothing was executed.",
                "Try it again; if it stays so, tell the operator of Hoop.",
            ) from None
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await worker.load(policy)
        except AnalysisUnavailable:
            self.give_back(worker)
            raise
        except BaseException as e:
            self.end(worker)
            raise WorkerGone if isinstance(e, TimeoutError) else e from None
        self._policy = policy
        return worker

    async def _free_one(self) -> Worker:
        while True:
            if self._closing.is_set():
                raise AnalysisUnavailable("The gateway is stopping; nothing was executed.")
            while self._idle:
                worker = self._idle.pop()  # the one whose memory is warmest
                if worker.running:
                    if not self._idle:
                        self._start_one()  # always one to spare
                    return worker
                self._counters.crashes += 1
                self.end(worker)
            self._start_one()
            self._freed.clear()
            await self._freed.wait()

    def give_back(self, worker: Worker, peak_mb: int = 0) -> None:
        worker.served += 1
        grown = peak_mb > self._settings.memory_mb // _GROWN
        if self._closing.is_set() or grown or worker.served >= self._settings.renew_after:
            self._counters.renewed += 1
            self.end(worker)
        else:
            self._idle.append(worker)
            self._freed.set()

    def end(self, worker: Worker) -> None:
        """Kill a worker, whatever it does, and have another one started in its place."""
        if worker not in self._workers:
            return
        self._workers.discard(worker)
        if worker in self._idle:
            self._idle.remove(worker)
        worker.kill()
        self._run(_reaped(worker))
        self._start_one()

    # ------------------------------------------------------------------ starting

    def _start_one(self) -> None:
        if len(self._workers) + self._unborn < self.most and not self._closing.is_set():
            self._unborn += 1
            self._run(self._start())

    async def _start(self) -> None:
        """Start one worker; a failure is told to the operator and tried again, ever more slowly."""
        pause = _RETRY_SECONDS
        async with self._starting:
            while not (self._closing.is_set() or await self._started()):
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._closing.wait()
                pause = min(2 * pause, _LONGEST_RETRY_SECONDS)

    async def _started(self) -> bool:
        try:
            worker = await asyncio.to_thread(
                Worker.spawn,
                memory_mb=self._settings.memory_mb,
                alarm_seconds=self._settings.deadline_seconds + _ORPHAN_SECONDS,
            )
        except OSError as e:
            _log.error("an analysis worker cannot be started", why=e.strerror)
            return False
        self._unborn -= 1
        self._workers.add(worker)
        self._counters.starts += 1
        if self._closing.is_set():  # it was on its way when all others were ended
            self.end(worker)
            return True
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await worker.ready()
                await self._prepare(worker)
        except (WorkerGone, TimeoutError) as e:
            if self._closing.is_set():
                return True
            _log.error("an analysis worker did not get ready", why=type(e).__name__)
            self._unborn += 1
            self.end(worker)
            return False
        if not self._closing.is_set():
            self._idle.append(worker)
            self._freed.set()
        return True

    async def _prepare(self, worker: Worker) -> None:
        """Give it the policy that was used last. A statement that needs it hears of what is wrong."""
        if self._policy is not None:
            with suppress(AnalysisUnavailable):
                await worker.load(self._policy)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _reaped(worker: Worker) -> None:
    await worker.reap()
