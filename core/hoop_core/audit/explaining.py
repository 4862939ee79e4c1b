"""What the log says for one span of time and one account: whoever compares asks here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, func, select

from hoop_core.model import Json, LeaseState
from hoop_core.store import Store
from hoop_core.store.tables import leases, log_entries

OBSERVER_SESSION = "observer"
_PAGE = 500
_e = log_entries.c
_ENDED = ("statement.outcome", "upload.outcome")
_OF_SESSION = (
    *("approval.explaining", "credential.minted", "credential.assigned", "statement.intent"),
    *_ENDED,
)
_RAN = ("succeeded", "withheld", "stored")


@dataclass(frozen=True, slots=True)
class Minted:
    """A lease of the store. `sessions` are those that it served, `gone` when its end was confirmed."""

    lease_id: str
    user: str
    sessions: tuple[str, ...]
    created: datetime
    expires: datetime
    gone: datetime | None

    def served(self, session: str) -> bool:
        return session in self.sessions


@dataclass(frozen=True, slots=True)
class Intent:
    """An entry that was there before a statement ran. `pruned`: its time to be kept is over."""

    seq: int
    session: str
    statement: str
    user: str
    executed: str = field(repr=False)
    describe_only: bool = False
    pruned: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """An entry of a statement that ran, by the query id that Snowflake gave it."""

    seq: int
    at: datetime
    query_id: str
    user: str


def minted_users(
    store: Store, names: Sequence[str], begin: datetime, end: datetime
) -> list[Minted]:
    """The leases that there were in a span, of the account by one of its `names`. Raises StoreUnavailable."""
    c = leases.c
    query = (
        select(leases)
        .where(c.account.in_(names))
        .where(c.created_at < end)
        .where((c.state != LeaseState.GONE) | (c.confirmed_at >= begin))
        .where(c.public_key_fingerprint != "")
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
    return [
        Minted(
            r.lease_id,
            r.snowflake_user,
            (r.session_id,),
            r.created_at,
            r.expires_at,
            r.confirmed_at,
        )
        for r in rows
    ]


class LogSide:
    """Read-only. Raises StoreUnavailable in every method."""

    def __init__(self, store: Store, names: Sequence[str], begin: datetime, end: datetime) -> None:
        self._store, self._names = store, frozenset(names)
        self._begin, self._end = begin, end
        self._intents: dict[int, Intent | None] = {}
        self._ids: dict[int, str] = {}
        self._by_session: dict[str, list[tuple[str, Json]]] = {}
        self.endings: tuple[Ending, ...] = ()
        self.orphans: tuple[tuple[int, datetime, str], ...] = ()

    def read(self) -> None:
        """Take in what ended in the span."""
        endings: list[tuple[int, datetime, int, str]] = []
        orphans = []
        for row in self._rows((*_ENDED, "credential.orphan")):
            entry = json.loads(row.entry)
            data, at = entry["data"], datetime.fromisoformat(entry["at"])
            if row.kind == "credential.orphan":
                if data.get("account") in self._names:
                    orphans.append((row.seq, at, str(data["snowflake_user"])))
                continue
            before = int(data["received" if row.kind == "upload.outcome" else "intent"])
            query_id = str(data.get("query_id") or "")
            if query_id:
                self._ids[before] = query_id
            if query_id and data.get("status") in _RAN:
                endings.append((row.seq, at, before, query_id))
        self._load({before for _, _, before, _ in endings})
        self.endings = tuple(self._ours(endings))
        self.orphans = tuple(orphans)

    def _ours(self, endings: list[tuple[int, datetime, int, str]]) -> Iterator[Ending]:
        for seq, at, before, query_id in endings:
            intent = self._intents.get(before)
            if intent is None or intent.describe_only:  # of another account, or nothing ran
                continue
            yield Ending(seq, at, query_id, intent.user)

    def _rows(self, kinds: Sequence[str]) -> Iterator[Row[Any]]:
        """Entries of some kinds in the span; those whose body is gone are passed over."""
        start, stop = self._seq_at(self._begin), self._seq_at(self._end)
        while start < stop:
            query = (
                select(_e.seq, _e.kind, _e.entry)
                .where(_e.seq >= start, _e.seq < stop)
                .where(_e.kind.in_(kinds), _e.entry != "")
                .order_by(_e.seq)
                .limit(_PAGE)
            )
            with self._store.read() as connection:
                rows = connection.execute(query).all()
            yield from rows
            if len(rows) < _PAGE:
                return
            start = rows[-1].seq + 1

    def _seq_at(self, at: datetime) -> int:
        """The first entry that is not before `at`: times in the log never go back."""
        wanted = at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        with self._store.read() as connection:
            last = connection.scalar(select(func.max(_e.seq)))
            low, high = 0, -1 if last is None else last
            while low <= high:
                middle = (low + high) // 2
                found = connection.scalar(select(_e.at).where(_e.seq == middle))
                if found is not None and found < wanted:
                    low = middle + 1
                else:
                    high = middle - 1
        return low

    # ------------------------------------------------------------------ single entries

    def intent(self, seq: int) -> Intent | None:
        """The entry of this number, where it is one that statements run upon."""
        if seq not in self._intents:
            self._load({seq})
        return self._intents.get(seq)

    def prepare(self, seqs: set[int]) -> None:
        """Read several entries at once."""
        self._load(seqs - set(self._intents))

    def query_id(self, intent: Intent) -> str:
        """What Snowflake called the query, by the entry of how it ended; empty: not said."""
        if intent.seq in self._ids:
            return self._ids[intent.seq]
        return next(
            (
                str(data.get("query_id") or "")
                for kind, data in self._of_session(intent.session)
                if kind in _ENDED and intent.seq in (data.get("intent"), data.get("received"))
            ),
            "",
        )

    def _load(self, seqs: set[int]) -> None:
        wanted = sorted(seqs)
        for at in range(0, len(wanted), _PAGE):
            page = wanted[at : at + _PAGE]
            query = select(_e.seq, _e.kind, _e.session_id, _e.entry).where(_e.seq.in_(page))
            with self._store.read() as connection:
                rows = {r.seq: r for r in connection.execute(query)}
            for seq in page:
                self._intents[seq] = self._intent(rows[seq]) if seq in rows else None

    def _intent(self, row: Row[Any]) -> Intent | None:
        if row.kind not in {"statement.intent", "upload.received"}:
            return None
        if not row.entry:
            return Intent(row.seq, row.session_id or "", "", "", "", pruned=True)
        data = json.loads(row.entry)["data"]
        if "account" in data and data["account"] not in self._names:
            return None
        return Intent(
            row.seq,
            row.session_id or "",
            str(data.get("statement_id")),
            str(data.get("snowflake_user") or ""),
            str(data.get("executed")),
            describe_only=bool(data.get("describe_only")),
        )

    # ------------------------------------------------------------------ sessions

    def explaining(self, sessions: Sequence[str], digest: str) -> bool:
        """Whether a plan with this text was asked for in one of the sessions."""
        return any(
            kind == "approval.explaining" and data.get("executed_sha256") == digest
            for session in sessions
            for kind, data in self._of_session(session)
        )

    def minting(self, lease: Minted) -> bool:
        """Whether the log says that the user was made, or that its body is gone."""
        kinds = {"credential.minted", "credential.assigned"}
        return any(
            kind in kinds and (not data or data.get("snowflake_user") == lease.user)
            for session in lease.sessions
            for kind, data in self._of_session(session)
        )

    def ran_as(self, lease: Minted) -> bool:
        """Whether a statement ran as the user, by the log."""
        return any(
            kind == "statement.intent" and data.get("snowflake_user") == lease.user
            for session in lease.sessions
            for kind, data in self._of_session(session)
        )

    def _of_session(self, session: str) -> list[tuple[str, Json]]:
        if session not in self._by_session:
            query = (
                select(_e.kind, _e.entry)
                .where(_e.session_id == session)
                .where(_e.kind.in_(_OF_SESSION))
            )
            with self._store.read() as connection:
                rows = connection.execute(query).all()
            self._by_session[session] = [
                (r.kind, json.loads(r.entry)["data"] if r.entry else {}) for r in rows
            ]
        return self._by_session[session]
