"""What is so right now, for Prometheus: read from the gateway's parts at each scrape.

Counters and durations are kept where things happen (`hoop_core.telemetry`). What stands in the store is
looked at in the background, so that a scrape costs nobody anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from starlette.requests import Request
from starlette.responses import Response

from hoop_core import __version__
from hoop_core.errors import StoreUnavailable
from hoop_core.model import ApprovalStatus, LeaseState
from hoop_core.store import Store
from hoop_core.store.tables import approvals, leases
from hoop_core.telemetry import REGISTRY

_log = structlog.get_logger(__name__)

Numbers = Callable[[], Mapping[str, float]]
"""Names, without the prefix `hoop_`, and values."""


@dataclass(slots=True)
class Stored:
    """What the store says of all replicas together."""

    store: Store
    every_seconds: float
    users: dict[str, int] = field(default_factory=dict)
    approvals_pending: int = 0

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            try:
                await asyncio.to_thread(self._look)
            except StoreUnavailable as e:
                _log.warning("the store cannot be counted", why=e.text)
            await asyncio.sleep(self.every_seconds)

    def _look(self) -> None:
        unfinished = [
            s for s in LeaseState if s is not LeaseState.GONE
        ]  # the others are all ever made
        by_state = (
            select(leases.c.state, func.count())
            .where(leases.c.state.in_(unfinished))
            .group_by(leases.c.state)
        )
        waiting = (
            select(func.count())
            .select_from(approvals)
            .where(approvals.c.status == ApprovalStatus.PENDING)
        )
        with self.store.read() as connection:
            counted = {str(state): int(n) for state, n in connection.execute(by_state)}
            self.approvals_pending = int(connection.scalar(waiting) or 0)
        self.users = {s: counted.get(s, 0) for s in unfinished}


class GatewayCollector(Collector):
    """One gateway's numbers at the moment of a scrape."""

    def __init__(self, replica: str, stored: Stored, gauges: Numbers, counters: Numbers) -> None:
        self._replica, self._stored = replica, stored
        self._gauges, self._counters = gauges, counters

    def collect(self) -> Iterable[Metric]:
        return list(self._all())

    def _all(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(
            "hoop_build_info", "Which version, and which replica.", labels=["version", "replica"]
        )
        build.add_metric([__version__, self._replica], 1)
        yield build
        users = GaugeMetricFamily(
            "hoop_minted_users", "Minted users in the store, by state.", labels=["state"]
        )
        for state, count in self._stored.users.items():
            users.add_metric([state], count)
        yield users
        yield GaugeMetricFamily(
            "hoop_approvals_pending",
            "Requests that wait for approvers.",
            value=self._stored.approvals_pending,
        )
        for name, value in self._gauges().items():
            yield GaugeMetricFamily(f"hoop_{name}", name.replace("_", " "), value=value)
        for name, value in self._counters().items():
            yield CounterMetricFamily(f"hoop_{name}", name.replace("_", " "), value=value)


class Exposition:
    """GET /metrics."""

    def __init__(self, collector: GatewayCollector) -> None:
        own = CollectorRegistry()
        own.register(collector)
        for of_process in (ProcessCollector, PlatformCollector, GCCollector):
            of_process(registry=own)
        self._registries = (REGISTRY, own)

    async def metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        merged = _Both(self._registries)
        return Response(encode(merged), headers={"content-type": content_type})


class _Both(CollectorRegistry):
    """Two registries as one: the process's and the gateway's own."""

    def __init__(self, registries: tuple[CollectorRegistry, ...]) -> None:
        super().__init__()
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        for registry in self._registries:
            yield from registry.collect()
