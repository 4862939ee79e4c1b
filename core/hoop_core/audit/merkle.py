"""RFC 6962 Merkle trees (section 2.1): hashing, a frontier that lets a tree grow in O(log n), and proofs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

EMPTY_ROOT = hashlib.sha256(b"").digest()
_DIGEST = 32


def leaf_hash(entry: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(slots=True)
class Frontier:
    """The roots of the perfect subtrees of a tree, largest first: all that appending needs."""

    size: int = 0
    _subtrees: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, size: int, subtrees: bytes) -> Frontier:
        """What `packed` gave. Raises ValueError."""
        if size < 0 or len(subtrees) != size.bit_count() * _DIGEST:
            raise ValueError("this many leaves have another number of subtrees")
        parts = range(0, len(subtrees), _DIGEST)
        return cls(size, [subtrees[at : at + _DIGEST] for at in parts])

    def packed(self) -> bytes:
        return b"".join(self._subtrees)

    def subtrees(self) -> list[tuple[int, bytes]]:
        """Level and root of each."""
        levels = [n for n in range(self.size.bit_length()) if self.size >> n & 1]
        return list(zip(reversed(levels), self._subtrees, strict=True))

    def copy(self) -> Frontier:
        return Frontier(self.size, self._subtrees.copy())

    def append(self, leaf: bytes) -> None:
        self.append_subtree(0, leaf)

    def append_subtree(self, level: int, root: bytes) -> None:
        """The root of the next 2**level leaves at once. Raises ValueError where such a subtree cannot begin."""
        if self.size & ((1 << level) - 1):
            raise ValueError("a subtree begins at a multiple of its size")
        self._subtrees.append(root)
        self.size += 1 << level
        merges = (
            (self.size & -self.size).bit_length() - 1 - level
        )  # trailing zero bits of the new size
        for _ in range(merges):
            right = self._subtrees.pop()
            self._subtrees.append(node_hash(self._subtrees.pop(), right))

    def extend(self, leaves: Iterable[bytes]) -> None:
        for leaf in leaves:
            self.append_subtree(0, leaf)

    def root(self) -> bytes:
        if not self._subtrees:
            return EMPTY_ROOT
        root = self._subtrees[-1]
        for left in reversed(self._subtrees[:-1]):
            root = node_hash(left, root)
        return root


def root_of(leaves: Iterable[bytes]) -> bytes:
    frontier = Frontier()
    frontier.extend(leaves)
    return frontier.root()


RootOfRange = Callable[[int, int], bytes]
"""The Merkle tree hash of the leaves [begin, end), which are a subtree of the whole tree."""


def subtrees_of(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The largest perfect subtrees of which the leaves [begin, end) are made, in order: (level, first leaf)."""
    while begin < end:
        level = (end - begin).bit_length() - 1
        if begin:
            level = min(level, (begin & -begin).bit_length() - 1)
        yield level, begin
        begin += 1 << level


def inclusion_proof(index: int, size: int, root_of_range: RootOfRange) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1. Raises ValueError."""
    if not 0 <= index < size:
        raise ValueError("the tree has no such leaf")
    begin, end, path = 0, size, []
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            path.append(root_of_range(middle, end))
            end = middle
        else:
            path.append(root_of_range(begin, middle))
            begin = middle
    return path[::-1]


def root_by_inclusion(leaf: bytes, index: int, size: int, path: Iterable[bytes]) -> bytes:
    """The root that an inclusion proof leads to. Raises ValueError for one of another length."""
    if not 0 <= index < size:
        raise ValueError("the tree has no such leaf")
    begin, end = 0, size
    rights: list[bool] = []
    while end - begin > 1:
        middle = begin + _split(end - begin)
        rights.append(index < middle)
        begin, end = (begin, middle) if index < middle else (middle, end)
    root = leaf
    for right, other in zip(reversed(rights), path, strict=True):
        root = node_hash(root, other) if right else node_hash(other, root)
    return root


def consistency_proof(older: int, size: int, root_of_range: RootOfRange) -> list[bytes]:
    """PROOF(older, D[size]) of RFC 6962 section 2.1.2. Raises ValueError."""
    if not 0 < older <= size:
        raise ValueError(
            "only a smaller tree that has leaves is proven to be the beginning of another"
        )
    begin, end, path = 0, size, []
    while older < end:
        middle = begin + _split(end - begin)
        if older <= middle:
            path.append(root_of_range(middle, end))
            end = middle
        else:
            path.append(root_of_range(begin, middle))
            begin = middle
    if begin:
        path.append(root_of_range(begin, end))
    return path[::-1]


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)
