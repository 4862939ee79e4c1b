"""What one decision depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from hoop_core.masking.masks import MaskName
from hoop_core.model import Identity, RunContext, Statement, TableName
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.lineage import ColumnsRead
from hoop_core.sql.statement import CteName


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that one decision depends on."""

    statement: Statement
    ctes: tuple[CteName, ...]
    identity: Identity
    policy: Policy
    catalog: Catalog
    run: RunContext
    now: datetime
    mask_override: MaskName | None = None
    exceptions: frozenset[tuple[TableName, str]] = frozenset()
    """Columns that an approved, time-limited exception shows to this caller as they are."""
    columns: Callable[[], ColumnsRead] | None = None
    """Looks up which columns the statement reads: only where a condition asks. None: assume any."""
