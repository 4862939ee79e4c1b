"""Temporary tables of a session: what Hoop, whose observer cannot see them, knows of them.

Snowflake lets a temporary table hide a table of the same name. Here a name means one object only: none is made
where there is an object, what is made later under its name is refused, and every read lists exactly the columns
that the temporary table has. So nothing rests on which of two objects Snowflake finds. Policies speak of temporary
tables as of any other; what is in them was masked when it was written.
https://docs.snowflake.com/en/user-guide/tables-temp-transient
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import structlog

from hoop_core.errors import HoopError
from hoop_core.masking.rewrite import qualified
from hoop_core.model import Kind, Statement, TableName
from hoop_core.snowflake.session import SnowflakeSession
from hoop_core.sql.catalog import Catalog, CatalogObject

_log = structlog.get_logger(__name__)
Temporaries = dict[TableName, CatalogObject]
_MADE = {Kind.CREATE_TABLE, Kind.CREATE_TABLE_AS}
_AMBIGUOUS = CatalogObject(
    {},
    refused="is also the name of a temporary table of this session, so which one is meant is not certain; drop the "
    "temporary table by ending the session",
)


def with_temporary(
    found: Catalog, tables: Iterable[TableName], own: Mapping[TableName, CatalogObject]
) -> Catalog:
    """What there is of `tables`, for a session that has the temporary tables `own`."""
    mine = {t: own[t] for t in tables if t in own}
    if not mine:
        return found
    return found.but({t: o if found.get(t) is None else _AMBIGUOUS for t, o in mine.items()})


def about_to_run(own: Temporaries, statement: Statement) -> None:
    """A temporary table that goes is forgotten before it goes: afterwards its name is free."""
    if statement.kind is Kind.DROP_TABLE:
        for table in statement.writes:
            own.pop(table, None)


async def took_effect(own: Temporaries, statement: Statement, upstream: SnowflakeSession) -> None:
    """Look at a temporary table that was made, in the session that has it. One that cannot be looked at stays
    unknown, and so unread."""
    if statement.kind not in _MADE or not statement.facts.get("temporary"):
        return
    for table in statement.writes:
        own.pop(table, None)
        try:
            rows = await upstream.rows(f"DESCRIBE TABLE {qualified(table)}")
            columns = {str(r["name"]): str(r["type"]) for r in rows}
        except (HoopError, KeyError) as e:
            _log.warning("a temporary table stays unknown", why=type(e).__name__)
        else:
            if columns:
                own[table] = CatalogObject(columns, temporary=True)
