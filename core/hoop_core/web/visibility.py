"""Who may look at what: the same for REST and for the pages.

Who acts for somebody (a token that was exchanged, its claim `act`) sees what came by the same way, and nothing that
the person's groups open: a person is called upon to answer, and to read, and not their programs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import and_, or_, select

from hoop_core.approvals.approval import Approval, same_actors
from hoop_core.audit.log import AuditLog
from hoop_core.model import Identity, Json, identity_key
from hoop_core.store import Store
from hoop_core.store.tables import sessions

_MOST_SHOWN = 16 << 20
"""Characters of a session's entries in one answer; `hoop audit export` has all."""


def is_own(caller: Identity, approval: Approval) -> bool:
    """Whether the caller asked for it, by the same way."""
    return caller.key == approval.requester_key and same_actors(caller, approval.actors)


def is_own_session(caller: Identity, session: Json) -> bool:
    """Of one that `Visibility.sessions` told of."""
    who = session["identity"]
    return caller.key == identity_key(who["issuer"], who["subject"])


class Visibility:
    """`readers` are the groups whose members see everything."""

    def __init__(self, readers: Sequence[str], store: Store, log: AuditLog) -> None:
        self._readers = frozenset(readers)
        self._store, self._log = store, log

    def reads_all(self, caller: Identity) -> bool:
        return not caller.actors and bool(self._readers & set(caller.groups))

    def seen_by(self, caller: Identity) -> Identity | None:
        """Whose view a list is made for; None: a reader's, who sees all."""
        return None if self.reads_all(caller) else caller

    def may_see(self, caller: Identity, approval: Approval) -> bool:
        own = is_own(caller, approval)
        if own or caller.actors:
            return own
        glass = (approval.break_glass or {}).get("groups", ())
        called = set(caller.groups) & {*approval.approvers, *glass}
        return self.reads_all(caller) or bool(called)

    # ------------------------------------------------------------------ sessions

    def sessions(
        self,
        caller: Identity,
        wanted: str | None = None,
        *,
        before: tuple[datetime, str] | None = None,
        limit: int = 500,
    ) -> list[Json]:
        """The newest first; `before` is where the list before this one ended. Raises StoreUnavailable."""
        opened, identifier = sessions.c.opened_at, sessions.c.id
        query = select(sessions).order_by(opened.desc(), identifier.desc()).limit(limit)
        reader = self.reads_all(caller)
        if not reader:
            query = query.where(sessions.c.identity_key == caller.key)
        if wanted is not None:
            query = query.where(identifier == wanted)
        if before is not None:
            at, last = before
            query = query.where(or_(opened < at, and_(opened == at, identifier < last)))
        with self._store.read() as connection:
            rows = connection.execute(query).all()
        return [
            {
                "id": r.id,
                "opened_at": r.opened_at.isoformat(),
                "closed_at": r.closed_at.isoformat() if r.closed_at else None,
                "close_reason": r.close_reason,
                **r.body,
            }
            for r in rows
            if reader or same_actors(caller, r.body["identity"].get("actors") or ())
        ]

    def entries(self, session_id: str) -> tuple[list[Any], bool]:
        """The first entries of a session, and whether they are all: a session may have gigabytes of them."""
        found: list[Any] = []
        room = _MOST_SHOWN
        for entry in self._log.entries(session_id=session_id):
            room -= len(entry.text)
            if room < 0:
                return found, False
            found.append(json.loads(entry.text))
        return found, True
