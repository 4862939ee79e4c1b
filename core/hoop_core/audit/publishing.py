"""Each checkpoint to each witness; and before a gateway starts, what they know against the log."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog
from sqlalchemy import func, insert, select, update

from hoop_core.audit.checkpoint import Checkpoint, open_checkpoint
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.proofs import StoredTree
from hoop_core.audit.witness import Disagrees, Witness
from hoop_core.errors import EvidenceError, HoopError, StoreUnavailable
from hoop_core.store import Store
from hoop_core.store.tables import log_checkpoints, log_head, log_witnesses

_log = structlog.get_logger(__name__)
_t = log_witnesses
_c = _t.c


def cosigned(store: Store, log_key: str) -> list[str]:
    """What witnesses said of the last checkpoint that each was told of, as far as the log's key signed that.

    Raises StoreUnavailable.
    """
    with store.read() as connection:
        notes = list(connection.scalars(select(_c.cosigned).order_by(_c.name)))
    return [note for note in notes if note and _is_signed(note, log_key)]


def _is_signed(note: str, log_key: str) -> bool:
    try:
        open_checkpoint(note, log_key)
    except EvidenceError as e:
        _log.error("what a witness said is not of this log", why=e.message)
        return False
    return True


@dataclass(slots=True)
class Publishing:
    """Synchronous: for a worker thread."""

    store: Store
    log: AuditLog
    witnesses: list[Witness]
    _known: dict[str, int] = field(default_factory=dict)
    """How far each was told, as it says itself or as this process told it. The store's table is for those who look
    at it: whoever can write to the store must not be able to stop this.
    """
    _failing: set[str] = field(default_factory=set)
    _disputed: set[str] = field(default_factory=set)

    def check(self) -> None:
        """That the log is a later one of what each witness knows. Raises StoreUnavailable, EvidenceError."""
        for witness in self.witnesses:
            known = self._newest(witness)
            if known is None and self._was_told(witness.name) and not witness.blind:
                raise StoreUnavailable(
                    f"The witness {witness.name} was told of this log, and knows nothing of it any more.",
                    "Is its file or folder mounted? Nothing was started.",
                )
            if known is not None:
                self._continues(witness, known)
            self._known[witness.name] = 0 if known is None else known.size

    def _newest(self, witness: Witness) -> Checkpoint | None:
        note = witness.newest()
        return None if note is None else open_checkpoint(note, self.log.key.verifier_key)

    def _continues(self, witness: Witness, known: Checkpoint) -> None:
        present = self.log.checkpoint()
        if known.size > present.size:
            what = f"has {present.size} entries, and {witness.name} knows of {known.size}"
        elif self._tree(present).root_of_range(0, known.size) != known.root:
            what = f"is another one than {witness.name} knows of"
        else:
            return
        raise EvidenceError(
            f"The log in the store {what}.",
            "It was set back or rewritten: restore the newest store. Nothing was started.",
        )

    def publish(self) -> None:
        """Tell each witness of the last checkpoint that this process signed. What fails is tried again next time.

        Raises StoreUnavailable, EvidenceError.
        """
        signed = self.log.signed or self.log.checkpoint()
        open_checkpoint(signed.note, self.log.key.verifier_key)
        self._strays()
        for witness in self.witnesses:
            try:
                known = self._known_of(witness)
                if known < signed.size:
                    said = witness.tell(signed, known, lambda old: self._proof(old, signed))
                    self._told(witness.name, signed.size, said)
            except Disagrees as e:
                self._disagreed(witness.name, signed, e)
            except HoopError as e:
                self._failed(witness.name, e)

    def _strays(self) -> None:
        """A checkpoint of more entries than there are is none of Hoop's."""
        with self.store.read() as connection:
            largest = connection.scalar(select(func.max(log_checkpoints.c.size)))
            size = connection.scalar(select(log_head.c.size))
        if largest is not None and size is not None and largest > size:
            why = f"The store holds a checkpoint of {largest} entries, and the log has {size}."
            self._dispute("the store", why)

    def _tree(self, signed: Checkpoint) -> StoredTree:
        tree = StoredTree(self.store, signed.size)
        tree.check(signed.root)
        return tree

    def _proof(self, old: int, signed: Checkpoint) -> list[bytes]:
        return self._tree(signed).consistency(old)

    def _known_of(self, witness: Witness) -> int:
        if witness.name not in self._known:
            known = self._newest(witness)
            self._known[witness.name] = 0 if known is None else known.size
        return self._known[witness.name]

    def _was_told(self, name: str) -> bool:
        with self.store.read() as connection:
            return bool(connection.scalar(select(_c.size).where(_c.name == name)))

    def _told(self, name: str, size: int, said: str) -> None:
        self._known[name] = size
        now = utc_now()
        self._show(name, size=size, published_at=now, last_error=None, cosigned=said)
        self._failing.discard(name)

    def _show(self, name: str, **values: object) -> None:
        with self.store.write() as connection:
            if connection.execute(update(_t).where(_c.name == name).values(**values)).rowcount == 0:
                connection.execute(insert(_t).values(**{"name": name, "size": 0} | values))

    def _failed(self, name: str, error: HoopError) -> None:
        """The log tells of it once; whoever looks at the store sees the last error."""
        self._show(name, last_error=error.message[:500])
        if name not in self._failing:
            self._failing.add(name)
            self.log.append("log.unpublished", {"witness": name, "error": error.message})
            _log.error("a witness was not told of the log", witness=name, why=error.message)

    def _disagreed(self, name: str, signed: Checkpoint, error: Disagrees) -> None:
        self.log.follow()
        if error.knows is not None and signed.size < error.knows <= self.log.size:
            self._known[name] = error.knows  # another replica was faster
            return
        self._show(name, last_error=error.message[:500])
        self._dispute(name, error.message)

    def _dispute(self, name: str, why: str) -> None:
        """Worse than a witness that cannot be told: the log says it once for each run of a gateway."""
        if name not in self._disputed:
            self._disputed.add(name)
            self.log.append("log.disputed", {"witness": name, "error": why})
            _log.error("the log is disputed", witness=name, why=why)
