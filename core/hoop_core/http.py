"""Reading what came over HTTP: bodies within bounds, fields of the expected kind."""

from __future__ import annotations

import json
import math
import re
import zlib
from typing import Any

from starlette.requests import ClientDisconnect, Request

from hoop_core.errors import Refused
from hoop_core.model import Json


class BadRequest(Refused):
    errno, sqlstate, reason = 99400, "08P01", "BAD_REQUEST"


SMALL_BODY = 64 * 1024
"""Enough for a sign-in with its token; what comes before a session is known gets no more."""
_MOST_CONTAINERS = 20_000
_MOST_MEMBERS = 500_000
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def read_json(request: Request, limit: int) -> Json:
    """The request's JSON object, unpacked if gzipped. Raises BadRequest past `limit` bytes.

    Parsing holds the interpreter: a small body must not unpack to millions of nested arrays.
    """
    raw = bytearray()
    try:
        async for piece in request.stream():
            raw += piece
            if len(raw) > limit:
                raise BadRequest(
                    f"The request is longer than {limit} bytes.", "Send a shorter text."
                )
    except ClientDisconnect:
        # told to nobody; and no fault of ours that a log should call one
        raise BadRequest("The client went away in the middle of its request.") from None
    body = _decoded(bytes(raw), request.headers.getlist("content-encoding"), limit)
    containers = body.count(b"[") + body.count(b"{")
    if containers > _MOST_CONTAINERS or body.count(b",") > _MOST_MEMBERS:
        raise BadRequest("The request has too many parts.", "Send fewer values at a time.")
    try:
        parsed = json.loads(
            body or b"{}", parse_constant=_refuse_constant, parse_float=_finite_float
        )
        if _SURROGATE.search(body):
            writable(parsed)
    except (ValueError, RecursionError):
        raise BadRequest("The request is not JSON in valid Unicode.") from None
    if not isinstance(parsed, dict):
        raise BadRequest("The request is not a JSON object.")
    return parsed


def _refuse_constant(name: str) -> None:
    """NaN and Infinity are not JSON (RFC 8259 section 6) and have no canonical form."""
    raise ValueError(name)


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def writable(value: Any) -> None:
    """Raises ValueError when a text in `value` holds half a surrogate pair: nobody can store it."""
    json.dumps(value, ensure_ascii=False).encode()


def _decoded(body: bytes, encodings: list[str], limit: int) -> bytes:
    """The body as it was before it was packed; one packing at most, and gzip only."""
    match [e.strip().lower() for e in encodings]:
        case [] | ["" | "identity"]:
            return body
        case ["gzip" | "x-gzip"]:
            return _gunzip(body, limit)
    raise BadRequest(
        "Hoop does not read this Content-Encoding.", "Send the body as it is, or gzipped once."
    )


def _gunzip(body: bytes, limit: int) -> bytes:
    """Unpack at most `limit` bytes: a small body must not become a large one.

    One whole gzip member (RFC 1952) and nothing after it: what one reader takes for rubbish behind the end
    another would take for the body.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise BadRequest("The request's gzip body is broken.") from None
    if len(unpacked) > limit:
        raise BadRequest(f"The request unpacks to more than {limit} bytes.", "Send a shorter text.")
    if not unpacker.eof or unpacker.unused_data:
        raise BadRequest("The request's gzip body is cut short, or something follows it.")
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
