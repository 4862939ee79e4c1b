"""A frozen snapshot of columns and types: what the guard fetched, or a file for offline use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import yaml

from hoop_core.errors import ConfigError
from hoop_core.model import TableName
from hoop_core.sql.names import parse_table, stored


@dataclass(frozen=True, slots=True)
class Catalog:
    """Columns by table, in the table's own order."""

    _tables: Mapping[TableName, Mapping[str, str]] = field(default_factory=dict, repr=False)

    @classmethod
    def from_mapping(cls, tables: Mapping[TableName, Mapping[str, str]]) -> Catalog:
        """Keys are stored names; values map stored column names to Snowflake types, in order."""
        return cls({t: MappingProxyType(dict(columns)) for t, columns in tables.items()})

    def columns(self, table: TableName) -> Mapping[str, str] | None:
        """Stored column name -> type; None: unknown object; empty: known, its columns are not."""
        return self._tables.get(table)

    def digest(self, tables: Iterable[TableName]) -> str:
        """SHA-256 (hex) of what is known of the given tables: part of a decision's cache key."""
        known = [
            (str(t), None if (c := self.columns(t)) is None else list(c.items()))
            for t in sorted(set(tables))
        ]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def load_catalog(path: Path) -> Catalog:
    """Read `tables: {DB.SCHEMA.TABLE: {COLUMN: TYPE}}`. Raises ConfigError."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError(f"The catalog {path} cannot be read: {e}.") from None
    tables = data.get("tables") if isinstance(data, dict) else None
    if not isinstance(tables, dict) or set(data) != {"tables"}:
        raise ConfigError(
            f"{path}: a catalog has one key, `tables`.",
            "Write `tables: {DB.SCHEMA.TABLE: {COLUMN: TYPE}}`.",
        )
    found: dict[TableName, dict[str, str]] = {}
    for name, columns in tables.items():
        table = parse_table(str(name))
        if table is None:
            raise ConfigError(f"{path}: `{name}` is not DATABASE.SCHEMA.TABLE.")
        if not isinstance(columns or {}, dict):
            raise ConfigError(f"{path}: `{name}` must map column names to types.")
        found[table] = {stored(str(c)): str(t) for c, t in (columns or {}).items()}
    return Catalog.from_mapping(found)
