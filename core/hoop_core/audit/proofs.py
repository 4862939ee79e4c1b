"""Proofs from the stored leaves: that an entry is in the log, and that one tree is the beginning of a later one.

Roots of full runs of leaves are kept in the store, so that a proof in a log of ten million entries reads a few
thousand of them. A kept root that is wrong gives a proof that does not lead to the signed root: every proof is
checked here before it is given away.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache

import structlog
from sqlalchemy import delete, insert, select

from hoop_core.audit.checkpoint import Checkpoint
from hoop_core.audit.merkle import (
    Frontier,
    consistency_proof,
    inclusion_proof,
    root_by_inclusion,
    root_of,
    subtrees_of,
)
from hoop_core.audit.stored import leaves
from hoop_core.errors import EvidenceError, StoreUnavailable
from hoop_core.store import Store
from hoop_core.store.tables import log_subtrees

_log = structlog.get_logger(__name__)
_LEVEL = 12
_RUN = 1 << _LEVEL
_AT_ONCE = 64
"""Runs whose roots are written in one transaction."""


class StoredTree:
    """The log's tree as far as `size` entries. Not for several threads."""

    def __init__(self, store: Store, size: int) -> None:
        self.size = size
        self._store = store
        self._runs: list[bytes] = []
        self._believes = True
        self._leaves = lru_cache(8)(self._read_run)
        self._ranges = lru_cache(4096)(self._root)

    def root(self) -> bytes:
        return self.root_of_range(0, self.size)

    def check(self, root: bytes) -> None:
        """`leads_to`. Raises EvidenceError, StoreUnavailable."""
        if not self.leads_to(root):
            raise EvidenceError(
                "The log's leaves do not lead to its signed root.", "Run `hoop audit verify`."
            )

    def leads_to(self, root: bytes) -> bool:
        """Whether this is the tree of that root. Kept roots that do not lead there are made anew."""
        if self.root() != root:
            self.forget()
        return self.root() == root

    def forget(self) -> None:
        """What was kept of this tree, here and in the store. Raises StoreUnavailable."""
        _log.error("kept roots of the log do not fit it, and are made anew")
        self._runs, self._believes = [], False
        self._leaves.cache_clear()
        self._ranges.cache_clear()
        with suppress(StoreUnavailable), self._store.write() as connection:
            connection.execute(delete(log_subtrees))

    def root_of_range(self, begin: int, end: int) -> bytes:
        """Raises StoreUnavailable where leaves are missing."""
        tree = Frontier()
        for level, at in subtrees_of(begin, end):
            # The first subtree begins at a multiple of its size, and they get smaller: they stack up from 0 as well.
            tree.append_subtree(level, self._ranges(level, at))
        return tree.root()

    def subtrees(self, begin: int, end: int) -> list[tuple[int, bytes]]:
        """Level and root of each full subtree that the leaves [begin, end) are made of."""
        return [(level, self._ranges(level, at)) for level, at in subtrees_of(begin, end)]

    def inclusion(self, seq: int) -> list[bytes]:
        return inclusion_proof(seq, self.size, self.root_of_range)

    def consistency(self, older: int) -> list[bytes]:
        return consistency_proof(older, self.size, self.root_of_range)

    def _root(self, level: int, at: int) -> bytes:
        if level < _LEVEL:
            first = at - at % _RUN
            return root_of(self._leaves(first)[at - first : at - first + (1 << level)])
        return root_of(self._run_roots(at >> _LEVEL, (at + (1 << level)) >> _LEVEL))

    def _read_run(self, first: int) -> list[bytes]:
        end = min(first + _RUN, self.size)
        with self._store.read() as connection:
            found = list(leaves(connection, first, end))
        if len(found) != end - first:
            raise StoreUnavailable(
                f"The log has a gap after entry {first + len(found) - 1}.",
                "Run `hoop audit verify` on the store.",
            )
        return found

    def _run_roots(self, begin: int, end: int) -> list[bytes]:
        """Of the full runs [begin, end); what is not kept yet is computed and kept."""
        if self._believes and len(self._runs) < end:
            columns = log_subtrees.c
            query = select(columns.number, columns.root).order_by(columns.number)
            with self._store.read() as connection:
                kept = connection.execute(query.where(columns.number >= len(self._runs))).all()
            for number, root in kept:
                if number != len(self._runs):
                    break
                self._runs.append(bytes(root))
        while len(self._runs) < end:
            first = len(self._runs)
            made = [
                root_of(self._read_run(number << _LEVEL))
                for number in range(first, min(first + _AT_ONCE, self.size >> _LEVEL))
            ]
            self._keep(first, made)
            self._runs += made
        return self._runs[begin:end]

    def _keep(self, first: int, roots: list[bytes]) -> None:
        try:
            with self._store.write() as connection:
                known = connection.scalars(
                    select(log_subtrees.c.number).where(log_subtrees.c.number >= first)
                )
                known_numbers = set(known)
                rows = [
                    {"number": number, "root": root}
                    for number, root in enumerate(roots, first)
                    if number not in known_numbers
                ]
                if rows:
                    connection.execute(insert(log_subtrees), rows)
        except StoreUnavailable:
            return  # a store that may only be read: the next proof computes them again


def checked_inclusion(tree: StoredTree, seq: int, leaf: bytes, signed: Checkpoint) -> list[bytes]:
    """A proof that the leaf is entry `seq` of the signed tree. Raises EvidenceError, StoreUnavailable."""
    path = tree.inclusion(seq)
    if root_by_inclusion(leaf, seq, signed.size, path) != signed.root:
        tree.forget()
        path = tree.inclusion(seq)
    if root_by_inclusion(leaf, seq, signed.size, path) != signed.root:
        raise EvidenceError(
            f"Entry {seq} is not as it was signed.",
            "Run `hoop audit verify` on the store: it names what was changed.",
        )
    return path
