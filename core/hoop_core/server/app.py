"""The gateway put together: settings in, an ASGI application out, with everything that must end well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hoop_core.analysts.pool import Analysts
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.approvals.waiting import WaitingRoom
from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog, store_has_entries
from hoop_core.audit.recording import Recorder
from hoop_core.config import Settings
from hoop_core.credentials.leases import LeaseKeeper
from hoop_core.credentials.sweeper import Sweeper
from hoop_core.credentials.upstream import Upstreams
from hoop_core.credentials.vault import VaultMinter
from hoop_core.delivery import Delivery
from hoop_core.errors import ConfigError, StoreUnavailable
from hoop_core.gateway.chunks import PartStreamer
from hoop_core.gateway.protocol import Protocol, not_served
from hoop_core.gateway.queries import StatementBoard
from hoop_core.gateway.sessions import SessionBook
from hoop_core.guard import Guard
from hoop_core.identity.oidc import TokenVerifier
from hoop_core.lineage.openlineage import LineageEmitter
from hoop_core.model import RoleBinding
from hoop_core.policy.file import load_policy
from hoop_core.server.policy_watch import PolicyWatch
from hoop_core.snowflake.session import http_client
from hoop_core.sql.live_catalog import LiveCatalog
from hoop_core.store import Store
from hoop_core.web.api import Api

_CHECKPOINT_SECONDS = 60.0


@dataclass(slots=True)
class Gateway:
    """All parts of one gateway process."""

    settings: Settings
    store: Store
    log: AuditLog
    http: httpx.AsyncClient
    keeper: LeaseKeeper
    sweeper: Sweeper
    guard: Guard
    book: SessionBook
    board: StatementBoard
    protocol: Protocol
    api: Api

    async def start(self) -> list[asyncio.Task[None]]:
        self.guard.analysts.start(self.guard.policy)  # they get ready while the rest starts
        watch = PolicyWatch(
            self.guard,
            self.log,
            self.settings.policy.file,
            seconds=self.settings.policy.reload_seconds,
        )
        await watch.loaded()
        left_behind = await self.sweeper.left_behind()
        return [
            asyncio.create_task(self.guard.waiting.run()),
            asyncio.create_task(self.book.reap()),
            asyncio.create_task(self.sweeper.run(left_behind)),
            asyncio.create_task(self._sign()),
            asyncio.create_task(watch.run()),
        ]

    async def _sign(self) -> None:
        """Sign the log's head now and then: what is signed cannot be rewritten unseen."""
        while True:
            await asyncio.sleep(_CHECKPOINT_SECONDS)
            with suppress(StoreUnavailable):
                await asyncio.to_thread(self.log.checkpoint)

    async def stop(self, tasks: list[asyncio.Task[None]]) -> None:
        """End every session and its user before the process may go (I4)."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.book.close_all()
        await self.keeper.close()
        self.guard.delivery.screeners.close()  # after the users: no thread of theirs is waited for
        with suppress(StoreUnavailable):
            await asyncio.to_thread(self.log.checkpoint)
        await self.guard.analysts.close()
        await self.http.aclose()
        self.store.close()


def build_gateway(settings: Settings) -> Gateway:
    """Wire the parts. Raises ConfigError or StoreUnavailable; nothing is started yet."""
    public_url = settings.gateway.public_url or (
        f"http://{settings.gateway.host}:{settings.gateway.port}"
    )
    if not settings.snowflake.account:
        raise ConfigError(
            "snowflake.account is not set.",
            "Add it to hoop.toml (docs/configuration.md has an example), and name that file by "
            "--config when it is elsewhere.",
        )
    policy = load_policy(settings.policy.file)
    verifier = TokenVerifier(settings.identity)
    store = Store(settings.store.url)
    store.migrate()
    if not settings.audit.key_file.exists() and store_has_entries(store):
        raise ConfigError(
            f"The log's key {settings.audit.key_file} is not there, but the log has entries.",
            "Correct audit.key_file: another key would make another log of it.",
        )
    log = AuditLog(store, load_or_create_key(settings.audit.key_file, settings.audit.origin))
    http = http_client(settings.snowflake)
    keeper = LeaseKeeper(
        store,
        log,
        VaultMinter(settings.vault),
        http=http,
        settings=settings.snowflake,
        observer_role=RoleBinding(
            settings.vault.observer_role, settings.vault.observer_snowflake_role
        ),
    )
    desk = ApprovalDesk(store, log)
    recorder = Recorder(settings.store.recordings)
    catalog = LiveCatalog(
        keeper.observer.describe,
        account=settings.snowflake.account,
        fresh_seconds=settings.catalog.fresh_seconds,
        max_objects=settings.catalog.max_objects,
    )
    guard = Guard(
        policy=policy,
        catalog=catalog,
        desk=desk,
        waiting=WaitingRoom(desk),
        log=log,
        delivery=Delivery(
            log=log,
            recorder=recorder,
            lineage=LineageEmitter(
                settings.lineage.namespace, settings.snowflake.account, settings.lineage.file
            ),
            catalog=catalog,
            public_url=public_url,
        ),
        analysts=Analysts(settings.analysis),
    )
    board = StatementBoard(guard, poll_seconds=settings.gateway.poll_seconds)
    upstreams = Upstreams(keeper, http, settings.snowflake)
    book = SessionBook(
        settings.gateway,
        verifier,
        log,
        role_for=guard.role_for,
        open_upstream=upstreams.open,
        end_upstream=upstreams.end,
        drop_statements=board.drop,
    )
    return Gateway(
        settings=settings,
        store=store,
        log=log,
        http=http,
        keeper=keeper,
        sweeper=Sweeper(keeper),
        guard=guard,
        book=book,
        board=board,
        protocol=Protocol(
            settings.gateway,
            book,
            board,
            PartStreamer(http, recorder, log, guard.delivery.screeners),
        ),
        api=Api(settings.gateway, verifier, store, log, guard),
    )


def build_app(settings: Settings) -> Starlette:
    """The ASGI application. Raises ConfigError or StoreUnavailable."""
    gateway = build_gateway(settings)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        tasks = await gateway.start()
        try:
            yield
        finally:
            await gateway.stop(tasks)

    async def healthz(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    routes = [
        Route("/healthz", healthz, methods=["GET"]),
        *gateway.protocol.routes(),
        *gateway.api.routes(),
        Route(
            "/{path:path}", not_served, methods=["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"]
        ),
    ]
    return Starlette(routes=routes, lifespan=lifespan)
