"""Hoop's own eyes at Snowflake: a minted user that may describe tables and list users, nothing more.

It reads columns for the catalog and confirms that revoked users are gone. It lives as long as its lease
and is replaced when Snowflake or Vault ended it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from hoop_core.config import SnowflakeSettings
from hoop_core.errors import SnowflakeError
from hoop_core.model import Lease, RoleBinding, TableName
from hoop_core.snowflake.http import SnowflakeHttp
from hoop_core.snowflake.session import SnowflakeSession, open_session
from hoop_core.sql.catalog import CatalogObject

OBSERVER_SESSION = "observer"
_RENEW_BEFORE = timedelta(minutes=2)
_SESSION_ENDED = {390104, 390111, 390112, 390114}
_NOT_FOUND = {2003, 2043}
_NOT_ALLOWED = {3001}
_MOST_ROWS = 10_000
"""What SHOW answers at most. https://docs.snowflake.com/en/sql-reference/sql/show-users"""


class Observer:
    """Serialised: one small statement at a time. Whoever has to see that a user is gone waits for at most
    the one that is under way, however many descriptions are wanted.
    """

    def __init__(
        self,
        http: SnowflakeHttp,
        settings: SnowflakeSettings,
        role: RoleBinding,
        acquire: Callable[[RoleBinding, str], Awaitable[Lease]],
        release: Callable[[Lease], Awaitable[None]],
    ) -> None:
        self._http, self._settings, self._role = http, settings, role
        self._acquire, self._release = acquire, release
        self._lock = asyncio.Lock()
        # Held while waiting for the lock too, so that only one description stands before who is urgent.
        self._descriptions = asyncio.Lock()
        self._open: tuple[Lease, SnowflakeSession] | None = None

    @property
    def user(self) -> str | None:
        return self._open[0].snowflake_user if self._open else None

    async def describe(self, table: TableName) -> CatalogObject | None:
        """What there is of a table or view; None when there is nothing that Hoop serves.

        DESCRIBE TABLE answers for views and more, so the object must be listed as what it is first. A view
        is served only with its text, so that the masks of its base tables can bind.
        """
        try:
            listed = await self._listed("TABLES", table)
            if listed is not None:
                return await self._table(listed, table)
            listed = await self._listed("VIEWS", table)
            return None if listed is None else await self._view(listed, table)
        except SnowflakeError as e:
            if e.errno in _NOT_FOUND:
                return None
            raise

    async def _table(self, listed: dict[str, str], table: TableName) -> CatalogObject | None:
        if any(_yes(listed, flag) for flag in ("is_dynamic", "is_external", "is_event")):
            return None  # queries and files in disguise
        columns, _ = _columns(await self._rows(f"DESCRIBE TABLE {_path(table)}"))
        return CatalogObject(columns, rows=_size(listed, "rows"), bytes=_size(listed, "bytes"))

    async def _view(self, listed: dict[str, str], table: TableName) -> CatalogObject:
        """https://docs.snowflake.com/en/sql-reference/sql/show-views, .../functions/get_ddl"""
        if _yes(listed, "is_materialized"):
            return _refused("is a materialized view, which Hoop does not serve")
        if _yes(listed, "is_secure"):
            return _refused("is a secure view: what it reads cannot be seen, so no mask could bind")
        try:
            shown = await self._rows(f"SELECT GET_DDL('VIEW', {_literal(_path(table))})")
        except SnowflakeError as e:
            if e.errno in _NOT_FOUND or e.errno in _NOT_ALLOWED:
                return _refused("is a view whose text Hoop's observer is not allowed to see")
            raise
        text = next(iter(shown[0].values()), None) if len(shown) == 1 else None
        if not text:
            return _refused("is a view whose text Snowflake does not show")
        columns, policies = _columns(await self._rows(f"DESCRIBE VIEW {_path(table)}"))
        if policies:
            return _refused("is a view with masking policies of Snowflake's own on its columns")
        return CatalogObject(columns, definition=str(text))

    async def _listed(self, kind: str, table: TableName) -> dict[str, str] | None:
        """The row of SHOW TABLES or SHOW VIEWS for exactly this name."""
        schema = f"{_quoted(table.database)}.{_quoted(table.schema)}"
        rows = await self._rows(f"SHOW {kind} LIKE {_literal(table.name)} IN SCHEMA {schema}")
        return next((r for r in rows if str(r.get("name")) == table.name), None)

    async def users(self, prefix: str) -> list[str]:
        """The users whose names begin with `prefix`, in any case, as Snowflake lists them.

        Raises SnowflakeError also for a list that is not whole: whoever is missing there may be there.
        """
        rows = await self._now(f"SHOW TERSE USERS LIKE {_literal(prefix + '%')}")
        if len(rows) >= _MOST_ROWS:
            raise SnowflakeError(f"Snowflake lists the first {_MOST_ROWS} users only.")
        names = [str(r["name"]) for r in rows]
        return [n for n in names if n.upper().startswith(prefix.upper())]

    async def history(self, sql: str) -> list[dict[str, str]]:
        """Rows of ACCOUNT_USAGE. Raises what `users` raises."""
        return await self._now(sql)

    async def end_user(self, procedure: str, user: str) -> None:
        """Have Snowflake end a user of ours, with the rights of the role that made it.

        `procedure` is what `hoop snowflake setup-sql` makes; it takes names of minted users only.
        Raises SnowflakeError, or what `users` raises.
        """
        await self._now(f"CALL {procedure}({_literal(user)})")

    async def _rows(self, sql: str) -> list[dict[str, str]]:
        async with self._descriptions:
            return await self._now(sql)

    async def _now(self, sql: str) -> list[dict[str, str]]:
        async with self._lock:
            for attempt in (1, 2):
                session = await self._session()
                try:
                    return await session.rows(sql)
                except SnowflakeError as e:
                    if e.errno not in _SESSION_ENDED or attempt == 2:
                        raise
                    await self._drop()
            raise AssertionError("unreachable")

    async def _session(self) -> SnowflakeSession:
        if self._open and datetime.now(UTC) > self._open[0].expires_at - _RENEW_BEFORE:
            await self._drop()
        if self._open is None:
            lease = await self._acquire(self._role, OBSERVER_SESSION)
            try:
                self._open = lease, await open_session(self._http, self._settings, lease)
            except BaseException:
                await self._release(lease)
                raise
        return self._open[1]

    async def _drop(self) -> None:
        if self._open is not None:
            (lease, session), self._open = self._open, None
            await session.close()
            await self._release(lease)

    async def close(self) -> None:
        async with self._lock:
            await self._drop()


def _quoted(part: str) -> str:
    return '"' + part.replace('"', '""') + '"'


def _path(table: TableName) -> str:
    return ".".join(_quoted(p) for p in (table.database, table.schema, table.name))


def _literal(text: str) -> str:
    """A string literal. As a pattern of SHOW ... LIKE it matches at least `text` itself: `_` and `%` in it
    stay wildcards whatever SHOW thinks of escapes, and callers compare the names that come back.
    """
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _yes(row: dict[str, str], flag: str) -> bool:
    return str(row.get(flag) or "N").upper() in {"Y", "YES", "TRUE"}


def _size(row: dict[str, str], column: str) -> int | None:
    text = str(row.get(column) or "")
    return int(text) if text.isdecimal() else None


def _columns(rows: list[dict[str, str]]) -> tuple[dict[str, str], bool]:
    """The columns that a DESCRIBE lists, and whether any has a masking policy of Snowflake's own."""
    columns = [r for r in rows if str(r.get("kind") or "COLUMN").upper() == "COLUMN"]
    return {str(r["name"]): str(r["type"]) for r in columns}, any(
        r.get("policy name") for r in columns
    )


def _refused(why: str) -> CatalogObject:
    return CatalogObject({}, refused=why)
