"""Sessions: signing in with an OIDC token, opaque handles, renewal, and the end of minted users."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import Connection, insert, update

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.config import GatewaySettings
from hoop_core.errors import HoopError, IdentityError, SessionGone, StoreUnavailable
from hoop_core.http import text_of
from hoop_core.identity.oidc import TokenVerifier
from hoop_core.model import Identity, Json, NameContext, RoleBinding
from hoop_core.records import error_json, identity_json, run_json
from hoop_core.session import GuardedSession, allowed_parameters, fold, run_context
from hoop_core.store.tables import sessions

_log = structlog.get_logger(__name__)

_EXPIRED, _LOG_IN_AGAIN = 390112, 390114


@dataclass(slots=True)
class Live:
    """A session in this process with the digests of its two handles."""

    guarded: GuardedSession
    master: str
    token: str
    token_until: float
    session_until: float
    last_used: float = field(default_factory=time.monotonic)
    busy: int = 0

    def over(self, now: float) -> bool:
        """Past its longest time, and nothing under way: it can be closed."""
        return now > self.session_until and not self.busy


@dataclass(frozen=True, slots=True)
class Handles:
    """What the client gets instead of a credential; valid here only."""

    token: str = field(repr=False)
    master: str = field(repr=False)


def _digest(handle: str) -> str:
    return hashlib.sha256(handle.encode()).hexdigest()


class SessionBook:
    """All live sessions of this process."""

    def __init__(
        self,
        settings: GatewaySettings,
        verifier: TokenVerifier,
        log: AuditLog,
        *,
        role_for: Callable[[Identity, str | None], RoleBinding],
        open_upstream: Callable[[GuardedSession], Coroutine[Any, Any, Any]],
        end_upstream: Callable[[Any], Awaitable[None]],
        drop_statements: Callable[[Live], Awaitable[None]],
    ) -> None:
        self._settings, self._verifier, self._log = settings, verifier, log
        self._role_for = role_for
        self._open_upstream, self._end_upstream = open_upstream, end_upstream
        self._drop_statements = drop_statements
        self._by_token: dict[str, Live] = {}
        self._by_master: dict[str, Live] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def open(self, data: Json, options: dict[str, str], client: Json) -> tuple[Handles, Live]:
        """Verify the caller and open a session. Raises IdentityError, PolicyDenied, BadRequest."""
        identity: Identity | None = None
        try:
            token = _oauth_token(data)
            identity = await asyncio.to_thread(self._verifier.verify, token)
            role = self._role_for(identity, fold(options.get("roleName")))
            given = data.get("SESSION_PARAMETERS")
            asked = given if isinstance(given, dict) else {}
            guarded = GuardedSession(
                id="ses_" + secrets.token_hex(12),
                identity=identity,
                role=role,
                names=NameContext(
                    fold(options.get("databaseName")), fold(options.get("schemaName"))
                ),
                run=run_context(asked.get("HOOP_CONTEXT")),
                client=client,
                parameters=allowed_parameters(asked),
                opened_at=utc_now(),
                open_upstream=self._open_upstream,
            )
        except HoopError as e:
            await self._refused(identity, client, e)
            raise
        await asyncio.to_thread(self._record_opened, guarded)
        return self._admit(guarded)

    def _admit(self, guarded: GuardedSession) -> tuple[Handles, Live]:
        handles = Handles(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
        now = time.monotonic()
        live = Live(
            guarded=guarded,
            token=_digest(handles.token),
            master=_digest(handles.master),
            token_until=now + self._settings.session_token_seconds,
            session_until=now + self._settings.session_seconds,
        )
        self._by_token[live.token] = live
        self._by_master[live.master] = live
        return handles, live

    def _record_opened(self, guarded: GuardedSession) -> None:
        body = {
            "identity": identity_json(guarded.identity),
            "snowflake_role": guarded.role.snowflake_role,
            "vault_role": guarded.role.vault_role,
            "run_asserted": run_json(guarded.run),
            "client": guarded.client,
        }

        def write(connection: Connection) -> Json:
            connection.execute(
                insert(sessions).values(
                    id=guarded.id,
                    identity_key=guarded.identity.key,
                    body=body,
                    opened_at=guarded.opened_at,
                )
            )
            return body

        self._log.append("session.opened", write, session_id=guarded.id)

    async def _refused(self, identity: Identity | None, client: Json, error: HoopError) -> None:
        entry = {
            **error_json(error),
            "identity": identity_json(identity) if identity else None,
            "client": client,
        }
        try:
            await asyncio.to_thread(self._log.append, "signin.refused", entry)
        except StoreUnavailable as e:
            _log.error("sign-in refused, and the log cannot be written", why=error.text, log=e.text)

    def find(self, handle: str, *, to_begin: bool = False) -> Live:
        """The session of a session handle. Raises SessionGone.

        Past its longest time nothing new may begin in it; a statement that waits for a human is
        still answered.
        """
        live = self._by_token.get(_digest(handle))
        now = time.monotonic()
        if live is None or live.guarded.closed:
            raise SessionGone("This session is closed or was never opened here.", "Connect again.")
        if live.over(now) or (to_begin and now > live.session_until):
            raise SessionGone("The session has reached its longest time.", "Connect again.",
                              errno=_LOG_IN_AGAIN)  # fmt: skip
        if now > live.token_until:
            raise SessionGone("The session token has expired.", "Renew it.", errno=_EXPIRED)
        live.last_used = now
        return live

    def renew(self, master: str) -> tuple[Handles, Live]:
        """New handles for a session; the old ones are void. Raises SessionGone."""
        live = self._by_master.get(_digest(master))
        now = time.monotonic()
        if live is None or live.guarded.closed or live.over(now):
            raise SessionGone("The session cannot be renewed any more.", "Connect again.",
                              errno=_LOG_IN_AGAIN)  # fmt: skip
        handles = Handles(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
        del self._by_token[live.token], self._by_master[live.master]
        live.token, live.master = _digest(handles.token), _digest(handles.master)
        live.token_until = now + self._settings.session_token_seconds
        live.last_used = now
        self._by_token[live.token] = self._by_master[live.master] = live
        return handles, live

    async def close(self, live: Live, reason: str) -> None:
        """End a session: its user is revoked and confirmed gone before this returns.

        It goes on when whoever asked is cancelled: a half-closed session would leave its user.
        """
        await asyncio.shield(self._spawn(self._close(live, reason)))

    async def _close(self, live: Live, reason: str) -> None:
        """From the first line on nothing new can begin; what is under way comes to its end."""
        if self._by_token.pop(live.token, None) is None:
            return
        self._by_master.pop(live.master, None)
        live.guarded.closed = True
        await self._drop_statements(live)
        upstream = await live.guarded.detach()
        if upstream is not None:
            await self._end_upstream(upstream)
        await asyncio.to_thread(self._record_closed, live.guarded.id, reason)

    def _record_closed(self, session_id: str, reason: str) -> None:
        def write(connection: Connection) -> Json:
            connection.execute(
                update(sessions)
                .where(sessions.c.id == session_id)
                .values(closed_at=utc_now(), close_reason=reason)
            )
            return {"reason": reason}

        try:
            self._log.append("session.closed", write, session_id=session_id)
        except StoreUnavailable as e:
            _log.error("a session's end is not on record", session=session_id, why=e.text)

    async def reap(self) -> None:
        """Close what is idle or over its time, for ever."""
        while True:
            await asyncio.sleep(min(5.0, self._settings.idle_seconds / 4))
            now = time.monotonic()
            for live in list(self._by_token.values()):
                idle = not live.busy and now - live.last_used > self._settings.idle_seconds
                if idle or live.over(now):
                    self._spawn(self._close(live, "idle" if idle else "longest time reached"))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    async def close_all(self) -> None:
        await asyncio.gather(
            *(self.close(live, "gateway shut down") for live in list(self._by_token.values()))
        )
        await asyncio.gather(*self._closing, return_exceptions=True)


def _oauth_token(data: Json) -> str:
    authenticator = text_of(data, "AUTHENTICATOR") or "SNOWFLAKE"
    token = text_of(data, "TOKEN", limit=64 * 1024)
    if authenticator.upper() != "OAUTH" or not token:
        raise IdentityError(
            f"Hoop takes no {authenticator.upper()[:40]} sign-in.",
            "Connect with authenticator='oauth' and token=<your OIDC token>.",
        )
    return token
