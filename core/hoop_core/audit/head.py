"""The log's signed head: with every commit, how many entries there are and the root of their tree.

Whoever can write to the store, but has not the key, cannot add, change or take out an entry and have the gateway
sign for it: the head would no longer fit, and nothing is appended to a log whose head does not fit. The key that
signs heads lives in the memory of one process; the log's own key, which may be in Vault, vouches for it.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hoop_core.audit.checkpoint import LogKey, Signer, open_note
from hoop_core.audit.merkle import Frontier
from hoop_core.audit.stored import Source, leaves, never_used
from hoop_core.errors import EvidenceError, StoreUnavailable
from hoop_core.model import Json

_HEAD, _WRITER = "hoop-log-head", "hoop-log-writer"
VERIFY = "Run `hoop audit verify` on the store; do not write to it any more."
NO_HEAD = (
    "Somebody took it away, or this log is of a Hoop without heads: run `hoop audit verify` with the --heads of your "
    "witnesses, and read about logs without a head in docs/evidence.md, before anything else."
)
_BEHIND = 2_000
"""Entries of other processes that are read while everybody waits."""


@dataclass(frozen=True, slots=True)
class Head:
    """As it is stored: `note` is signed by the writer, for whose key `writer` vouches."""

    size: int
    subtrees: bytes
    at: str
    """When the last entry was written."""
    checkpoints: str
    """A digest over all checkpoints: that none is taken away. See `chained`."""
    note: str
    writer: str


NOTHING = Head(0, b"", "", "", "", "")


def chained(checkpoints: str, note: str) -> str:
    """The digest (hex) over the checkpoints so far and one more."""
    return hashlib.sha256(f"{checkpoints}\n{note}".encode()).hexdigest()


Known = tuple[Frontier, str]
"""A tree, and the note of its head."""


class FarBehind(Exception):
    """Others have written more than is read while they wait."""


class KnownTree:
    """The log's tree as this process has seen it last, and the key that signs its heads."""

    def __init__(self, signer: Signer) -> None:
        self._log = signer
        self._key = LogKey(f"{signer.name}/writer", Ed25519PrivateKey.generate())
        self._voucher: str | None = None
        self._writers: dict[str, str] = {}
        self._becoming = threading.Lock()
        self.last: Known | None = None

    @property
    def size(self) -> int:
        last = self.last
        return 0 if last is None else last[0].size

    def vouch(self) -> None:
        """Have the log's key vouch for ours. It may be in Vault, so not while others wait. Raises StoreUnavailable."""
        if self._voucher is None:
            self._voucher = self._log.sign_note(_vouching(self._key.verifier_key))

    def of(
        self, source: Source, head: Head | None, *, most: int = _BEHIND, last: Known | None = None
    ) -> tuple[Frontier, Head]:
        """A copy of the tree that a stored head tells of, and that head; before the first one, nothing.

        Who reads without the log's lock gives what was known before: others may write and be known meanwhile.
        Raises StoreUnavailable for a head that is not genuine, or no later one of the tree that is known; and
        FarBehind when it would have to read more than `most` entries to see that.
        """
        last = last or self.last
        if head is None:
            if last is not None or not never_used(source):
                raise StoreUnavailable("The log's signed head is gone.", NO_HEAD)
            return Frontier(), NOTHING
        if last is not None and last[1] == head.note:
            return last[0].copy(), head
        try:
            tree = open_head(head, self._log.verifier_key, self._writers)
        except EvidenceError as e:
            raise StoreUnavailable(f"The log's head is not genuine. {e.message}", VERIFY) from None
        if last is not None:
            known = last[0].copy()
            if tree.size - known.size > most:
                raise FarBehind
            known.extend(leaves(source, known.size, tree.size))
            if known.size != tree.size or known.root() != tree.root():
                raise StoreUnavailable(
                    f"The log no longer holds its first {last[0].size} entries as they were.",
                    "Was the store set back to an earlier state? Run `hoop audit verify` on it.",
                )
        return tree, head

    def grown(self, tree: Frontier, rows: Iterable[Json], at: str, checkpoints: str) -> Head:
        """Add the rows' leaves to the tree, and sign it."""
        tree.extend(row["leaf"] for row in rows)
        self.vouch()
        text = _text(self._log.name, tree.size, tree.root(), at, checkpoints)
        note = self._key.sign_note(text)
        return Head(tree.size, tree.packed(), at, checkpoints, note, self._voucher or "")

    def became(self, tree: Frontier, head: Head) -> None:
        """What was written is durable, or what was read was there. What is larger is not forgotten for it."""
        with self._becoming:
            if tree.size >= self.size:
                self.last = tree, head.note


def open_head(head: Head, verifier_key: str, known: dict[str, str] | None = None) -> Frontier:
    """Check a head against the log's key. Raises EvidenceError. `known` keeps the writers that were checked."""
    known = {} if known is None else known
    writer = known.get(head.writer)
    if writer is None:
        text = open_note(head.writer, verifier_key)
        writer = text.removeprefix(f"{_WRITER}\n").removesuffix("\n")
        if text != _vouching(writer):
            raise EvidenceError("What should vouch for its writer is something else.")
        known[head.writer] = writer
    try:
        frontier = Frontier.of(head.size, head.subtrees)
    except ValueError as e:
        raise EvidenceError(f"It is malformed: {e}.") from None
    origin = verifier_key.split("+", 2)[0]
    told = _text(origin, head.size, frontier.root(), head.at, head.checkpoints)
    if open_note(head.note, writer) != told:
        raise EvidenceError("Its signature is of another head.")
    return frontier


def _vouching(writer_key: str) -> str:
    return f"{_WRITER}\n{writer_key}\n"


def _text(origin: str, size: int, root: bytes, at: str, checkpoints: str) -> str:
    encoded = base64.b64encode(root).decode()
    return f"{_HEAD}\n{origin}\n{size}\n{encoded}\nlast {at}\ncheckpoints {checkpoints}\n"
