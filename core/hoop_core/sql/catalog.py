"""A frozen snapshot of columns and types: what the guard fetched, or a file for offline use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hoop_core.errors import ConfigError
from hoop_core.model import TableName
from hoop_core.sql.names import parse_table, stored


@dataclass(frozen=True, slots=True)
class CatalogObject:
    """What is known of one table or view. `columns`: stored name -> type, in the object's own order."""

    columns: Mapping[str, str]
    definition: str | None = None
    """Of a view: its CREATE VIEW text or its query; names in it belong to the view's own schema."""
    rows: int | None = None
    bytes: int | None = None
    """Size as Snowflake last reported it; None when it did not."""
    digest: str = field(init=False)
    """SHA-256 (hex) of columns and definition: what a decision depends on."""

    def __post_init__(self) -> None:
        known = json.dumps([list(self.columns.items()), self.definition])
        object.__setattr__(self, "digest", hashlib.sha256(known.encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Catalog:
    """A frozen snapshot of the objects that one decision needs."""

    _objects: Mapping[TableName, CatalogObject] = field(default_factory=dict, repr=False)

    @classmethod
    def from_mapping(cls, tables: Mapping[TableName, Mapping[str, str]]) -> Catalog:
        """Keys are stored names; values map stored column names to Snowflake types, in order."""
        return cls.of({t: CatalogObject(dict(c)) for t, c in tables.items()})

    @classmethod
    def of(cls, objects: Mapping[TableName, CatalogObject]) -> Catalog:
        return cls(dict(objects))

    def get(self, table: TableName) -> CatalogObject | None:
        """None: no such object, as far as Hoop may know."""
        return self._objects.get(table)

    def columns(self, table: TableName) -> Mapping[str, str] | None:
        """Stored column name -> type; None: unknown object; empty: known, its columns are not."""
        found = self._objects.get(table)
        return None if found is None else found.columns

    def digest(self, tables: Iterable[TableName]) -> str:
        """SHA-256 (hex) of what is known of the given tables: part of a decision's cache key."""
        known = [
            f"{t} {None if (o := self.get(t)) is None else o.digest}" for t in sorted(set(tables))
        ]
        return hashlib.sha256("\n".join(known).encode()).hexdigest()


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
