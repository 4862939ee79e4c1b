"""Telling others of the log's checkpoints, so that a history that is rewritten with our own key is caught, too.

A witness is a file or an object store that Hoop can only add to, or somebody who speaks C2SP tlog-witness and
signs only what follows from what it has seen before. https://c2sp.org/tlog-witness https://c2sp.org/tlog-cosignature
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import fsspec
import httpx
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hoop_core.audit.checkpoint import Checkpoint, open_checkpoint, read_checkpoint
from hoop_core.audit.standalone import notes_of
from hoop_core.config import WitnessSettings
from hoop_core.errors import ConfigError, EvidenceError, StoreUnavailable

_SECONDS = 10.0
_COSIGNATURE = b"\x04"
_LARGEST_ANSWER = 64 << 10
_LONGEST_SIZE = 19
"""Digits."""
_OBJECT = re.compile(r"checkpoint-([0-9]{20})\.txt", re.ASCII)
_log = structlog.get_logger(__name__)
Proof = Callable[[int], Sequence[bytes]]
"""That the tree of so many entries is the beginning of the present one."""


class Disagrees(StoreUnavailable):
    """A witness knows something else than this log. `knows`: of how many entries, where it says so."""

    knows: int | None = None


class Witness(Protocol):
    """Raises StoreUnavailable where it cannot be told, and Disagrees."""

    @property
    def name(self) -> str: ...

    blind: ClassVar[bool]
    """Whether it cannot be asked what it knows."""

    def tell(self, signed: Checkpoint, known: int, proof: Proof) -> str:
        """Put down a checkpoint; `known` is the size that it was told of last. Returns what it says of it: the note,
        perhaps with more signatures.
        """

    def newest(self) -> str | None:
        """The note of the largest tree that it knows of, if it can be asked. What the log's key has not signed is
        passed over.
        """


@dataclass(frozen=True, slots=True)
class FileWitness:
    blind: ClassVar[bool] = False
    name: str
    file: Path
    log_key: str

    def tell(self, signed: Checkpoint, known: int, proof: Proof) -> str:
        try:
            with self.file.open("a+b") as file:
                # What a crash has torn off must not spoil what follows.
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 1))
                torn = end > 0 and file.read(1) != b"\n"
                file.write((b"\n" if torn else b"") + signed.note.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            raise self._failed(e) from None
        return signed.note

    def newest(self) -> str | None:
        try:
            notes = notes_of(self.file.read_text(encoding="utf-8", errors="replace"))
        except FileNotFoundError:
            return None
        except OSError as e:
            raise self._failed(e) from None
        # Several replicas write: the last one need not be the largest.
        for note in sorted(notes, key=_size_told, reverse=True):
            if _signed_size(self.name, note, self.log_key) is not None:
                return note
        return None

    def _failed(self, error: Exception) -> StoreUnavailable:
        return _unreached(self.name, f"{self.file}: {type(error).__name__}")


@dataclass(frozen=True, slots=True)
class FolderWitness:
    """One object for each size; an object that is there already is never written again."""

    blind: ClassVar[bool] = False
    name: str
    folder: str
    log_key: str

    def tell(self, signed: Checkpoint, known: int, proof: Proof) -> str:
        fs, root = fsspec.core.url_to_fs(self.folder)
        path = f"{root}/checkpoint-{signed.size:020d}.txt"
        try:
            fs.makedirs(root, exist_ok=True)
            if fs.exists(path):
                if fs.cat_file(path) != signed.note.encode():
                    raise _disagrees(self.name, f"it knows another tree of {signed.size} entries")
            else:
                with fs.open(path, "xb") as file:
                    file.write(signed.note.encode())
        except (OSError, ValueError, NotImplementedError) as e:
            raise _unreached(self.name, type(e).__name__) from None
        return signed.note

    def newest(self) -> str | None:
        fs, root = fsspec.core.url_to_fs(self.folder)
        try:
            paths = [str(path) for path in fs.ls(root, detail=False)]
            for path in sorted(paths, key=_object_size, reverse=True):
                if (size := _object_size(path)) >= 0:
                    note = fs.cat_file(path).decode("utf-8", "replace")
                    if _signed_size(self.name, note, self.log_key) == size:
                        return str(note)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as e:
            raise _unreached(self.name, type(e).__name__) from None
        return None


class HttpWitness:
    """Somebody else's witness: what it cosigns is checked against its key."""

    blind: ClassVar[bool] = True

    def __init__(self, name: str, url: str, key: str) -> None:
        self.name, self._url = name, url.rstrip("/")
        self._cosigner = _Cosigner(key)

    def newest(self) -> str | None:
        return None  # it says so when it is told of something that does not follow

    def tell(self, signed: Checkpoint, known: int, proof: Proof) -> str:
        if signed.size == 0:
            return signed.note  # nothing can be proven of nothing
        answer = self._asked(signed, known, proof)
        if answer.status_code == httpx.codes.CONFLICT:
            told = answer.text.strip()
            knows = int(told) if told.isdecimal() and len(told) <= _LONGEST_SIZE else None
            if knows is None or knows == known or knows > signed.size:
                why = f"it knows a log of {told[:20]!r} entries"
                raise _disagrees(self.name, why, knows)
            answer = self._asked(signed, knows, proof)
        if answer.status_code in (httpx.codes.CONFLICT, httpx.codes.UNPROCESSABLE_ENTITY):
            raise _disagrees(self.name, f"it answered {answer.status_code}")
        if answer.status_code != httpx.codes.OK:
            raise _unreached(self.name, f"it answered {answer.status_code}")
        return signed.note + self._cosigner.checked(answer.text, signed.note)

    def _asked(self, signed: Checkpoint, old: int, proof: Proof) -> httpx.Response:
        nodes = proof(old) if 0 < old < signed.size else ()
        lines = [f"old {old}", *(base64.b64encode(n).decode() for n in nodes), "", signed.note]
        try:
            with (
                httpx.Client(timeout=_SECONDS, trust_env=False) as client,
                client.stream("POST", f"{self._url}/add-checkpoint", content="\n".join(lines)) as r,
            ):
                content = b""
                for chunk in r.iter_bytes():
                    content += chunk
                    if len(content) > _LARGEST_ANSWER:
                        raise _disagrees(self.name, "its answer is too long")
                return httpx.Response(r.status_code, content=content)
        except httpx.HTTPError as e:
            raise _unreached(self.name, type(e).__name__) from None


class _Cosigner:
    """Raises ConfigError for what is no cosigner's verifier key."""

    def __init__(self, key: str) -> None:
        try:
            self.name, identifier, encoded = key.split("+", 2)
            blob = base64.b64decode(encoded, validate=True)
            known = hashlib.sha256(self.name.encode() + b"\n" + blob).digest()[:4]
            if blob[:1] != _COSIGNATURE or known.hex() != identifier:
                raise ValueError
            self._id, self._public = known, Ed25519PublicKey.from_public_bytes(blob[1:])
        except (ValueError, binascii.Error):
            raise ConfigError(
                "A witness_key is no verifier key of a cosigner (name+hash+key).",
                "Copy it from who runs the witness.",
            ) from None

    def checked(self, answer: str, note: str) -> str:
        """Its signature line. Raises StoreUnavailable."""
        body = note.partition("\n\n")[0] + "\n"
        for line in answer.splitlines():
            words = line.split(" ")
            if len(words) != 3 or words[:2] != ["\u2014", self.name]:
                continue
            try:
                blob = base64.b64decode(words[2], validate=True)
                if blob[:4] != self._id or len(blob) != 4 + 8 + 64:
                    continue
                time = int.from_bytes(blob[4:12], "big")
                told = f"cosignature/v1\ntime {time}\n{body}".encode()
                self._public.verify(blob[12:], told)
            except (binascii.Error, InvalidSignature):
                raise _disagrees(self.name, "its signature is wrong") from None
            return f"{line}\n"
        raise _disagrees(self.name, "it did not sign")


def witnesses_of(settings: Sequence[WitnessSettings], log_key: str) -> list[Witness]:
    """`log_key` is the log's verifier key. Raises ConfigError."""
    names = [s.name for s in settings]
    if len(set(names)) != len(names):
        raise ConfigError("Two witnesses have the same name.", "Names tell how far each was told.")
    return [_witness(s, log_key) for s in settings]


def _witness(settings: WitnessSettings, log_key: str) -> Witness:
    if settings.file is not None:
        return FileWitness(settings.name, settings.file, log_key)
    if settings.folder is not None:
        return FolderWitness(settings.name, settings.folder, log_key)
    return HttpWitness(settings.name, settings.url or "", settings.witness_key)


def _unreached(name: str, why: str) -> StoreUnavailable:
    return StoreUnavailable(
        f"The witness {name} cannot be told of the log ({why}).", "It is tried again."
    )


def _disagrees(name: str, why: str, knows: int | None = None) -> Disagrees:
    error = Disagrees(
        f"The witness {name} does not agree with this log: {why}.",
        "Run `hoop audit verify` with --heads of that witness; do not write to the log any more.",
    )
    error.knows = knows
    return error


def _signed_size(name: str, note: str, log_key: str) -> int | None:
    """None, and a line in the process's log, where the log's key has not signed it."""
    try:
        return open_checkpoint(note, log_key).size
    except EvidenceError as e:
        _log.error("a note at a witness is not the log's", witness=name, why=e.message)
        return None


def _size_told(note: str) -> int:
    try:
        return read_checkpoint(note).size
    except EvidenceError:
        return -1


def _object_size(path: str) -> int:
    found = _OBJECT.fullmatch(path.rpartition("/")[2])
    return int(found[1]) if found else -1
