"""One result part on its way to one client: its bytes in pieces, its record, and its end.

A piece is asked for when the client has taken the one before, so a slow client makes Snowflake's storage wait
and not Hoop's memory grow. What is sent is hashed and recorded on a thread, one batch behind. The last piece
leaves only when the record is closed: who has a part whole finds it in the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Protocol

import structlog
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from hoop_core.audit.recording import PartWriter
from hoop_core.errors import HoopError, SessionGone, StoreUnavailable
from hoop_core.gateway.sessions import Live

_log = structlog.get_logger(__name__)
_PIECE = 1 << 18
_BATCH = 1 << 20
_SLOWEST = 32 << 10
"""A client that takes a part which was screened in fewer bytes a second is dropped."""


class Pieces(Protocol):
    """A part as it comes in from Snowflake's storage."""

    @property
    def size(self) -> int | None: ...

    def pieces(self) -> AsyncIterator[bytes]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where a part's bytes come from: the upstream as they arrive, or a content that was screened."""

    upstream: Pieces | None
    content: bytes = b""
    packed: bool = False
    """With gzip, and said so."""

    @property
    def size(self) -> int | None:
        return self.upstream.size if self.upstream is not None else len(self.content)

    async def pieces(self) -> AsyncIterator[bytes]:
        if self.upstream is not None:
            async for piece in self.upstream.pieces():
                yield piece
        else:
            for at in range(0, len(self.content), _PIECE):
                yield self.content[at : at + _PIECE]


class _Tap:
    """Feeds a writer on a thread, at most two batches behind. Its methods raise StoreUnavailable."""

    def __init__(self, writer: PartWriter) -> None:
        self.writer = writer
        self._batch: list[bytes] = []
        self._size = 0
        self._writing: asyncio.Future[None] | None = None

    async def put(self, piece: bytes) -> None:
        self._batch.append(piece)
        self._size += len(piece)
        if self._size >= _BATCH:
            await self._write()

    async def _write(self) -> None:
        await self._written()
        batch, self._batch, self._size = self._batch, [], 0
        self._writing = asyncio.ensure_future(asyncio.to_thread(self.writer.write, *batch))

    async def _written(self) -> None:
        if self._writing is not None:
            await asyncio.shield(self._writing)

    async def drain(self) -> None:
        """Everything that was put is written when this returns."""
        await self._write()
        await self._written()


class Passage:
    """One delivery of a part.

    `finish(writer, complete=...)` closes its record; `fetched` hears that the client has it whole; `unpack` is for a
    client that does not take the bytes as they are packed.
    """

    def __init__(
        self,
        source: Source,
        writer: PartWriter | None,
        *,
        statement_id: str,
        live: Live,
        held: AsyncExitStack,
        finish: Callable[..., Awaitable[None]],
        fetched: Callable[[], None],
        stalled_seconds: float,
        unpack: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]] | None = None,
    ) -> None:
        self._source, self._live, self._held = source, live, held
        self._tap = _Tap(writer) if writer is not None else None
        self._finish, self._fetched, self._unpack = finish, fetched, unpack
        self._recording: asyncio.Task[None] | None = None
        self.statement_id, self.stalled_seconds = statement_id, stalled_seconds

    @property
    def headers(self) -> dict[str, str]:
        """How the bytes are packed and how many they are."""
        if self._unpack is not None:
            return {}
        size = self._source.size
        packed = {"content-encoding": "gzip"} if self._source.packed else {}
        return packed | ({} if size is None else {"content-length": str(size)})

    @property
    def longest_seconds(self) -> float | None:
        """How long the whole part may take; None for one that takes no room."""
        if self._source.upstream is not None:
            return None
        return self.stalled_seconds + len(self._source.content) / _SLOWEST

    def pieces(self) -> AsyncIterator[bytes]:
        """Raises SnowflakeUnavailable, StoreUnavailable, SessionGone."""
        recorded = self._recorded()
        return recorded if self._unpack is None else self._unpack(recorded)

    async def _recorded(self) -> AsyncIterator[bytes]:
        last: bytes | None = None
        async for piece in self._source.pieces():
            if self._live.guarded.closed:
                raise SessionGone("The session was closed while its result was read.")
            if self._tap is not None:
                await self._tap.put(piece)
            if last is not None:
                yield last
            last = piece
        await self._record(complete=True)
        if last is not None:
            yield last
        self._fetched()

    async def _record(self, *, complete: bool) -> None:
        """The first call counts. A client that goes away meanwhile does not keep it from the log."""
        if self._tap is not None and self._recording is None:
            self._recording = asyncio.create_task(self._close(self._tap, complete=complete))
        if self._recording is not None:
            await asyncio.shield(self._recording)

    async def _close(self, tap: _Tap, *, complete: bool) -> None:
        try:
            await tap.drain()
        except StoreUnavailable:
            await asyncio.to_thread(tap.writer.discard)
            raise
        await self._finish(tap.writer, complete=complete)

    def begin(self) -> None:
        self._live.busy += 1

    async def end(self) -> None:
        self._live.busy -= 1
        self._live.last_used = time.monotonic()
        await self._held.aclose()
        with suppress(StoreUnavailable):  # the response was cut off for it
            await self._record(complete=False)


class PartResponse(StreamingResponse):
    """Comes to its end also when the client is gone before the first piece was asked for."""

    def __init__(self, passage: Passage) -> None:
        super().__init__(
            passage.pieces(), media_type="application/octet-stream", headers=passage.headers
        )
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
        except HoopError as e:
            # The server closes the connection of a response that has not come to its end.
            _log.warning(
                "a result part broke off", statement=self._passage.statement_id, why=e.text
            )
        except (TimeoutError, ClientDisconnect) as e:
            if not stalled and isinstance(e, ClientDisconnect):
                raise
            _log.warning(
                "a client that does not read a result part was dropped",
                statement=self._passage.statement_id,
            )
        finally:
            await asyncio.shield(self._passage.end())
