"""What a decided statement has to do with stages: whether it may, and what it reads there.

Between the verdict, which knows the text alone, and the session's own stages, which only it knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from hoop_core.approvals.binding import digest
from hoop_core.errors import NotServed
from hoop_core.model import Json, Kind, NameContext
from hoop_core.session.guarded import GuardedSession, QueryRequest
from hoop_core.session.staging import Contents, Staging, source_of, staged_json
from hoop_core.sql.loading import CopyInto, InferSchema, Loading, Put, Stage
from hoop_core.sql.loading_cursor import Reader
from hoop_core.sql.loading_reader import read_loading
from hoop_core.sql.loading_words import Sort, words
from hoop_core.sql.refusals import refuse

_LOADS = frozenset({Kind.CREATE_TEMP_STAGE, Kind.PUT, Kind.COPY_INTO_TABLE, Kind.ALTER_TABLE})
_LOADED = ("rows_parsed", "rows_loaded", "errors_seen")


@dataclass(frozen=True, slots=True)
class Staged:
    """`loading` is what a statement that loads files does; `source` the stage that it, or an INSERT with staged
    values, reads; `contents` the files there when it was decided on.
    """

    loading: Loading | None = None
    source: Stage | None = None
    contents: Contents = ()
    bound: bool = False
    """Whether the values of an INSERT come from there."""
    moves: bool = False
    """Whether the statement changes the current database or schema."""

    def as_json(self) -> list[Json]:
        return staged_json(self.source, self.contents)


def admitted(
    session: GuardedSession, request: QueryRequest, kind: Kind, *, sql: str, text: str
) -> tuple[str, Staged]:
    """The decided text as this session may send it; `sql` is the one that it was decided from.

    Raises StatementRefused, NotServed.
    """
    if request.bind_stage:
        if kind is not Kind.INSERT or request.bindings:
            raise NotServed("Values from a stage can be bound to an INSERT only.")
        stage = _bind_stage(request.bind_stage, session.names)
        session.staging.check_own(stage)
        contents = session.staging.contents(stage)
        if not contents:
            raise refuse("STAGE", "The stage of the bound values is empty.", "Bind them again.")
        return text, Staged(source=stage, contents=contents, bound=True)
    loading = _loading(kind, text)
    if loading is None:
        return text, Staged(moves=kind is Kind.SESSION)
    if request.describe_only and not isinstance(loading, CopyInto | InferSchema):
        raise NotServed("This statement cannot be described.", "Run it.")
    loading = session.staging.admit(loading)
    if isinstance(loading, Put):
        loading = _with_path(loading, sql, session.names)
    source = source_of(loading)
    contents = () if source is None else session.staging.contents(source)
    return loading.sql, Staged(loading, source, contents)


def _loading(kind: Kind, text: str) -> Loading | None:
    """Read anew from the text that was decided on: it must be what would be written from it."""
    if kind not in _LOADS:
        return None
    loading = read_loading(text, NameContext())
    if loading is not None and (loading.sql != text or loading.kind is not kind):
        raise refuse("VERIFY_COMMAND", "The statement did not pass verification.")
    return loading


def _with_path(put: Put, sql: str, names: NameContext) -> Put:
    """With the path at the client, which the driver is to hear again and nobody else."""
    asked = read_loading(sql, names)
    if not isinstance(asked, Put) or asked.sql != put.sql:
        raise refuse("VERIFY_COMMAND", "The statement did not pass verification.")
    return replace(put, file=asked.file)


def _bind_stage(given: str, names: NameContext) -> Stage:
    """Raises StatementRefused for anything but `@name/path`, as drivers write it."""
    found = words(given)
    reader = Reader(found, names)
    if len(found) != 1 or found[0].sort is not Sort.STAGE or '"' in given:
        raise refuse("STAGE", "The values are bound at a place that is not a stage.")
    stage = reader.stage()
    if not stage.path or stage.name is None:
        raise refuse("STAGE", "The values are bound at a stage without a path.")
    return stage


@contextmanager
def begun(staging: Staging, upstream: object, staged: Staged) -> Iterator[None]:
    """While the statement runs: what it reads in a stage stays as it is. Raises StatementRefused."""
    staging.at(upstream, strict=bool(staged.loading or staged.source))
    with (
        staging.reading(staged.source, staged.contents),
        staging.placed(staged.bound, staged.moves),
    ):
        staging.begins(staged.loading)
        yield


def parameters_digest(bindings: Json | None, staged: Staged) -> str:
    """What a grant binds beside the text: the bound values, and the files that are read."""
    files = staged.as_json()
    return digest({"bindings": bindings, "staged": files} if staged.source else bindings)


def loaded_json(staged: Staged, answer: Json) -> Json:
    """How many rows a COPY has read and loaded, for the log."""
    if not isinstance(staged.loading, CopyInto):
        return {}
    data = answer.get("data") or {}
    names = [str(c.get("name", "")).lower() for c in data.get("rowtype") or []]
    rows = data.get("rowset") or []
    sums = {}
    for name in _LOADED:
        if name in names:
            values = [str(row[names.index(name)] or 0) for row in rows]
            sums[name] = sum(int(v) for v in values if v.isdecimal())
    return {"loaded": {"files": len(rows) if sums else 0, **sums}}
