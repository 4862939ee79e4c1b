"""What one session has put into stages: which stages are its own, and which files are in them.

Only a stage that this session made, at the Snowflake session that it works with now, may be written to or
loaded from: any other may hold somebody else's files. So a stage counts from the moment that Snowflake has
made it, and no longer counts from the moment that it is going to be dropped.

Not thread-safe: used from the event loop only, and no method waits, so a check and what follows it are one.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hoop_core.model import Json, Kind, TableName
from hoop_core.sql.loading import (
    CopyInto,
    CreateFormat,
    CreateStage,
    Drop,
    InferSchema,
    Loading,
    Put,
    Rename,
    Stage,
)
from hoop_core.sql.refusals import refuse


@dataclass(frozen=True, slots=True, order=True)
class StagedFile:
    """`path` is below the stage; `size` in bytes; `sha256` (hex) of the bytes as the client sent them."""

    path: str
    sha256: str
    size: int
    sure: bool = True
    """False while it is being written, and when nobody knows whether it was."""
    purged: bool = False
    """Whether a load was told to delete it: it may be there, and may not."""


Contents = tuple[StagedFile, ...]
_Made = TypeVar("_Made", CreateStage, CreateFormat)


@dataclass(slots=True)
class Staging:
    """The stages, file formats and tables that a session made, and the files in the stages."""

    stages: dict[TableName | None, dict[str, StagedFile]] = field(
        default_factory=lambda: {None: {}}
    )
    """By stage, None for `@~`: the files by their paths."""
    formats: set[TableName] = field(default_factory=set)
    tables: set[TableName] = field(default_factory=set)
    _upstream: object = field(default=None, repr=False)
    _reading: dict[TableName | None, int] = field(default_factory=dict)
    _written: dict[TableName | None, int] = field(default_factory=dict)
    """By stage: how many uploads into it are under way."""
    _bound: int = 0
    _moving: int = 0

    def at(self, upstream: object, *, strict: bool) -> None:
        """Before a statement runs: what another Snowflake session held is gone.

        Raises StatementRefused when the statement may rest on it (`strict`).
        """
        if self._upstream is upstream:
            return
        held = self._upstream is not None and (len(self.stages) > 1 or self.stages[None])
        self._upstream = upstream
        if held:
            self.stages = {None: {}}
            self.formats.clear()
            self.tables.clear()
        if held and strict:
            raise refuse(
                "STAGE",
                "The Snowflake session that held your stages has ended, and they with it.",
                "Create the stage and PUT the files again.",
            )

    @property
    def holds(self) -> bool:
        """Whether something would be lost with the Snowflake session."""
        files = len(self.stages) > 1 or bool(self.stages[None])
        return files or bool(self.formats) or self._moving > 0

    def is_at(self, upstream: object) -> bool:
        return self._upstream is upstream

    # ------------------------------------------------------------------ before

    def admit(self, loading: Loading) -> Loading:
        """The statement as it may be sent. Raises StatementRefused for what is not this session's own.

        IF NOT EXISTS and OR REPLACE mean the session's own objects only: where there is none of that name,
        they would take in, or do away with, what others made.
        """
        if isinstance(loading, CreateStage):
            return self._created(loading, loading.name in self.stages)
        if isinstance(loading, CreateFormat):
            return self._created(loading, loading.name in self.formats)
        if isinstance(loading, Drop):
            self._own(loading.name, self.formats if loading.what != "STAGE" else self.stages)
        elif isinstance(loading, Put):
            self._own(loading.stage.name, self.stages)
        elif isinstance(loading, CopyInto | InferSchema):
            self._own(loading.source.name, self.stages)
            if isinstance(loading, InferSchema):
                self._own(loading.format, self.formats)
        elif loading.table not in self.tables:
            raise refuse(
                "UNSERVED_STATEMENT",
                f"{loading.table} was not made by this session, so it cannot be renamed: masks and rules go by "
                "the name.",
                "CREATE TABLE ... AS SELECT under the new name.",
            )
        return loading

    def _created(self, loading: _Made, own: bool) -> _Made:
        return loading if own else replace(loading, replace=False, if_not_exists=False)

    def _own(self, name: TableName | None, among: Container[TableName | None]) -> None:
        if name not in among:
            raise refuse(
                "STAGE",
                f"{name} was not created in this session: only its own temporary stages and file formats, and "
                "@~, are served.",
                "CREATE TEMPORARY STAGE first; stages of others may hold data that no rule grants.",
            )

    def check_own(self, stage: Stage) -> None:
        """Raises StatementRefused."""
        self._own(stage.name, self.stages)

    def contents(self, stage: Stage) -> Contents:
        """The files that a statement may read there. Snowflake matches the path as a prefix of theirs.

        Raises StatementRefused while one of them is not known for sure.
        """
        prefix = "/".join(stage.path)
        files = self.stages.get(stage.name) or {}
        found = tuple(f for path, f in sorted(files.items()) if path.startswith(prefix))
        unsure = next((f for f in found if not f.sure), None)
        if unsure is not None:
            raise refuse(
                "STAGE",
                f"The upload of {unsure.path} is under way, or did not come to a known end.",
                "PUT the file again, and load it then.",
            )
        return found

    @contextmanager
    def reading(self, stage: Stage | None, decided: Contents) -> Iterator[None]:
        """While a statement reads a stage nothing is written there. Raises StatementRefused if what it was
        decided on has changed meanwhile, or the stage is gone: its name may then mean somebody else's.
        """
        if stage is None:
            yield
            return
        self.check_own(stage)
        if self.contents(stage) != decided:
            raise refuse(
                "STAGE",
                "The staged files have changed since the statement was decided on.",
                "Run it again once all uploads have ended.",
            )
        self._reading[stage.name] = self._reading.get(stage.name, 0) + 1
        try:
            yield
        finally:
            self._reading[stage.name] -= 1

    @contextmanager
    def placed(self, bound: bool, moves: bool) -> Iterator[None]:
        """Drivers name the stage of bound values without its schema: the current one must stay what it is.

        Raises StatementRefused for a USE and an INSERT with staged values at the same time.
        """
        if (bound and self._moving) or (moves and self._bound):
            raise refuse(
                "STAGE",
                "The current schema cannot change while values are bound through a stage.",
                "Run one after the other.",
            )
        self._bound += bound
        self._moving += moves
        try:
            yield
        finally:
            self._bound -= bound
            self._moving -= moves

    # ------------------------------------------------------------------ files

    def known(self, stage: Stage, name: str) -> StagedFile | None:
        return (self.stages.get(stage.name) or {}).get(_path(stage, name))

    def writing(self, stage: Stage, name: str, sha256: str, size: int) -> bool:
        """Note a file that is going to be written, until `written`; False while a statement reads the stage,
        or without it.
        """
        files = self.stages.get(stage.name)
        if files is None or self._reading.get(stage.name):
            return False
        path = _path(stage, name)
        files[path] = StagedFile(path, sha256, size, sure=False)
        self._written[stage.name] = self._written.get(stage.name, 0) + 1
        return True

    def written(self, stage: Stage) -> None:
        """An upload that was `writing` has come to its end, whichever."""
        self._written[stage.name] -= 1

    def wrote(self, stage: Stage, name: str, sha256: str, size: int) -> None:
        files = self.stages.get(stage.name)
        if files is not None:
            path = _path(stage, name)
            files[path] = StagedFile(path, sha256, size)

    # ------------------------------------------------------------------ effects

    def begins(self, loading: Loading | None) -> None:
        """From here on nobody knows whether what is to be dropped or replaced is still there.

        Raises StatementRefused if that is not this session's own any more since the statement was decided on,
        or is in use: a file on its way would be in the new stage and in no record of it.
        """
        if loading is not None and self.admit(loading) != loading:
            raise refuse("STAGE", "Another statement has dropped it meanwhile.", "Create it anew.")
        if isinstance(loading, CreateStage) and loading.replace:
            self._ends(loading.name)
        elif isinstance(loading, Drop):
            if loading.what == "STAGE":
                self._ends(loading.name)
            else:
                self.formats.discard(loading.name)
        elif isinstance(loading, Rename):
            self.tables -= {loading.table, loading.to}

    def _ends(self, stage: TableName) -> None:
        if self._reading.get(stage) or self._written.get(stage):
            raise refuse(
                "STAGE",
                f"The stage {stage} is being read or written.",
                "Drop or replace it once all uploads and loads have ended.",
            )
        self.stages.pop(stage, None)

    def took_effect(self, loading: Loading | None) -> None:
        if isinstance(loading, CreateStage | CreateFormat) and loading.if_not_exists:
            return  # it was there and is; or it was dropped meanwhile, and what was found is another's
        if isinstance(loading, CreateStage):
            self.stages[loading.name] = {}
        elif isinstance(loading, CreateFormat):
            self.formats.add(loading.name)
        elif isinstance(loading, CopyInto):
            if ("PURGE", "TRUE") in loading.options:
                files = self.stages.get(loading.source.name) or {}
                files |= {f.path: replace(f, purged=True) for f in self.contents(loading.source)}
        elif isinstance(loading, Rename):
            self.tables.add(loading.to)

    def made_table(self, kind: Kind, tables: tuple[TableName, ...], answer: Json) -> None:
        """After a CREATE TABLE that has made one: IF NOT EXISTS may have found another's, and says so."""
        if kind in (Kind.CREATE_TABLE, Kind.CREATE_TABLE_AS):
            rows = (answer.get("data") or {}).get("rowset") or []
            status = str(rows[0][0]) if rows and rows[0] else ""
            if status.endswith("successfully created."):
                self.tables.update(tables)
        elif kind is Kind.DROP_TABLE:
            self.tables.difference_update(tables)


def _path(stage: Stage, name: str) -> str:
    return "/".join((*stage.path, name))


def staged_json(stage: Stage | None, contents: Contents) -> list[Json]:
    """What a statement reads out of a stage, for the log, the approvers and what their grant is bound to."""
    if stage is None:
        return []
    at = str(replace(stage, path=()))
    return [{"file": f"{at}/{f.path}", "sha256": f.sha256, "bytes": f.size} for f in contents]


def source_of(loading: Loading | None) -> Stage | None:
    """The stage that a statement reads."""
    return loading.source if isinstance(loading, CopyInto | InferSchema) else None
