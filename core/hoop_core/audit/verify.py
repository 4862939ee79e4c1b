"""Verification of a bundle or a store by somebody who does not trust whoever handed it over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import reduce
from pathlib import Path

from sqlalchemy import func, select

from hoop_core.audit import standalone
from hoop_core.audit.checkpoint import open_checkpoint, read_checkpoint
from hoop_core.audit.head import Head, chained, open_head
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.merkle import Frontier
from hoop_core.audit.recording import Recorder
from hoop_core.audit.scan import BACKWARDS, Run, scan
from hoop_core.audit.stored import stored_checkpoints_in, stored_entries
from hoop_core.errors import EvidenceError, StoreUnavailable
from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import log_checkpoints, log_entries, log_head, log_witnesses

_AHEAD = timedelta(minutes=5)
"""By how much clocks may differ."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Where something is wrong, and what."""

    place: str
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a verification. `root` is in hex."""

    entries: int
    recordings: int
    root: str
    verifier_key: str
    faults: tuple[Fault, ...]
    key_given: bool = False
    """Whether the key came from whoever verifies; the bundle's own key proves no authorship."""
    pruned: int = 0
    """Entries whose text is gone, as the log says."""

    @property
    def ok(self) -> bool:
        return not self.faults

    def as_json(self) -> Json:
        return {
            "ok": self.ok,
            "entries": self.entries,
            "pruned": self.pruned,
            "recordings": self.recordings,
            "root": self.root,
            "verifier_key": self.verifier_key,
            "key_given": self.key_given,
            "faults": [{"place": f.place, "what": f.what} for f in self.faults],
        }


def verify_bundle(
    path: Path, *, verifier_key: str | None = None, heads: Sequence[str] = ()
) -> Report:
    """Check everything in the bundle. Without `verifier_key` the bundle's own key is taken.

    `heads` are published checkpoints that it has to fit. Raises EvidenceError only when the file is no bundle at
    all. It is the bundle's own `verify.py` that does it.
    """
    try:
        told = standalone.verify(path, verifier_key, list(heads))
    except standalone.NoBundle as e:
        raise EvidenceError(f"{e}.", "Give the zip that `hoop audit export` made.") from None
    return Report(
        told["entries"],
        told["recordings"],
        told["root"],
        told["verifier_key"],
        tuple(Fault(f["place"], f["what"]) for f in told["faults"]),
        key_given=told["key_given"],
        pruned=told["pruned"],
    )


def verify_store(
    url: str,
    *,
    verifier_key: str | None = None,
    heads: Sequence[str] = (),
    recordings: str | None = None,
    story: bool = True,
) -> Report:
    """Check a store in place: every entry, its leaf, the signed head and every checkpoint. Raises StoreUnavailable.

    Without `verifier_key` the roots are compared and the signatures are not. `recordings` is where those are, to
    be checked too. Without `story`, what the entries tell is not looked at: only that nothing was changed.
    """
    store = Store(url)
    try:
        store.attach()
        found = _StoreVerification(store, verifier_key, heads)
        found.run()
        if story or recordings is not None:
            found.read_story(None if recordings is None else Recorder(recordings), story=story)
        return found.report()
    finally:
        store.close()


def adopt_log(
    log: AuditLog, store: Store, by: str, *, heads: Sequence[str] = (), lost_head: bool = False
) -> Report:
    """Verify a log that has no signed head, such as one of an older Hoop, and sign for it from now on.

    It has to fit `heads`, published checkpoints. `lost_head`: also one that had a head, which somebody took away.
    Raises EvidenceError for one that does not verify, and StoreUnavailable.
    """
    with store.read() as connection:
        begun = log_checkpoints.c.size == 0  # what a log with heads begins with
        had_head = connection.scalar(select(log_checkpoints.c.size).where(begun)) is not None
    if had_head and not lost_head:
        raise EvidenceError(
            "This log had a signed head, and somebody took it away: its last entries may be others than Hoop wrote.",
            "Restore the newest backup. Only where there is none, and who answers for the log agrees: "
            "--unsafe-after-a-lost-head, which the log then tells of.",
        )
    found = _StoreVerification(store, log.key.verifier_key, heads)
    found.run()
    faults = [f for f in found.faults if f.place != "the head"]
    if faults:
        raise EvidenceError(
            f"The log is not taken over, for it does not verify: {faults[0].place} {faults[0].what}."
        )
    log.adopt(found.tree.copy())
    size, covered = found.tree.size, found.covered
    entry = {"by": by, "entries": size, "covered_by_checkpoint": covered}
    log.append("log.adopted", entry | {"not_covered": size - covered, "lost_head": had_head})
    log.checkpoint()
    return replace(found.report(), faults=())


@dataclass(slots=True)
class _StoreVerification:
    store: Store
    key: str | None
    heads: Sequence[str]
    faults: list[Fault] = field(default_factory=list)
    tree: Frontier = field(default_factory=Frontier)
    pruned: int = 0
    recordings: int = 0
    covered: int = 0
    """How many entries the largest checkpoint tells of."""

    def fault(self, place: str, what: str) -> None:
        self.faults.append(Fault(place, what))

    def report(self) -> Report:
        return Report(
            self.tree.size,
            self.recordings,
            self.tree.root().hex(),
            self.key or "",
            tuple(self.faults),
            key_given=self.key is not None,
            pruned=self.pruned,
        )

    def run(self) -> None:
        # One moment: what is appended from now on has a head of its own.
        with self.store.read() as connection:
            row = connection.execute(
                select(*(log_head.c[name] for name in Head.__slots__))
            ).one_or_none()
            last = connection.scalar(select(func.max(log_entries.c.seq)))
            notes = stored_checkpoints_in(connection)
            latest = connection.scalar(select(func.max(log_checkpoints.c.signed_at)))
            told_of = connection.execute(select(log_witnesses.c.name, log_witnesses.c.size)).all()
        there = 0 if last is None else int(last) + 1
        head = None if row is None else Head(*row)
        self._claims(there, latest, [(name, size) for name, size in told_of])
        signed = self._signed(notes)
        self.covered = max((of for _, of, _ in signed), default=0)
        size = there if head is None else min(head.size, there)
        told: dict[int, list[tuple[str, bytes]]] = {}
        for place, of, root in signed:
            if of > size:
                self.fault(f"entry {size}", f"is missing: {place} tells of {of} entries")
            told.setdefault(of, []).append((place, root))
        self._scan(size, told)
        if there and not notes:
            self.fault("the checkpoints", "are all gone")
        if head is None:
            if there:
                self.fault("the head", "is gone: nothing signs for the last entries")
        else:
            self._head(head, there, notes)

    def _claims(
        self, there: int, latest: datetime | None, told_of: Sequence[tuple[str, int]]
    ) -> None:
        """What the store says without a signature: nothing is decided by it, and what cannot be was forged."""
        if latest is not None and latest > utc_now() + _AHEAD:
            self.fault("a checkpoint", f"says that it was signed in the future, at {latest}")
        for name, size in told_of:
            if size > there:
                self.fault(f"witness {name}", f"was told of {size} entries, and there are {there}")

    def _signed(self, notes: Sequence[str]) -> list[tuple[str, int, bytes]]:
        """Place, size and root of everything that was signed and says so."""
        found = []
        named = [(f"checkpoint {n}", note) for n, note in enumerate(notes)]
        named += [(f"published head {n}", note) for n, note in enumerate(self.heads)]
        for place, note in named:
            try:
                signed = (
                    read_checkpoint(note) if self.key is None else open_checkpoint(note, self.key)
                )
            except EvidenceError as e:
                self.fault(place, e.message)
            else:
                found.append((place, signed.size, signed.root))
        return found

    def _scan(self, size: int, told: dict[int, list[tuple[str, bytes]]]) -> None:
        """Every entry once; the roots of the sizes that something was signed for are compared on the way."""
        purged: list[tuple[int, int]] = []
        empty: list[tuple[int, int]] = []
        self._compare(0, self.tree, told)
        before = b""
        for run in scan(self.store, size, sorted(told)):
            self.faults += [Fault(place, what) for place, what in run.faults]
            if run.times is not None:
                if run.times[0] < before:
                    self.fault(f"an entry from {self.tree.size} on", BACKWARDS)
                before = run.times[1]
            self._roots(run, told)
            for level, root in run.subtrees:
                self.tree.append_subtree(level, root)
            purged += run.purged
            empty += run.pruned
            if run.broken:
                break
        told_gone = standalone.Ranges(purged)
        for begin, end in empty:
            self.pruned += end - begin
            for seq in range(begin, end):
                if seq not in told_gone:
                    self.fault(f"entry {seq}", "is empty, and no entry tells that it was pruned")
                    break

    def _roots(self, run: Run, told: dict[int, list[tuple[str, bytes]]]) -> None:
        for size, subtrees in run.inner:
            tree = self.tree.copy()
            for level, root in subtrees:
                tree.append_subtree(level, root)
            self._compare(size, tree, told)

    def _compare(self, size: int, tree: Frontier, told: dict[int, list[tuple[str, bytes]]]) -> None:
        for place, root in told.get(size, ()):
            if tree.root() != root:
                self.fault(place, f"of size {size} does not fit the entries before it")

    def _head(self, head: Head, there: int, notes: Sequence[str]) -> None:
        if there > head.size:
            self.fault(
                f"entry {head.size}", "stands behind the signed head: Hoop has not written it"
            )
        elif there < head.size:
            self.fault(f"entry {there}", f"is missing: the head tells of {head.size} entries")
        try:
            if self.key is not None:
                signed = open_head(head, self.key)
            else:
                signed = Frontier.of(head.size, head.subtrees)
        except (EvidenceError, ValueError) as e:
            self.fault("the head", e.message if isinstance(e, EvidenceError) else str(e))
            return
        if reduce(chained, notes, "") != head.checkpoints:
            self.fault("the checkpoints", "are not those that the head tells of")
        if there >= head.size and signed.root() != self.tree.root():
            self.fault("the head", "does not fit the entries")

    def read_story(self, recorder: Recorder | None, *, story: bool) -> None:
        """What the entries tell, and what they vouch for, in the words of the standalone verifier."""
        told = standalone.Story()
        purged: dict[str, str] = {}
        vouched: list[tuple[int, Json]] = []
        for entry in stored_entries(self.store):
            if entry.seq >= self.tree.size:
                break
            parsed = standalone.parsed_or_none(entry.text.encode())
            if not isinstance(parsed, dict):
                continue
            if story:
                told.tell(entry.seq, parsed)
            if recorder is not None:
                vouched += [(entry.seq, one) for one in standalone.recorded(parsed)]
                purged |= standalone.purged_files(parsed)
        self.faults += [Fault(place, what) for place, what in told.faults]
        if recorder is not None:
            for seq, one in vouched:
                self._recording(recorder, seq, one, purged)

    def _recording(self, recorder: Recorder, seq: int, one: Json, purged: dict[str, str]) -> None:
        path = str(one["path"])
        try:
            digest = recorder.digest(path)
        except StoreUnavailable:
            if purged.get(path) != one["sha256"]:
                self.fault(f"recordings/{path}", f"is missing, and entry {seq} vouches for it")
            return
        self.recordings += 1
        if digest != one["sha256"]:
            self.fault(f"recordings/{path}", f"was changed: its digest differs from entry {seq}")
