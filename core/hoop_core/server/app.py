"""The gateway put together: settings in, parts and routes out, with everything that must end well."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass

import structlog
from starlette.routing import Route

from hoop_core import __version__
from hoop_core.analysts.pool import Analysts
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.approvals.waiting import WaitingRoom, sweep
from hoop_core.asking import Asking
from hoop_core.audit.canonical import canonical
from hoop_core.audit.log import AuditLog
from hoop_core.audit.publishing import Publishing
from hoop_core.audit.recording import Recorder
from hoop_core.audit.recording_keys import RecordingKeys
from hoop_core.audit.witness import witnesses_of
from hoop_core.bridges.airflow.bridge import AirflowBridge
from hoop_core.config import Settings
from hoop_core.config.shown import shown
from hoop_core.credentials.accounts import Accounts, build_accounts, configured
from hoop_core.credentials.log_key import open_log
from hoop_core.credentials.reconciling import Reconciler, reconciler_of
from hoop_core.credentials.transit import TransitDataKeys
from hoop_core.delivery import Delivery
from hoop_core.errors import HoopError, StoreUnavailable
from hoop_core.gateway.authenticator import Authenticator
from hoop_core.gateway.chunks import PartStreamer
from hoop_core.gateway.forwarding import Forwarding
from hoop_core.gateway.limits import Limits
from hoop_core.gateway.owners import SessionOwners
from hoop_core.gateway.protocol import Protocol
from hoop_core.gateway.queries import StatementBoard
from hoop_core.gateway.sessions import Live, SessionBook
from hoop_core.gateway.sql_api import SqlApi
from hoop_core.gateway.unserved import Unserved
from hoop_core.gateway.uploads import UploadEndpoint
from hoop_core.guard import Guard
from hoop_core.impact import Foresight
from hoop_core.lake.writer import LakeWriter
from hoop_core.lineage.events import Events
from hoop_core.lineage.follower import LineageFollower
from hoop_core.lineage.place import Place
from hoop_core.lineage.transports import sender_of
from hoop_core.loads.uploads import Uploads
from hoop_core.notifications.notifier import Notifier, channels_of
from hoop_core.notifications.reminders import Reminders
from hoop_core.policy.file import load_policy
from hoop_core.replicas import Replicas
from hoop_core.server.policy_watch import PolicyWatch
from hoop_core.signin.door import SignIn, sign_in_of
from hoop_core.store import Store
from hoop_core.web.airflow import AirflowApi
from hoop_core.web.api import Api
from hoop_core.web.pages.building import build_pages
from hoop_core.web.pages.routes import Pages
from hoop_core.web.reads import Reads
from hoop_core.web.schemas import schema_routes

_log = structlog.get_logger(__name__)
_CHECKPOINT_SECONDS = 60.0
_LINEAGE_SECONDS = 5.0
"""What the receiver has not taken by then goes out after the next start."""
_LAKE_SECONDS = 10.0
"""The same for what is not in Parquet files by then."""


@dataclass(slots=True)
class Gateway:
    """All parts of one gateway process."""

    settings: Settings
    store: Store
    log: AuditLog
    publishing: Publishing
    replicas: Replicas
    accounts: Accounts
    guard: Guard
    sign_in: SignIn
    book: SessionBook
    forwarding: Forwarding
    board: StatementBoard
    protocol: Protocol
    sql_api: SqlApi
    api: Api
    pages: Pages
    limits: Limits
    reads: Reads
    airflow: AirflowBridge
    notifier: Notifier
    lineage: LineageFollower
    reconciler: Reconciler
    lake: LakeWriter
    heart: asyncio.Task[None] | None = None

    async def start(self) -> list[asyncio.Task[None]]:
        self.guard.analysts.start(self.guard.policy)  # they get ready while the rest starts
        watch = PolicyWatch(
            self.guard,
            self.log,
            self.settings.policy.file,
            seconds=self.settings.policy.reload_seconds,
        )
        await watch.loaded()
        await asyncio.to_thread(self._configured)
        await asyncio.to_thread(self.replicas.join)
        await asyncio.to_thread(self.notifier.begin)
        await asyncio.to_thread(self.lineage.begin)
        self.heart = asyncio.create_task(self.replicas.run())
        return [
            asyncio.create_task(self.guard.asking.waiting.run()),
            asyncio.create_task(sweep(self.guard.desk)),
            asyncio.create_task(self.sign_in.refusals.run()),
            asyncio.create_task(self.pages.refusals.run()),
            asyncio.create_task(self.reads.run()),
            asyncio.create_task(self.book.reap()),
            asyncio.create_task(self.book.tend(2 * self.replicas.beat_seconds)),
            asyncio.create_task(self.accounts.run()),
            asyncio.create_task(self._sign()),
            asyncio.create_task(watch.run()),
            *([asyncio.create_task(self.airflow.run())] if self.airflow.configured else []),
            *([asyncio.create_task(self.notifier.run())] if self.notifier.configured else []),
            *([asyncio.create_task(self.lineage.run())] if self.lineage.configured else []),
            *([asyncio.create_task(self.reconciler.run())] if self._reconciles else []),
            *([asyncio.create_task(self.lake.run())] if self.lake.configured else []),
        ]

    def _configured(self) -> None:
        """Put what this process runs with into the log. Raises StoreUnavailable."""
        told = shown(self.settings)
        digest = hashlib.sha256(canonical(told)).hexdigest()
        entry = {"sha256": digest, "settings": told, "version": __version__}
        self.log.append("config.loaded", entry | {"replica": self.replicas.id})

    @property
    def _reconciles(self) -> bool:
        return self.settings.reconcile.every_seconds > 0

    async def _leave(self) -> None:
        """The heart beats for as long as something is held. Raises StoreUnavailable."""
        if self.heart is not None:
            self.heart.cancel()
            await asyncio.wait({self.heart})
        await asyncio.to_thread(self.replicas.leave)

    async def _sign(self) -> None:
        """Sign the log's head now and then: what is signed cannot be rewritten unseen.

        Each replica does so: that another one did is something that anybody could write into the store.
        """
        while True:
            await asyncio.sleep(_CHECKPOINT_SECONDS)
            for step in (
                lambda: self.log.checkpoint_unless_within(_CHECKPOINT_SECONDS),
                self.publishing.publish,
            ):
                try:
                    await asyncio.to_thread(step)
                except HoopError as e:  # whoever spoils the store must not stop this
                    _log.error("the log was not signed or published", why=e.message, hint=e.hint)

    async def stop(self, tasks: list[asyncio.Task[None]]) -> None:
        """End every session and its user before the process may go (I4)."""
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.airflow.close()
        await self.guard.asking.foresight.close()
        await self.book.close_all()
        await self.sign_in.refusals.flush(now=True)
        await self.pages.refusals.flush(now=True)
        await self.reads.flush(now=True)
        await self.accounts.close()
        await self.lineage.drain(_LINEAGE_SECONDS)
        await asyncio.to_thread(self.lineage.close)
        await self.lake.drain(_LAKE_SECONDS)
        self.guard.delivery.screeners.close()  # after the users: no thread of theirs is waited for
        with suppress(StoreUnavailable):
            await asyncio.to_thread(self.log.checkpoint)
            await asyncio.to_thread(self.publishing.publish)
        with suppress(StoreUnavailable):
            await self._leave()
        await self.forwarding.close()
        await self.guard.analysts.close()
        self.store.close()


def build_gateway(settings: Settings) -> Gateway:
    """Wire the parts. Raises ConfigError or StoreUnavailable; nothing is started yet."""
    scheme = "https" if settings.gateway.tls_certificate else "http"
    public_url = settings.gateway.public_url or (
        f"{scheme}://{settings.gateway.host}:{settings.gateway.port}"
    )
    configured(settings)
    policy = load_policy(settings.policy.file)
    store = Store.of(settings.store)
    store.migrate()
    log = open_log(settings, store)
    publishing = Publishing(
        store, log, witnesses_of(settings.audit.witnesses, log.key.verifier_key)
    )
    publishing.check()
    sign_in = sign_in_of(settings, store, log, public_url=public_url)
    replicas = Replicas.of(settings.gateway, store)
    accounts = build_accounts(
        settings, store, log, owner=replicas.id, alive=replicas.alive, policy=lambda: guard.policy
    )  # that in force when it is asked for
    desk = ApprovalDesk(store, log)
    recorder = recorder_of(settings, log)
    catalog = accounts.catalog()
    uploads = Uploads(settings.uploads, log, public_url=public_url)
    guard = Guard(
        policy=policy,
        catalog=catalog,
        desk=desk,
        asking=Asking(desk, WaitingRoom(desk), Foresight(desk, end=accounts.end)),
        log=log,
        delivery=Delivery(
            log=log,
            recorder=recorder,
            catalog=catalog,
            public_url=public_url,
            uploads=uploads,
        ),
        analysts=Analysts(settings.analysis),
        choose_account=accounts.choose,
    )
    limits, reads = Limits(settings.limits), Reads(log)
    board = StatementBoard(guard, poll_seconds=settings.gateway.poll_seconds, limits=limits)

    async def drop(live: Live) -> None:
        uploads.drop(live.guarded.id)
        await board.drop(live)
        sql_api.forget(live)

    owners = SessionOwners(store, log, replicas)
    book = SessionBook(
        settings.gateway,
        sign_in,
        log,
        owners,
        role_for=guard.role_for,
        choose_account=accounts.choose,
        open_upstream=accounts.open,
        end_upstream=accounts.end,
        drop_statements=drop,
        limits=limits,
    )
    forwarding = Forwarding(settings.gateway, owners, book)
    parts = PartStreamer(
        lambda account: accounts.of(account).http,
        recorder,
        log,
        guard.delivery.screeners,
        check_standing=guard.desk.check_standing,
    )
    sql_api = SqlApi(settings, sign_in, book, board, parts, forwarding=forwarding, guard=guard)
    return Gateway(
        settings=settings,
        store=store,
        log=log,
        publishing=publishing,
        replicas=replicas,
        accounts=accounts,
        guard=guard,
        sign_in=sign_in,
        book=book,
        forwarding=forwarding,
        board=board,
        protocol=Protocol(settings.gateway, book, board, parts, forwarding),
        sql_api=sql_api,
        api=Api(
            settings.gateway,
            sign_in,
            store,
            log,
            guard,
            open_upstream=accounts.open,
            asks=limits.statement,
            reads=reads,
        ),
        pages=build_pages(
            settings,
            public_url=public_url,
            store=store,
            log=log,
            sign_in=sign_in,
            guard=guard,
            stopping=lambda: limits.draining,
            reads=reads,
        ),
        limits=limits,
        reads=reads,
        airflow=AirflowBridge(settings.airflow, store, log, desk, public_url=public_url),
        notifier=Notifier(
            channels_of(settings),
            store,
            log,
            desk,
            owner=replicas.id,
            public_url=public_url,
            origin=settings.audit.origin,
            reminders=Reminders(store, log, settings.reminders),
        ),
        lineage=LineageFollower(
            sender_of(settings.lineage),
            Events(store, Place.of(settings, accounts.names(), public_url=public_url)),
            store,
            log,
            owner=replicas.id,
        ),
        reconciler=reconciler_of(settings, accounts, store, log, owner=replicas.id),
        lake=LakeWriter(settings.lake, store, recorder, owner=replicas.id),
    )


def recorder_of(settings: Settings, log: AuditLog) -> Recorder:
    """Where a gateway records, and with what keys."""
    store = settings.store
    keys = None
    if store.recordings_key:
        keys = RecordingKeys(TransitDataKeys(settings.vault, store.recordings_key), log)
    return Recorder(
        store.recordings,
        keys=keys,
        part_bytes=store.recorded_part_bytes,
        session_bytes=store.recorded_session_bytes,
    )


def routes_of(gateway: Gateway) -> list[Route]:
    """Every address that is served; the last one takes whatever is left."""
    return [
        *gateway.protocol.routes(),
        *gateway.sql_api.routes(),
        *UploadEndpoint(gateway.guard.delivery.uploads, gateway.book, gateway.forwarding).routes(),
        *gateway.api.routes(),
        *AirflowApi(gateway.airflow, gateway.limits.statement).routes(gateway.api.called),
        *Authenticator(gateway.sign_in.browser).routes(),
        *gateway.pages.routes(),
        *schema_routes(),
        Route("/{path:path}", Unserved(gateway.book, gateway.log)),
    ]
