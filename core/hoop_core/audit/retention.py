"""What may go: entries that belong together, how long their class keeps them, and what others rest on.

What belongs together stays together: a session with all its entries and recordings, a request with its answers. It is
kept for as long as the longest of its classes says, counted from its last entry. Beside what people hold (by the log, not by a table that somebody could change), what still
counts is kept: open sessions, living users, requests and grants that are open, the policy in force, and all that an
entry which stays refers to.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, select

from hoop_core.audit.holds import Hold
from hoop_core.errors import ConfigError
from hoop_core.model import ApprovalStatus, Json, LeaseState, account_key
from hoop_core.policy.model import Policy, RetentionClass
from hoop_core.sql.names import parse_table
from hoop_core.store import Store
from hoop_core.store.tables import approvals, leases, log_entries, sessions

_PAGE = 1000
_e = log_entries.c
NEVER = frozenset({"log.begun", "log.pruned", "log.key", "hold.placed", "hold.lifted"})
"""What the log itself is read by."""
_BASES = frozenset({"policy.loaded", "catalog.described", "config.loaded"})
"""What entries refer to by a digest."""
_OPEN = (ApprovalStatus.PENDING, ApprovalStatus.APPROVED)
_DESCRIBED_FOR = timedelta(days=2)
"""How long a description of a table is kept in any case: processes rest on what they logged for a day."""


@dataclass(slots=True)
class Unit:
    """Entries that belong together. `last` is RFC 3339 in UTC, as the log writes it."""

    key: str
    last: str = ""
    first: str = ""
    seqs: list[int] = field(default_factory=list)
    recordings: list[Json] = field(default_factory=list)
    kinds: set[str] = field(default_factory=set)
    sessions: set[str] = field(default_factory=set)
    approvals: set[str] = field(default_factory=set)
    groups: set[str] = field(default_factory=set)
    people: set[str] = field(default_factory=set)
    accounts: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    refers: set[str] = field(default_factory=set)
    provides: set[str] = field(default_factory=set)
    """What `references` of other entries may name: this unit has it."""
    digest: str = ""

    def add(self, row: Row[Any], data: Json) -> None:
        at = str(row.at)
        self.first, self.last = self.first or at, max(self.last, at)
        self.seqs.append(row.seq)
        self.kinds.add(row.kind)
        if row.session_id:
            self.sessions.add(row.session_id)
        found = data.get("recording") or []
        self.recordings += [
            r for r in (found if isinstance(found, list) else [found]) if r.get("path")
        ]
        self._facts(data)
        if row.kind in _BASES:
            self.digest = str(data.get("digest") or data.get("sha256") or "")
            self.provides.add(self.digest)
        if row.kind == "credential.minted":
            self.provides.add(str(data["snowflake_user"]))
        if _is_request(self):
            self.provides |= self.approvals

    def _facts(self, data: Json) -> None:
        asked = data.get("question") if isinstance(data.get("question"), dict) else data
        assert isinstance(asked, dict)  # noqa: S101 - for the type
        for who in (asked.get("identity"), asked.get("requester")):
            if isinstance(who, dict):
                self.groups.update(map(str, who.get("groups") or ()))
                self.people.update(_names(who))
        # To be found by holds; how long it is kept goes by who asked.
        for who in (data.get("approver"), data.get("by")):
            if isinstance(who, dict):
                self.people.update(_names(who))
        if asked.get("account"):
            self.accounts.add(account_key(str(asked["account"])))
        for key in ("reads", "writes"):
            self.tables.update(map(str, asked.get(key) or ()))
        if data.get("snowflake_user"):
            self.users.add(str(data["snowflake_user"]))
        if isinstance(data.get("approval"), str):
            self.approvals.add(data["approval"])
        self.refers |= set(references(data))


def references(data: Json) -> Iterator[str]:
    """What an entry rests on: digests of policies and catalogs, ids of approvals, minted users."""
    for told in (data, data.get("question")):
        if not isinstance(told, dict):
            continue
        decision = told.get("decision")
        if isinstance(decision, dict) and decision.get("policy_digest"):
            yield str(decision["policy_digest"])
        if told.get("policy_digest"):
            yield str(told["policy_digest"])
        if isinstance(told.get("catalog"), dict):
            yield from (str(v) for v in told["catalog"].values() if v)
        for key in ("approval", "snowflake_user"):
            if isinstance(told.get(key), str):
                yield told[key]
        yield from (str(x) for x in told.get("exceptions") or () if isinstance(x, str))


@dataclass(frozen=True, slots=True)
class Due:
    """Something whose time is over. Without `bodies` only its recordings go."""

    unit: Unit
    rule: RetentionClass
    bodies: bool


@dataclass(frozen=True, slots=True)
class Selection:
    """`kept` counts what stays although its time is over, by why. `scanned` is the last entry that was seen."""

    due: tuple[Due, ...]
    kept: dict[str, int]
    scanned: int


class Selecting:
    """One look at the whole log. Raises ConfigError, StoreUnavailable."""

    def __init__(
        self,
        store: Store,
        policy: Policy,
        *,
        now: datetime,
        below: int | None = None,
    ) -> None:
        """`below` is the first entry that some follower has not read yet."""
        if not policy.retention:
            raise ConfigError(
                "The policy says nothing about retention, so everything is kept.",
                "Give it classes: docs/retention.md has an example.",
            )
        self._store, self._policy = store, policy
        self._holds: dict[str, Hold] = {}
        self._now, self._below = now, below
        shortest = [s for c in policy.retention for s in (c.keep, c.recordings) if s is not None]
        self._horizon = stamp(now - min(shortest)) if shortest else ""
        self._units: dict[str, Unit] = {}
        self._recent: set[str] = set()
        self._referred: set[str] = set()
        self._last: dict[str, int] = {}
        self._gone: set[str] = set()
        self._kept: dict[str, int] = {}
        self._scanned, self._in_force = -1, ""

    def run(self) -> Selection:
        with self._store.read() as connection:
            live = _Live(connection)
            for row in self._rows(connection):
                self._take(row)
        if self._in_force != self._policy.digest:
            raise ConfigError(
                "The policy file is not the one that the gateways have loaded last.",
                "What is removed is removed under a policy that is on record: start a gateway with it first.",
            )
        due: dict[str, Due] = {}
        for unit in self._units.values():
            chosen = self._judge(unit, live)
            if chosen is not None:
                due[unit.key] = chosen
            if chosen is None or not chosen.bodies:
                self._referred |= unit.refers
        self._keep_referred(due)
        # What others rest on goes last, so that nothing is left alone when a process ends in between.
        ordered = sorted(due.values(), key=lambda d: rank(d.unit))
        return Selection(tuple(ordered), self._kept, self._scanned)

    def _keep_referred(self, due: dict[str, Due]) -> None:
        """Take out of `due` what an entry that stays rests on, and what that rests on."""
        having: dict[str, list[str]] = {}
        for key, one in due.items():
            for name in one.unit.provides if one.bodies else ():
                having.setdefault(name, []).append(key)
        open_ = set(self._referred)
        while open_:
            for key in having.get(open_.pop(), ()):
                one = due[key]
                if not one.bodies:
                    continue
                self._count("others refer to it")
                due[key] = replace(one, bodies=False)  # recordings rest on nothing
                open_ |= one.unit.refers - self._referred
                self._referred |= one.unit.refers
        for key in [k for k, one in due.items() if not one.bodies and not one.unit.recordings]:
            del due[key]

    def _rows(self, connection: Connection) -> Iterator[Row[Any]]:
        start = 0
        stop = connection.scalar(select(func.max(_e.seq)))
        while stop is not None and start <= stop:
            query = (
                select(_e.seq, _e.kind, _e.session_id, _e.entry, _e.at)
                .where(_e.seq >= start)
                .order_by(_e.seq)
                .limit(_PAGE)
            )
            rows = connection.execute(query).all()
            yield from rows
            if len(rows) < _PAGE:
                return
            start = rows[-1].seq + 1

    def _take(self, row: Row[Any]) -> None:
        self._scanned = row.seq
        if not row.entry:
            return
        data: Json = json.loads(row.entry)["data"]
        if row.kind == "log.pruned":
            self._gone.update(str(r["path"]) for r in data.get("recordings") or ())
        elif row.kind == "hold.placed":
            self._holds[data["hold"]] = Hold.of_entry(data, str(row.at))
        elif row.kind == "hold.lifted":
            self._holds.pop(data["hold"], None)
        elif row.kind == "policy.loaded":
            self._in_force = str(data["digest"])
        if row.kind in _BASES:
            self._last[row.kind] = row.seq
        key = unit_key(row.seq, row.kind, row.session_id, data)
        if row.at > self._horizon:  # nothing that belongs to it may go
            self._recent.add(key)
            known = self._units.pop(key, None)
            self._referred |= (known.refers if known else set()) | set(references(data))
        if key in self._recent:
            self._referred |= set(references(data))
            return
        self._units.setdefault(key, Unit(key)).add(row, data)

    def _judge(self, unit: Unit, live: _Live) -> Due | None:
        rule = self._class_of(unit)
        if rule is None:
            return None
        last = datetime.fromisoformat(unit.last)
        bodies = _over(last, rule.keep, self._now)
        unit.recordings = [r for r in unit.recordings if r["path"] not in self._gone]
        if not bodies and not (unit.recordings and _over(last, rule.recordings, self._now)):
            return None
        why = self._stays(unit, live)
        if why:
            self._count(why)
            return None
        return Due(unit, rule, bodies)

    def _count(self, why: str) -> None:
        self._kept[why] = self._kept.get(why, 0) + 1

    def _stays(self, unit: Unit, live: _Live) -> str:
        """Why it is kept all the same; empty: it is not."""
        if unit.kinds & NEVER:
            return "of the log itself"
        if self._below is not None and unit.seqs[-1] >= self._below:
            return "not yet read by all who follow the log"
        if any(hold.covers(unit) for hold in self._holds.values()):
            return "held"
        if why := live.needs(unit):
            return why
        described = "catalog.described" in unit.kinds
        young = described and not _over(
            datetime.fromisoformat(unit.last), _DESCRIBED_FOR, self._now
        )
        if unit.seqs[-1] in self._last.values() or young:
            return "in force"
        return ""

    def _class_of(self, unit: Unit) -> RetentionClass | None:
        """The one that keeps longest, of those that the unit fits; else the one for everything."""
        classes = self._policy.retention
        fitting = [c for c in classes if not c.for_all and self._fits(c, unit)]
        fitting = fitting or [c for c in classes if c.for_all]
        longest = timedelta.max
        return max(
            fitting,
            key=lambda c: (c.keep or longest, c.recordings or longest),
            default=None,
        )

    def _fits(self, rule: RetentionClass, unit: Unit) -> bool:
        return (
            (rule.kinds is None or any(kind_fits(k, unit.kinds) for k in rule.kinds))
            and (rule.sessions is None or not rule.sessions.isdisjoint(unit.sessions))
            and (rule.groups is None or not rule.groups.isdisjoint(unit.groups))
            and (rule.accounts is None or not rule.accounts.isdisjoint(unit.accounts))
            and (rule.tags is None or any(self._tagged(tag, unit) for tag in rule.tags))
        )

    def _tagged(self, tag: str, unit: Unit) -> bool:
        """Whether it read or wrote a table with a column of this tag."""
        tables = [t for t in map(parse_table, unit.tables) if t is not None]
        return any(p.covers(t) for p in self._policy.tags.get(tag, ()) for t in tables)


class _Live:
    """What still counts, by the store."""

    def __init__(self, connection: Connection) -> None:
        self._sessions = set(
            connection.scalars(select(sessions.c.id).where(sessions.c.closed_at.is_(None)))
        )
        rows = connection.execute(
            select(leases.c.snowflake_user, leases.c.session_id).where(
                leases.c.state != LeaseState.GONE
            )
        ).all()
        self._users = {str(r.snowflake_user) for r in rows}
        self._sessions |= {str(r.session_id) for r in rows}
        open_ = (approvals.c.status.in_(_OPEN)) | approvals.c.review_open
        self._approvals = set(connection.scalars(select(approvals.c.id).where(open_)))

    def needs(self, unit: Unit) -> str:
        if not self._sessions.isdisjoint(unit.sessions) and _is_session(unit):
            return "of an open session or a living user"
        if any(_same_user(a, b) for a in unit.users for b in self._users):
            return "of an open session or a living user"
        if not self._approvals.isdisjoint(unit.approvals):
            return "of a request or grant that is open"
        return ""


def _same_user(one: str, other: str) -> bool:
    """An entry from before the user was made knows the beginning of its name only."""
    return one == other or one.startswith(other + "_") or other.startswith(one + "_")


def unit_key(seq: int, kind: str, session: str | None, data: Json) -> str:
    """What an entry belongs to. Hoop's own sessions never end: each of their entries is for itself.

    A request is not its session's: a grant may be used in other sessions, and answers come without one.
    """
    if kind.startswith("approval.") and isinstance(data.get("approval"), str):
        return f"request/{data['approval']}"
    if session and session.startswith(("ses_", "ask_")):
        return f"session/{session}"
    return f"{'base' if kind in _BASES else 'entry'}/{seq}"


def rank(unit: Unit) -> int:
    """What refers comes before what is referred to."""
    return ("session", "request", "entry", "base").index(unit.key.partition("/")[0])


def _is_request(unit: Unit) -> bool:
    return unit.key.startswith("request/")


def _is_session(unit: Unit) -> bool:
    return unit.key.startswith("session/")


def _names(who: Json) -> set[str]:
    """Of a person and of whoever acts for them (`actors`: issuer#subject)."""
    found = {str(who[k]) for k in ("subject", "name") if who.get(k)}
    for actor in who.get("actors") or ():
        found |= {str(actor), str(actor).rpartition("#")[2]}
    return found


def kind_fits(pattern: str, kinds: Iterable[str]) -> bool:
    if pattern.endswith("*"):
        return any(kind.startswith(pattern[:-1]) for kind in kinds)
    return pattern in kinds


def _over(last: datetime, keep: timedelta | None, now: datetime) -> bool:
    return keep is not None and last + keep < now


def stamp(at: datetime) -> str:
    """A time as the log writes it."""
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")
