"""Hoop's own eyes at Snowflake: a minted user that may describe tables and list users, nothing more.

It reads columns for the catalog and confirms that revoked users are gone. It lives as long as its lease
and is replaced when Snowflake or Vault ended it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import httpx

from hoop_core.config import SnowflakeSettings
from hoop_core.errors import SnowflakeError
from hoop_core.model import Lease, RoleBinding, TableName
from hoop_core.snowflake.session import SnowflakeSession, open_session

OBSERVER_SESSION = "observer"
_RENEW_BEFORE = timedelta(minutes=2)
_SESSION_ENDED = {390104, 390111, 390112, 390114}
_NOT_FOUND = {2003, 2043}


class Observer:
    """Serialised: one small statement at a time."""

    def __init__(
        self,
        http: httpx.AsyncClient,
        settings: SnowflakeSettings,
        role: RoleBinding,
        acquire: Callable[[RoleBinding, str], Awaitable[Lease]],
        release: Callable[[Lease], Awaitable[None]],
    ) -> None:
        self._http, self._settings, self._role = http, settings, role
        self._acquire, self._release = acquire, release
        self._lock = asyncio.Lock()
        self._open: tuple[Lease, SnowflakeSession] | None = None

    @property
    def user(self) -> str | None:
        return self._open[0].snowflake_user if self._open else None

    async def columns(self, table: TableName) -> dict[str, str] | None:
        """Column name to type in order; None when there is no such base table.

        A view would bring the columns of its base tables past their masks, and DESCRIBE TABLE answers
        for views too: so the object must be listed as a table first.
        """
        schema = f"{_quoted(table.database)}.{_quoted(table.schema)}"
        try:
            listed = await self._rows(f"SHOW TABLES LIKE {_like(table.name)} IN SCHEMA {schema}")
            if not any(_is_base_table(row, table) for row in listed):
                return None
            rows = await self._rows(f"DESCRIBE TABLE {schema}.{_quoted(table.name)}")
        except SnowflakeError as e:
            if e.errno in _NOT_FOUND:
                return None
            raise
        return {str(r["name"]): str(r["type"]) for r in rows if r.get("kind", "COLUMN") == "COLUMN"}

    async def user_exists(self, user: str) -> bool:
        """Whether Snowflake still lists `user`."""
        rows = await self._rows(f"SHOW USERS LIKE {_like(user)}")
        return any(str(r["name"]) == user for r in rows)

    async def _rows(self, sql: str) -> list[dict[str, str]]:
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


def _like(name: str) -> str:
    """A pattern that matches `name`, as a literal.

    `_` and `%` in it stay wildcards, so that it matches at least `name` whatever SHOW thinks of
    escapes; callers compare the names that come back.
    """
    return "'" + name.replace("\\", "\\\\").replace("'", "''") + "'"


def _is_base_table(row: dict[str, str], table: TableName) -> bool:
    """A row of SHOW TABLES: dynamic and external tables are queries and files in disguise."""
    derived = any(str(row.get(flag, "N")).upper() in {"Y", "YES", "TRUE"}
                  for flag in ("is_dynamic", "is_external", "is_event"))  # fmt: skip
    return str(row.get("name")) == table.name and not derived
