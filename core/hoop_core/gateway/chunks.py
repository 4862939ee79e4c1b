"""Result parts beyond the first: fetched by Hoop, screened, recorded, and streamed on to the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import httpx
import structlog
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import PartWriter, Recorder
from hoop_core.errors import HoopError, SnowflakeUnavailable, StoreUnavailable
from hoop_core.gateway.sessions import Live
from hoop_core.gateway.wire import failure
from hoop_core.model import Json
from hoop_core.records import error_json
from hoop_core.results import ChunkSet, read_whole

_log = structlog.get_logger(__name__)
_PIECE = 1 << 18
_WHOLE_AT_ONCE = 4
_UNAVAILABLE, _GONE = 503, 410
"""Drivers try again after the first, and give up at once after the second."""


class PartStreamer:
    """Streams one part; the first whole delivery of each part is recorded.

    Without detectors a part passes through in pieces. With detectors it is read whole and screened before
    its first byte is sent: as many parts at a time as memory bears, on threads of their own.
    """

    def __init__(self, http: httpx.AsyncClient, recorder: Recorder, log: AuditLog) -> None:
        self._http, self._recorder, self._log = http, recorder, log
        self._whole = asyncio.Semaphore(_WHOLE_AT_ONCE)
        self._screeners = ThreadPoolExecutor(max_workers=2, thread_name_prefix="screening")

    async def respond(self, chunks: ChunkSet, number: int, live: Live) -> Response:
        """The part, or an error in Snowflake's shape. Raises StoreUnavailable before the first byte."""
        try:
            upstream = await self._open(chunks, number)
        except SnowflakeUnavailable as e:
            return JSONResponse(failure(e), _UNAVAILABLE)
        try:
            source = _Source(upstream)
            found: Json = {}
            if chunks.screen.every:
                async with self._whole:
                    source, found = await self._screened(upstream, chunks)
            writer = await asyncio.to_thread(self._begin, chunks, number, found)
        except SnowflakeUnavailable as e:
            await upstream.aclose()
            return JSONResponse(failure(e), _UNAVAILABLE)
        except _Withheld as e:
            await upstream.aclose()
            await asyncio.to_thread(self._log_withheld, chunks, number, e)
            return JSONResponse(failure(e.error), _GONE)
        except BaseException:
            await upstream.aclose()
            raise
        return _PartResponse(
            _Passage(self, source, writer, chunks=chunks, number=number, live=live)
        )

    async def _screened(self, upstream: httpx.Response, chunks: ChunkSet) -> tuple[_Source, Json]:
        """Raises _Withheld for what must not be shown; SnowflakeUnavailable when it cannot be fetched."""
        content = await read_whole(upstream)
        loop = asyncio.get_running_loop()
        try:
            screened = await loop.run_in_executor(self._screeners, chunks.screened, content)
        except HoopError as e:
            raise _Withheld(e) from None
        found: Json = {"findings": chunks.found_json(screened.findings)}
        if not screened.readable:
            found["unread"] = True
        return _Source(upstream, screened.content), found

    def _begin(self, chunks: ChunkSet, number: int, found: Json) -> PartWriter | None:
        """Put the delivery on record, and open its recording unless a whole one is there."""
        chunks.deliveries[number] += 1
        delivery = chunks.deliveries[number]
        entry = {
            "statement_id": chunks.statement_id,
            "part": number + 1,
            "delivery": delivery,
            **found,
        }
        self._log.append("result.part.begun", entry, session_id=chunks.session_id)
        if number in chunks.recorded or not chunks.keep:
            return None
        ending = "arrow" if chunks.result_format == "arrow" else "json"
        name = f"{chunks.statement_id}-part-{number + 1:05d}-{delivery}.{ending}"
        return self._recorder.open_part(chunks.session_id, name)

    def _log_withheld(self, chunks: ChunkSet, number: int, withheld: _Withheld) -> None:
        entry = {
            "statement_id": chunks.statement_id,
            "part": number + 1,
            **error_json(withheld.error),
            "findings": chunks.found_json(getattr(withheld.error, "findings", ())),
        }
        self._log.append("result.part.withheld", entry, session_id=chunks.session_id)

    async def _open(self, chunks: ChunkSet, number: int) -> httpx.Response:
        try:
            request = self._http.build_request("GET", chunks.urls[number], headers=chunks.headers)
            response = await self._http.send(request, stream=True)
        except httpx.HTTPError as e:
            raise SnowflakeUnavailable(
                f"A part of the result cannot be fetched ({type(e).__name__}).", "Run it again."
            ) from None
        if response.status_code != httpx.codes.OK:
            await response.aclose()
            raise SnowflakeUnavailable(
                f"A part of the result cannot be fetched (HTTP {response.status_code}).",
                "Run the statement again.",
            )
        return response

    async def finish(
        self, writer: PartWriter, chunks: ChunkSet, number: int, *, complete: bool
    ) -> None:
        """Close a recording and log what it holds."""
        try:
            recorded = await asyncio.to_thread(writer.close)
            entry = {
                "statement_id": chunks.statement_id,
                "part": number + 1,
                "complete": complete,
                "recording": recorded.as_json(),
            }
            await asyncio.to_thread(
                self._log.append, "result.part", entry, session_id=chunks.session_id
            )
            if complete:
                chunks.recorded.add(number)
        except StoreUnavailable as e:
            _log.error("a result part is not on record", statement=chunks.statement_id, why=e.text)


class _Withheld(Exception):
    """A part that the detectors withhold; it is in the log before the client hears of it."""

    def __init__(self, error: HoopError) -> None:
        self.error = error
        super().__init__()


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a part's bytes come from: the upstream as they arrive, or a content that was screened."""

    upstream: httpx.Response
    content: bytes | None = None

    async def pieces(self) -> AsyncIterator[bytes]:
        if self.content is None:
            async for piece in self.upstream.aiter_bytes(_PIECE):
                yield piece
        else:
            for at in range(0, len(self.content), _PIECE):
                yield self.content[at : at + _PIECE]


class _Passage:
    """One part on its way to one client."""

    def __init__(
        self,
        streamer: PartStreamer,
        source: _Source,
        writer: PartWriter | None,
        *,
        chunks: ChunkSet,
        number: int,
        live: Live,
    ) -> None:
        self._streamer, self._source, self._writer = streamer, source, writer
        self._chunks, self._number, self._live = chunks, number, live
        self._complete = False

    async def pieces(self) -> AsyncIterator[bytes]:
        async for piece in self._source.pieces():
            if self._writer is not None:
                await asyncio.to_thread(self._writer.write, piece)
            yield piece
        self._complete = True

    def begin(self) -> None:
        self._live.busy += 1

    async def end(self) -> None:
        self._live.busy -= 1
        self._live.last_used = time.monotonic()
        with suppress(httpx.HTTPError):
            await self._source.upstream.aclose()
        if self._writer is not None:
            await self._streamer.finish(
                self._writer, self._chunks, self._number, complete=self._complete
            )


class _PartResponse(StreamingResponse):
    """Comes to its end also when the client is gone before the first piece was asked for."""

    def __init__(self, passage: _Passage) -> None:
        super().__init__(passage.pieces(), media_type="application/octet-stream")
        self._passage = passage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._passage.begin()
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(self._passage.end())
