"""Hot reload: the running gateway takes over a changed policy file, and only one that is right.

A changed file is read once it has rested for one look, so that a half-written one is not taken for a
whole: the first half of a policy may be a policy that forbids less. What it becomes is in the log before
it decides anything (I1). With an error in the file the old policy stays, and that is in the log too.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import structlog

from hoop_core.audit.log import AuditLog
from hoop_core.errors import ConfigError, StoreUnavailable, where
from hoop_core.guard import Guard
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy

_log = structlog.get_logger(__name__)
_Mark = tuple[int, int, int, int]


class PolicyWatch:
    """Looks at the policy file every `seconds`; 0 never does."""

    def __init__(self, guard: Guard, log: AuditLog, file: Path, *, seconds: float) -> None:
        self._guard, self._log, self._file, self._seconds = guard, log, file, seconds
        self._text = guard.policy.text  # the last text that was judged, right or wrong
        self._judged: _Mark | None = None
        self._seen: _Mark | None = None
        self._unreadable = ""

    async def loaded(self) -> None:
        """Put the policy that the gateway starts with into the log. Raises StoreUnavailable."""
        await self._entry(self._guard.policy)

    async def run(self) -> None:
        while self._seconds:
            await asyncio.sleep(self._seconds)
            try:
                await self.look()
            except StoreUnavailable as e:
                _log.warning("the policy stays, because the log cannot be written", why=e.text)
            except Exception as e:  # whatever it is, the next look may find better
                _log.error("the policy file could not be looked at", where=where(e))

    async def look(self) -> None:
        """One look. Raises StoreUnavailable; then the next look tries again."""
        try:
            mark = await asyncio.to_thread(self._mark)
            if mark == self._judged:
                return
            rested, self._seen = mark == self._seen, mark
            if not rested:
                return
            text = await asyncio.to_thread(self._file.read_text, encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            why = f"The policy {self._file} cannot be read: {type(e).__name__}."
            if why != self._unreadable:
                await self._rejected(why, None)
            self._unreadable = why
            self._judged = self._seen = None
            return
        if text != self._text or self._unreadable:
            await self._judge(text)
        self._text, self._judged, self._unreadable = text, mark, ""

    def _mark(self) -> _Mark:
        """Changes whenever the file does; a link that is turned to another file changes it as well."""
        found = self._file.stat()
        return found.st_mtime_ns, found.st_size, found.st_ino, found.st_ctime_ns

    async def _judge(self, text: str) -> None:
        try:
            policy = await asyncio.to_thread(parse_policy, text, str(self._file))
        except ConfigError as e:
            await self._rejected(e.text, text)
            return
        except Exception as e:  # a fault of the reader's: it would be the same at every look
            await self._rejected(f"{self._file} cannot be read: {type(e).__name__}.", text)
            _log.error("a policy could not be read", where=where(e))
            return
        await self._entry(policy)
        before, self._guard.policy = self._guard.policy.digest, policy
        _log.info("another policy is in force", digest=policy.digest, before=before)

    async def _entry(self, policy: Policy) -> None:
        entry = {"digest": policy.digest, "text": policy.text}
        await asyncio.to_thread(self._log.append, "policy.loaded", entry)

    async def _rejected(self, why: str, text: str | None) -> None:
        """The text itself stays out of the log: what is no policy may be anything, a secret too."""
        kept = self._guard.policy.digest
        entry = {
            "error": why,
            "sha256": None if text is None else hashlib.sha256(text.encode()).hexdigest(),
            "kept": kept,
        }
        await asyncio.to_thread(self._log.append, "policy.rejected", entry)
        _log.warning("the changed policy is not used, the old one stays", why=why, kept=kept)
