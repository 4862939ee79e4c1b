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
_NAMED = ("credential.minted", "policy.loaded", "catalog.described")


@dataclass(slots=True)
class References:
    """What the entries of a period name and do not bring along themselves."""

    sessions: set[str] = field(default_factory=set)
    approvals: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    digests: set[str] = field(default_factory=set)
    """Of policies, and of tables as they were described."""
    intents: set[int] = field(default_factory=set)
    """Numbers of entries that outcomes are the end of."""

    def note(self, _seq: int, entry: Json) -> None:
        data, kind = entry["data"], entry["kind"]
        if not isinstance(data, dict):
            return
        if entry["session"]:
            self.sessions.add(entry["session"])
        if isinstance(data.get("approval"), str):
            self.approvals.add(data["approval"])
        self.approvals.update(data.get("exceptions") or ())
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

    def named(self, entry: Json) -> bool:
        """Whether the period rests on this entry, of one of the kinds that are looked for."""
        data, kind = entry["data"], entry["kind"]
        if kind.startswith("approval."):
            return data.get("approval") in self.approvals
        if kind == "credential.minted":
            return data["snowflake_user"] in self.users
        if kind == "policy.loaded":
            return data["digest"] in self.digests
        return bool(data.get("sha256") in self.digests)


def context_of(
    store: Store, references: References, first: int, end: int, size: int
) -> Iterator[tuple[int, bytes, str]]:
    """Number, leaf and text of each such entry, in order; purge records from after the period, too, and the
    period's neighbours.
    """
    outside = or_(_c.seq < first, _c.seq >= end)
    wanted: set[int] = {n for n in references.intents if n < first}
    wanted |= {n for n in (first - 1, end) if 0 <= n < size and not first <= n < end}
    with store.read() as connection:
        for names in _batches(sorted(references.sessions)):
            kinds = ("session.opened", "recording.key")
            query = select(_c.seq).where(_c.session_id.in_(names), _c.kind.in_(kinds))
            wanted.update(connection.scalars(query.where(_c.seq < first)))
        for query in (
            _texts().where(TOLD_OF, _c.seq < first),
            _texts().where(_c.kind.in_(_NAMED), _c.seq < first),
        ):
            wanted |= _named(connection, query, references)
        pruned = select(_c.seq).where(_c.kind == "log.pruned", outside, _c.seq < size)
        wanted.update(connection.scalars(pruned))
        for numbers in _batches(sorted(wanted)):
            rows = select(_c.seq, _c.leaf, _c.entry).where(_c.seq.in_(numbers)).order_by(_c.seq)
            for seq, leaf, text in connection.execute(rows):
                if text:
                    yield seq, bytes(leaf), text


def _texts() -> Select[tuple[int, str]]:
    return select(_c.seq, _c.entry).where(_c.entry != "")


def _named(
    connection: Connection, query: Select[tuple[int, str]], references: References
) -> set[int]:
    """Of tables and policies that were described again and again the last description is enough."""
    found: set[int] = set()
    last: dict[str, int] = {}
    for seq, text in connection.execute(query.order_by(_c.seq)).yield_per(_PAGE):
        entry = json.loads(text)
        if not references.named(entry):
            continue
        if entry["kind"] in ("policy.loaded", "catalog.described"):
            data = entry["data"]
            last[f"{data.get('digest')} {data.get('name')} {data.get('sha256')}"] = seq
        else:
            found.add(seq)
    return found | set(last.values())


def _batches(values: list[T]) -> Iterator[list[T]]:
    for at in range(0, len(values), _PAGE):
        yield values[at : at + _PAGE]
