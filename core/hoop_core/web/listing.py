"""Lists of requests, a page at a time: what is read for an answer, and the answer itself, have a bound."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from hoop_core.approvals.approval import Approval
from hoop_core.approvals.book import Wanted
from hoop_core.http import BadRequest
from hoop_core.model import Json

MOST = 200
"""Requests on one page, and where nobody says how many."""
SHOWN = 2000
"""Characters of a text in a list; one request by itself has all."""
_HEAVY = 4 << 20
"""Characters of a page after which the next one begins, however few stand on it."""
_AT_ONCE = 25
"""Requests that are in memory with all they have."""
_TEXTS = ("sql", "rewritten", "template")
_LONGEST_CURSOR = 400


def asked_page(wanted: Wanted, query: Mapping[str, str]) -> Wanted:
    """`limit` and `before` of an address. Raises BadRequest."""
    given = query.get("limit", str(MOST))
    if not (given.isascii() and given.isdigit() and len(given) <= 3 and 0 < int(given) <= MOST):
        raise BadRequest(f"limit must be a whole number from 1 to {MOST}.")
    before = query.get("before")
    return replace(wanted, limit=int(given), before=_read(before) if before else None)


def page(
    read: Callable[[Wanted], list[Approval]],
    wanted: Wanted,
    shown: Callable[[Approval], Json | None],
) -> tuple[list[Json], str | None]:
    """What is shown of a page, and the cursor of the one that may follow. It may be empty, where `shown` hides all."""
    entries: list[Json] = []
    left, before, room = wanted.limit, wanted.before, _HEAVY
    while left:
        most = min(left, _AT_ONCE)
        some = read(replace(wanted, before=before, limit=most))
        for approval in some:
            before = approval.created_at, approval.id
            entry = shown(approval)
            if entry is None:
                continue
            entries.append(shortened(entry))
            room -= len(json.dumps(entries[-1]))
            if room <= 0:
                return entries, _cursor(before)
        if len(some) < most:
            return entries, None
        left -= most
    return entries, None if before is None else _cursor(before)


def shortened(entry: Json) -> Json:
    """`cut` where a text is longer than it is shown."""
    texts = {k: v for k in _TEXTS if isinstance(v := entry.get(k), str) and len(v) > SHOWN}
    if not texts:
        return entry
    return {**entry, **{k: v[:SHOWN] for k, v in texts.items()}, "cut": True}


def _cursor(last: tuple[datetime, str]) -> str:
    at, identifier = last
    return base64.urlsafe_b64encode(f"{at.isoformat()}~{identifier}".encode()).decode().rstrip("=")


def _read(cursor: str) -> tuple[datetime, str]:
    """Raises BadRequest."""
    wrong = BadRequest(
        "before is not the cursor of a page.", "Send `next` of the answer before, as it is."
    )
    if len(cursor) > _LONGEST_CURSOR:
        raise wrong
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
        at, _, identifier = text.partition("~")
        when = datetime.fromisoformat(at)
        if when.tzinfo is None or not identifier:
            raise wrong
        return when.astimezone(UTC), identifier
    except (ValueError, binascii.Error, OverflowError):
        raise wrong from None
