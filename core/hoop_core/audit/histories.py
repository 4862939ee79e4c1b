"""SNOWFLAKE.ACCOUNT_USAGE: what Hoop asks of QUERY_HISTORY and LOGIN_HISTORY, and what it makes of the answers.

https://docs.snowflake.com/en/sql-reference/account-usage/query_history · login_history

Rows are there within 45 minutes (queries) and 2 hours (logins). Spans are told by END_TIME: a statement that ran for
hours comes with the hour in which it ended. Statements that a client calls its own (IS_CLIENT_GENERATED_STATEMENT)
count like any other, for a client can say so of whatever it runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hoop_core.errors import SnowflakeUnavailable
from hoop_core.snowflake.quoting import literal

KEPT_CHARACTERS = 100_000
"""What QUERY_HISTORY keeps of a text."""
MOST_NAMED = 10
"""Ids or users in one statement: its text must not grow beyond what is looked at of it."""
_QUERIES = (
    "SELECT QUERY_ID, SHA2(QUERY_TEXT, 256) AS TEXT_SHA256, LEFT(QUERY_TEXT, 2000) AS BEGINNING, "
    "USER_NAME, QUERY_TYPE, QUERY_TAG, EXECUTION_STATUS, END_TIME "
    "FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY WHERE "
)
_LOGINS = (
    "SELECT EVENT_ID, EVENT_TIMESTAMP, USER_NAME, CLIENT_IP, IS_SUCCESS "
    "FROM SNOWFLAKE.ACCOUNT_USAGE.LOGIN_HISTORY WHERE "
)
_SPAN = "{time} >= '{begin}'::TIMESTAMP_LTZ AND {time} < '{end}'::TIMESTAMP_LTZ"

_NAME = r'("([^"]|"")*"|[A-Za-z_][A-Za-z0-9_$]*)'
_PATH = rf"{_NAME}(\.{_NAME}){{0,2}}"
_TEXT = r"'([^'\\]|''|\\\\)*'"
_TIME = r"'[0-9TZ:.-]{20,32}'::TIMESTAMP_LTZ"
_TEXTS = rf"\({_TEXT}(, {_TEXT})*\)"
DESCRIBED = re.compile(rf"DESCRIBE (TABLE|VIEW) {_PATH}")
OBSERVED = (
    DESCRIBED,
    re.compile(rf"SHOW (TABLES|VIEWS) LIKE {_TEXT} IN SCHEMA {_PATH}"),
    re.compile(rf"SHOW TERSE USERS LIKE {_TEXT}"),
    re.compile(rf"SELECT GET_DDL\('VIEW', {_TEXT}\)"),
    re.compile(rf"CALL {_PATH}\({_TEXT}\)"),
    # What the procedure END_MINTED_USER runs is there as statements of whoever called it.
    re.compile(r'ALTER USER IF EXISTS "[A-Za-z0-9_]+" SET DISABLED = TRUE'),
    re.compile(r'DROP USER IF EXISTS "[A-Za-z0-9_]+"'),
    re.compile(rf"{re.escape(_QUERIES)}END_TIME >= {_TIME} AND END_TIME < {_TIME}"),
    re.compile(rf"{re.escape(_QUERIES)}QUERY_ID IN {_TEXTS}"),
    re.compile(
        rf"{re.escape(_LOGINS)}EVENT_TIMESTAMP >= {_TIME} AND EVENT_TIMESTAMP < {_TIME}"
        rf"( AND USER_NAME IN {_TEXTS})?"
    ),
)
"""What Hoop's observer says. Its role reads no rows but these."""


@dataclass(frozen=True, slots=True)
class RanQuery:
    """A row of QUERY_HISTORY. `beginning` are the first 2,000 characters of the text."""

    query_id: str
    text_sha256: str
    beginning: str = field(repr=False)
    user: str
    kind: str
    tag: str
    status: str
    ended: datetime


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A row of LOGIN_HISTORY."""

    event: str
    at: datetime
    user: str
    address: str
    success: bool


def iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def text_digest(text: str) -> str:
    """SHA-256 (hex) of what QUERY_HISTORY keeps of a text."""
    return hashlib.sha256(text[:KEPT_CHARACTERS].encode("utf-8", "backslashreplace")).hexdigest()


def queries_ended(begin: datetime, end: datetime) -> str:
    return _QUERIES + _SPAN.format(time="END_TIME", begin=iso(begin), end=iso(end))


def queries_named(ids: Sequence[str]) -> str:
    """At most MOST_NAMED of them."""
    return _QUERIES + f"QUERY_ID IN ({', '.join(map(literal, ids))})"


def logins_between(begin: datetime, end: datetime, users: Sequence[str] = ()) -> str:
    """Of `users`, at most MOST_NAMED; of all without them."""
    only = f" AND USER_NAME IN ({', '.join(map(literal, users))})" if users else ""
    return _LOGINS + _SPAN.format(time="EVENT_TIMESTAMP", begin=iso(begin), end=iso(end)) + only


def read_query(row: Mapping[str, Any]) -> RanQuery:
    """A row of `queries_ended`, by names in lower case. Raises SnowflakeUnavailable."""
    try:
        return RanQuery(
            query_id=str(row["query_id"]),
            text_sha256=str(row["text_sha256"] or "").lower(),
            beginning=str(row["beginning"] or ""),
            user=str(row["user_name"] or ""),
            kind=str(row["query_type"] or ""),
            tag=str(row["query_tag"] or ""),
            status=str(row["execution_status"] or ""),
            ended=_moment(row["end_time"]),
        )
    except (KeyError, ValueError):
        raise _unknown() from None


def read_login(row: Mapping[str, Any]) -> SignedIn:
    """A row of `logins_between`. Raises SnowflakeUnavailable."""
    try:
        return SignedIn(
            event=str(row["event_id"]),
            at=_moment(row["event_timestamp"]),
            user=str(row["user_name"] or ""),
            address=str(row["client_ip"] or ""),
            success=str(row["is_success"]).upper() == "YES",
        )
    except (KeyError, ValueError):
        raise _unknown() from None


def _moment(value: Any) -> datetime:
    """TIMESTAMP_LTZ as JSON results have it: seconds since 1970, and a zone behind them for other types."""
    return datetime.fromtimestamp(float(str(value).split(" ")[0]), UTC)


def _unknown() -> SnowflakeUnavailable:
    return SnowflakeUnavailable(
        "Snowflake's history has an unknown form.", "Compare docs/reconcile.md with your account."
    )
