"""Partitions of a large result: the driver's parts as they pass through Hoop, in the SQL API's form.

Fetched, screened and recorded by `PartStreamer`; what changes here is how the same values are written.
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from collections.abc import AsyncIterable, AsyncIterator

from starlette.responses import Response, StreamingResponse

from hoop_core.errors import SnowflakeUnavailable
from hoop_core.gateway.sql_api_answers import booleans, shown
from hoop_core.model import Json

_MOST_OF_A_ROW = 128 << 20
_LIGHT = 16 << 10
# Whole rows: texts, and what is written without quotes (null). Possessive, so it never goes back.
_ROWS = re.compile(rb'(?:[\s,]*+\[(?:"(?:[^"\\]|\\.)*+"|[^"\[\]])*+\])*+', re.DOTALL)


def as_partition(
    response: Response, columns: tuple[Json, ...], *, nullable: bool, gzipped: bool
) -> Response:
    """A part on its way, or the error in its place, for the client."""
    if not isinstance(response, StreamingResponse):
        told = json.loads(bytes(response.body))
        body = {
            "code": told["code"],
            "sqlState": told["data"]["sqlState"],
            "message": told["message"],
        }
        status = response.status_code if response.status_code == 503 else 422
        return Response(json.dumps(body), status, media_type="application/json")
    pieces = _pieces(response.body_iterator)
    if booleans(columns) or not nullable:
        pieces = _rewritten(pieces, columns, nullable)
    pieces = _framed(pieces)
    del response.headers["content-length"]  # of the part as it came
    if gzipped:
        pieces = _packed(pieces)
        response.headers["content-encoding"] = "gzip"
    response.headers["content-type"] = "application/json"
    response.headers["vary"] = "accept-encoding"
    response.body_iterator = pieces
    return response


async def _pieces(given: AsyncIterable[str | bytes | memoryview]) -> AsyncIterator[bytes]:
    async for piece in given:
        yield piece.encode() if isinstance(piece, str) else bytes(piece)


async def _framed(rows: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """A part is rows without the brackets around them: drivers add these."""
    yield b'{"data":['
    async for piece in rows:
        yield piece
    yield b"]}"


async def _rewritten(
    pieces: AsyncIterator[bytes], columns: tuple[Json, ...], nullable: bool
) -> AsyncIterator[bytes]:
    """Raises SnowflakeUnavailable for what are no rows: then the response is cut off."""
    rest, first = b"", True
    async for piece in pieces:
        rest += piece
        if len(rest) > _MOST_OF_A_ROW:
            raise SnowflakeUnavailable("A row of the result is too long.")
        made, rest = await _on_thread_if_heavy(rest, columns, nullable)
        if made:
            yield made if first else b"," + made
            first = False
    if rest.strip():
        raise SnowflakeUnavailable("A part of Snowflake's result cannot be read.")


async def _on_thread_if_heavy(
    given: bytes, columns: tuple[Json, ...], nullable: bool
) -> tuple[bytes, bytes]:
    if len(given) <= _LIGHT:
        return _whole_rows(given, columns, nullable)
    return await asyncio.to_thread(_whole_rows, given, columns, nullable)


def _whole_rows(given: bytes, columns: tuple[Json, ...], nullable: bool) -> tuple[bytes, bytes]:
    """The rows that are there whole, rewritten, without the brackets around them; and what is left."""
    found = _ROWS.match(given)
    end = found.end() if found else 0
    text = given[:end].strip().removeprefix(b",")
    if not text:
        return b"", given[end:]
    try:
        rows = shown(json.loads(b"[" + text + b"]"), columns, nullable=nullable)
    except (ValueError, IndexError, AttributeError):
        raise SnowflakeUnavailable("A part of Snowflake's result cannot be read.") from None
    made = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return made[1:-1].encode(), given[end:]


async def _packed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    packer = zlib.compressobj(1, wbits=31)
    async for piece in pieces:
        heavy = len(piece) > _LIGHT
        packed = (
            await asyncio.to_thread(packer.compress, piece) if heavy else packer.compress(piece)
        )
        if packed:
            yield packed
    yield packer.flush()
