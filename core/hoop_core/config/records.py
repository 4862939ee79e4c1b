"""Where records are kept, and where lineage goes."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

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
    recordings_key: str = Field(default="", pattern=r"^[A-Za-z0-9._-]*$")
    """A key of Vault's transit engine: with it recordings are encrypted at rest, each session with a key of its own
    that this one wraps."""
    recorded_part_bytes: int = Field(default=0, ge=0)
    """The most that is kept of one part of a result; of a larger one the digest is. 0: no limit."""
    recorded_session_bytes: int = Field(default=0, ge=0)
    """The same for all that is kept of one session."""


class WitnessSettings(Section):
    """Somebody else who is told of the log's checkpoints; one of `file`, `folder`, `url`."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    file: Path | None = None
    """Signed notes are appended to it: a file of another system, that Hoop can only append to."""
    folder: str | None = None
    """An fsspec URL: one object for each checkpoint, never overwritten (an object store with object lock)."""
    url: str | None = Field(default=None, repr=False)
    """A witness that speaks C2SP tlog-witness: `<url>/add-checkpoint`."""
    witness_key: str = ""
    """The witness's verifier key (name+hash+key), to check what it signs."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if sum(x is not None for x in (self.file, self.folder, self.url)) != 1:
            raise ValueError("give one of file, folder and url")
        if (self.url is None) != (self.witness_key == ""):
            raise ValueError("a url and the witness_key belong together")
        return self


class AuditSettings(Section):
    origin: str = "hoop.local/log"
    key_file: Path = Path("hoop-log.key")
    transit_key: str = ""
    """Name of an ed25519 key of Vault's transit engine that signs the log in place of `key_file`."""
    transit_version: int = Field(default=1, ge=1)
    """Which version of the key: another one is another log to whoever verifies it."""
    witnesses: tuple[WitnessSettings, ...] = ()


class LineageParents(Section):
    """Job namespaces that the orchestrators' own OpenLineage integrations use: our events join theirs by them."""

    airflow: str = "default"
    dagster: str = "default"


class LineageSettings(Section):
    """Where OpenLineage events go; none of `file` and `config_file`: there are none."""

    namespace: str = "hoop"
    file: Path | None = None
    """Events are appended to it, one JSON object a line."""
    config_file: Path | None = None
    """An openlineage.yml: its section `transport` says where events go, with what secret."""
    parents: LineageParents = LineageParents()
    schemas_url: str = ""
    """Where the schemas of Hoop's own facets are read; empty: from this gateway's public_url."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.file and self.config_file:
            raise ValueError("give one of file and config_file")
        return self
