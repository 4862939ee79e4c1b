"""Result parts beyond the first: fetched by Hoop, screened, recorded, and streamed on to the client."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from functools import partial

import structlog
from sqlalchemy import Connection
from starlette.responses import JSONResponse, Response

from hoop_core.analysts.turns import Turn
from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import PartWriter, Recorder
from hoop_core.errors import (
    ApprovalRefused,
    HoopError,
    SnowflakeUnavailable,
    StoreUnavailable,
    Unavailable,
)
from hoop_core.gateway.passage import PartResponse, Passage, Source
from hoop_core.gateway.sessions import Live
from hoop_core.gateway.wire import failure
from hoop_core.model import Json
from hoop_core.records import error_json
from hoop_core.results.answers import ChunkSet, read_whole
from hoop_core.results.screeners import Screeners, ScreeningBusy
from hoop_core.snowflake.http import SnowflakeHttp, unpacked

_log = structlog.get_logger(__name__)
_STALLED_SECONDS = 60.0
"""A client that takes nothing for so long is dropped."""
_OF_ONE = 128
"""Parts that one identity may have under way: connections to the storage are shared by all."""
_UNAVAILABLE, _GONE = 503, 410
"""Drivers try again after the first, and give up at once after the second."""


class PartStreamer:
    """Streams one part; the first whole delivery of each part is recorded.

    Without detectors a part passes through in pieces, as it is packed. With detectors it is read whole and
    screened before its first byte is sent. It takes its room in memory until the client has read it, and a
    client that does not read is dropped.

    `http` gives the client of an account, by the account's key.
    """

    def __init__(
        self,
        http: Callable[[str], SnowflakeHttp],
        recorder: Recorder,
        log: AuditLog,
        screeners: Screeners,
        *,
        stalled_seconds: float = _STALLED_SECONDS,
        check_standing: Callable[[Connection, Collection[str]], None],
    ) -> None:
        self._http, self._recorder, self._log = http, recorder, log
        self._check_standing = check_standing
        self._screeners, self.stalled_seconds = screeners, stalled_seconds
        self._under_way: Counter[str] = Counter()

    async def respond(
        self, chunks: ChunkSet, number: int, live: Live, *, takes_gzip: bool
    ) -> Response:
        """The part, or an error in Snowflake's shape. Raises StoreUnavailable before the first byte.

        It is sent as Snowflake has packed it, save to a client that does not take it so.
        """
        async with AsyncExitStack() as stack:
            principal = live.guarded.identity.key
            if self._under_way[principal] >= _OF_ONE:
                busy = Unavailable("Too many parts of your results are being read.", "Try again.")
                return JSONResponse(failure(busy), _UNAVAILABLE)
            self._under_way[principal] += 1
            stack.callback(self._ended, principal)
            try:
                source, found = await self._source(chunks, number, live, stack)
                writer = await asyncio.to_thread(
                    self._begin, chunks, number, found, packed=source.packed
                )
            except (SnowflakeUnavailable, ScreeningBusy) as e:
                return JSONResponse(failure(e), _UNAVAILABLE)
            except _Withheld as e:
                await asyncio.to_thread(self._log_withheld, chunks, number, e)
                return JSONResponse(failure(e.error), _GONE)
            # From here on the response closes what is open.
            passage = Passage(
                source,
                writer,
                statement_id=chunks.statement_id,
                live=live,
                held=stack.pop_all(),
                finish=partial(self.finish, chunks, number),
                fetched=partial(live.guarded.serving.fetched, chunks.statement_id, number),
                stalled_seconds=self.stalled_seconds,
                unpack=unpacked if source.packed and not takes_gzip else None,
            )
        return PartResponse(passage)

    def _ended(self, principal: str) -> None:
        self._under_way[principal] -= 1
        if not self._under_way[principal]:
            del self._under_way[principal]

    async def _source(
        self, chunks: ChunkSet, number: int, live: Live, stack: AsyncExitStack
    ) -> tuple[Source, Json]:
        """The part as it may be sent, and what the log says of it; `stack` closes what it needs until then.

        Raises _Withheld for what must not be shown; SnowflakeUnavailable when it cannot be fetched, and
        ScreeningBusy when there is no room or no turn for it.
        """
        http = self._http(live.guarded.account)
        if not chunks.screen.every:
            upstream = await http.part(chunks.urls[number], chunks.headers)
            stack.push_async_callback(upstream.aclose)
            return Source(upstream, packed=upstream.packed), {}
        turn = Turn(live.guarded.identity.key, live.guarded.id)
        size = chunks.sizes[number] if chunks.sizes else 0
        held = await stack.enter_async_context(self._screeners.room.holding(turn.principal, size))
        upstream = await http.part(chunks.urls[number], chunks.headers)
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
        return Source(None, content, packed=upstream.packed), found

    def _begin(
        self, chunks: ChunkSet, number: int, found: Json, *, packed: bool
    ) -> PartWriter | None:
        """Put the delivery on record, and open its recording unless a whole one is there.

        Raises _Withheld when an exception that the part rests on was revoked since the statement ran.
        """
        chunks.deliveries[number] += 1
        delivery = chunks.deliveries[number]
        entry = {
            "statement_id": chunks.statement_id,
            "part": number + 1,
            "delivery": delivery,
            **found,
        }

        def write(connection: Connection) -> Json:
            if chunks.exceptions:
                self._check_standing(connection, chunks.exceptions)
            return entry

        try:
            self._log.append("result.part.begun", write, session_id=chunks.session_id)
        except ApprovalRefused as e:
            raise _Withheld(e) from None
        if number in chunks.recorded or not chunks.keep:
            return None
        if chunks.kept_parts is not None and number >= chunks.kept_parts:
            return PartWriter()  # its digest alone
        ending = "arrow" if chunks.result_format == "arrow" else "json"
        name = f"{chunks.statement_id}-part-{number + 1:05d}-{delivery}.{ending}"
        return self._recorder.open_part(chunks.session_id, name + (".gz" if packed else ""))

    def _log_withheld(self, chunks: ChunkSet, number: int, withheld: _Withheld) -> None:
        entry = {
            "statement_id": chunks.statement_id,
            "part": number + 1,
            **error_json(withheld.error),
            "findings": chunks.found_json(getattr(withheld.error, "findings", ())),
        }
        self._log.append("result.part.withheld", entry, session_id=chunks.session_id)

    async def finish(
        self, chunks: ChunkSet, number: int, writer: PartWriter, *, complete: bool
    ) -> None:
        """Close a recording and log what it holds. Raises StoreUnavailable: then the part does not arrive whole."""
        try:
            recorded = await asyncio.to_thread(writer.close)
            entry = {
                "statement_id": chunks.statement_id,
                "part": number + 1,
                "complete": complete,
                "recording" if recorded.path else "digest": recorded.as_json(),
            }
            await asyncio.to_thread(
                self._log.append, "result.part", entry, session_id=chunks.session_id
            )
            if complete:
                chunks.recorded.add(number)
        except StoreUnavailable as e:
            _log.error("a result part is not on record", statement=chunks.statement_id, why=e.text)
            raise


class _Withheld(Exception):
    """A part that the detectors withhold; it is in the log before the client hears of it."""

    def __init__(self, error: HoopError) -> None:
        self.error = error
        super().__init__()
