"""Each checkpoint to each witness, by one replica; and before a gateway starts, what they know against the log."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog
from sqlalchemy import insert, select, update

from hoop_core.audit.checkpoint import Checkpoint, open_checkpoint, read_checkpoint
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.proofs import StoredTree
from hoop_core.audit.stored import stored_checkpoints
from hoop_core.audit.witness import Witness
from hoop_core.errors import EvidenceError, StoreUnavailable
from hoop_core.store import Store
from hoop_core.store.tables import log_witnesses

_log = structlog.get_logger(__name__)
_c = log_witnesses.c


def cosigned(store: Store) -> list[str]:
    """What witnesses said of the last checkpoint that each was told of. Raises StoreUnavailable."""
    with store.read() as connection:
        return [note for note in connection.scalars(select(_c.cosigned).order_by(_c.name)) if note]


@dataclass(slots=True)
class Publishing:
    """Synchronous: for a worker thread."""

    store: Store
    log: AuditLog
    witnesses: list[Witness]
    _failing: set[str] = field(default_factory=set)

    def check(self) -> None:
        """That the log is a later one of what each witness knows. Raises StoreUnavailable, EvidenceError."""
        for witness in self.witnesses:
            note = witness.newest()
            if note is None and self._known(witness.name) and not witness.blind:
                raise StoreUnavailable(
                    f"The witness {witness.name} was told of this log, and knows nothing of it any more.",
                    "Is its file or folder mounted? Nothing was started.",
                )
            if note is not None:
                self._continues(witness, open_checkpoint(note, self.log.key.verifier_key))

    def _continues(self, witness: Witness, known: Checkpoint) -> None:
        present = self.log.checkpoint()
        if known.size > present.size:
            what = f"has {present.size} entries, and {witness.name} knows of {known.size}"
        elif StoredTree(self.store, present.size).root_of_range(0, known.size) != known.root:
            what = f"is another one than {witness.name} knows of"
        else:
            return
        raise EvidenceError(
            f"The log in the store {what}.",
            "It was set back or rewritten: restore the newest store. Nothing was started.",
        )

    def publish(self) -> None:
        """Tell each witness of the newest checkpoint that it does not know. What fails is tried again next time."""
        notes = stored_checkpoints(self.store)
        if not notes:
            return
        signed = read_checkpoint(notes[-1])
        for witness in self.witnesses:
            known = self._known(witness.name)
            if known >= signed.size:
                continue
            try:
                said = witness.tell(signed, known, lambda old: self._proof(old, signed.size))
            except StoreUnavailable as e:
                self._failed(witness.name, e)
            else:
                self._told(witness.name, signed.size, said)

    def _proof(self, old: int, size: int) -> list[bytes]:
        return StoredTree(self.store, size).consistency(old)

    def _known(self, name: str) -> int:
        with self.store.write() as connection:
            size = connection.scalar(select(_c.size).where(_c.name == name))
            if size is None:
                connection.execute(insert(log_witnesses).values(name=name, size=0))
        return int(size or 0)

    def _told(self, name: str, size: int, said: str) -> None:
        values = {"size": size, "published_at": utc_now(), "last_error": None, "cosigned": said}
        with self.store.write() as connection:
            changed = update(log_witnesses).where(_c.name == name, _c.size < size)
            connection.execute(changed.values(**values))
        self._failing.discard(name)

    def _failed(self, name: str, error: StoreUnavailable) -> None:
        """The log tells of it once; whoever looks at the store sees the last error."""
        with self.store.write() as connection:
            mine = update(log_witnesses).where(_c.name == name)
            connection.execute(mine.values(last_error=error.message[:500]))
        if name not in self._failing:
            self._failing.add(name)
            self.log.append("log.unpublished", {"witness": name, "error": error.message})
            _log.error("a witness was not told of the log", witness=name, why=error.message)
