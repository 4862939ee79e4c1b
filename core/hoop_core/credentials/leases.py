"""The life of a minted user: minted → used → revoked → confirmed gone. Each step is in the log.

A lease whose end could not be confirmed stays in the store as `pending`; the sweeper works that list
off, also after a crash of any part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol

import httpx
import structlog
from sqlalchemy import Connection, insert, select, update

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.config import SnowflakeSettings
from hoop_core.credentials.observer import OBSERVER_SESSION, Observer
from hoop_core.errors import SnowflakeError, StoreUnavailable, Unavailable
from hoop_core.model import Json, Lease, LeaseState, RoleBinding
from hoop_core.snowflake.session import open_session
from hoop_core.store import Store
from hoop_core.store.tables import leases

_log = structlog.get_logger(__name__)

# "JWT token is invalid": the user behind the key is unknown. A disabled user gives another code.
_NO_SUCH_LOGIN = 390144


class Minter(Protocol):
    def mint(self, role: RoleBinding, session_id: str) -> Lease: ...

    def revoke(self, lease_id: str) -> None: ...


class LeaseKeeper:
    """Mints and ends users, and keeps the store and the log true about it."""

    def __init__(
        self,
        store: Store,
        log: AuditLog,
        minter: Minter,
        *,
        http: httpx.AsyncClient,
        settings: SnowflakeSettings,
        observer_role: RoleBinding,
    ) -> None:
        self._store, self._log, self._minter = store, log, minter
        self._http, self._settings = http, settings
        self._ending: set[str] = set()
        self._background: set[asyncio.Task[None]] = set()
        self.observer = Observer(http, settings, observer_role, self.acquire, self.release)

    async def acquire(self, role: RoleBinding, session_id: str) -> Lease:
        """Mint a user. Raises VaultUnavailable or StoreUnavailable; then none is left behind.

        A caller that is cancelled while Vault works never learns of its user, so it is taken back.
        """
        minting = asyncio.create_task(self._acquire(role, session_id))
        try:
            return await asyncio.shield(minting)
        except asyncio.CancelledError:
            self._keep(asyncio.create_task(self._take_back(minting)))
            raise

    async def _take_back(self, minting: asyncio.Task[Lease]) -> None:
        await asyncio.wait({minting})
        if minting.exception() is None:
            await self.release(minting.result())

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        """Wait for what is under way and end the observer."""
        if self._background:
            await asyncio.wait(self._background)
        await self.observer.close()

    async def _acquire(self, role: RoleBinding, session_id: str) -> Lease:
        beginning = {"vault_role": role.vault_role, "snowflake_role": role.snowflake_role}
        append: Callable[..., int] = self._log.append
        await asyncio.to_thread(append, "credential.minting", beginning, session_id=session_id)
        lease = await asyncio.to_thread(self._minter.mint, role, session_id)
        try:
            await asyncio.to_thread(self._record_minted, lease)
        except Exception:
            # Not on record, so nobody else would ever look for it: take it back here and now.
            await asyncio.shield(asyncio.to_thread(self._minter.revoke, lease.lease_id))
            raise
        return lease

    def _record_minted(self, lease: Lease) -> None:
        def write(connection: Connection) -> Json:
            connection.execute(
                insert(leases).values(
                    lease_id=lease.lease_id,
                    snowflake_user=lease.snowflake_user,
                    session_id=lease.session_id,
                    vault_role=lease.role.vault_role,
                    snowflake_role=lease.role.snowflake_role,
                    public_key_fingerprint=lease.public_key_fingerprint,
                    state=LeaseState.ACTIVE,
                    created_at=lease.created_at,
                    expires_at=lease.expires_at,
                )
            )
            return _described(lease) | {
                "public_key_fingerprint": lease.public_key_fingerprint,
                "created_at": _iso(lease.created_at),
                "expires_at": _iso(lease.expires_at),
            }

        self._log.append("credential.minted", write, session_id=lease.session_id)

    async def release(self, lease: Lease) -> None:
        """Revoke and confirm. Never raises for a dependency: what failed stays on the pending list."""
        if lease.lease_id in self._ending:
            return
        self._ending.add(lease.lease_id)
        try:
            await asyncio.shield(self._release(lease))
        finally:
            self._ending.discard(lease.lease_id)

    async def _release(self, lease: Lease) -> None:
        """The user dies even when the store cannot be written; a restart then finds it still active."""
        await self._record(lease, LeaseState.PENDING, "credential.revoking", {})
        try:
            await asyncio.to_thread(self._minter.revoke, lease.lease_id)
            proof = await self._confirm(lease)
        except (Unavailable, SnowflakeError) as e:
            await self._record(
                lease, LeaseState.PENDING, "credential.pending", {"error": e.message}
            )
            return
        await self._record(lease, LeaseState.GONE, "credential.gone", {"confirmed_by": proof})

    async def _confirm(self, lease: Lease) -> str:
        """How it was seen that the user is gone. Raises SnowflakeError while it is still there."""
        if lease.session_id != OBSERVER_SESSION or not lease.private_key:
            # Without its key it is the observer of an earlier process, and today's can look for it.
            if await self.observer.user_exists(lease.snowflake_user):
                raise SnowflakeError(
                    f"{lease.snowflake_user} is still listed after its revocation."
                )
            return "show_users"
        # Nobody is left to look: that its own key is refused is the proof.
        try:
            session = await open_session(self._http, self._settings, lease)
        except SnowflakeError as e:
            if e.errno == _NO_SUCH_LOGIN:
                return "login_refused"
            raise
        await session.close()
        raise SnowflakeError(f"{lease.snowflake_user} can still sign in after its revocation.")

    async def _record(self, lease: Lease, state: LeaseState, kind: str, more: Json) -> None:
        now = utc_now()
        values: dict[str, Any] = {"state": state, "last_error": more.get("error")}
        values["confirmed_at" if state is LeaseState.GONE else "revoked_at"] = now

        def write(connection: Connection) -> Json:
            connection.execute(
                update(leases).where(leases.c.lease_id == lease.lease_id).values(**values)
            )
            return _described(lease) | {"at": _iso(now)} | more

        append: Callable[..., int] = self._log.append
        try:
            await asyncio.to_thread(append, kind, write, session_id=lease.session_id)
        except StoreUnavailable as e:
            _log.error(kind, snowflake_user=lease.snowflake_user, not_recorded=e.text)

    def unfinished(self, *, include_active: bool) -> list[Lease]:
        """Leases that still have to be ended; their private keys are not known any more."""
        states = [LeaseState.PENDING] + ([LeaseState.ACTIVE] if include_active else [])
        with self._store.read() as connection:
            rows = connection.execute(
                select(leases).where(leases.c.state.in_(states)).order_by(leases.c.created_at)
            ).all()
        return [
            Lease(
                lease_id=r.lease_id,
                snowflake_user=r.snowflake_user,
                role=RoleBinding(r.vault_role, r.snowflake_role),
                session_id=r.session_id,
                created_at=r.created_at,
                expires_at=r.expires_at,
                public_key_fingerprint=r.public_key_fingerprint,
            )
            for r in rows
        ]


def _described(lease: Lease) -> Json:
    return {
        "lease_id": lease.lease_id,
        "snowflake_user": lease.snowflake_user,
        "vault_role": lease.role.vault_role,
        "snowflake_role": lease.role.snowflake_role,
    }


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
