"""Statements about stages: CREATE STAGE, CREATE FILE FORMAT, PUT, COPY INTO, INFER_SCHEMA, as sqlglot reads them.

`read` gives a frozen statement, or None for anything else. What is not modelled is refused, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlglot import exp

from hoop_core.devstack.emulator.authorise import full_name, stored
from hoop_core.devstack.emulator.engine import parse
from hoop_core.devstack.emulator.errors import SqlError, not_modelled, syntax

Name = tuple[str, str, str]
Place = tuple[str | None, str | None]
_BEGINS = re.compile(
    r"(?:\s|/\*.*?\*/|--[^\n]*\n)*(PUT|GET|COPY|LIST|LS|REMOVE|RM|CREATE|DROP|SELECT)\b",
    re.I | re.S,
)
_STAGE = re.compile(
    r'@(~|(?:"(?:[^"]|"")+"|[\w$]+)(?:\.(?:"(?:[^"]|"")+"|[\w$]+)){0,2})(?:/(.*))?\Z', re.S
)
_PART = re.compile(r'"((?:[^"]|"")+)"|([\w$]+)')
_FORMAT_DEFAULTS: dict[str, Any] = {"TYPE": "CSV", "FIELD_DELIMITER": ",", "SKIP_HEADER": "0"}


@dataclass(frozen=True, slots=True)
class At:
    """A stage (None: the user's own) and the path below it, which ends with a slash unless it is empty."""

    name: Name | None
    path: str


@dataclass(frozen=True, slots=True)
class MakeStage:
    name: Name
    format: Mapping[str, Any]
    temporary: bool
    replace: bool
    if_not_exists: bool


@dataclass(frozen=True, slots=True)
class MakeFormat:
    name: Name
    format: Mapping[str, Any]
    temporary: bool


@dataclass(frozen=True, slots=True)
class DropStage:
    name: Name
    if_exists: bool


@dataclass(frozen=True, slots=True)
class Put:
    at: At
    put: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Copy:
    table: Name
    columns: tuple[str, ...]
    at: At
    items: tuple[exp.Expr, ...]
    format: Mapping[str, Any]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Infer:
    at: At
    format: Name
    columns: tuple[str, ...]


StageStatement = MakeStage | MakeFormat | DropStage | Put | Copy | Infer


def read(sql: str, database: str | None, schema: str | None) -> StageStatement | None:
    """Raises SqlError for what begins like one of these and is not understood."""
    begins = _BEGINS.match(sql)
    if begins is None:
        return None
    first = begins[1].upper()
    if first in {"GET", "LIST", "LS", "REMOVE", "RM"}:
        raise not_modelled(first)
    if first in {"CREATE", "DROP"} and not re.search(r"\b(STAGE|FILE\s+FORMAT)\b", sql, re.I):
        return None
    if first == "SELECT" and not re.search(r"TABLE\s*\(\s*INFER_SCHEMA\s*\(", sql, re.I):
        return None
    return _of_tree(parse(sql), (database, schema))


def _of_tree(tree: exp.Expr, place: Place) -> StageStatement | None:
    if isinstance(tree, exp.Create):
        return _create(tree, place)
    if isinstance(tree, exp.Drop) and str(tree.args.get("kind")).upper() == "STAGE":
        return DropStage(full_name(tree.args["tables"][0], *place), bool(tree.args.get("exists")))
    if isinstance(tree, exp.Put):
        return _put(tree, place)
    if isinstance(tree, exp.Copy):
        return _copy(tree, place)
    if isinstance(tree, exp.Select):
        return _infer(tree, place)
    return None


def _create(tree: exp.Create, place: Place) -> StageStatement | None:
    kind = str(tree.args.get("kind") or "").upper()
    if kind not in {"STAGE", "FILE FORMAT"}:
        return None
    given = tree.args.get("properties")
    properties = given.expressions if given is not None else []
    temporary = any(isinstance(p, exp.TemporaryProperty) for p in properties)
    name = full_name(tree.this, *place)
    if kind == "FILE FORMAT":
        return MakeFormat(name, _format(properties), temporary)
    format_: Mapping[str, Any] = _FORMAT_DEFAULTS
    for p in properties:
        if isinstance(p, exp.FileFormatProperty):
            format_ = _format(p.expressions)
        elif not isinstance(p, exp.TemporaryProperty | exp.SchemaCommentProperty):
            raise not_modelled(f"CREATE STAGE with {type(p).__name__}")
    return MakeStage(
        name, format_, temporary, bool(tree.args.get("replace")), bool(tree.args.get("exists"))
    )


def _format(properties: list[exp.Expr]) -> dict[str, Any]:
    found = {
        p.name.upper(): _value(p.args.get("value")) for p in properties if type(p) is exp.Property
    }
    if "FORMAT_NAME" in found:
        raise not_modelled("FORMAT_NAME")
    kind = str(found.get("TYPE", "CSV")).upper()
    return {**(_FORMAT_DEFAULTS if kind == "CSV" else {}), **found, "TYPE": kind}


def _value(node: exp.Expr | None) -> Any:
    if isinstance(node, exp.Tuple | exp.Paren):
        return [e.name for e in (node.expressions or [node.this])]
    return (
        "" if node is None else node.name if not isinstance(node, exp.Boolean) else str(node.this)
    )


def place_of(text: str, place: Place) -> At:
    """`@name/path` or `@~/path`. Raises SqlError."""
    match = _STAGE.match(text)
    if match is None:
        raise syntax(text[:20])
    path = (match[2] or "").strip("/")
    if match[1] == "~":
        return At(None, path)
    return At(_name(match[1], place), path)


def _name(text: str, place: Place) -> Name:
    """A name that stands inside a text."""
    parts = [m[1].replace('""', '"') if m[1] else m[2].upper() for m in _PART.finditer(text)]
    named = dict(zip(("this", "db", "catalog"), reversed(parts), strict=False))
    quoted = {k: exp.Identifier(this=v, quoted=True) for k, v in named.items()}
    return full_name(exp.Table(**quoted), *place)


def _text(node: Any) -> str:
    """What stands in a literal; sqlglot keeps the quotes of some."""
    text = str(node.this if isinstance(node, exp.Literal | exp.Var) else node.sql("snowflake"))
    if len(text) > 1 and text[0] == text[-1] == "'":
        text = re.sub(r"\\(.)|''", lambda m: m[1] or "'", text[1:-1])
    return text


def _put(tree: exp.Put, place: Place) -> Put:
    given = tree.args.get("properties")
    options = {
        p.name.upper(): _value(p.args.get("value")) for p in (given.expressions if given else [])
    }
    file = _text(tree.this).removeprefix("file://")
    return Put(
        place_of(_text(tree.args["target"]), place),
        {
            "file": file,
            "parallel": int(options.pop("PARALLEL", 4)),
            "auto_compress": str(options.pop("AUTO_COMPRESS", "true")).lower() == "true",
            "source_compression": str(options.pop("SOURCE_COMPRESSION", "auto_detect")).lower(),
            "overwrite": str(options.pop("OVERWRITE", "false")).lower() == "true",
        },
    )


def _copy(tree: exp.Copy, place: Place) -> Copy:
    target = tree.this
    columns: tuple[str, ...] = ()
    if isinstance(target, exp.Schema):
        columns, target = tuple(stored(c) for c in target.expressions), target.this
    (source,) = tree.args["files"]
    items: tuple[exp.Expr, ...] = ()
    if isinstance(source, exp.Subquery):
        items = tuple(source.this.expressions)
        source = source.this.args["from_"].this
    options: dict[str, Any] = {}
    format_: Mapping[str, Any] = {}
    for parameter in tree.args.get("params") or []:
        name = parameter.name.upper()
        if name == "FILE_FORMAT":
            format_ = _format(parameter.expressions)
        else:
            options[name] = _value(parameter.args.get("expression"))
    at = place_of(_text(source.this if isinstance(source, exp.Table) else source), place)
    return Copy(full_name(target, *place), columns, at, items, format_, options)


def _infer(tree: exp.Select, place: Place) -> Infer | None:
    call = tree.find(exp.Anonymous)
    if call is None or str(call.this).upper() != "INFER_SCHEMA":
        return None
    named = {str(k.this.name).upper(): _text(k.expression) for k in call.expressions}
    if set(named) != {"LOCATION", "FILE_FORMAT"}:
        raise SqlError(
            "001003", "42000", "SQL compilation error:\nINFER_SCHEMA needs two arguments."
        )
    columns = tuple("*" if isinstance(e, exp.Star) else e.name.upper() for e in tree.expressions)
    format_ = _name(named["FILE_FORMAT"], place)
    return Infer(place_of(named["LOCATION"], place), format_, columns)
