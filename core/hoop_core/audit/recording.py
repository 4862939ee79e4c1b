"""Recordings: one folder per session with what the client asked and what it was shown.

Everything that lands here has passed the masks; each file's SHA-256 goes into the log, so that a
changed, missing or added file is found.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import IO, Any

import fsspec
import pyarrow as pa

from hoop_core.errors import StoreUnavailable
from hoop_core.model import Json

_SAFE = re.compile(r"[A-Za-z0-9._-]+\Z")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A stored file: its path below the recordings' root, size in bytes and SHA-256 (hex)."""

    path: str
    size: int
    sha256: str

    def as_json(self) -> Json:
        return {"path": self.path, "size": self.size, "sha256": self.sha256}


class PartWriter:
    """A recording in the making: bytes go to the file and into its digest."""

    def __init__(self, path: str, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._size, self._digest = 0, hashlib.sha256()

    def write(self, piece: bytes) -> None:
        try:
            self._file.write(piece)
        except OSError as e:
            raise _unwritable(self._path, e) from e
        self._size += len(piece)
        self._digest.update(piece)

    def close(self) -> Recorded:
        try:
            self._file.close()
        except OSError as e:
            raise _unwritable(self._path, e) from e
        return Recorded(self._path, self._size, self._digest.hexdigest())


class Recorder:
    """Writes and reads recordings under one fsspec URL."""

    def __init__(self, root: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(root)

    def put(self, session_id: str, name: str, content: bytes) -> Recorded:
        """Store one file. Raises StoreUnavailable; an existing file is never overwritten."""
        path = f"{_checked(session_id)}/{_checked(name)}"
        full = f"{self._root}/{path}"
        try:
            self._fs.makedirs(f"{self._root}/{session_id}", exist_ok=True)
            with self._fs.open(full, "xb") as f:
                f.write(content)
        except (OSError, ValueError) as e:
            raise _unwritable(path, e) from e
        return Recorded(path, len(content), hashlib.sha256(content).hexdigest())

    def open_part(self, session_id: str, name: str) -> PartWriter:
        """A file that is written as it streams by. Raises StoreUnavailable."""
        path = f"{_checked(session_id)}/{_checked(name)}"
        try:
            self._fs.makedirs(f"{self._root}/{session_id}", exist_ok=True)
            return PartWriter(path, self._fs.open(f"{self._root}/{path}", "xb"))
        except (OSError, ValueError) as e:
            raise _unwritable(path, e) from e

    def put_json(self, session_id: str, name: str, content: Json) -> Recorded:
        text = json.dumps(content, indent=1, sort_keys=True, default=str)
        return self.put(session_id, name, text.encode("utf-8", "backslashreplace"))

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
