"""The store: SQLAlchemy tables, their migrations, and the transactions that every writer uses."""

from hoop_core.store.at_once import Busy
from hoop_core.store.store import Lock, Store

__all__ = ["Busy", "Lock", "Store"]
