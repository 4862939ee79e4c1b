"""Where records are kept, and where lineage goes."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from hoop_core.config.section import Section


class StoreSettings(Section):
    url: str = Field(default="sqlite:///hoop.db", repr=False)  # a password may be in it
    """sqlite:///path for one process, postgresql://user@host/database for several replicas."""
    connect_seconds: float = Field(default=5.0, gt=0)
    lock_seconds: float = Field(default=5.0, gt=0)
    """How long a writer waits for others, and for a free connection."""
    statement_seconds: float = Field(default=15.0, gt=0)
    """PostgreSQL: how long one query may take."""
    connections: int = Field(default=10, ge=2, le=500)
    """PostgreSQL: connections of one replica."""
    recordings: str = "recordings"
    """An fsspec URL or a local folder."""


class AuditSettings(Section):
    origin: str = "hoop.local/log"
    key_file: Path = Path("hoop-log.key")


class LineageSettings(Section):
    namespace: str = "hoop"
    file: Path | None = None
