"""Snowflake's JSON shapes: handles in, answers and errors out."""

from __future__ import annotations

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from hoop_core.errors import ApprovalPending, HoopError, SessionGone
from hoop_core.model import Json

_AUTHORIZATION = re.compile(r'Snowflake Token="([A-Za-z0-9_-]{20,200})"\Z')


def handle_of(request: Request) -> str:
    """The opaque session handle of a request. Raises SessionGone."""
    found = _AUTHORIZATION.match(request.headers.get("authorization", ""))
    if not found:
        raise SessionGone("The request carries no session.", "Connect to Hoop first.")
    return found[1]


def success(data: Any) -> JSONResponse:
    return JSONResponse({"data": data, "success": True, "code": None, "message": None})


def failure(error: HoopError, *, query_id: str | None = None) -> Json:
    """An error the way drivers expect it: HTTP 200 and Snowflake's code, state and text."""
    code = f"{error.errno:06d}"
    return {
        "data": {
            "errorCode": code,
            "sqlState": error.sqlstate,
            "queryId": query_id,
            "internalError": False,
            **({"approval": error.approval} if isinstance(error, ApprovalPending) else {}),
        },
        "code": code,
        "message": error.text,
        "success": False,
        "headers": None,
    }


def takes_gzip(request: Request) -> bool:
    """Whether the client says that it unpacks gzip (RFC 9110 section 12.5.3)."""
    for coding in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() in {"gzip", "*"}:
            return weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
