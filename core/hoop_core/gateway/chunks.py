"""Result parts beyond the first: fetched by Hoop, recorded, and streamed on to the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import structlog
from starlette.responses import StreamingResponse

from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import PartWriter, Recorder
from hoop_core.errors import HoopError, SnowflakeUnavailable, StoreUnavailable
from hoop_core.gateway.sessions import Live
from hoop_core.results import ChunkSet

_log = structlog.get_logger(__name__)


class PartStreamer:
    """Streams one part with bounded memory; the first fetch of each part is recorded."""

    def __init__(self, http: httpx.AsyncClient, recorder: Recorder, log: AuditLog) -> None:
        self._http, self._recorder, self._log = http, recorder, log

    async def respond(self, chunks: ChunkSet, number: int, live: Live) -> StreamingResponse:
        """Raises SnowflakeUnavailable or StoreUnavailable before the first byte is sent."""
        upstream = await self._open(chunks, number)
        try:
            writer = await asyncio.to_thread(self._begin, chunks, number)
        except HoopError:
            await upstream.aclose()
            raise
        return StreamingResponse(
            self._pump(upstream, writer, chunks, number, live),
            media_type="application/octet-stream",
        )

    def _begin(self, chunks: ChunkSet, number: int) -> PartWriter | None:
        """Put the delivery on record, and open its recording unless a whole one is there."""
        chunks.deliveries[number] += 1
        delivery = chunks.deliveries[number]
        entry = {"statement_id": chunks.statement_id, "part": number + 1, "delivery": delivery}
        self._log.append("result.part.begun", entry, session_id=chunks.session_id)
        if number in chunks.recorded or not chunks.keep:
            return None
        ending = "arrow" if chunks.result_format == "arrow" else "json"
        name = f"{chunks.statement_id}-part-{number + 1:05d}-{delivery}.{ending}"
        return self._recorder.open_part(chunks.session_id, name)

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

    async def _pump(
        self,
        upstream: httpx.Response,
        writer: PartWriter | None,
        chunks: ChunkSet,
        number: int,
        live: Live,
    ) -> AsyncIterator[bytes]:
        complete = False
        live.busy += 1
        try:
            async for piece in upstream.aiter_bytes(1 << 18):
                if writer is not None:
                    await asyncio.to_thread(writer.write, piece)
                yield piece
            complete = True
        finally:
            live.busy -= 1
            live.last_used = time.monotonic()
            await upstream.aclose()
            if writer is not None:
                await asyncio.shield(self._finish(writer, chunks, number, complete=complete))

    async def _finish(
        self, writer: PartWriter, chunks: ChunkSet, number: int, *, complete: bool
    ) -> None:
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
