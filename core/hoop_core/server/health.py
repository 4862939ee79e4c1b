"""Whether this process may be sent requests: every dependency is looked at in the background, and a request
only reads what was found. https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog
from prometheus_client import Gauge
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hoop_core.errors import HoopError, where
from hoop_core.telemetry import REGISTRY

_log = structlog.get_logger(__name__)
_LONGEST_CHECK = 10.0
_FAILURES = 2
"""So many in a row make a part failing: one lost packet is no reason to turn everybody away."""

PARTS = Gauge("hoop_part_ready", "1: the last look was good.", ["part"], registry=REGISTRY)

Check = Callable[[], Awaitable[None]]
"""Raises HoopError, or anything else, when the part cannot be used."""


@dataclass(slots=True)
class _Part:
    check: Check
    ready: bool = False
    failures: int = 0
    why: str = "not looked at yet"


@dataclass(slots=True)
class Health:
    """The parts that this process cannot serve without."""

    checks: Mapping[str, Check]
    every_seconds: float
    draining: bool = False
    _parts: dict[str, _Part] = field(init=False)

    def __post_init__(self) -> None:
        self._parts = {name: _Part(check) for name, check in self.checks.items()}

    @property
    def ready(self) -> bool:
        return not self.draining and all(p.ready for p in self._parts.values())

    async def run(self) -> None:
        """Look at every part for ever, each at its own pace: one that hangs holds up no other."""
        async with asyncio.TaskGroup() as group:
            for name, part in self._parts.items():
                group.create_task(self._watch(name, part))

    async def _watch(self, name: str, part: _Part) -> None:
        while True:
            await self._look(name, part)
            await asyncio.sleep(self.every_seconds)

    async def look(self) -> None:
        """Look at every part once."""
        await asyncio.gather(*(self._look(n, p) for n, p in self._parts.items()))

    async def _look(self, name: str, part: _Part) -> None:
        try:
            async with asyncio.timeout(_LONGEST_CHECK):
                await part.check()
        except TimeoutError:
            self._failed(name, part, f"no answer in {_LONGEST_CHECK:.0f} seconds")
        except HoopError as e:
            self._failed(name, part, e.message)
        except Exception as e:
            self._failed(name, part, where(e))
        else:
            if part.failures >= _FAILURES:
                _log.warning("a part is ready again", part=name)
            part.ready, part.failures = True, 0
            PARTS.labels(name).set(1)

    def _failed(self, name: str, part: _Part, why: str) -> None:
        part.failures += 1
        if part.failures >= _FAILURES:
            if part.ready or part.why != why:
                _log.error("a part is not ready", part=name, why=why)
            part.ready = False
        part.why = why
        PARTS.labels(name).set(0)

    # ------------------------------------------------------------------ what strangers are told

    async def healthz(self, _request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(self, _request: Request) -> Response:
        """Names of parts, and ok or failing: no addresses and no errors."""
        parts = {n: "ok" if p.ready else "failing" for n, p in self._parts.items()}
        if self.draining:
            parts["draining"] = "failing"
        status = "ok" if self.ready else "failing"
        return JSONResponse({"status": status, "parts": parts}, 200 if self.ready else 503)
