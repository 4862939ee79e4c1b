"""Recordings as they were shown, of files that may be encrypted (audit/sealing.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from hoop_core.audit.recording_keys import key_in
from hoop_core.audit.sealing import opened
from hoop_core.errors import EvidenceError
from hoop_core.model import Json

Unwrap = Callable[[str, str], bytes]
"""The data key, of the name of the key that wraps it and the wrapped key. Raises VaultUnavailable."""


@dataclass(slots=True)
class Unsealer:
    """Without `unwrap` encrypted files stay closed. Raises EvidenceError for what does not open, and what `unwrap`
    raises.
    """

    unwrap: Unwrap | None = None
    _keys: dict[str, bytes] = field(default_factory=dict, repr=False)

    def opened(
        self, told: Json, content: bytes, read: Callable[[str], bytes | None]
    ) -> bytes | None:
        """What was shown, of the stored `content` of a file as an entry tells of it; None without a key."""
        if "shown" not in told:
            return content
        if self.unwrap is None:
            return None
        plain = opened(self._key(told["key"], read, self.unwrap), str(told["path"]), content)
        shown = told["shown"]
        if (len(plain), hashlib.sha256(plain).hexdigest()) != (shown["size"], shown["sha256"]):
            raise EvidenceError(
                f"The recording {told['path']} holds something else than was shown."
            )
        return plain

    def _key(self, told: Json, read: Callable[[str], bytes | None], unwrap: Unwrap) -> bytes:
        digest = str(told["sha256"])
        found = self._keys.get(digest)
        if found is None:
            content = read(str(told["path"]))
            if content is None or hashlib.sha256(content).hexdigest() != digest:
                raise EvidenceError(
                    f"The key {told['path']} is not the one that it was encrypted with."
                )
            found = self._keys[digest] = unwrap(*key_in(content))
        return found
