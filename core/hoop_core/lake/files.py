"""The folder of Parquet files: entries/day=2026-01-31/<first>-<last>.parquet, and results/ alike.

`first` and `last` are the sequence numbers of the whole batch that a file is of. Batches do not overlap and leave no
gap, so who reads all files reads each entry once.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from hoop_core.errors import ConfigError, StoreUnavailable
from hoop_core.lake.rows import ENTRIES, RESULTS

SCHEMAS = {"entries": ENTRIES, "results": RESULTS}
_NAME = re.compile(
    r"(?P<what>entries|results)/day=(?P<day>\d{4}-\d\d-\d\d)/(?P<first>\d{16})-(?P<last>\d{16})\.parquet\Z"
)
_GROUP = 5000
_DAY = ds.partitioning(pa.schema([("day", pa.date32())]), flavor="hive")


@dataclass(frozen=True, slots=True)
class LakeFile:
    what: str
    day: date
    first: int
    last: int

    @property
    def path(self) -> str:
        """Below the root."""
        return f"{self.what}/day={self.day}/{self.first:016d}-{self.last:016d}.parquet"


class Lake:
    """Raises ConfigError for a root that is none, StoreUnavailable in every method."""

    def __init__(self, root: str) -> None:
        try:
            self._fs, found = fsspec.core.url_to_fs(root)
        except (ImportError, OSError, ValueError) as e:
            raise ConfigError(
                f"lake.root is no place for files: {type(e).__name__}.",
                "Give a folder, or an fsspec URL whose package is installed (s3fs, gcsfs, adlfs).",
            ) from None
        self._root = str(found).rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    @contextmanager
    def writing(self, file: LakeFile) -> Iterator[pq.ParquetWriter]:
        """A file that is there whole when this ends, or not at all; one of the same name is replaced."""
        full = f"{self._root}/{file.path}"
        with _told(file.path):
            made = self._beside(full) if self._local else tempfile.mkstemp(suffix=".parquet")
            partial = Path(made[1])
            try:
                with os.fdopen(made[0], "wb") as opened:
                    with pq.ParquetWriter(opened, SCHEMAS[file.what], compression="zstd") as writer:
                        yield writer
                    opened.flush()
                    os.fsync(opened.fileno())
                if self._local:
                    _renamed(partial, Path(full))
                else:  # an object shows when all of it is there
                    self._fs.makedirs(full.rpartition("/")[0], exist_ok=True)
                    self._fs.put_file(str(partial), full)
            finally:
                with suppress(OSError):
                    partial.unlink(missing_ok=True)

    def _beside(self, full: str) -> tuple[int, str]:
        """A new file, under a name that readers pass over. What a crash left of the same one goes first: it may hold
        what was pruned since.
        """
        target = Path(full)
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{target.name}.*"):
            left.unlink(missing_ok=True)
        return tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)

    def files(self, what: str) -> list[LakeFile]:
        """Those that are there, in order."""
        with _told(what):
            self._fs.invalidate_cache()
            found = self._fs.glob(f"{self._root}/{what}/*/*.parquet")
        matches = (_NAME.search(str(path)) for path in found)
        return sorted(
            (
                LakeFile(m["what"], date.fromisoformat(m["day"]), int(m["first"]), int(m["last"]))
                for m in matches
                if m is not None and m["what"] == what
            ),
            key=lambda f: (f.first, f.day),
        )

    def rows(self, file: LakeFile, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """All of a file's rows; none if it is gone."""
        with _told(file.path):
            try:
                with self._fs.open(f"{self._root}/{file.path}", "rb") as opened:
                    found: list[dict[str, Any]] = pq.read_table(
                        opened, columns=columns and list(columns), partitioning=None
                    ).to_pylist()
            except FileNotFoundError:
                return []
        return found

    def remove(self, file: LakeFile) -> None:
        with _told(file.path), suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{file.path}")

    def dataset(self, what: str) -> Any:
        """All files of a kind, for engines that read Arrow: a pyarrow Dataset."""
        schema = pa.unify_schemas([SCHEMAS[what], _DAY.schema])
        paths = [f"{self._root}/{f.path}" for f in self.files(what)]
        if not paths:
            return ds.dataset(pa.table({n: [] for n in schema.names}, schema=schema))
        files = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self._fs))
        with _told(what):
            return ds.dataset(
                paths,
                schema=schema,
                format="parquet",
                filesystem=files,
                partitioning=_DAY,
                partition_base_dir=f"{self._root}/{what}",
            )


def write_rows(writer: pq.ParquetWriter, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """In groups, so that memory stays flat."""
    left = iter(rows)
    while group := list(islice(left, _GROUP)):
        writer.write_table(pa.Table.from_pylist(group, schema=schema))


def _renamed(partial: Path, full: Path) -> None:
    """In place of what was there; it survives a loss of power, as the note does that it was written."""
    partial.chmod(0o640)
    partial.replace(full)
    folder = os.open(full.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, pa.ArrowException) as e:
        raise StoreUnavailable(
            f"The Parquet files ({what}) cannot be read or written: {type(e).__name__}.",
            "Check lake.root: the folder must be there and have space.",
        ) from e
