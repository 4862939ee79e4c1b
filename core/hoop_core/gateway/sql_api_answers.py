"""What Snowflake's SQL REST API answers: result sets, and how a statement stands.

https://docs.snowflake.com/en/developer-guide/sql-api/reference ·
https://docs.snowflake.com/en/developer-guide/sql-api/handling-responses
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse

from hoop_core.errors import (
    HoopError,
    IdentityError,
    NotServed,
    PolicyDenied,
    SessionGone,
    SnowflakeUnavailable,
    Unavailable,
)
from hoop_core.gateway.limits import Draining, TooMany
from hoop_core.gateway.monitoring import DETACHED, IN_PROGRESS
from hoop_core.gateway.shelves import Running
from hoop_core.gateway.sql_api_requests import SUBMITTED, WrongType
from hoop_core.http import BadRequest
from hoop_core.model import Json
from hoop_core.session.guarded import Stage
from hoop_core.signin.door import TooManyFailures

_DONE, _CANCELED, _TIMED_OUT = "090001", "000604", "000630"
_STATS = ("numRowsInserted", "numRowsUpdated", "numRowsDeleted", "numDuplicateRowsUpdated")
_COUNTED = {
    "number of rows inserted": "numRowsInserted",
    "number of rows updated": "numRowsUpdated",
    "number of rows deleted": "numRowsDeleted",
    "number of multi-joined rows updated": "numDuplicateRowsUpdated",
}
_COLUMN = (
    "name", "database", "schema", "table", "nullable", "type", "byteLength", "length", "scale",
    "precision", "collation",
)  # fmt: skip
_STATUS: tuple[tuple[type[HoopError], int], ...] = (
    (WrongType, 415),
    (BadRequest, 400),
    (TooManyFailures, 429),
    (TooMany, 429),
    (IdentityError, 401),
    (Draining, 503),
    (PolicyDenied, 403),
    (NotServed, 404),
    (SessionGone, 404),
    (Unavailable, 503),
)
_AGAIN = {"retry-after": "5"}


class NoSuchStatement(NotServed):
    """The same for what does not exist, what is not kept, and what is somebody else's."""

    errno, sqlstate, reason = 709, "02000", "NO_SUCH_STATEMENT"

    def __init__(self) -> None:
        super().__init__(
            "Statement not found: it never was, its result is not kept any more, or it is not yours.",
            "Look at what it did before you send it again.",
        )


class OtherMethod(NotServed):
    """The address is served, by another method."""

    def __init__(self, allowed: str) -> None:
        self.allowed = allowed
        super().__init__("This address does not take this method.", f"Use {allowed}.")


def status_url(handle: str, request_id: str, partition: int | None = None) -> str:
    part = "" if partition is None else f"&partition={partition}"
    # the client's own text: it must neither end the address nor the header that it stands in
    return f"{SUBMITTED}/{handle}?requestId={quote(request_id, safe='')}{part}"


def refused(error: HoopError) -> JSONResponse:
    """A request that came to no statement, or is not answered."""
    status = next((s for kind, s in _STATUS if isinstance(error, kind)), 422)
    headers = dict(_AGAIN) if status in {429, 503} else {}
    if isinstance(error, OtherMethod):
        status, headers = 405, {"allow": error.allowed}
    if status == 401:
        headers = {"www-authenticate": "Bearer"}
    body = {"code": _code(error), "sqlState": error.sqlstate, "message": error.text}
    return JSONResponse(body, status, headers=headers)


def in_progress(running: Running, request_id: str) -> JSONResponse:
    """QueryStatus of a statement that is under way."""
    held = running.progress.stage is Stage.HELD
    text = "Asynchronous execution in progress." if running.detached else "Statement in progress."
    if held:
        text = "The statement is held until people have approved it; then it runs by itself."
    return _told(
        running,
        request_id,
        202,
        code=DETACHED if running.detached else IN_PROGRESS,
        message=f"{text} Use the provided query id to perform query monitoring and management.",
    )


def failed(running: Running, request_id: str, error: HoopError, *, timed_out: bool) -> JSONResponse:
    """QueryFailureStatus; of one that took longer than it may, QueryStatus under 408."""
    if timed_out or error.errno == int(_TIMED_OUT):
        return _told(
            running,
            request_id,
            408,
            code=_TIMED_OUT,
            sqlState="57014",
            message="The statement reached its timeout and was canceled.",
        )
    return _told(
        running, request_id, 422, code=_code(error), sqlState=error.sqlstate, message=error.text
    )


def canceled(running: Running, request_id: str) -> JSONResponse:
    return _told(
        running,
        request_id,
        200,
        code=_CANCELED,
        sqlState="57014",
        message="SQL execution canceled",
    )


def _told(running: Running, request_id: str, status: int, **more: Any) -> JSONResponse:
    handle = running.statement_id
    body = {
        **more,
        "statementHandle": handle,
        "statementStatusUrl": status_url(handle, request_id),
        "createdOn": int(running.begun_at * 1000),
        "requestId": request_id,
    }
    return JSONResponse(body, status)


def _code(error: HoopError) -> str:
    return f"{error.errno:06d}"


def result_set(running: Running, request_id: str, answer: Json, *, nullable: bool) -> JSONResponse:
    """ResultSet with the first partition. Raises SnowflakeUnavailable for a result in another form."""
    data = answer["data"]
    if data.get("queryResultFormat", "json") != "json":
        raise SnowflakeUnavailable("Snowflake's result is not in the form of the SQL API.")
    columns = list(data.get("rowtype") or ())
    rows = list(data.get("rowset") or ())
    partitions = [{"rowCount": len(rows), "uncompressedSize": _weight(rows)}, *_remote(data)]
    handle = running.statement_id
    url = status_url(handle, request_id)
    body: Json = {
        "resultSetMetaData": {
            "numRows": int(data.get("total") or len(rows)),
            "format": "jsonv2",
            "rowType": [{k: c.get(k) for k in _COLUMN} for c in columns],
            "partitionInfo": partitions,
        },
        "data": shown(rows, columns, nullable=nullable),
        "code": _DONE,
        "statementHandle": handle,
        "statementStatusUrl": url,
        "sqlState": "00000",
        "message": "Statement executed successfully.",
        "createdOn": int(running.begun_at * 1000),
        "requestId": request_id,
    }
    stats = _stats(data, columns, rows)
    if stats:
        body["stats"] = stats
    last = len(partitions) - 1
    links = [("first", 0), ("last", last), *([("next", 1)] if last else [])]
    link = ", ".join(f'<{status_url(handle, request_id, n)}>; rel="{rel}"' for rel, n in links)
    return JSONResponse(body, headers={"link": link})


def _remote(data: Json) -> list[Json]:
    sizes = ("uncompressedSize", "compressedSize")
    return [
        {
            "rowCount": int(c.get("rowCount") or 0),
            **{k: c[k] for k in sizes if isinstance(c.get(k), int)},
        }
        for c in data.get("chunks") or ()
    ]


def _weight(rows: Iterable[Sequence[str | None]]) -> int:
    return sum(len(v) + 3 if v else 4 for row in rows for v in row)


def booleans(columns: Iterable[Json]) -> tuple[int, ...]:
    """Which columns Snowflake's drivers get as 1 and 0, and this API's clients as true and false."""
    return tuple(i for i, c in enumerate(columns) if str(c.get("type", "")).lower() == "boolean")


def shown(
    rows: list[list[str | None]], columns: Sequence[Json], *, nullable: bool
) -> list[list[str | None]]:
    """Rows in jsonv2: every value a text. The driver's JSON has the same texts, but for truth values."""
    truths = booleans(columns)
    if truths or not nullable:
        return [_row(row, truths, nullable) for row in rows]
    return rows


def _row(row: list[str | None], truths: tuple[int, ...], nullable: bool) -> list[str | None]:
    made = list(row)
    for i in truths:
        value = made[i]
        made[i] = value and {"1": "true", "0": "false"}.get(value, value.lower())
    return made if nullable else ["null" if v is None else v for v in made]


def _stats(data: Json, columns: Sequence[Json], rows: Sequence[Sequence[str | None]]) -> Json:
    """How many rows a statement changed, as Snowflake says it with the result or in it."""
    told = data.get("stats")
    if isinstance(told, dict) and any(k in told for k in _STATS):
        return {k: told.get(k) or 0 for k in _STATS}
    if len(rows) != 1:
        return {}
    counted = {
        _COUNTED[name]: int(value)
        for column, value in zip(columns, rows[0], strict=False)
        if (name := str(column.get("name", "")).lower()) in _COUNTED
        and value is not None
        and value.isdecimal()
    }
    return {k: counted.get(k, 0) for k in _STATS} if counted else {}
