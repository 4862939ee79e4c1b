"""Statements that load files, understood: temporary stages and file formats, PUT, COPY INTO a table.

Each is a value that says everything that the statement does, and writes the one text of it that is executed.
What a caller wrote beside that does not get through.

https://docs.snowflake.com/en/sql-reference/sql/put
https://docs.snowflake.com/en/sql-reference/sql/copy-into-table
https://docs.snowflake.com/en/sql-reference/sql/create-stage
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from hoop_core.model import Kind, TableName
from hoop_core.sql.loading_words import text_literal

Options = tuple[tuple[str, str], ...]
"""Names and values, each value as it is written into the text."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9_.+= -]{0,199}\Z")
_PATTERN = re.compile(r"[*?\[]")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def qualified(table: TableName) -> str:
    return ".".join(map(quoted, (table.database, table.schema, table.name)))


def is_file_name(text: str) -> bool:
    """Whether a file of this name may be kept in a stage: nothing in it that means something in a path."""
    return _FILE_NAME.match(text) is not None and ".." not in text


@dataclass(frozen=True, slots=True)
class Stage:
    """A place for files: a named stage, or `@~` (the minted user's own) when `name` is None."""

    name: TableName | None
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        at = "@~" if self.name is None else f"@{qualified(self.name)}"
        return "/".join((at, *self.path))

    @property
    def sql(self) -> str:
        return text_literal(str(self))


@dataclass(frozen=True, slots=True)
class CreateStage:
    name: TableName
    replace: bool
    if_not_exists: bool
    options: Options

    kind = Kind.CREATE_TEMP_STAGE

    @property
    def sql(self) -> str:
        return _created("STAGE", self.name, self.replace, self.if_not_exists, self.options)


@dataclass(frozen=True, slots=True)
class CreateFormat:
    name: TableName
    replace: bool
    if_not_exists: bool
    options: Options

    kind = Kind.CREATE_TEMP_STAGE

    @property
    def sql(self) -> str:
        return _created("FILE FORMAT", self.name, self.replace, self.if_not_exists, self.options)


@dataclass(frozen=True, slots=True)
class Drop:
    """DROP STAGE or DROP FILE FORMAT."""

    what: str
    name: TableName
    if_exists: bool

    kind = Kind.CREATE_TEMP_STAGE

    @property
    def sql(self) -> str:
        return f"DROP {self.what} {'IF EXISTS ' if self.if_exists else ''}{qualified(self.name)}"


@dataclass(frozen=True, slots=True)
class Put:
    """`file` is the client's own path, which nobody but the client opens."""

    file: str
    stage: Stage
    options: Options

    kind = Kind.PUT

    @property
    def name(self) -> str:
        """The last part of the path."""
        return posixpath.basename(self.file.replace("\\", "/"))

    @property
    def of_many(self) -> bool:
        return _PATTERN.search(self.name) is not None

    def option(self, name: str, default: str) -> str:
        return dict(self.options).get(name, default)

    @property
    def sql(self) -> str:
        """Only the file's name is sent on: where it stands at the client is nobody's business."""
        return _words(
            "PUT", text_literal(f"file://{self.name}"), self.stage.sql, *_assigned(self.options)
        )


@dataclass(frozen=True, slots=True)
class CopyInto:
    """`columns` and `items` are written as they are executed; `items` is None for a plain COPY."""

    table: TableName
    columns: tuple[str, ...]
    source: Stage
    items: tuple[str, ...] | None
    alias: str | None
    options: Options

    kind = Kind.COPY_INTO_TABLE

    @property
    def sql(self) -> str:
        source = self.source.sql
        if self.items is not None:
            alias = f" {quoted(self.alias)}" if self.alias else ""
            source = f"(SELECT {', '.join(self.items)} FROM {source}{alias})"  # noqa: S608
        columns = f"({', '.join(map(quoted, self.columns))})" if self.columns else ""
        return _words(
            "COPY INTO", qualified(self.table), columns, "FROM", source, *_assigned(self.options)
        )


@dataclass(frozen=True, slots=True)
class InferSchema:
    """What columns the files of a stage would have: names and types, no rows. For those who may PUT them."""

    columns: tuple[str, ...]
    source: Stage
    format: TableName

    kind = Kind.PUT

    @property
    def sql(self) -> str:
        return (
            f"SELECT {', '.join(self.columns)} FROM TABLE(INFER_SCHEMA("  # noqa: S608
            f"LOCATION => {self.source.sql}, FILE_FORMAT => {text_literal(qualified(self.format))}))"
        )


@dataclass(frozen=True, slots=True)
class Rename:
    """ALTER TABLE ... RENAME TO: the last step of a load that replaces a table."""

    table: TableName
    to: TableName

    kind = Kind.ALTER_TABLE

    @property
    def sql(self) -> str:
        return f"ALTER TABLE {qualified(self.table)} RENAME TO {qualified(self.to)}"


Loading = CreateStage | CreateFormat | Drop | Put | CopyInto | InferSchema | Rename


def written(loading: Loading) -> tuple[TableName, ...]:
    """The tables that it changes."""
    if isinstance(loading, CopyInto):
        return (loading.table,)
    if isinstance(loading, Rename):
        return tuple(sorted({loading.table, loading.to}))
    return ()


def _created(
    what: str, name: TableName, replace: bool, if_not_exists: bool, options: Options
) -> str:
    return _words(
        "CREATE",
        "OR REPLACE" if replace else "",
        f"TEMPORARY {what}",
        "IF NOT EXISTS" if if_not_exists else "",
        qualified(name),
        *_assigned(options),
    )


def _assigned(options: Options) -> list[str]:
    return [f"{name} = {value}" for name, value in options]


def _words(*words: str) -> str:
    return " ".join(w for w in words if w)
