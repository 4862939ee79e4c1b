"""What was recorded of a statement's result: whether the files are those of the log, and whether the masks show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hoop_core.errors import HoopError
from hoop_core.model import Json, Kind, Verdict
from hoop_core.policy.protection import strictest
from hoop_core.replay.compare import Difference
from hoop_core.replay.deciding import Recorded
from hoop_core.replay.direct import direct_outputs
from hoop_core.replay.parts import Column, Unreadable, columns_of
from hoop_core.replay.shapes import Fits, shape_of
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.names import parse_parts
from hoop_core.sql.statement import analyse

Read = Callable[[Json], bytes | None]
"""The bytes as they were shown of a file that an entry names; None without the key. Raises Changed and LeftOut."""
EXCHANGE = "-exchange.json"
"""How the name of the file ends that holds what was asked and answered."""
_FIRST = "-part-00000."
_OWN_HASH = "MASK_HASH"


class Changed(Exception):
    """A recorded file is not what the log says, or not there. The text names it."""


class LeftOut(Exception):
    """A recorded file that cannot be looked at, and that for a reason which is on record."""


@dataclass(slots=True)
class Checked:
    """`values` are those that were held against a mask; `left_out` says what could not be, and why."""

    files: int = 0
    values: int = 0
    columns: tuple[str, ...] = ()
    differences: list[Difference] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Shape:
    """A column of the result that is a masked column, and what it may hold."""

    at: int
    name: str
    mask: str
    fits: Fits


def check_results(
    given: Recorded, verdict: Verdict, entries: Sequence[Json], read: Read
) -> Checked:
    """`entries` are the statement's outcome and its `result.part` and `result.part.begun`, in order."""
    checked = Checked()
    shown: list[tuple[str, bytes]] = []
    for told in (f for e in entries for f in recorded_files(e["data"])):
        try:
            content = read(told)
        except Changed as e:
            checked.differences.append(Difference("recording", told["path"], str(e)))
            continue
        except LeftOut as e:
            checked.left_out.append(f"{told['path']}: {e}")
            continue
        checked.files += 1
        if content is None:
            checked.left_out.append(f"{told['path']}: encrypted, and the key is not at hand")
        else:
            shown.append((str(told["path"]), content))
    _check_masks(given, verdict, entries, shown, checked)
    return checked


def recorded_files(data: Json) -> list[Json]:
    found = data.get("recording") or []
    return found if isinstance(found, list) else [found]


def verified_file(told: Json, content: bytes | None) -> bytes:
    """The stored bytes, if they are the ones that the entry vouches for. Raises Changed."""
    if content is None:
        raise Changed("it is not there")
    digest = hashlib.sha256(content).hexdigest()
    if (len(content), digest) != (told["size"], told["sha256"]):
        raise Changed(f"it has {len(content)} bytes and the digest {digest}")
    return content


def _check_masks(
    given: Recorded,
    verdict: Verdict,
    entries: Sequence[Json],
    shown: Sequence[tuple[str, bytes]],
    checked: Checked,
) -> None:
    if not verdict.decision.masked:
        return
    exchange = next((c for path, c in shown if path.endswith(EXCHANGE)), None)
    parts = [(path, c) for path, c in shown if not path.endswith(EXCHANGE)]
    if exchange is None or not parts:
        return
    try:
        rowtype, form = announced(exchange)
    except Unreadable as e:
        checked.left_out.append(f"what was answered: {e}")
        return
    shapes, why = _shapes(given, verdict, [str(c["name"]) for c in rowtype])
    cut = {f["column"] for e in entries for f in e["data"].get("findings") or ()}
    checked.left_out += why
    checked.left_out += [
        f"{s.name}: detectors found something there" for s in shapes if s.name in cut
    ]
    shapes = [s for s in shapes if s.name not in cut]
    checked.columns = tuple(s.name for s in shapes)
    for path, content in parts if shapes else ():
        try:
            first = _FIRST in path
            columns = columns_of(content, form, rowtype, texts=first and form != "arrow")
        except Unreadable as e:
            checked.left_out.append(f"{path}: {e}")
            continue
        for shape in shapes:
            wrong = _wrong(shape, columns[shape.at])
            checked.values += len(columns[shape.at])
            if wrong:
                place = f"{path}, column {shape.name}"
                told = f"{wrong} values that the mask {shape.mask} cannot give"
                checked.differences.append(Difference("masked result", place, told))


def announced(exchange: bytes) -> tuple[list[Json], str]:
    """The columns that an answer tells of, and the form of its parts. Raises Unreadable."""
    try:
        answer = json.loads(exchange)["answer"]
        rowtype = [dict(column) for column in answer["rowtype"]]
        return rowtype, str(answer.get("queryResultFormat") or "json")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Unreadable("it is not of the form it must have") from None


def _wrong(shape: _Shape, column: Column) -> int:
    return sum(not _fits(shape.fits, v) for v in column)


def _fits(fits: Fits, value: Any) -> bool:
    try:
        return fits(value)
    except (TypeError, ValueError, ArithmeticError):
        return False  # no value of the column's type, and so none of the mask's


def _shapes(given: Recorded, verdict: Verdict, names: list[str]) -> tuple[list[_Shape], list[str]]:
    """The outputs that are a masked column as it is; and, of masked columns in others, that nothing is told."""
    masked = {(m.table, m.column): m.mask for m in verdict.decision.masked}
    lineage = verdict.lineage
    if verdict.statement is None or verdict.statement.kind is not Kind.SELECT:
        return [], []  # what it answers is no data: how many rows it wrote, or names of objects
    if len(lineage) != len(names):
        return [], ["which outputs are masked columns is not certain"]
    outputs = [line.output for line in lineage]
    tables = {str(t): t for t, _ in masked}
    catalog = Catalog.of(
        {tables[n]: o for n, o in given.catalog.items() if n in tables and o is not None}
    )
    try:
        direct = direct_outputs(analyse(given.sql, given.names), catalog, outputs)
    except HoopError:
        return [], ["which outputs are masked columns is not certain"]
    rules = given.policy.masks_binding(given.identity)
    own = (parse_parts(given.policy.hash_function) or ("",))[-1] == _OWN_HASH
    found: list[_Shape] = []
    left_out: list[str] = []
    for at, (line, source) in enumerate(zip(lineage, direct, strict=True)):
        touched = line.unknown or any(s in masked for s in line.sources)
        plain = line.output == names[at] and line.sources == (source,)
        if source is None or source not in masked or not plain:
            if touched:
                left_out.append(f"{line.output}: worked out of masked columns")
            continue
        table, column = source
        mask = strictest(table, (column,), rules).get(column)
        known = catalog.columns(table)
        fits = None
        if mask is not None and known is not None:
            fits = shape_of(mask, known[column], hash_known=own)
        if fits is None:
            left_out.append(f"{line.output}: what its mask gives is not known")
        else:
            found.append(_Shape(at, line.output, masked[source], fits))
    return found, left_out
