"""The life of a minted user: asked for → minted → used → revoked → confirmed gone. Each step is in the log.

A lease whose end could not be confirmed stays in the store as `pending`; the sweeper works that list
off, also after a crash of any part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from hoop_core.audit.log import utc_now
from hoop_core.config import CredentialsSettings, SnowflakeSettings
from hoop_core.credentials.ledger import Ledger, NotOurs
from hoop_core.credentials.listing import Listing
from hoop_core.credentials.minting import VAULT_FAULT, Minter, stands_for
from hoop_core.credentials.observer import OBSERVER_SESSION, Observer
from hoop_core.errors import (
    HoopError,
    SnowflakeError,
    SnowflakeUnavailable,
    StoreUnavailable,
    Unavailable,
    VaultUnavailable,
)
from hoop_core.model import Lease, RoleBinding
from hoop_core.snowflake.http import SnowflakeHttp
from hoop_core.snowflake.session import open_session
from hoop_core.telemetry import credential_step

_log = structlog.get_logger(__name__)

# "JWT token is invalid": the user behind the key is unknown. A disabled user gives another code.
_NO_SUCH_LOGIN = 390144
_LOOKS = (0.0, 0.1, 0.3, 0.8)
"""Pauses before each look at the list: what hangs on a token ends a moment after it."""


@dataclass(slots=True)
class Counters:
    """What happened since the process began, for metrics."""

    minted: int = 0
    mint_failures: int = 0
    gone: int = 0
    pending: int = 0
    orphans: int = 0
    waited: int = 0
    """Statements that had to wait because there were `max_users`."""


class LeaseKeeper:
    """Mints and ends the users of one account, and keeps the store and the log true about it.

    `alive` gives the ids of all living processes, this one's among them.
    """

    def __init__(
        self,
        ledger: Ledger,
        minter: Minter,
        *,
        http: SnowflakeHttp,
        settings: SnowflakeSettings,
        observer_role: RoleBinding,
        limits: CredentialsSettings | None = None,
        alive: Callable[[], Collection[str]] | None = None,
    ) -> None:
        self.ledger, self.minter = ledger, minter
        self._http, self._settings = http, settings
        self.limits = limits or CredentialsSettings()
        self._alive = alive or (lambda: {ledger.owner})
        self._users = asyncio.Semaphore(self.limits.max_users)
        self.held: dict[str, Lease] = {}
        """What this process has minted or is minting, and not begun to end; by lease id."""
        self._counted: set[str] = set()
        self._ending: set[str] = set()
        self._background: set[asyncio.Task[Any]] = set()
        self._checked: set[str] = set()
        self.counters = Counters()
        self.observer = Observer(http, settings, observer_role, self.acquire, self.release)
        self.listing = Listing(partial(self.observer.users, minter.prefix))

    @property
    def account(self) -> str:
        return self.ledger.account

    # ------------------------------------------------------------------ minting

    async def acquire(self, role: RoleBinding, session_id: str) -> Lease:
        """Mint a user. Raises VaultUnavailable, SnowflakeUnavailable, SnowflakeError or StoreUnavailable.

        What may have come of a failed try is on record, and is ended. A caller that is cancelled meanwhile
        never learns of its user, so it is taken back.
        """
        minting = asyncio.create_task(self._within_limits(role, session_id))
        try:
            return await asyncio.shield(minting)
        except asyncio.CancelledError:
            self._spawn(self._take_back(minting))
            raise

    async def _take_back(self, minting: asyncio.Task[Lease]) -> None:
        await asyncio.wait({minting})
        if not minting.cancelled() and minting.exception() is None:
            await self.release(minting.result())

    async def _within_limits(self, role: RoleBinding, session_id: str) -> Lease:
        """The observer is not counted: by its eyes places become free."""
        if session_id == OBSERVER_SESSION:
            return await self._acquire(role, session_id)
        await self._place()
        try:
            lease = await self._acquire(role, session_id)
        except BaseException:
            self._users.release()
            raise
        self._counted.add(lease.lease_id)
        return lease

    async def _place(self) -> None:
        if self._users.locked():
            self.counters.waited += 1
        try:
            async with asyncio.timeout(self.limits.wait_seconds):
                await self._users.acquire()
        except TimeoutError:
            raise VaultUnavailable(
                f"There are {self.limits.max_users} Snowflake users of Hoop's at once, which is the limit.",
                "Nothing was run. Try again when other sessions have ended, or raise "
                "credentials.max_users.",
                reason="TOO_MANY_USERS",
            ) from None

    async def _acquire(self, role: RoleBinding, session_id: str) -> Lease:
        """Vault learns by a failing call that its plugin's process has died, and starts another for the next."""
        try:
            return await self._mint(role, session_id)
        except VaultUnavailable as e:
            if e.reason != VAULT_FAULT:
                raise
            return await self._mint(role, session_id)

    @credential_step("mint")
    async def _mint(self, role: RoleBinding, session_id: str) -> Lease:
        try:
            async with asyncio.timeout(self.limits.mint_seconds):
                draft = await self.minter.draft(role, session_id, self.account)
        except BaseException as e:
            self.counters.mint_failures += 1
            raise _in_time(e) from None
        self.held[draft.lease.lease_id] = draft.lease
        minting: asyncio.Task[Lease] | None = None
        on_record = draft.lease
        try:
            await asyncio.to_thread(self.ledger.asked, draft.lease)
            minting = self._spawn(self.minter.mint(draft))
            async with asyncio.timeout(self.limits.mint_seconds):
                lease = await asyncio.shield(minting)
            self.held[lease.lease_id] = lease
            await asyncio.to_thread(self.ledger.minted, draft.lease, lease)
            on_record = lease
            await self._check_name(lease)
        except BaseException as e:
            self.counters.mint_failures += 1
            self._spawn(self._undo(on_record, minting))
            raise _in_time(e) from None
        self.held.pop(draft.lease.lease_id, None)
        self.counters.minted += 1
        return lease

    async def _undo(self, on_record: Lease, minting: asyncio.Task[Lease] | None) -> None:
        """End what came, or may have come, of a try that failed; after it has come to its end.

        `on_record` is the draft until the store knows the lease. The observer's own draft is left to the
        sweeper: to look whether it is gone would take an observer.
        """
        if minting is not None:
            await asyncio.wait({minting})
            if not minting.cancelled() and minting.exception() is None:
                lease = minting.result()
                if lease.lease_id != on_record.lease_id:
                    with suppress(HoopError):
                        await self.minter.revoke(lease)
        await self._end_draft(on_record)

    async def _end_draft(self, draft: Lease) -> None:
        if draft.session_id != OBSERVER_SESSION:
            await self.release(draft)
            return
        with suppress(HoopError):
            await self.minter.revoke(draft)
        self.held.pop(draft.lease_id, None)
        await self._write("credential.pending", draft, self.ledger.unended, "not confirmed yet")

    async def _check_name(self, lease: Lease) -> None:
        """A user that was made under a quoted name outlives its revocation, which is not quoted.

        Looked at for the first user of each role that this process mints. Raises VaultUnavailable.
        """
        role = lease.role.vault_role
        if lease.session_id == OBSERVER_SESSION or role in self._checked:
            return
        listed = [n for n in await self.listing.after_now() if stands_for(lease.snowflake_user, n)]
        if listed != [lease.snowflake_user]:
            raise VaultUnavailable(
                f"Users of the Vault role {role!r} are not in Snowflake under the name that Vault gave.",
                "Nothing was run. Write {{name}} without quotes in its creation_statements; "
                "`hoop vault setup` shows the right ones.",
                reason="QUOTED_NAME",
            )
        self._checked.add(role)

    @property
    def full(self) -> bool:
        """Whether the next user would have to wait for another one's end."""
        return self._users.locked()

    async def assign(self, lease: Lease, session_id: str) -> Lease:
        """Give a user that was minted ahead to a session.

        Raises StoreUnavailable, or NotOurs when others are ending it; it is ended then.
        """
        given = replace(lease, session_id=session_id)
        try:
            await asyncio.to_thread(self.ledger.assigned, given)
        except BaseException:
            self.release_later(lease)
            raise
        self.held[lease.lease_id] = given
        return given

    # ------------------------------------------------------------------ ending

    def release_later(self, lease: Lease) -> None:
        self._spawn(self.release(lease))

    async def release(self, lease: Lease) -> None:
        """Revoke and confirm. Never raises for a dependency: what failed stays on the pending list."""
        await self.end(lease, alive=None)

    async def end(self, lease: Lease, *, alive: Collection[str] | None) -> bool:
        """End a lease of this process's own, or of one that is not among `alive`; whether it is gone.

        A caller that is cancelled does not cut it short.
        """
        if lease.lease_id in self._ending:
            return False
        self._ending.add(lease.lease_id)
        return await asyncio.shield(self._spawn(self._end(lease, alive)))

    async def _end(self, lease: Lease, alive: Collection[str] | None) -> bool:
        try:
            return await self._end_now(lease, alive)
        finally:
            self._ending.discard(lease.lease_id)
            self.held.pop(lease.lease_id, None)
            if lease.lease_id in self._counted:
                self._counted.discard(lease.lease_id)
                self._users.release()

    @credential_step("end")
    async def _end_now(self, lease: Lease, alive: Collection[str] | None) -> bool:
        """The user dies even when the store cannot be written; a restart then finds it still active."""
        try:
            await asyncio.to_thread(self.ledger.ending, lease, alive)
        except NotOurs:
            return False
        except StoreUnavailable as e:
            self._unwritten("credential.revoking", lease, e)
        try:
            await self.minter.revoke(lease)
            proof = await self._confirm(lease)
        except (Unavailable, SnowflakeError) as e:
            self.counters.pending += 1
            await self._write("credential.pending", lease, self.ledger.unended, e.message)
            return False
        self.counters.gone += 1
        await self._write("credential.gone", lease, self.ledger.ended, proof)
        return True

    async def _write(
        self, kind: str, lease: Lease, write: Callable[[Lease, str], None], text: str
    ) -> None:
        try:
            await asyncio.to_thread(write, lease, text)
        except StoreUnavailable as e:
            self._unwritten(kind, lease, e)

    def _unwritten(self, kind: str, lease: Lease, error: StoreUnavailable) -> None:
        _log.error(kind, snowflake_user=lease.snowflake_user, not_recorded=error.text)

    async def _confirm(self, lease: Lease) -> str:
        """How it was seen that the user is gone. Raises SnowflakeError while it is still there."""
        if lease.session_id == OBSERVER_SESSION and lease.private_key:
            return await self._locked_out(lease)
        left: list[str] = []
        for pause in _LOOKS:
            await asyncio.sleep(pause)
            left = [
                n for n in await self.listing.after_now() if stands_for(lease.snowflake_user, n)
            ]
            if not left:
                return "show_users"
        if self.limits.end_procedure:
            for user in left:
                await self.observer.end_user(self.limits.end_procedure, user)
            listed = await self.listing.after_now()
            left = [n for n in listed if stands_for(lease.snowflake_user, n)]
            if not left:
                return "end_procedure"
        raise SnowflakeError(f"{', '.join(left)} is still listed after its revocation.")

    async def _locked_out(self, lease: Lease) -> str:
        """Of the observer's own end nobody is left to look: that its key is refused is the proof."""
        try:
            session = await open_session(self._http, self._settings, lease)
        except SnowflakeError as e:
            if e.errno == _NO_SUCH_LOGIN:
                return "login_refused"
            raise
        await session.close()
        raise SnowflakeError(f"{lease.snowflake_user} can still sign in after its revocation.")

    # ------------------------------------------------------------------ sweeping

    async def living(self) -> Collection[str]:
        """Raises StoreUnavailable."""
        return await asyncio.to_thread(self._alive)

    async def due(self, *, force: bool = False) -> list[Lease]:
        """What this process should end now. Raises StoreUnavailable."""
        alive = await self.living()
        held = {*self.held, *self._ending}
        call = partial(self.ledger.due, alive, force=force, held=held)
        return [lease for lease in await asyncio.to_thread(call) if lease.lease_id not in self.held]

    async def find_orphans(self) -> list[Lease]:
        """Users of this installation that no entry speaks of; each is put on the pending list.

        The list is asked for before the store is: whoever is minted meanwhile is in the store by then.
        Raises Unavailable or SnowflakeError.
        """
        asked = utc_now()
        listed = await self.listing.after_now()
        known = await asyncio.to_thread(self.ledger.known, asked)
        found = []
        for user in listed:
            if any(stands_for(entry, user) for entry in known):
                continue
            lease = await asyncio.to_thread(self.ledger.orphan, user)
            if lease is not None:
                self.counters.orphans += 1
                _log.error("a Snowflake user without a lease", snowflake_user=user)
                found.append(lease)
        return found

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    async def close(self) -> None:
        """Wait for what is under way and end the observer."""
        while self._background:
            await asyncio.wait(self._background)
        await self.observer.close()
        while self._background:
            await asyncio.wait(self._background)
        await self.minter.close()


def _in_time(error: BaseException) -> BaseException:
    """A timeout of our own as what it is: nobody answered."""
    if isinstance(error, TimeoutError):
        return VaultUnavailable(
            "Minting a Snowflake user took too long.", "Nothing was run. Try again."
        )
    if isinstance(error, NotOurs):
        return SnowflakeUnavailable(
            "The Snowflake user was ended while it was being minted.", "Nothing was run. Try again."
        )
    return error
