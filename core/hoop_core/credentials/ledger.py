"""Leases in the store and in the log, both in one transaction: asked for, minted, being ended, gone.

Who ends a lease claims it first, by an UPDATE that only one can make. A claim runs out, so that a process
that dies over it holds nothing up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, insert, or_, select, update
from sqlalchemy.engine import Row

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.stored import stored_entries
from hoop_core.credentials.minting import INSTALLATION_DIGITS, orphan_id
from hoop_core.model import Json, Lease, LeaseState, RoleBinding
from hoop_core.store import Store
from hoop_core.store.tables import leases

_CLAIM = timedelta(minutes=3)
"""Longer than all timeouts of one try together."""
_CLOCKS = timedelta(minutes=1)
"""By how much the clocks of two processes may differ."""


class NotOurs(Exception):
    """Somebody else is ending the lease, uses it, or has ended it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A lease as the store knows it."""

    lease: Lease
    state: LeaseState
    owner: str | None
    last_error: str | None
    revoked_at: datetime | None


def installation(store: Store, log: AuditLog) -> str:
    """What tells this store's users from those of others: the hash of its log's first entry.

    Raises StoreUnavailable.
    """
    for _ in range(2):
        first = next(stored_entries(store), None)
        if first is not None:
            return first.leaf.hex()[:INSTALLATION_DIGITS].upper()
        log.append("log.begun", {})
    raise AssertionError("a log that was written to has an entry")


class Ledger:
    """What one process writes about the leases of one account. Synchronous. Raises StoreUnavailable.

    To the default account belong also the entries from when there was one account only.
    """

    def __init__(
        self, store: Store, log: AuditLog, *, owner: str, account: str, default: bool = True
    ) -> None:
        self._store, self._log = store, log
        self.owner, self.account = owner, account
        self._names = (account, "") if default else (account,)

    def asked(self, draft: Lease) -> None:
        """Before the user can exist."""

        def write(connection: Connection) -> Json:
            connection.execute(insert(leases).values(**self._row(draft, LeaseState.MINTING)))
            return self._described(draft)

        self._log.append("credential.minting", write, session_id=draft.session_id)

    def minted(self, draft: Lease, lease: Lease) -> None:
        """Raises NotOurs when another process has begun to end the draft meanwhile."""

        def write(connection: Connection) -> Json:
            row = self._row(lease, LeaseState.ACTIVE)
            changed = connection.execute(
                update(leases)
                .where(leases.c.lease_id == draft.lease_id)
                .where(leases.c.state == LeaseState.MINTING)
                .values(**row)
            )
            if not changed.rowcount:
                raise NotOurs
            return self._described(lease) | {
                "public_key_fingerprint": lease.public_key_fingerprint,
                "created_at": _iso(lease.created_at),
                "expires_at": _iso(lease.expires_at),
            }

        self._log.append("credential.minted", write, session_id=lease.session_id)

    def assigned(self, lease: Lease) -> None:
        """A user that was minted ahead serves a session now.

        Raises NotOurs when others took this process for dead, and have begun to end the user.
        """

        def write(connection: Connection) -> Json:
            changed = connection.execute(
                update(leases)
                .where(leases.c.lease_id == lease.lease_id)
                .where(leases.c.state == LeaseState.ACTIVE, leases.c.owner == self.owner)
                .values(session_id=lease.session_id)
            )
            if not changed.rowcount:
                raise NotOurs
            return self._described(lease)

        self._log.append("credential.assigned", write, session_id=lease.session_id)

    def ending(self, lease: Lease, alive: Collection[str] | None) -> None:
        """Claim a lease in order to end it. Raises NotOurs.

        `alive` are the processes whose leases are not to be touched; None: the lease is this process's own.
        """
        now = utc_now()
        free = _unclaimed(now, alive)
        mine = leases.c.owner == self.owner
        if alive is not None:
            mine = or_(mine, leases.c.state == LeaseState.PENDING, _ownerless(alive))
        claim = (
            update(leases)
            .where(leases.c.lease_id == lease.lease_id)
            .where(leases.c.state != LeaseState.GONE)
            .where(free)
            .where(mine)
            .values(
                state=LeaseState.PENDING,
                owner=self.owner,
                claimed_until=now + _CLAIM,
                revoked_at=now,
            )
        )

        there = select(leases.c.lease_id).where(leases.c.lease_id == lease.lease_id)

        def write(connection: Connection) -> Json:
            claimed = connection.execute(claim).rowcount
            # One of our own that the store has lost is ended all the same.
            if not claimed and (alive is not None or connection.scalar(there) is not None):
                raise NotOurs
            return self._described(lease) | {"at": _iso(now)}

        self._log.append("credential.revoking", write, session_id=lease.session_id)

    def ended(self, lease: Lease, proof: str) -> None:
        """Confirmed gone."""
        now = utc_now()
        values = {
            "state": LeaseState.GONE,
            "confirmed_at": now,
            "last_error": None,
            "claimed_until": None,
        }
        self._change(lease, "credential.gone", values, {"confirmed_by": proof}, now)

    def unended(self, lease: Lease, error: str) -> None:
        """A try failed; the lease stays on the list."""
        values = {"state": LeaseState.PENDING, "last_error": error, "claimed_until": None}
        self._change(lease, "credential.pending", values, {"error": error}, utc_now())

    def _change(
        self, lease: Lease, kind: str, values: dict[str, Any], more: Json, now: datetime
    ) -> None:
        def write(connection: Connection) -> Json:
            connection.execute(
                update(leases)
                .where(leases.c.lease_id == lease.lease_id)
                .where(leases.c.state != LeaseState.GONE)
                .values(**values)
            )
            return self._described(lease) | {"at": _iso(now)} | more

        self._log.append(kind, write, session_id=lease.session_id)

    def orphan(self, user: str) -> Lease | None:
        """Put a user that is in no entry on the list; None when another process was faster."""
        now = utc_now()
        lease = Lease(
            lease_id=orphan_id(self.account, user),
            snowflake_user=user,
            role=RoleBinding("", ""),
            session_id="",
            created_at=now,
            expires_at=now,
            public_key_fingerprint="",
            account=self.account,
        )

        def write(connection: Connection) -> Json:
            here = leases.c.lease_id == lease.lease_id
            state = connection.scalar(select(leases.c.state).where(here))
            if state is not None and state != LeaseState.GONE:
                raise NotOurs
            row = self._row(lease, LeaseState.PENDING) | {"owner": None, "confirmed_at": None}
            if state is None:
                connection.execute(insert(leases).values(**row))
            else:  # it was seen to be gone, and is there again
                connection.execute(update(leases).where(here).values(**row))
            return self._described(lease)

        try:
            self._log.append("credential.orphan", write)
        except NotOurs:
            return None
        return lease

    def due(self, alive: Collection[str], *, force: bool, held: Collection[str]) -> list[Lease]:
        """Leases that this process should end now; their private keys are not known any more.

        Those of dead processes, its own pending ones, and its own that it does not hold. With `force` also
        what living ones have pending.
        """
        state, mine = leases.c.state, leases.c.owner == self.owner
        pending = state == LeaseState.PENDING
        wanted = or_(
            _ownerless(alive),
            pending if force else and_(pending, mine),
            and_(mine, leases.c.lease_id.not_in(sorted(held))),
        )
        free = _unclaimed(utc_now(), alive)
        return [s.lease for s in self._rows(leases.c.state != LeaseState.GONE, wanted, free)]

    def known(self, asked: datetime) -> list[str]:
        """Names (or their beginnings) of users that a list asked for at `asked` may rightly show."""
        recent = leases.c.confirmed_at >= asked - _CLOCKS
        found = self._rows(or_(leases.c.state != LeaseState.GONE, recent))
        return [s.lease.snowflake_user for s in found]

    def standing(self) -> list[Standing]:
        """All leases that are not known to be gone."""
        return self._rows(leases.c.state != LeaseState.GONE)

    def _rows(self, *conditions: ColumnElement[bool]) -> list[Standing]:
        query = (
            select(leases)
            .where(leases.c.account.in_(self._names))
            .where(*conditions)
            .order_by(leases.c.created_at)
        )
        with self._store.read() as connection:
            return [_standing(row) for row in connection.execute(query)]

    def _row(self, lease: Lease, state: LeaseState) -> dict[str, Any]:
        return {
            "lease_id": lease.lease_id,
            "snowflake_user": lease.snowflake_user,
            "session_id": lease.session_id,
            "vault_role": lease.role.vault_role,
            "snowflake_role": lease.role.snowflake_role,
            "public_key_fingerprint": lease.public_key_fingerprint,
            "state": state,
            "created_at": lease.created_at,
            "expires_at": lease.expires_at,
            "account": self.account,
            "owner": self.owner,
            "accessor": lease.accessor,
        }

    def _described(self, lease: Lease) -> Json:
        return {
            "account": self.account,
            "lease_id": lease.lease_id,
            "snowflake_user": lease.snowflake_user,
            "vault_role": lease.role.vault_role,
            "snowflake_role": lease.role.snowflake_role,
        }


def standing_everywhere(store: Store) -> list[Standing]:
    """Leases of all accounts that are not known to be gone. Raises StoreUnavailable."""
    query = select(leases).where(leases.c.state != LeaseState.GONE).order_by(leases.c.created_at)
    with store.read() as connection:
        return [_standing(row) for row in connection.execute(query)]


def _ownerless(alive: Iterable[str]) -> ColumnElement[bool]:
    return or_(leases.c.owner.is_(None), leases.c.owner.not_in(sorted(alive)))


def _unclaimed(now: datetime, alive: Collection[str] | None) -> ColumnElement[bool]:
    """Nobody is at work on it: the claim of a process that died is none."""
    free = or_(leases.c.claimed_until.is_(None), leases.c.claimed_until < now)
    return free if alive is None else or_(free, _ownerless(alive))


def _standing(row: Row[Any]) -> Standing:
    lease = Lease(
        lease_id=row.lease_id,
        snowflake_user=row.snowflake_user,
        role=RoleBinding(row.vault_role, row.snowflake_role),
        session_id=row.session_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        public_key_fingerprint=row.public_key_fingerprint,
        account=row.account,
        accessor=row.accessor,
    )
    return Standing(lease, LeaseState(row.state), row.owner, row.last_error, row.revoked_at)


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
