"""What was read a moment ago of the standing grants, so that not every statement asks the store.

A change in this process counts at once. One on another replica is seen a second later: a new grant shows its
columns that much later, and a text that rests on a revoked one is refused when its intent is written.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from hoop_core.approvals.approval import Approval
from hoop_core.audit.log import utc_now

_FRESH_SECONDS, _MOST = 1.0, 10_000


class StandingGrants:
    """Thread-safe. Scopes in, the grants that hold out."""

    def __init__(
        self,
        read: Callable[[str], list[Approval]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._clock = read, clock
        self._lock = threading.Lock()
        self._changes = 0
        self._kept: OrderedDict[str, tuple[float, list[Approval]]] = OrderedDict()

    def known(self, scope: str) -> list[Approval] | None:
        """What is known without asking; None when that is too old."""
        with self._lock:
            kept = self._kept.get(scope)
        if kept is None or self._clock() - kept[0] > _FRESH_SECONDS:
            return None
        now = utc_now()
        return [a for a in kept[1] if a.valid_until is not None and a.valid_until > now]

    def ask(self, scope: str) -> list[Approval]:
        """Raises StoreUnavailable."""
        with self._lock:
            changes, asked = self._changes, self._clock()
        found = self._read(scope)
        with self._lock:
            if changes == self._changes:  # else a change came after the reading
                self._kept[scope] = asked, found
                self._kept.move_to_end(scope)
                while len(self._kept) > _MOST:
                    self._kept.popitem(last=False)
        return found

    def forget(self) -> None:
        """Something changed."""
        with self._lock:
            self._changes += 1
            self._kept.clear()
