"""Recordings: one folder per session with what the client asked and what it was shown.

Everything that lands here has passed the masks; each file's SHA-256 goes into the log, so that a
changed, missing or added file is found.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from hoop_core.errors import StoreUnavailable
from hoop_core.model import Json

_SAFE = re.compile(r"[A-Za-z0-9._-]+\Z")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What passed: size in bytes, SHA-256 (hex), and the file's path below the recordings' root; "" when only
    the digest is kept.
    """

    path: str
    size: int
    sha256: str

    def as_json(self) -> Json:
        told = {"size": self.size, "sha256": self.sha256}
        return {"path": self.path, **told} if self.path else told


class PartWriter:
    """A recording in the making: bytes go into its digest, and to the file if there is one."""

    def __init__(
        self,
        path: str = "",
        file: IO[bytes] | None = None,
        remove: Callable[[], None] = lambda: None,
    ) -> None:
        self._path, self._file, self._remove = path, file, remove
        self._size, self._digest = 0, hashlib.sha256()
        self._kept = False

    def write(self, *pieces: bytes) -> None:
        """Raises StoreUnavailable."""
        for piece in pieces:
            try:
                if self._file is not None:
                    self._file.write(piece)
            except OSError as e:
                raise _unwritable(self._path, e) from e
            self._size += len(piece)
            self._digest.update(piece)

    def close(self) -> Recorded:
        """Raises StoreUnavailable."""
        try:
            if self._file is not None:
                self._file.close()
        except OSError as e:
            raise _unwritable(self._path, e) from e
        self._kept = True
        return Recorded(self._path, self._size, self._digest.hexdigest())

    def discard(self) -> None:
        """Remove what was not closed. What stays all the same is in no log entry, and so no evidence."""
        if self._kept or self._file is None:
            return
        with suppress(OSError, ValueError):
            self._file.close()
        with suppress(OSError, ValueError):
            self._remove()


@dataclass(frozen=True, slots=True)
class Exchange:
    """Two files for one statement, opened while it still runs: to make a file takes longer than to fill it."""

    asked: PartWriter
    shown: PartWriter

    def write(self, content: Json, part: bytes) -> list[Recorded]:
        """What was asked and answered, and the first part of the result, if any. Raises StoreUnavailable."""
        self.asked.write(_text(content))
        if not part:
            self.shown.discard()
            return [self.asked.close()]
        self.shown.write(part)
        return [self.asked.close(), self.shown.close()]

    def discard(self) -> None:
        self.asked.discard()
        self.shown.discard()


class Recorder:
    """Writes and reads recordings under one fsspec URL."""

    def __init__(self, root: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(root)
        self.local = isinstance(self._fs, LocalFileSystem)
        """Whether a few bytes are written sooner than handed to a thread."""

    def open_part(self, session_id: str, name: str) -> PartWriter:
        """A file that is written as it streams by; one that is there is never overwritten.

        Raises StoreUnavailable.
        """
        path = f"{_checked(session_id)}/{_checked(name)}"
        full = f"{self._root}/{path}"
        try:
            try:
                file = self._fs.open(full, "xb")
            except FileNotFoundError:
                self._fs.makedirs(f"{self._root}/{session_id}", exist_ok=True)
                file = self._fs.open(full, "xb")
        except (OSError, ValueError) as e:
            raise _unwritable(path, e) from e
        return PartWriter(path, file, partial(self._fs.rm_file, full))

    def open_exchange(self, session_id: str, number: int) -> Exchange:
        """The files of a session's statement `number`. Raises StoreUnavailable."""
        asked = self.open_part(session_id, f"{number:05d}-exchange.json")
        try:
            return Exchange(asked, self.open_part(session_id, f"{number:05d}-part-00000.arrow"))
        except StoreUnavailable:
            asked.discard()
            raise

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
