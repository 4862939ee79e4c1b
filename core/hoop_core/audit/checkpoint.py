"""Signed checkpoints: C2SP tlog-checkpoint bodies in C2SP signed notes, signed with ed25519.

https://c2sp.org/tlog-checkpoint and https://c2sp.org/signed-note
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from hoop_core.errors import ConfigError, EvidenceError

_ED25519 = b"\x01"
_OTHERS = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: `note` is the signed text as it is published."""

    origin: str
    size: int
    root: bytes
    note: str


def _key_id(name: str, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


class Signer(ABC):
    """What signs for a log, wherever its key is; `name` is the log's origin."""

    name: str

    @property
    @abstractmethod
    def public(self) -> bytes:
        """The ed25519 public key, raw."""

    @abstractmethod
    def signature(self, content: bytes) -> bytes:
        """ed25519 over the content. Raises VaultUnavailable where the key is elsewhere."""

    @property
    def verifier_key(self) -> str:
        """The "vkey" form: name+hash+key; this is what an auditor pins."""
        key = base64.b64encode(_ED25519 + self.public).decode()
        return f"{self.name}+{_key_id(self.name, self.public).hex()}+{key}"

    def sign_note(self, text: str) -> str:
        """`text` (ends with a newline) followed by a blank line and our signature line."""
        blob = _key_id(self.name, self.public) + self.signature(text.encode())
        return f"{text}\n— {self.name} {base64.b64encode(blob).decode()}\n"

    def sign(self, size: int, root: bytes) -> Checkpoint:
        text = f"{self.name}\n{size}\n{base64.b64encode(root).decode()}\n"
        return Checkpoint(self.name, size, root, self.sign_note(text))


@dataclass(frozen=True)
class LogKey(Signer):
    """A key that this process holds."""

    name: str
    _private: Ed25519PrivateKey = field(repr=False)

    @cached_property
    def public(self) -> bytes:
        return self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def signature(self, content: bytes) -> bytes:
        return self._private.sign(content)


def load_or_create_key(path: Path, name: str) -> LogKey:
    """Read the ed25519 key at `path`, or make one there with mode 0600. Raises ConfigError."""
    if any(c.isspace() or c == "+" for c in name) or not name:
        raise ConfigError(f"The log origin {name!r} must not hold white space or '+'.")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            made = Ed25519PrivateKey.generate().private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            )
            with suppress(FileExistsError):  # another replica was faster: its key is ours too
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with os.fdopen(descriptor, "wb") as f:
                    f.write(made)
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & _OTHERS:
                raise ConfigError(
                    f"The log's key {path} is open to other users of this machine: who has it can sign a "
                    "forged log.",
                    "Set its mode to 0600, or to 0640 where the gateway reads it by its group.",
                )
            private = load_pem_private_key(file.read(), None)
    except (OSError, ValueError) as e:
        raise ConfigError(f"The log's key {path} cannot be used: {e}.") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"The log's key {path} is not an ed25519 key.")
    return LogKey(name, private)


def _read_verifier_key(verifier_key: str) -> tuple[str, str, Ed25519PublicKey]:
    """Name, key id and key of a vkey. Raises ValueError."""
    name, identifier, encoded = verifier_key.split("+", 2)  # base64 may hold a "+" too
    blob = base64.b64decode(encoded, validate=True)
    if blob[:1] != _ED25519 or _key_id(name, blob[1:]).hex() != identifier:
        raise ValueError
    return name, identifier, Ed25519PublicKey.from_public_bytes(blob[1:])


def check_verifier_key(verifier_key: str) -> None:
    """Raises ConfigError for what is no verifier key: a slip must not look like a forged log."""
    try:
        _read_verifier_key(verifier_key)
    except ValueError:
        raise ConfigError(
            "This is not a verifier key (name+hash+key).", "Copy it from `hoop audit export`."
        ) from None


def open_note(note: str, verifier_key: str) -> str:
    """Check the signature of `verifier_key` on a signed note and return the note's text.

    Raises EvidenceError when the note is malformed or not signed by that key.
    """
    try:
        name, identifier, public = _read_verifier_key(verifier_key)
    except ValueError:
        raise EvidenceError("The verifier key is malformed.") from None
    text, separator, signatures = note.partition("\n\n")
    if not separator:
        raise EvidenceError("The signed note has no signature block.")
    text += "\n"
    for line in signatures.splitlines():
        dash, _, rest = line.partition(" ")
        signer, _, encoded = rest.partition(" ")
        if dash != "—" or signer != name:
            continue
        try:
            signature = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            continue
        if signature[:4].hex() != identifier:
            continue
        try:
            public.verify(signature[4:], text.encode())
        except InvalidSignature:
            raise EvidenceError(f"The signature of {name} on the note is wrong.") from None
        return text
    raise EvidenceError(f"The note is not signed by {name}.")


def open_checkpoint(note: str, verifier_key: str) -> Checkpoint:
    """Verify and read a checkpoint. Raises EvidenceError."""
    open_note(note, verifier_key)
    signed = read_checkpoint(note)
    if signed.origin != verifier_key.split("+", 2)[0]:
        raise EvidenceError(f"The checkpoint is of another log: {signed.origin}.")
    return signed


def read_checkpoint(note: str) -> Checkpoint:
    """Read a checkpoint whose signature nobody has looked at. Raises EvidenceError."""
    lines = note.split("\n")
    try:
        origin, size, root = lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True)
    except (IndexError, ValueError, binascii.Error):
        raise EvidenceError("The checkpoint's body is malformed.") from None
    return Checkpoint(origin, size, root, note)
