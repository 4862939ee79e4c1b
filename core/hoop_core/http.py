"""Reading what came over HTTP: bodies within bounds, fields of the expected kind."""

from __future__ import annotations

import json
import zlib
from typing import Any

from starlette.requests import Request

from hoop_core.errors import Refused
from hoop_core.model import Json


class BadRequest(Refused):
    errno, sqlstate, reason = 99400, "08P01", "BAD_REQUEST"


async def read_json(request: Request, limit: int) -> Json:
    """The request's JSON object, unpacked if gzipped. Raises BadRequest past `limit` bytes."""
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > limit:
            raise BadRequest(f"The request is longer than {limit} bytes.", "Send a shorter text.")
    body = bytes(raw)
    if request.headers.get("content-encoding", "").lower() == "gzip":
        body = _gunzip(body, limit)
    try:
        parsed = json.loads(body or b"{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise BadRequest("The request is not JSON.") from None
    if not isinstance(parsed, dict):
        raise BadRequest("The request is not a JSON object.")
    return parsed


def _refuse_constant(name: str) -> None:
    """NaN and Infinity are not JSON (RFC 8259 section 6) and have no canonical form."""
    raise ValueError(name)


def _gunzip(body: bytes, limit: int) -> bytes:
    """Unpack at most `limit` bytes: a small body must not become a large one."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise BadRequest("The request's gzip body is broken.") from None
    if len(unpacked) > limit:
        raise BadRequest(f"The request unpacks to more than {limit} bytes.", "Send a shorter text.")
    return unpacked


def text_of(body: Json, key: str, *, limit: int = 1024) -> str | None:
    """A string of a JSON body; anything else is a BadRequest."""
    value: Any = body.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > limit:
        raise BadRequest(f"{key} must be a text of at most {limit} characters.")
    return value


def unexpected() -> Refused:
    """What a client hears of a fault in Hoop itself: nothing about its inside."""
    return Refused(
        "Hoop ran into an error of its own and refused.",
        "Tell the platform team the time of this call; the gateway's log has the details.",
        errno=99500,
        sqlstate="58000",
        reason="INTERNAL",
    )
