"""The gateway's own identity token in a file, kept fresh as the kubelet keeps projected tokens."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from hoop_core.devstack.processes import write_private
from hoop_core.errors import HoopError

_REFRESH_SECONDS = 4 * 60.0
"""The token lives ten minutes: a missed refresh can be tried again many times."""
_RETRY_SECONDS = 5.0

_log = logging.getLogger(__name__)


class WorkloadToken:
    """`issue` gives a new token; it may raise HoopError, and is asked again a little later."""

    def __init__(
        self, path: Path, issue: Callable[[], str], *, refresh_seconds: float = _REFRESH_SECONDS
    ) -> None:
        self.path = path
        self._issue, self._refresh_seconds = issue, refresh_seconds
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self) -> None:
        """Put a fresh token in the place of the old one. Raises VaultUnavailable."""
        write_private(self.path, self._issue())

    def start(self) -> None:
        """Write the first token, then refresh it in the background. Raises VaultUnavailable."""
        self.write()
        if self._thread is None:
            self._over.clear()
            self._thread = threading.Thread(target=self._refresh, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the refreshing; the file stays for a gateway that is still stopping."""
        thread, self._thread = self._thread, None
        self._over.set()
        if thread is not None:
            thread.join(_RETRY_SECONDS)

    def _refresh(self) -> None:
        wait = self._refresh_seconds
        while not self._over.wait(wait):
            try:
                self.write()
                wait = self._refresh_seconds
            except (HoopError, OSError) as e:
                _log.warning("The gateway's workload token could not be refreshed: %s", e)
                wait = min(_RETRY_SECONDS, self._refresh_seconds)
