"""Sessions: opened for a proven caller, opaque handles, renewal, and the end of minted users."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from sqlalchemy import Connection, insert, select

from hoop_core.approvals.binding import digest
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.config import GatewaySettings, LimitSettings
from hoop_core.errors import (
    HoopError,
    Refused,
    SessionGone,
    SnowflakeError,
    StoreUnavailable,
    where,
)
from hoop_core.gateway.limits import Limits
from hoop_core.gateway.owners import SessionOwners, digest_of
from hoop_core.http import text_of
from hoop_core.model import Identity, Json, NameContext, RoleBinding
from hoop_core.records import identity_json, run_json
from hoop_core.session.guarded import (
    GuardedSession,
    allowed_parameters,
    fold,
    run_context,
    when_held,
    without_echo,
)
from hoop_core.signin.door import SignIn
from hoop_core.snowflake.session import SESSION_ENDED
from hoop_core.store.tables import sessions

_log = structlog.get_logger(__name__)

_EXPIRED, _LOG_IN_AGAIN = 390112, 390114
_SIGN_INS_KNOWN = 1_000
_BEAT_SECONDS = 900.0
"""Snowflake ends a session after four hours without a request, and its token is renewed on the way."""


@dataclass(slots=True)
class Live:
    """A session in this process with the digests of its two handles."""

    guarded: GuardedSession
    master: str
    token: str
    token_until: float
    session_until: float
    proof_until: float = float("inf")
    """When the caller's own token ends, where sessions do not outlive it."""
    last_used: float = field(default_factory=time.monotonic)
    busy: int = 0
    used: bool = False
    """Whether any request has come with its handle: the answer to its sign-in has arrived then."""
    retry: str = field(default="", repr=False)
    """Digest of the retry that a proof which counts once allows as long as that answer may be lost."""
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def over(self, now: float) -> bool:
        """Past its longest time, and nothing under way: it can be closed."""
        return now > self.session_until and not self.busy


class SessionExists(Refused):
    """A session of this id was opened before: `is_open` says whether it is open still, at some replica."""

    reason = "SESSION_EXISTS"

    def __init__(self, *, is_open: bool) -> None:
        self.is_open = is_open
        super().__init__("A session of this id was opened before.", "Use a new request id.")


@dataclass(frozen=True, slots=True)
class Handles:
    """What the client gets instead of a credential; valid here only."""

    token: str = field(repr=False)
    master: str = field(repr=False)

    @classmethod
    def new(cls) -> Handles:
        return cls(secrets.token_urlsafe(32), secrets.token_urlsafe(32))


class SessionBook:
    """All live sessions of this process."""

    def __init__(
        self,
        settings: GatewaySettings,
        sign_in: SignIn,
        log: AuditLog,
        owners: SessionOwners,
        *,
        role_for: Callable[[Identity, str | None, str], RoleBinding],
        choose_account: Callable[[str | None], str],
        open_upstream: Callable[[GuardedSession], Coroutine[Any, Any, Any]],
        end_upstream: Callable[[Any], Awaitable[None]],
        drop_statements: Callable[[Live], Awaitable[None]],
        limits: Limits | None = None,
    ) -> None:
        self._limits = limits or Limits(LimitSettings())
        self._settings, self._sign_in = settings, sign_in
        self._log, self._owners = log, owners
        self._role_for, self._choose_account = role_for, choose_account
        self._open_upstream, self._end_upstream = open_upstream, end_upstream
        self._drop_statements = drop_statements
        self._by_token: dict[str, Live] = {}
        self._by_master: dict[str, Live] = {}
        self._by_id: dict[str, Live] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._unrecorded: dict[str, str] = {}
        self._sign_ins: OrderedDict[str, Live] = OrderedDict()

    async def open(
        self,
        data: Json,
        options: dict[str, str],
        client: Json,
        *,
        request_id: str | None = None,
        session_id: str | None = None,
    ) -> tuple[Handles, Live]:
        """Verify the caller and open a session. Raises IdentityError, PolicyDenied, BadRequest, TooMany.

        With a `session_id` that is given, whichever replica comes first opens it: SessionExists for others.
        """
        with ExitStack() as undo:
            return await self._open(data, options, client, request_id, undo, session_id=session_id)

    async def _open(
        self,
        data: Json,
        options: dict[str, str],
        client: Json,
        request_id: str | None,
        undo: ExitStack,
        *,
        session_id: str | None,
    ) -> tuple[Handles, Live]:
        """`undo` gives back what was counted for a session that comes to nothing."""
        identity: Identity | None = None
        try:
            proof = await self._sign_in.by_login(data, client)
            identity = proof.identity
            account = self._choose_account(text_of(data, "ACCOUNT_NAME"))
            role = self._role_for(identity, fold(options.get("roleName")), account)
            given = data.get("SESSION_PARAMETERS")
            asked = given if isinstance(given, dict) else {}
            guarded = GuardedSession(
                id=session_id or "ses_" + secrets.token_hex(12),
                identity=identity,
                role=role,
                names=NameContext(
                    fold(options.get("databaseName")), fold(options.get("schemaName"))
                ),
                run=run_context(asked.get("HOOP_CONTEXT")),
                when_held=when_held(asked.get("HOOP_WHEN_HELD")),
                client=client,
                parameters=without_echo(allowed_parameters(asked), client.get("application")),
                opened_at=utc_now(),
                open_upstream=self._open_upstream,
                account=account,
            )
            self._limits.open_session(identity.key)
            undo.callback(self._limits.close_session, identity.key)
            tried = _tried(request_id, session_id, guarded, data)
            earlier = self._sign_ins.get(tried)
            # last: a refusal for another reason has not used the token up
            lost = request_id and not (earlier and earlier.used)
            spent = f"{session_id or ''}#{request_id}" if lost else secrets.token_hex(16)
            await self._sign_in.spend(proof, spent)
        except HoopError as e:
            await self._sign_in.refused(identity, client, e)
            raise
        if earlier is not None and not earlier.used:
            # the answer to the first try was lost, so nobody has its handles
            with suppress(SessionGone):
                return await self._new_handles(earlier, earlier.master), earlier
        handles = Handles.new()
        await asyncio.to_thread(self._record_opened, guarded, handles)
        live = self._admit(guarded, handles)
        live.retry = proof.use.by(spent) if proof.use else ""
        undo.pop_all()
        self._sign_ins[tried] = live
        while len(self._sign_ins) > _SIGN_INS_KNOWN:
            self._sign_ins.popitem(last=False)
        return handles, live

    def _admit(self, guarded: GuardedSession, handles: Handles) -> Live:
        now = time.monotonic()
        live = Live(
            guarded=guarded,
            token=digest_of(handles.token),
            master=digest_of(handles.master),
            token_until=now + self._settings.session_token_seconds,
            session_until=now + self._settings.session_seconds,
            proof_until=self._proof_until(guarded.identity),
        )
        self._by_token[live.token] = live
        self._by_master[live.master] = live
        self._by_id[guarded.id] = live
        return live

    def _proof_until(self, identity: Identity) -> float:
        """On this process's own clock, with the leeway that the token itself is given."""
        if self._settings.session_outlives_token or identity.expires_at is None:
            return float("inf")
        left = (identity.expires_at - utc_now()).total_seconds()
        return time.monotonic() + left + self._sign_in.leeway_of(identity.issuer)

    def _record_opened(self, guarded: GuardedSession, handles: Handles) -> None:
        owned = self._owners.owned(digest_of(handles.token), digest_of(handles.master))
        body = {
            "identity": identity_json(guarded.identity),
            "account": guarded.account,
            "snowflake_role": guarded.role.snowflake_role,
            "vault_role": guarded.role.vault_role,
            "run_asserted": run_json(guarded.run),
            "client": guarded.client,
        }

        def write(connection: Connection) -> Json:
            known = select(sessions.c.closed_at).where(sessions.c.id == guarded.id)
            if earlier := connection.execute(known).first():
                raise SessionExists(is_open=earlier.closed_at is None)
            connection.execute(
                insert(sessions).values(
                    id=guarded.id,
                    identity_key=guarded.identity.key,
                    body=body,
                    opened_at=guarded.opened_at,
                    account=guarded.account,
                    **owned,
                )
            )
            return body

        self._log.append("session.opened", write, session_id=guarded.id)

    def holds(self, *, digest: str | None = None, session_id: str | None = None) -> bool:
        """Whether the session of a handle, or of this id, lives in this process."""
        if session_id is not None:
            return session_id in self._by_id
        return digest in self._by_token or digest in self._by_master

    def find(self, handle: str, *, to_begin: bool = False) -> Live:
        """The session of a session handle. Raises SessionGone.

        Past its longest time nothing new may begin in it; a statement that waits for a human is
        still answered.
        """
        live = self._by_token.get(digest_of(handle))
        now = time.monotonic()
        if live is None or live.guarded.closed:
            raise SessionGone("This session is closed or was never opened here.", "Connect again.")
        if live.over(now) or (to_begin and now > live.session_until):
            raise SessionGone("The session has reached its longest time.", "Connect again.",
                              errno=_LOG_IN_AGAIN)  # fmt: skip
        if to_begin and now > live.proof_until:
            raise SessionGone("The token that opened this session has expired.",
                              "Fetch a new one and connect again.", errno=_LOG_IN_AGAIN)  # fmt: skip
        if now > live.token_until:
            raise SessionGone("The session token has expired.", "Renew it.", errno=_EXPIRED)
        live.last_used = now
        self._arrived(live)
        return live

    def _arrived(self, live: Live) -> None:
        """The client has its handles. Whoever sends its sign-in again has listened to it."""
        live.used = True
        if live.retry:
            self._spawn(self._no_retry(live.retry))
            live.retry = ""

    async def _no_retry(self, retry: str) -> None:
        with suppress(StoreUnavailable):  # it is over in some minutes anyway
            await asyncio.to_thread(self._sign_in.no_retry, retry)

    def at_rest(self, seconds: float) -> bool:
        """Whether nothing is under way, and of no session anything was asked for so long."""
        since = time.monotonic() - seconds
        return not any(x.busy or x.last_used > since for x in self._by_token.values())

    def of_handle(self, handle: str) -> Live | None:
        """The session that a session handle belongs to, whether or not it may still be used."""
        live = self._by_token.get(digest_of(handle))
        if live is not None:
            self._arrived(live)
        return live

    def by_id(self, session_id: str) -> Live | None:
        """A live session of this process; None for any other."""
        return self._by_id.get(session_id)

    async def renew(self, master: str) -> tuple[Handles, Live]:
        """New handles for a session; the old ones are void. Raises SessionGone, StoreUnavailable.

        They are in the store before the client has them: other replicas find the session by them.
        """
        old = digest_of(master)
        live = self._by_master.get(old)
        now = time.monotonic()
        if live is None or live.guarded.closed or live.over(now):
            raise SessionGone("The session cannot be renewed any more.", "Connect again.",
                              errno=_LOG_IN_AGAIN)  # fmt: skip
        self._arrived(live)
        return await self._new_handles(live, old), live

    async def _new_handles(self, live: Live, old: str) -> Handles:
        """In the place of the ones whose master's digest is `old`. Raises SessionGone, StoreUnavailable."""
        handles, now = Handles.new(), time.monotonic()
        token, following = digest_of(handles.token), digest_of(handles.master)
        async with live.renewing:
            if live.master != old or live.guarded.closed:
                raise SessionGone("The session was renewed or closed meanwhile.", "Connect again.",
                                  errno=_LOG_IN_AGAIN)  # fmt: skip
            await asyncio.to_thread(self._owners.renewed, live.guarded.id, token, following)
            if live.guarded.closed:
                raise SessionGone("The session was closed meanwhile.", "Connect again.",
                                  errno=_LOG_IN_AGAIN)  # fmt: skip
            self._replace(live, token, following)
        live.token_until = now + self._settings.session_token_seconds
        live.last_used = now
        return handles

    def _replace(self, live: Live, token: str, master: str) -> None:
        del self._by_token[live.token], self._by_master[live.master]
        live.token, live.master = token, master
        self._by_token[token] = self._by_master[master] = live

    async def beat(self, live: Live) -> None:
        """Keep the session at Snowflake alive. Raises SessionGone when it has ended there."""
        try:
            await live.guarded.beat(time.monotonic())
        except SnowflakeError as e:
            if e.errno not in SESSION_ENDED:
                return
            self.close_soon(live, "ended by Snowflake")
            raise SessionGone(
                "Snowflake ended the session of the minted user.", "Connect again."
            ) from None

    def close_soon(self, live: Live, reason: str) -> None:
        """`close`, without waiting for it."""
        self._spawn(self._close(live, reason))

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
        self._by_id.pop(live.guarded.id, None)
        live.guarded.closed = True
        self._limits.close_session(live.guarded.identity.key)
        await self._drop_statements(live)
        upstream = await live.guarded.detach()
        if upstream is not None:
            await self._end_upstream(upstream)
        await asyncio.to_thread(self._record_closed, live.guarded.id, reason)

    def _record_closed(self, session_id: str, reason: str) -> None:
        try:
            self._owners.closed(session_id, reason)
            self._unrecorded.pop(session_id, None)
        except StoreUnavailable as e:
            self._unrecorded[session_id] = reason
            _log.error("a session's end is not on record yet", session=session_id, why=e.text)

    async def tend(self, seconds: float) -> None:
        """Keep memory and store the same about who is gone, for ever, with such a pause."""
        while True:
            await asyncio.sleep(seconds)
            try:
                for session_id, reason in list(self._unrecorded.items()):
                    await asyncio.to_thread(self._record_closed, session_id, reason)
                buried = await asyncio.to_thread(self._owners.bury)
                lost = await asyncio.to_thread(self._owners.closed_by_others, set(self._by_id))
            except StoreUnavailable as e:
                _log.warning("sessions of dead replicas cannot be looked up", why=e.text)
                continue
            except Exception as e:  # the next look may find better
                _log.error("looking for dead sessions failed inside Hoop", where=where(e))
                continue
            for session_id in buried:
                _log.warning("a session ended with its replica", session=session_id)
            for session_id in lost & set(self._by_id):
                _log.error("others took this replica for dead", session=session_id)
                self._spawn(self._close(self._by_id[session_id], "taken for dead"))

    async def reap(self) -> None:
        """Close what is idle or over its time, for ever."""
        while True:
            await asyncio.sleep(min(5.0, self._settings.idle_seconds / 4))
            now = time.monotonic()
            for live in list(self._by_token.values()):
                idle = not live.busy and now - live.last_used > self._settings.idle_seconds
                if idle or live.over(now):
                    self._spawn(self._close(live, "idle" if idle else "longest time reached"))
                elif live.busy and live.guarded.wants_beat(now, _BEAT_SECONDS):
                    # a statement waits for people, and another one has opened the session long ago
                    self._spawn(self._beat_quietly(live))

    async def _beat_quietly(self, live: Live) -> None:
        with suppress(SessionGone):
            await self.beat(live)

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


def _tried(
    request_id: str | None, session_id: str | None, guarded: GuardedSession, data: Json
) -> str:
    """What makes a sign-in a retry of another one: the same request, said and proven in the same way."""
    identity, names, asked = guarded.identity, guarded.names, data.get("SESSION_PARAMETERS")
    said = [
        request_id or secrets.token_hex(16),
        session_id,
        identity.key,
        identity.token_digest,
        guarded.account,
        guarded.role.snowflake_role,
        names.database,
        names.schema,
        {k: str(v) for k, v in asked.items()} if isinstance(asked, dict) else {},
    ]
    return digest(said)
