"""Proofs as they are handed out: JSON that any verifier of RFC 6962 trees can read."""

from __future__ import annotations

from sqlalchemy import select

from hoop_core.audit.checkpoint import Checkpoint
from hoop_core.audit.proofs import StoredTree, checked_inclusion
from hoop_core.errors import ConfigError
from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import log_entries


def inclusion(store: Store, seq: int, signed: Checkpoint) -> Json:
    """That entry `seq` is in the signed tree. Raises ConfigError, EvidenceError, StoreUnavailable."""
    query = select(log_entries.c.entry, log_entries.c.leaf).where(log_entries.c.seq == seq)
    with store.read() as connection:
        row = connection.execute(query).one_or_none()
    if row is None or seq >= signed.size:
        raise ConfigError(f"There is no entry {seq}: the log has {signed.size}.")
    leaf = bytes(row.leaf)
    path = checked_inclusion(StoredTree(store, signed.size), seq, leaf, signed)
    return {
        "seq": seq,
        "entry": row.entry or None,
        "leaf_hash": leaf.hex(),
        "tree_size": signed.size,
        "root": signed.root.hex(),
        "path": [node.hex() for node in path],
        "checkpoint": signed.note,
    }


def consistency(store: Store, older: int, signed: Checkpoint) -> Json:
    """That the log of `older` entries is the beginning of the signed one. Raises ConfigError, EvidenceError."""
    if not 0 < older <= signed.size:
        raise ConfigError(f"The log never had {older} entries: it has {signed.size}.")
    tree = StoredTree(store, signed.size)
    tree.check(signed.root)
    return {
        "older_size": older,
        "older_root": tree.root_of_range(0, older).hex(),
        "tree_size": signed.size,
        "root": signed.root.hex(),
        "path": [node.hex() for node in tree.consistency(older)],
        "checkpoint": signed.note,
    }
