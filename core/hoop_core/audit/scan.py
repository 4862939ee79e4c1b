"""Reading a whole stored log fast: every entry hashed and compared, on all cores, in flat memory.

What an entry says of itself stands at its two ends, for canonical JSON orders names: it is compared there, and
parsed only where it differs, to say what is wrong.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

from hoop_core.store import Store

_RUN = 1 << 14
"""Entries that one process takes at a time; a power of two, so that each run is one subtree."""
_ALONE = 32 * _RUN
"""Up to so many entries other processes are not worth starting."""
_PAGE = 1000
_QUERY = (
    "SELECT seq, kind, session_id, entry, leaf, at FROM log_entries "
    "WHERE seq >= {0} AND seq < {1} ORDER BY seq"
)
BACKWARDS = "is dated before the entry before it"
Row = tuple[int, bytes, bytes | None, bytes, bytes, bytes]
Subtrees = list[tuple[int, bytes]]


@dataclass(slots=True)
class Run:
    """What there is to say of the entries [begin, end)."""

    subtrees: Subtrees = field(default_factory=list)
    inner: list[tuple[int, Subtrees]] = field(default_factory=list)
    """For each size that was asked for: the subtrees from `begin` up to it."""
    faults: list[tuple[str, str]] = field(default_factory=list)
    pruned: list[tuple[int, int]] = field(default_factory=list)
    purged: list[tuple[int, int]] = field(default_factory=list)
    """Ranges, both ends included, that entries here tell to be pruned."""
    times: tuple[bytes, bytes] | None = None
    """Of the first and the last entry that has its text."""
    broken: bool = False
    """Whether an entry is missing, so that what follows has no place."""


def scan(store: Store, size: int, sizes: Sequence[int]) -> Iterator[Run]:
    """The runs of the first `size` entries in order. Raises StoreUnavailable."""
    tasks = [
        (begin, min(begin + _RUN, size), [s for s in sizes if begin < s <= begin + _RUN])
        for begin in range(0, size, _RUN)
    ]
    workers = os.cpu_count() or 1
    if size <= _ALONE or workers < 2:
        yield from (_run(store, *task) for task in tasks)
        return
    url = store.url.render_as_string(hide_password=False)
    context = multiprocessing.get_context(
        "spawn"
    )  # nothing of this process, its threads least of all
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        # A few tasks ahead: what is done early waits in memory.
        waiting = [pool.submit(_in_process, url, *task) for task in tasks[: 2 * workers]]
        for number in range(len(tasks)):
            if len(waiting) < len(tasks):
                waiting.append(pool.submit(_in_process, url, *tasks[len(waiting)]))
            yield waiting[number].result()


def _in_process(url: str, begin: int, end: int, sizes: list[int]) -> Run:
    store = Store(url)
    try:
        store.attach()
        return _run(store, begin, end, sizes)
    finally:
        store.close()


def _run(store: Store, begin: int, end: int, sizes: list[int]) -> Run:
    return check(_rows(store, begin, end), begin, end, sizes)


def _rows(store: Store, begin: int, end: int) -> Iterator[Row]:
    query = _QUERY.format(int(begin), int(end))
    if not store.shared:
        uri = f"file:{store.url.database}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            connection.text_factory = bytes
            yield from connection.execute(query)
        return
    with store.read() as connection:
        for seq, kind, session, entry, leaf, at in connection.exec_driver_sql(query):
            yield (
                seq, kind.encode(), None if session is None else session.encode(),
                entry.encode("utf-8", "surrogatepass"), bytes(leaf), at.encode(),
            )  # fmt: skip


def check(rows: Iterable[Row], begin: int, end: int, sizes: Sequence[int]) -> Run:
    """One run of rows, which should be the entries [begin, end)."""
    run, leaves, sha256 = Run(), [], hashlib.sha256
    expected, began, before = begin, b"", b""
    for row in rows:
        seq, kind, session, entry, leaf, at = row
        if seq != expected:
            break
        expected += 1
        if not entry:
            leaves.append(bytes(leaf).ljust(32, b"\0")[:32])
            _pruned(run, seq)
            continue
        made = sha256(b"\x00" + entry).digest()  # leaf_hash, without the call
        leaves.append(made)
        told = b"null" if session is None else b'"%b"' % session
        if (
            made != leaf
            or not entry.endswith(b',"kind":"%b","seq":%d,"session":%b}' % (kind, seq, told))
            or not entry.startswith(b'{"at":"%b","data":' % at)
        ):
            run.faults.append((f"entry {seq}", _wrong(row, made)))
        if at < before:
            run.faults.append((f"entry {seq}", BACKWARDS))
        began, before = began or at, at
        if kind == b"log.pruned":
            run.purged += _told(entry)
    if expected != end:
        run.faults.append((f"entry {expected}", "is missing"))
        run.broken = True
    levels = _levels(leaves)
    run.inner = [(s, _subtrees(levels, s - begin)) for s in sizes if s <= expected]
    run.subtrees = _subtrees(levels, len(leaves))
    run.times = (began, before) if before else None
    return run


def _pruned(run: Run, seq: int) -> None:
    if run.pruned and run.pruned[-1][1] == seq:
        run.pruned[-1] = run.pruned[-1][0], seq + 1
    else:
        run.pruned.append((seq, seq + 1))


def _levels(leaves: list[bytes]) -> list[list[bytes]]:
    """The roots of all full subtrees, level by level, which is faster than one by one; each is made once."""
    levels, sha256 = [leaves], hashlib.sha256
    while len(below := levels[-1]) > 1:
        levels.append(
            [
                sha256(b"\x01" + left + right).digest()
                for left, right in zip(below[::2], below[1::2], strict=False)
            ]
        )
    return levels


def _subtrees(levels: list[list[bytes]], count: int) -> Subtrees:
    """The full subtrees that the first `count` leaves are made of, the largest first."""
    told = (level for level in reversed(range(count.bit_length())) if count >> level & 1)
    return [(level, levels[level][(count >> level) - 1]) for level in told]


def _wrong(row: Row, made: bytes) -> str:
    seq, kind, session, entry, leaf, at = row
    try:
        parsed = json.loads(entry)
        told = (parsed["seq"], parsed["kind"], parsed["session"], parsed["at"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "is not an entry"
    if made != leaf:
        return "was changed: its leaf hash differs"
    filed = (seq, kind.decode(), None if session is None else session.decode(), at.decode())
    if told != filed:
        return "is filed under another number, kind, session or time than it says"
    return "is not canonical JSON"


def _told(entry: bytes) -> list[tuple[int, int]]:
    """The ranges of entries that a purge record names."""
    try:
        return [(int(a), int(b)) for a, b in json.loads(entry)["data"]["entries"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
