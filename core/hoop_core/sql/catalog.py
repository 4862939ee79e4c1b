"""A frozen snapshot of columns and types: what the guard fetched, or a file for offline use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from hoop_core.errors import ConfigError
from hoop_core.model import TableName
from hoop_core.sql.names import parse_parts, parse_table
from hoop_core.yaml_reader import Value, read_document

_MOST = 2**53 - 1


@dataclass(frozen=True, slots=True)
class CatalogObject:
    """What is known of one table or view. `columns`: stored name -> type, in the object's own order."""

    columns: Mapping[str, str]
    definition: str | None = None
    """Of a view: its CREATE VIEW text or its query; names in it belong to the view's own schema."""
    rows: int | None = None
    bytes: int | None = None
    """Size as Snowflake last reported it; None when it did not."""
    refused: str | None = None
    """Why it can neither be read nor written: what to say after its name ("is a secure view, ...")."""
    temporary: bool = False
    """A temporary table of the asking session."""
    digest: str = field(init=False)
    """SHA-256 (hex) of columns, definition and refusal: what a decision depends on."""

    def __post_init__(self) -> None:
        known: list[object] = [list(self.columns.items()), self.definition]
        if self.refused is not None:
            known.append(self.refused)
        if self.temporary:
            known.append({"temporary": True})
        object.__setattr__(self, "digest", hashlib.sha256(json.dumps(known).encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Catalog:
    """A frozen snapshot of the objects that one decision needs."""

    _objects: Mapping[TableName, CatalogObject] = field(default_factory=dict, repr=False)

    @classmethod
    def from_mapping(cls, tables: Mapping[TableName, Mapping[str, str]]) -> Catalog:
        """Keys are stored names; values map stored column names to Snowflake types, in order."""
        return cls.of({t: CatalogObject(dict(c)) for t, c in tables.items()})

    @property
    def objects(self) -> Mapping[TableName, CatalogObject]:
        """All that is known, to look through."""
        return MappingProxyType(dict(self._objects))

    @classmethod
    def of(cls, objects: Mapping[TableName, CatalogObject]) -> Catalog:
        return cls(dict(objects))

    def but(self, objects: Mapping[TableName, CatalogObject]) -> Catalog:
        """The same snapshot with other knowledge of some objects."""
        return Catalog({**self._objects, **objects})

    def without(self, tables: Collection[TableName]) -> Catalog:
        """The same snapshot as if nothing were known of some objects."""
        return Catalog({t: o for t, o in self._objects.items() if t not in tables})

    def get(self, table: TableName) -> CatalogObject | None:
        """None: no such object, as far as Hoop may know."""
        return self._objects.get(table)

    def columns(self, table: TableName) -> Mapping[str, str] | None:
        """Stored column name -> type; None: unknown or refused object; empty: its columns are unknown."""
        found = self._objects.get(table)
        return None if found is None or found.refused is not None else found.columns

    def digest(self, tables: Iterable[TableName]) -> str:
        """SHA-256 (hex) of what is known of the given tables: part of a decision's cache key."""
        known = [
            f"{t} {None if (o := self.get(t)) is None else o.digest}" for t in sorted(set(tables))
        ]
        return hashlib.sha256("\n".join(known).encode()).hexdigest()


def load_catalog(path: Path) -> Catalog:
    """Read a catalog file: `tables: {DB.SCHEMA.TABLE: {COLUMN: TYPE}}`, and for views
    `views: {DB.SCHEMA.VIEW: {columns: {COLUMN: TYPE}, definition: "CREATE VIEW ... AS SELECT ..."}}`,
    and for the sizes of tables `sizes: {DB.SCHEMA.TABLE: {rows: 100, bytes: 5000}}`.

    Raises ConfigError with file and line, and the nearest word where one is near.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"The catalog {path} cannot be read: {e}.") from None
    document = read_document(text, str(path))
    _without_aliases(document)
    parts = document.mapping("a catalog", ("tables", "views", "sizes"))
    if not parts.keys() & {"tables", "views"}:
        raise document.wrong(
            "a catalog needs `tables` or `views`.",
            "Write `tables: {DB.SCHEMA.TABLE: {COLUMN: TYPE}}`.",
        )
    found: dict[TableName, CatalogObject] = {}
    for part, read in (("tables", _table), ("views", _view)):
        for key, value in parts[part].entries(f"`{part}`").values() if part in parts else ():
            name = parse_table(str(key.data))
            if name is None:
                raise key.wrong(f"`{key.data}` is not DATABASE.SCHEMA.{part[:-1].upper()}.")
            if name in found:
                raise key.wrong(f"{name} is given twice.", "Folded names count: a.b.c is A.B.C.")
            found[name] = read(value, name)
    if "sizes" in parts:
        _add_sizes(found, parts["sizes"])
    return Catalog.of(found)


def _add_sizes(found: dict[TableName, CatalogObject], sizes: Value) -> None:
    """Sizes are beside the columns, whose names are free: a table may have a column `rows`."""
    named = {str(t): t for t, known in found.items() if known.definition is None}
    sized: set[TableName] = set()
    for key, value in sizes.entries("`sizes`").values():
        name = parse_table(str(key.data))
        if name is None or str(name) not in named:
            raise key.unknown("table in `sizes`:", str(key.data), tuple(named))
        if name in sized:
            raise key.wrong(f"the size of {name} is given twice.")
        sized.add(name)
        given = value.mapping(f"the size of {name}", ("rows", "bytes"))
        rows, size = (
            given[k].integer(f"`{k}` of {name}", 0, _MOST) if k in given else None
            for k in ("rows", "bytes")
        )
        found[name] = replace(found[name], rows=rows, bytes=size)


def _without_aliases(document: Value) -> None:
    """A node that stands in two places is an alias: a short file could stand for a huge one."""
    todo, seen = [document.node], set[int]()
    while todo:
        node = todo.pop()
        if id(node) in seen:
            line = node.start_mark.line + 1
            raise ConfigError(
                f"{document.source}:{line}: anchors and aliases are not read in a catalog.",
                "Write the columns out.",
            )
        seen.add(id(node))
        if isinstance(node.value, list):
            for child in node.value:
                todo += child if isinstance(child, tuple) else (child,)


def _table(value: Value, name: TableName) -> CatalogObject:
    return CatalogObject({} if value.data is None else _columns(value, name))


def _view(value: Value, name: TableName) -> CatalogObject:
    keys = ("columns", "definition")
    fields = value.mapping(f"the view {name}", keys, keys)
    definition = fields["definition"].text("`definition`")
    return CatalogObject(_columns(fields["columns"], name), definition)


def _columns(value: Value, name: TableName) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, type_ in value.entries(f"the columns of {name}").values():
        parts = parse_parts(str(key.data))
        column = str(key.data) if parts is None or len(parts) != 1 else parts[0]
        if column in found:
            raise key.wrong(f"the column {column} of {name} is given twice.")
        found[column] = type_.text(f"the type of {name}.{column}")
    return found
