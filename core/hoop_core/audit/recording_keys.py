"""The keys that recordings are encrypted with: one for a session in a process, wrapped by a key that stays in Vault.

The wrapped key lies beside the recordings (`<session>/key-….json`), and an entry `recording.key` vouches for it.
Whoever records can make keys and need not be able to unwrap them.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from hoop_core.audit.canonical import canonical
from hoop_core.audit.log import AuditLog
from hoop_core.errors import EvidenceError, StoreUnavailable, VaultUnavailable
from hoop_core.model import Json

FORMAT = "hoop-recording-key/1"
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_MOST = 10_000
"""Sessions whose key a process holds; one that is forgotten gets another for its next file."""


class DataKeys(Protocol):
    """Raises VaultUnavailable."""

    name: str

    def new(self) -> tuple[bytes, str]:
        """A key of 32 bytes, and the same wrapped."""

    def unwrapped(self, wrapped: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class SessionKey:
    """A data key, and the file that holds it wrapped."""

    key: bytes = field(repr=False)
    path: str
    sha256: str

    def as_json(self) -> Json:
        return {"path": self.path, "sha256": self.sha256}


@dataclass(slots=True)
class RecordingKeys:
    """Of one process; for any thread."""

    wrapping: DataKeys
    log: AuditLog
    _known: OrderedDict[str, SessionKey] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def known(self, session_id: str) -> SessionKey | None:
        with self._lock:
            found = self._known.get(session_id)
            if found is not None:
                self._known.move_to_end(session_id)
            return found

    def made(self, session_id: str, store: Callable[[str, bytes], None]) -> SessionKey:
        """The session's key; a new one is stored and vouched for before anything is encrypted with it.

        Raises StoreUnavailable, also where Vault gives none.
        """
        found = self.known(session_id)
        if found is not None:
            return found
        try:
            key, wrapped = self.wrapping.new()
        except VaultUnavailable as e:
            raise StoreUnavailable(
                f"There is no key to encrypt recordings with: {e.message}", e.hint
            ) from None
        path = f"{session_id}/key-{secrets.token_hex(8)}.json"
        told = {"format": FORMAT, "session": session_id, "key": self.wrapping.name}
        content = canonical({**told, "wrapped": wrapped})
        store(path, content)
        digest = hashlib.sha256(content).hexdigest()
        vouched = {"path": path, "size": len(content), "sha256": digest}
        entry = {"transit_key": self.wrapping.name, "recording": [vouched]}
        self.log.append("recording.key", entry, session_id=session_id)
        made = SessionKey(key, path, digest)
        with self._lock:
            self._known[session_id] = made
            if len(self._known) > _MOST:
                self._known.popitem(last=False)
        return made


def key_in(content: bytes) -> tuple[str, str]:
    """The name of the key that wraps, and the wrapped key, in a key file. Raises EvidenceError."""
    try:
        told = json.loads(content)
        name, wrapped = told["key"], told["wrapped"]
        if told["format"] != FORMAT or not _NAME.fullmatch(name) or not isinstance(wrapped, str):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise EvidenceError("A recording's key file is not of the form it must have.") from None
    return name, wrapped
