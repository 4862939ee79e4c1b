"""Legal holds: what is kept whatever its class says, until somebody lifts the hold."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection, insert, select, update

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import ConfigError
from hoop_core.model import Json, account_key
from hoop_core.store import Store
from hoop_core.store.tables import legal_holds

LISTS = ("sessions", "people", "groups", "accounts", "kinds", "approvals", "tables")
KEYS = (*LISTS, "from", "to")


class Held(Protocol):
    """What a hold looks at: retention.Unit."""

    first: str
    last: str
    kinds: set[str]
    sessions: set[str]
    approvals: set[str]
    groups: set[str]
    people: set[str]
    accounts: set[str]
    tables: set[str]


@dataclass(frozen=True, slots=True)
class Hold:
    """`scope` by KEYS: every one that is given must fit; without any it is for everything."""

    id: str
    reason: str
    scope: Mapping[str, Sequence[str] | str]
    placed_by: str
    placed_at: datetime
    lifted_at: datetime | None = None

    @classmethod
    def of_entry(cls, data: Json, at: str) -> Hold:
        """From the entry `hold.placed`."""
        placed = datetime.fromisoformat(at)
        return cls(data["hold"], data["reason"], data["scope"], data["by"], placed)

    def covers(self, unit: Held) -> bool:
        begin, end = self.scope.get("from"), self.scope.get("to")
        if (begin and unit.last < str(begin)) or (end and unit.first >= str(end)):
            return False
        return all(
            any(_fits(name, str(wanted), getattr(unit, name)) for wanted in self.scope[name])
            for name in LISTS
            if name in self.scope
        )

    def as_json(self) -> Json:
        return {
            "hold": self.id,
            "reason": self.reason,
            "scope": dict(self.scope),
            "by": self.placed_by,
            "placed_at": self.placed_at.isoformat(),
            "lifted_at": self.lifted_at and self.lifted_at.isoformat(),
        }


def _fits(name: str, wanted: str, found: set[str]) -> bool:
    if name == "accounts":
        return account_key(wanted) in found
    if name == "kinds" and wanted.endswith("*"):
        return any(kind.startswith(wanted[:-1]) for kind in found)
    if name == "tables":
        return any(table.casefold() == wanted.casefold() for table in found)
    return wanted in found


class Holds:
    """In the store and in the log, both in one transaction. Raises StoreUnavailable."""

    def __init__(self, store: Store, log: AuditLog) -> None:
        self._store, self._log = store, log

    def place(self, reason: str, scope: Mapping[str, Sequence[str] | str], *, by: str) -> Hold:
        """Raises ConfigError for a hold without a reason."""
        if not reason.strip():
            raise ConfigError(
                "A hold needs a reason.", "Give the matter that it is for by --reason."
            )
        if unknown := sorted(set(scope) - set(KEYS)):
            raise ConfigError(f"A hold knows no {', '.join(unknown)}.")
        hold = Hold("hld_" + secrets.token_hex(8), reason, dict(scope), by, utc_now())

        def write(connection: Connection) -> Json:
            row = {"id": hold.id, "reason": reason, "scope": dict(scope)}
            connection.execute(
                insert(legal_holds).values(**row, placed_by=by, placed_at=hold.placed_at)
            )
            return {"hold": hold.id, "reason": reason, "scope": dict(scope), "by": by}

        self._log.append("hold.placed", write)
        return hold

    def lift(self, hold_id: str, reason: str, *, by: str) -> None:
        """Raises ConfigError for one that is not there, or is lifted already."""
        if not reason.strip():
            raise ConfigError("Lifting a hold needs a reason.", "Give it by --reason.")

        def write(connection: Connection) -> Json:
            changed = connection.execute(
                update(legal_holds)
                .where(legal_holds.c.id == hold_id, legal_holds.c.lifted_at.is_(None))
                .values(lifted_at=utc_now())
            )
            if changed.rowcount != 1:
                raise ConfigError(
                    f"There is no hold {hold_id[:80]} in force.", "`hoop audit hold list` has them."
                )
            return {"hold": hold_id, "reason": reason, "by": by}

        self._log.append("hold.lifted", write)

    def all(self) -> list[Hold]:
        """The lifted ones, too; the newest first."""
        with self._store.read() as connection:
            rows = connection.execute(select(legal_holds).order_by(legal_holds.c.placed_at.desc()))
            return [
                Hold(r.id, r.reason, r.scope, r.placed_by, r.placed_at, r.lifted_at) for r in rows
            ]
