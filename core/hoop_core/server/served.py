"""The gateway with what stands around it: the doorway, health, metrics and traces. Still nothing listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp

from hoop_core.config import Settings
from hoop_core.gateway.limits import Limits
from hoop_core.loads.uploads import UPLOAD_PATH
from hoop_core.server.addresses import Proxies
from hoop_core.server.app import Gateway, build_gateway, routes_of
from hoop_core.server.checks import checks, probe
from hoop_core.server.connections import Connections
from hoop_core.server.doorway import Doorway, method_not_allowed
from hoop_core.server.health import Health
from hoop_core.server.metrics import Exposition, GatewayCollector, Stored
from hoop_core.server.tracing import start_tracing

_COUNT_SECONDS = 15.0


@dataclass(slots=True)
class Served:
    """`app` is for clients, `admin` for probes and Prometheus."""

    gateway: Gateway
    health: Health
    connections: Connections
    app: ASGIApp
    admin: ASGIApp
    _stored: Stored
    _stop_tracing: Callable[[], None]
    _tasks: list[asyncio.Task[None]]
    _own: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def limits(self) -> Limits:
        return self.gateway.limits

    async def probe(self) -> None:
        """Raises Unavailable where a wrong setting shows."""
        settings = self.gateway.settings
        await probe(settings, self.gateway.accounts, self.gateway.sign_in.verifier)

    async def start(self) -> None:
        """Raises StoreUnavailable. `stop` must follow."""
        self._tasks.extend(await self.gateway.start())
        self._own = [
            asyncio.create_task(self.health.run()),
            asyncio.create_task(self._stored.run()),
        ]

    async def stop(self) -> None:
        """End every session and its user."""
        for task in self._own:
            task.cancel()
        await asyncio.gather(*self._own, return_exceptions=True)
        await self.gateway.stop(self._tasks)
        await asyncio.to_thread(self._stop_tracing)


def build(settings: Settings) -> Served:
    """Raises ConfigError or StoreUnavailable; nothing is started yet."""
    proxies = Proxies(settings.gateway.trusted_proxies)
    stop_tracing = start_tracing(settings.telemetry)
    gateway = build_gateway(settings)
    tasks: list[asyncio.Task[None]] = []
    health = Health(
        checks(
            settings,
            store=gateway.store,
            replicas=gateway.replicas,
            accounts=gateway.accounts,
            verifier=gateway.sign_in.verifier,
            guard=gateway.guard,
            tasks=tasks,
        ),
        settings.gateway.health_seconds,
    )
    connections = Connections(settings.gateway, proxies)
    stored = Stored(gateway.store, _COUNT_SECONDS)
    collector = GatewayCollector(
        gateway.replicas.name,
        stored,
        lambda: _gauges(gateway, connections),
        lambda: _counters(gateway),
    )
    exposition = Exposition(collector)
    probes = [
        Route("/healthz", health.healthz, methods=["GET"]),
        Route("/readyz", health.readyz, methods=["GET"]),
    ]
    scrape = [Route("/metrics", exposition.metrics, methods=["GET"])]
    public = probes + ([] if settings.gateway.metrics_port else scrape) + routes_of(gateway)
    admin = settings.model_copy(
        update={"gateway": settings.gateway.model_copy(update={"access_log": False})}
    )
    return Served(
        gateway=gateway,
        health=health,
        connections=connections,
        app=_behind_doorway(public, settings, streamed=(UPLOAD_PATH + "/",)),
        admin=_behind_doorway(probes + scrape, admin),
        _stored=stored,
        _stop_tracing=stop_tracing,
        _tasks=tasks,
    )


def _behind_doorway(
    routes: list[Route], settings: Settings, *, streamed: tuple[str, ...] = ()
) -> ASGIApp:
    app = Starlette(routes=routes, exception_handlers={405: method_not_allowed})
    app.router.redirect_slashes = False  # a redirect would be built of what Host says
    return Doorway(app, settings, streamed=streamed)


def _gauges(gateway: Gateway, connections: Connections) -> Mapping[str, float]:
    analysts, screeners = gateway.guard.analysts, gateway.guard.delivery.screeners
    return {
        "sessions": gateway.limits.sessions,
        "statements_under_way": gateway.limits.statements,
        "connections": len(connections.open),
        "analysis_queue": analysts.turns.queued,
        "analysis_workers": len(analysts.crew.pids),
        "analysis_workers_idle": analysts.crew.idle,
        "screening_bytes": screeners.room.taken,
        "draining": gateway.limits.draining,
    }


def _counters(gateway: Gateway) -> Mapping[str, float]:
    found = {f"analysis_{k}": v for k, v in asdict(gateway.guard.analysts.counters).items()}
    found |= {f"forwarding_{k}": v for k, v in asdict(gateway.forwarding.counters).items()}
    for account in gateway.accounts:
        for name, value in asdict(account.keeper.counters).items():
            key = f"users_{name}"
            found[key] = found.get(key, 0) + value
    return found
