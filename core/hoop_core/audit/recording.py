"""Recordings: one folder per session with what the client asked and what it was shown.

Everything that lands here has passed the masks; each file's SHA-256 goes into the log, so that a
changed, missing or added file is found. Files may be encrypted (sealing.py); then the log has both digests,
of what lies there and of what was shown.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import IO, Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from hoop_core.audit.recording_keys import RecordingKeys, SessionKey
from hoop_core.audit.sealing import Sealer
from hoop_core.errors import StoreUnavailable
from hoop_core.model import Json

MOST_BYTES = 512 << 20
"""Of one recorded file, for those who read it whole. Snowflake's own parts are some tens of megabytes."""
_MOST_ROOMS = 10_000
_SAFE = re.compile(r"[A-Za-z0-9._-]+\Z")


@dataclass(frozen=True, slots=True)
class Digest:
    """Size in bytes, and SHA-256 (hex)."""

    size: int
    sha256: str

    def as_json(self) -> Json:
        return {"size": self.size, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What passed: the file's path below the recordings' root, "" when only the digest is kept, and why that is so
    where it was cut (`Cut`). Of an encrypted file `stored` is what lies there, and `shown` what passed.
    """

    path: str
    stored: Digest
    shown: Digest | None = None
    key: SessionKey | None = None
    cut: str = ""

    def as_json(self) -> Json:
        told = (
            self.stored.as_json() if not self.path else {"path": self.path, **self.stored.as_json()}
        )
        if self.shown is not None and self.key is not None:
            told |= {"shown": self.shown.as_json(), "key": self.key.as_json()}
        return told | {"cut": self.cut} if self.cut else told


class Cut(StrEnum):
    """Why of something that was shown the digest alone is kept."""

    PART = "part_bytes"
    SESSION = "session_bytes"


class Room:
    """How much of a session may still be recorded, in bytes. For any thread."""

    def __init__(self, left: int) -> None:
        self._left, self._lock = left, threading.Lock()

    def take(self, size: int) -> bool:
        """Whether there was room; else nothing is taken."""
        with self._lock:
            if size > self._left:
                return False
            self._left -= size
            return True

    def spend(self, size: int) -> None:
        """For what is recorded in any case."""
        with self._lock:
            self._left -= size


class _Tally:
    def __init__(self) -> None:
        self._size, self._digest = 0, hashlib.sha256()

    @property
    def size(self) -> int:
        return self._size

    def add(self, content: bytes) -> None:
        self._size += len(content)
        self._digest.update(content)

    def digest(self) -> Digest:
        return Digest(self._size, self._digest.hexdigest())


@dataclass(frozen=True, slots=True)
class Caps:
    """Of one part, and what is left of its session; None: no limit. What is kept `whole` counts, and is not cut."""

    part: int | None = None
    session: Room | None = None
    whole: bool = False


_NO_CAPS = Caps()


class PartWriter:
    """A recording in the making: bytes go into its digest, and to the file if there is one, encrypted if there is a
    key. What outgrows a cap is removed, and its digest goes on.
    """

    def __init__(
        self,
        path: str = "",
        file: IO[bytes] | None = None,
        remove: Callable[[], None] = lambda: None,
        *,
        key: SessionKey | None = None,
        caps: Caps = _NO_CAPS,
    ) -> None:
        self._path, self._file, self._remove = path, file, remove
        self._key, self._caps = key, caps
        self._sealer = None if key is None else Sealer(key.key, path)
        self._shown, self._stored = _Tally(), _Tally()
        self._cut: Cut | None = None
        self._kept = False

    def write(self, *pieces: bytes) -> None:
        """Raises StoreUnavailable."""
        for piece in pieces:
            self._shown.add(piece)
            if self._file is not None and self._cut is None:
                self._cut = self._over(len(piece))
                if self._cut is None:
                    self._store(piece if self._sealer is None else self._sealer.seal(piece))
                else:
                    self._withdraw()

    def _over(self, more: int) -> Cut | None:
        """Which cap the next bytes would break."""
        if self._caps.part is not None and self._shown.size > self._caps.part:
            return Cut.PART
        room = self._caps.session
        if room is not None and self._caps.whole:
            room.spend(more)
        elif room is not None and not room.take(more):
            return Cut.SESSION
        return None

    def _store(self, content: bytes) -> None:
        try:
            if self._file is not None:
                self._file.write(content)
        except OSError as e:
            raise _unwritable(self._path, e) from e
        if self._sealer is not None:  # else it is what was shown
            self._stored.add(content)

    def close(self) -> Recorded:
        """Raises StoreUnavailable."""
        if self._file is None or self._cut is not None:
            self._kept = True
            return Recorded("", self._shown.digest(), cut=self._cut or "")
        if self._sealer is not None:
            self._store(self._sealer.end())
        try:
            self._file.close()
        except OSError as e:
            raise _unwritable(self._path, e) from e
        self._kept = True
        if self._sealer is None:
            return Recorded(self._path, self._shown.digest())
        return Recorded(self._path, self._stored.digest(), self._shown.digest(), self._key)

    def discard(self) -> None:
        """Remove what was not closed. What stays all the same is in no log entry, and so no evidence."""
        if not self._kept and self._file is not None:
            self._withdraw()

    def _withdraw(self) -> None:
        file, self._file = self._file, None
        with suppress(OSError, ValueError):
            if file is not None:
                file.close()
        with suppress(OSError, ValueError):
            self._remove()


@dataclass(frozen=True, slots=True)
class Exchange:
    """Two files for one statement, opened while it still runs: to make a file takes longer than to fill it."""

    asked: PartWriter
    shown: PartWriter

    def write(self, content: Json, part: bytes) -> tuple[list[Recorded], Recorded | None]:
        """What was asked and answered, and the first part of the result, if any. The files that are kept, and the
        part's digest where a cap cut it. Raises StoreUnavailable.
        """
        self.asked.write(_text(content))
        if not part:
            self.shown.discard()
            return [self.asked.close()], None
        self.shown.write(part)
        kept = [self.asked.close(), self.shown.close()]
        cut = next((r for r in kept if r.cut), None)
        return [r for r in kept if r is not cut], cut

    def discard(self) -> None:
        self.asked.discard()
        self.shown.discard()


class Recorder:
    """Writes and reads recordings under one fsspec URL."""

    def __init__(
        self,
        root: str,
        *,
        keys: RecordingKeys | None = None,
        part_bytes: int = 0,
        session_bytes: int = 0,
    ) -> None:
        """With `keys` everything that is written is encrypted. `part_bytes` and `session_bytes` are the most that is
        kept of one part of a result and of one session, before it is encrypted; 0: no limit.
        """
        self._fs, self._root = fsspec.core.url_to_fs(root)
        self._keys = keys
        self._part_bytes, self._session_bytes = part_bytes, session_bytes
        self._rooms: OrderedDict[str, Room] = OrderedDict()
        self._rooms_lock = threading.Lock()
        self.local = isinstance(self._fs, LocalFileSystem)
        """Whether a few bytes are written sooner than handed to a thread."""

    def open_part(self, session_id: str, name: str, *, whole: bool = False) -> PartWriter:
        """A file that is written as it streams by; one that is there is never overwritten. A `whole` one counts for
        the session and is not cut. Raises StoreUnavailable.
        """
        path = f"{_checked(session_id)}/{_checked(name)}"
        key = self._key(session_id)
        caps = Caps(None if whole else self._part_bytes or None, self._room(session_id), whole)
        full = f"{self._root}/{path}"
        file = self._made(session_id, path)
        return PartWriter(path, file, partial(self._fs.rm_file, full), key=key, caps=caps)

    def ready(self, session_id: str) -> bool:
        """Whether a session can be recorded without asking anybody else first."""
        return self._keys is None or self._keys.known(session_id) is not None

    def prepare(self, session_id: str) -> None:
        """Have a key for the session's recordings. Raises StoreUnavailable: then nothing can be recorded."""
        self._key(session_id)

    def _key(self, session_id: str) -> SessionKey | None:
        if self._keys is None:
            return None

        def store(path: str, content: bytes) -> None:
            try:
                with self._made(_checked(session_id), path) as file:
                    file.write(content)
            except OSError as e:
                raise _unwritable(path, e) from e

        return self._keys.made(session_id, store)

    def _room(self, session_id: str) -> Room | None:
        """What is left to a session: what lies there already counts, for it may have come from another process."""
        if not self._session_bytes:
            return None
        with self._rooms_lock:
            room = self._rooms.get(session_id)
        if room is None:
            try:
                there = self._fs.du(f"{self._root}/{session_id}")
            except OSError:
                there = 0
            room = Room(self._session_bytes - int(there))
        with self._rooms_lock:
            room = self._rooms.setdefault(session_id, room)
            self._rooms.move_to_end(session_id)
            if len(self._rooms) > _MOST_ROOMS:
                self._rooms.popitem(last=False)
        return room

    def _made(self, session_id: str, path: str) -> IO[bytes]:
        full = f"{self._root}/{path}"
        try:
            try:
                file: IO[bytes] = self._fs.open(full, "xb")
            except FileNotFoundError:
                self._fs.makedirs(f"{self._root}/{session_id}", exist_ok=True)
                file = self._fs.open(full, "xb")
        except (OSError, ValueError) as e:
            raise _unwritable(path, e) from e
        return file

    def open_exchange(self, session_id: str, number: int) -> Exchange:
        """The files of a session's statement `number`. Raises StoreUnavailable."""
        asked = self.open_part(session_id, f"{number:05d}-exchange.json", whole=True)
        try:
            return Exchange(asked, self.open_part(session_id, f"{number:05d}-part-00000.arrow"))
        except StoreUnavailable:
            asked.discard()
            raise

    def digest(self, path: str) -> str:
        """SHA-256 (hex) of a file as it is stored. Raises StoreUnavailable when it is not there."""
        session_id, _, name = path.partition("/")
        full = f"{self._root}/{_checked(session_id)}/{_checked(name)}"
        try:
            with self._fs.open(full, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as e:
            raise StoreUnavailable(
                f"The recording {path} cannot be read: {type(e).__name__}."
            ) from e

    def read(self, path: str) -> bytes:
        """Raises StoreUnavailable when the file is not there."""
        session_id, _, name = path.partition("/")
        full = f"{self._root}/{_checked(session_id)}/{_checked(name)}"
        try:
            content: bytes = self._fs.cat_file(full)
        except OSError as e:
            raise StoreUnavailable(
                f"The recording {path} cannot be read: {type(e).__name__}."
            ) from e
        return content


def _text(content: Json) -> bytes:
    text = json.dumps(content, sort_keys=True, default=str)
    return text.encode("utf-8", "backslashreplace")


def _unwritable(path: str, error: Exception) -> StoreUnavailable:
    return StoreUnavailable(
        f"The recording {path} cannot be written: {type(error).__name__}.",
        "Check store.recordings: the folder must be there and have space.",
    )


def _checked(part: str) -> str:
    if not _SAFE.match(part) or part.startswith("."):
        raise StoreUnavailable(f"{part!r} is not a name for a recording.")
    return part


def rowset_to_arrow(rowtype: list[dict[str, Any]], rowset: list[list[Any]]) -> bytes:
    """A JSON rowset as an Arrow IPC stream of strings, so that all results are recorded alike."""
    columns = list(zip(*rowset, strict=True)) if rowset else [()] * len(rowtype)
    arrays = [
        pa.array([None if v is None else str(v) for v in column], pa.string()) for column in columns
    ]
    table = pa.Table.from_arrays(arrays, names=[str(c.get("name", "")) for c in rowtype])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
