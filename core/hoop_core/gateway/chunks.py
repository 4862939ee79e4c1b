"""Result parts beyond the first: fetched by Hoop, screened, recorded, and streamed on to the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from hoop_core.analysts.turns import Turn
from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import PartWriter, Recorder
from hoop_core.errors import HoopError, SnowflakeUnavailable, StoreUnavailable
from hoop_core.gateway.sessions import Live
from hoop_core.gateway.wire import failure
from hoop_core.model import Json
from hoop_core.records import error_json
from hoop_core.results import ChunkSet, read_whole
from hoop_core.screeners import Screeners, ScreeningBusy
from hoop_core.snowflake.http import Part, SnowflakeHttp

_log = structlog.get_logger(__name__)
_PIECE = 1 << 18
_STALLED_SECONDS, _SLOWEST = 60.0, 32 << 10
"""A client that takes nothing for so long, or a part that was screened in fewer bytes a second, is dropped."""
_UNAVAILABLE, _GONE = 503, 410
"""Drivers try again after the first, and give up at once after the second."""


class PartStreamer:
    """Streams one part; the first whole delivery of each part is recorded.

    Without detectors a part passes through in pieces. With detectors it is read whole and screened before
    its first byte is sent. It takes its room in memory until the client has read it, and a client that does
    not read is dropped.
    """

    def __init__(
        self,
        http: SnowflakeHttp,
        recorder: Recorder,
        log: AuditLog,
        screeners: Screeners,
        *,
        stalled_seconds: float = _STALLED_SECONDS,
    ) -> None:
        self._http, self._recorder, self._log = http, recorder, log
        self._screeners, self.stalled_seconds = screeners, stalled_seconds

    async def respond(self, chunks: ChunkSet, number: int, live: Live) -> Response:
        """The part, or an error in Snowflake's shape. Raises StoreUnavailable before the first byte."""
        async with AsyncExitStack() as stack:
            try:
                source, found = await self._source(chunks, number, live, stack)
                writer = await asyncio.to_thread(self._begin, chunks, number, found)
            except (SnowflakeUnavailable, ScreeningBusy) as e:
                return JSONResponse(failure(e), _UNAVAILABLE)
            except _Withheld as e:
                await asyncio.to_thread(self._log_withheld, chunks, number, e)
                return JSONResponse(failure(e.error), _GONE)
            # From here on the response closes what is open.
            passage = _Passage(
                self, source, writer, chunks=chunks, number=number, live=live, held=stack.pop_all()
            )
        return _PartResponse(passage)

    async def _source(
        self, chunks: ChunkSet, number: int, live: Live, stack: AsyncExitStack
    ) -> tuple[_Source, Json]:
        """The part as it may be sent, and what the log says of it; `stack` closes what it needs until then.

        Raises _Withheld for what must not be shown; SnowflakeUnavailable when it cannot be fetched, and
        ScreeningBusy when there is no room or no turn for it.
        """
        if not chunks.screen.every:
            upstream = await self._http.part(chunks.urls[number], chunks.headers)
            stack.push_async_callback(upstream.aclose)
            return _Source(upstream), {}
        turn = Turn(live.guarded.identity.key, live.guarded.id)
        size = chunks.sizes[number] if chunks.sizes else 0
        held = await stack.enter_async_context(self._screeners.room.holding(turn.principal, size))
        upstream = await self._http.part(chunks.urls[number], chunks.headers)
        try:
            content = await read_whole(upstream, held.resize)
        finally:
            await upstream.aclose()
        found: Json
        try:
            screened = await self._screeners.run(turn, partial(chunks.screened, content))
            found = {"findings": chunks.found_json(screened.findings)}
            if not screened.readable:
                found["unread"] = True
            content = screened.content
        except ScreeningBusy:
            if chunks.screen.binds:
                raise
            found = {"findings": [], "unread": True}
        except HoopError as e:
            raise _Withheld(e) from None
        held.resize(len(content))
        return _Source(None, content), found

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

    upstream: Part | None
    content: bytes = b""

    async def pieces(self) -> AsyncIterator[bytes]:
        if self.upstream is not None:
            async for piece in self.upstream.pieces():
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
        held: AsyncExitStack,
    ) -> None:
        self._streamer, self._source, self._writer = streamer, source, writer
        self._chunks, self._number, self._live = chunks, number, live
        self._held = held
        self._recording: asyncio.Task[None] | None = None

    @property
    def statement_id(self) -> str:
        return self._chunks.statement_id

    @property
    def stalled_seconds(self) -> float:
        return self._streamer.stalled_seconds

    @property
    def longest_seconds(self) -> float | None:
        """How long the whole part may take; None for one that takes no room."""
        if self._source.upstream is not None:
            return None
        return self.stalled_seconds + len(self._source.content) / _SLOWEST

    async def pieces(self) -> AsyncIterator[bytes]:
        async for piece in self._source.pieces():
            if self._writer is not None:
                await asyncio.to_thread(self._writer.write, piece)
            yield piece
        # The response has not ended for the client yet: what it has whole is on record by then.
        await self._record(complete=True)
        self._live.guarded.serving.fetched(self.statement_id, self._number)

    async def _record(self, *, complete: bool) -> None:
        """The first call counts. A client that goes away meanwhile does not keep it from the log."""
        if self._writer is not None and self._recording is None:
            self._recording = asyncio.create_task(
                self._streamer.finish(self._writer, self._chunks, self._number, complete=complete)
            )
        if self._recording is not None:
            await asyncio.shield(self._recording)

    def begin(self) -> None:
        self._live.busy += 1

    async def end(self) -> None:
        self._live.busy -= 1
        self._live.last_used = time.monotonic()
        await self._held.aclose()
        await self._record(complete=False)


class _PartResponse(StreamingResponse):
    """Comes to its end also when the client is gone before the first piece was asked for."""

    def __init__(self, passage: _Passage) -> None:
        super().__init__(passage.pieces(), media_type="application/octet-stream")
        self._passage = passage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stalled = False

        async def in_time(message: Message) -> None:
            # What sends waits for the client to take what was sent before.
            nonlocal stalled
            try:
                async with asyncio.timeout(self._passage.stalled_seconds):
                    await send(message)
            except TimeoutError:
                stalled = True
                raise

        self._passage.begin()
        try:
            async with asyncio.timeout(self._passage.longest_seconds):
                await super().__call__(scope, receive, in_time)
        except (TimeoutError, ClientDisconnect) as e:
            if not stalled and isinstance(e, ClientDisconnect):
                raise
            # The server closes the connection of a response that has not come to its end.
            _log.warning(
                "a client that does not read a result part was dropped",
                statement=self._passage.statement_id,
            )
        finally:
            await asyncio.shield(self._passage.end())
