"""What a period rests on and what came before it: sessions, approvals, users, policies, tables as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Connection, Select, or_, select

from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import TOLD_OF, log_entries

_PAGE = 500
T = TypeVar("T")
_c = log_entries.c
_SESSIONS = ("session.opened", "session.closed", "recording.key")
_USERS = (
    "credential.minted", "credential.assigned", "credential.orphan", "credential.revoking",
    "credential.gone",
)  # fmt: skip
_NAMED = (*_USERS, "policy.loaded", "catalog.described", "config.loaded")


@dataclass(slots=True)
class References:
    """What entries name and do not bring along themselves."""

    sessions: set[str] = field(default_factory=set)
    approvals: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    """Of policies, and of tables as they were described."""
    intents: set[int] = field(default_factory=set)
    """Numbers of entries that outcomes are the end of."""
    grants: set[str] = field(default_factory=set)
    """Approvals that statements were run under: no other may have been."""

    def note(self, _seq: int, entry: Json) -> None:
        data, kind = entry["data"], entry["kind"]
        if not isinstance(data, dict):
            return
        if entry["session"]:
            self.sessions.add(entry["session"])
        if isinstance(data.get("approval"), str):
            self.approvals.add(data["approval"])
            if kind == "statement.intent":
                self.grants.add(data["approval"])
        self.approvals.update(x for x in data.get("exceptions") or () if isinstance(x, str))
        if isinstance(data.get("snowflake_user"), str):
            self.users.add(data["snowflake_user"])
        if kind == "statement.outcome" and isinstance(data.get("intent"), int):
            self.intents.add(data["intent"])
        decision = data.get("decision")
        if isinstance(decision, dict):
            self.digests.add(str(decision.get("policy_digest")))
        catalog = data.get("catalog")
        if isinstance(catalog, dict):
            self.digests.update(d for d in catalog.values() if isinstance(d, str))


@dataclass(frozen=True, slots=True)
class Context:
    """Numbers of entries from outside a period: what it rests on, and what only shows where it ends."""

    rests: frozenset[int]
    borders: frozenset[int]

    def entries(self, store: Store) -> Iterator[tuple[int, bytes, str, str]]:
        """Number, leaf, text and reason of each, in order."""
        with store.read() as connection:
            for numbers in _batches(sorted(self.rests | self.borders)):
                columns = (_c.seq, _c.leaf, _c.entry)
                rows = select(*columns).where(_c.seq.in_(numbers)).order_by(_c.seq)
                for seq, leaf, text in connection.execute(rows):
                    if text:
                        why = "rests" if seq in self.rests else "border"
                        yield seq, bytes(leaf), text, why


def context_of(store: Store, references: References, first: int, end: int, size: int) -> Context:
    """What a period rests on, and in turn what that rests on; the state that it began with: policy, settings, users
    that were there; purge records, from after it, too; and the period's neighbours.
    """
    outside = or_(_c.seq < first, _c.seq >= end)
    with store.read() as connection:
        rests = _state(connection, first)
        pruned = select(_c.seq).where(_c.kind == "log.pruned", outside, _c.seq < size)
        rests |= set(connection.scalars(pruned))
        fresh = rests
        while True:
            for _, entry in _read(connection, fresh):
                references.note(0, entry)
            fresh = _named(connection, references, first) - rests
            if not fresh:
                break
            rests |= fresh
    borders = {n for n in (first - 1, end) if 0 <= n < size and not first <= n < end}
    return Context(frozenset(rests), frozenset(borders))


def _state(connection: Connection, first: int) -> set[int]:
    """What was in force when the period began: the newest policy and settings, and every user that was there."""
    newest: dict[str, int] = {}
    users: dict[str, list[int]] = {}
    for seq, entry in _parsed(connection, _texts(first).where(_c.kind.in_(_NAMED))):
        kind, data = entry["kind"], entry["data"]
        if kind in ("policy.loaded", "config.loaded"):
            newest[kind] = seq
        elif kind == "credential.gone":
            users.pop(data.get("snowflake_user"), None)
        elif kind in _USERS:
            users.setdefault(data.get("snowflake_user"), []).append(seq)
    return {*newest.values(), *(seq for seqs in users.values() for seq in seqs)}


def _named(connection: Connection, references: References, first: int) -> set[int]:
    found = {n for n in references.intents if n < first}
    for names in _batches(sorted(references.sessions)):
        query = select(_c.seq).where(_c.session_id.in_(names), _c.kind.in_(_SESSIONS))
        found.update(connection.scalars(query.where(_c.seq < first)))
    for seq, entry in _parsed(connection, _texts(first).where(TOLD_OF)):
        if entry["data"].get("approval") in references.approvals:
            found.add(seq)
    last: dict[str, int] = {}
    for seq, entry in _parsed(connection, _texts(first).where(_c.kind.in_(_NAMED))):
        kind, data = entry["kind"], entry["data"]
        if kind in _USERS:
            if data.get("snowflake_user") in references.users:
                found.add(seq)
        elif (data.get("digest") or data.get("sha256")) in references.digests:
            # Of what was described again and again the last description is enough.
            last[f"{kind} {data.get('name')} {data.get('digest') or data.get('sha256')}"] = seq
    for grant in sorted(references.grants):
        used = _texts(first).where(
            _c.kind == "statement.intent", _c.entry.contains(grant, autoescape=True)
        )
        found.update(
            seq
            for seq, entry in _parsed(connection, used)
            if entry["data"].get("approval") == grant
        )
    return found | set(last.values())


def _texts(first: int) -> Select[tuple[int, str]]:
    return select(_c.seq, _c.entry).where(_c.entry != "", _c.seq < first)


def _parsed(connection: Connection, query: Select[tuple[int, str]]) -> Iterator[tuple[int, Json]]:
    for seq, text in connection.execute(query.order_by(_c.seq)).yield_per(_PAGE):
        entry = json.loads(text)
        if isinstance(entry["data"], dict):
            yield seq, entry


def _read(connection: Connection, numbers: set[int]) -> Iterator[tuple[int, Json]]:
    for some in _batches(sorted(numbers)):
        query = select(_c.seq, _c.entry).where(_c.seq.in_(some), _c.entry != "")
        yield from _parsed(connection, query)


def _batches(values: list[T]) -> Iterator[list[T]]:
    for at in range(0, len(values), _PAGE):
        yield values[at : at + _PAGE]
