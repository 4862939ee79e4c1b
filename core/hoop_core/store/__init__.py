"""The store: SQLAlchemy tables, their migrations, and the transactions that every writer uses."""

from hoop_core.store.store import Lock, Store
from hoop_core.store.unsynced import Busy

__all__ = ["Busy", "Lock", "Store"]
