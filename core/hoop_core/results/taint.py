"""Which columns of a result depend on protected ones, and what that makes of the detectors' findings.

Evidence beside the masks and never instead of them: whatever lineage says, nothing is shown that a mask takes
away. Detectors leave alone only what is, by certain lineage, nothing but columns that an approved exception shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hoop_core.model import ColumnLineage, Detector, Json, TableName, Verdict


class Found(Protocol):
    """A detector's finding in one column."""

    @property
    def column(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> Detector: ...
    @property
    def values(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Taint:
    """The protected columns that an output column depends on, or may depend on when `unknown`."""

    output: str
    sources: tuple[str, ...]
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Taints:
    """The taint of a result's columns, in their order; of one that is not listed all is assumed."""

    columns: tuple[Taint, ...] = ()
    protected: tuple[str, ...] = ()

    def of(self, column: int, name: str) -> Taint:
        if column < len(self.columns) and self.columns[column].output == name:
            return self.columns[column]
        return Taint(name, self.protected, unknown=True)


def taints_of(verdict: Verdict, outputs: Sequence[str]) -> Taints:
    """The taint of a result with the columns `outputs`, as Snowflake names them.

    Lineage that does not fit the result, or is unknown, means: depends on every protected column of the
    statement, shown by an exception or not.
    """
    decision = verdict.decision
    columns = {(m.table, m.column) for m in (*decision.masked, *decision.exposed)}
    protected = tuple(sorted(_name(c) for c in columns))
    lineage = verdict.lineage
    if tuple(line.output for line in lineage) != tuple(outputs):
        lineage = tuple(ColumnLineage(o, (), unknown=True) for o in outputs)
    return Taints(tuple(_taint(line, columns, protected) for line in lineage), protected)


def opened(verdict: Verdict, outputs: Sequence[str]) -> frozenset[int]:
    """The columns of a result that hold nothing but what approved exceptions show, by their position.

    Only where lineage is certain: what depends on any other column as well, or may do so, is not among them.
    """
    shown = {(m.table, m.column) for m in verdict.decision.exposed if m.exception is not None}
    lineage = verdict.lineage
    if not shown or tuple(line.output for line in lineage) != tuple(outputs):
        return frozenset()
    return frozenset(
        at
        for at, line in enumerate(lineage)
        if not line.unknown and line.sources and shown.issuperset(line.sources)
    )


_LOOKED_UP = 256


def labels_of(verdict: Verdict, names: Sequence[str], texts: Iterable[str]) -> tuple[str, ...]:
    """What the columns of a result are called in messages and in the log: by their names, or by their places.

    A name may be a value out of the data (PIVOT makes such columns). So one is used only when it is an output
    of the statement as it was understood, or stands in one of `texts`, the statement as it was written.
    """
    known = {line.output for line in verdict.lineage}
    if known.issuperset(names):
        return tuple(names)
    written = [_packed(text) for text in texts]
    labels, lookups = [], 0
    for at, name in enumerate(names):
        own = name in known
        if not own and name.strip() and lookups < _LOOKED_UP:
            lookups += 1
            own = any(_packed(name) in text for text in written)
        labels.append(name if own else f"number {at + 1}")
    return tuple(labels)


def _packed(text: str) -> str:
    """Without case, blanks and quotes: Snowflake writes an expression into a name as it likes."""
    return "".join(text.upper().replace('"', "").split())


def _taint(
    line: ColumnLineage, columns: set[tuple[TableName, str]], protected: tuple[str, ...]
) -> Taint:
    if line.unknown:
        return Taint(line.output, protected, unknown=True)
    return Taint(line.output, tuple(sorted(_name(s) for s in line.sources if s in columns)))


def _name(column: tuple[TableName, str]) -> str:
    table, name = column
    return f"{table}.{name}"


def tainted_json(taints: Taints) -> list[Json]:
    """The output columns that depend on protected ones, for the log."""
    return [
        {"column": t.output, "sources": list(t.sources), "unknown": t.unknown}
        for t in taints.columns
        if t.sources
    ]


def found_json(findings: Iterable[Found], taints: Taints) -> list[Json]:
    """What the detectors found, for the log: kinds and counts, never a value."""
    return [
        {
            "column": f.name,
            "kind": f.kind.value,
            "values": f.values,
            "tainted": bool((taint := taints.of(f.column, f.name)).sources),
            "sources": list(taint.sources),
            "lineage_unknown": taint.unknown,
        }
        for f in findings
    ]
