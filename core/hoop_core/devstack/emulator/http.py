"""Requests in and answers out, in the shapes that the drivers know."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hoop_core.devstack.emulator.errors import SessionError, SqlError
from hoop_core.devstack.emulator.sessions import DEFAULTS, NO_TOKEN, Session

_MAX_BODY = 64 * 1024 * 1024

Handler = Callable[[Request], Awaitable[Response]]


def answer(data: Any) -> Response:
    return JSONResponse({"data": data, "code": None, "message": None, "success": True})


def failure(code: str, message: str, *, data: Any = None) -> Response:
    content = {"data": data, "code": code, "message": message, "success": False, "headers": None}
    return JSONResponse(content)


def sql_failure(error: SqlError, query_id: str | None = None) -> Response:
    data = {
        "internalError": error.code == "000603",
        "unredactedFromSecureObject": False,
        "errorCode": error.code,
        "age": 0,
        "sqlState": error.sqlstate,
        "queryId": query_id,
        "line": -1,
        "pos": -1,
        "type": "COMPILATION" if "compilation" in error.message else "EXECUTION",
    }
    return failure(error.code, error.message, data=data)


def guarded(handler: Handler) -> Handler:
    """Session and statement errors become answers; a malformed request is a 400."""

    async def endpoint(request: Request) -> Response:
        try:
            return await handler(request)
        except SessionError as e:
            return failure(e.code, e.message)
        except SqlError as e:
            return sql_failure(e)
        except _BadRequest:
            return Response("bad request", 400)

    return endpoint


class _BadRequest(Exception):
    pass


async def body_of(request: Request) -> dict[str, Any]:
    raw = await request.body()
    try:
        if request.headers.get("content-encoding", "").lower() == "gzip":
            raw = gzip.decompress(raw) if len(raw) <= _MAX_BODY else b""
        found = json.loads(raw or b"{}")
    except (OSError, EOFError, ValueError, zlib.error):
        raise _BadRequest from None
    if not isinstance(found, dict) or len(raw) > _MAX_BODY:
        raise _BadRequest
    return found


def token_of(request: Request) -> str:
    """The token of `Authorization: Snowflake Token="…"`. Raises SessionError."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "snowflake" or not value.startswith('Token="') or value[-1] != '"':
        raise SessionError(*NO_TOKEN)
    return value[len('Token="') : -1]


def address_of(request: Request) -> str:
    """Where the connection comes from; headers that claim another address count for nothing."""
    return request.client.host if request.client else ""


def folded(name: str | None) -> str | None:
    """An identifier from a connection's URL: folded up unless quoted."""
    if not name:
        return None
    if name.startswith('"') and name.endswith('"') and len(name) > 2:
        return name[1:-1].replace('""', '"')
    return name.upper()


def parameters_of(session: Session) -> list[dict[str, Any]]:
    """What a driver keeps as the session's parameters."""
    return [{"name": name, "value": session.parameter(name)} for name in DEFAULTS]
