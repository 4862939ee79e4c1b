"""Result parts pass through: bounded memory, as they are packed, and no further than their session."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import PartWriter, Recorder
from hoop_core.config import SnowflakeSettings
from hoop_core.errors import SnowflakeUnavailable, StoreUnavailable
from hoop_core.gateway import chunks as chunks_module
from hoop_core.gateway.chunks import PartStreamer
from hoop_core.gateway.passage import Passage, Source
from hoop_core.gateway.sessions import Live
from hoop_core.gateway.sql_api_parts import as_partition
from hoop_core.gateway.wire import takes_gzip
from hoop_core.model import Identity, NameContext, RoleBinding, RunContext
from hoop_core.results.answers import ChunkSet, read_whole
from hoop_core.results.screeners import Screeners
from hoop_core.session.guarded import GuardedSession
from hoop_core.snowflake import http as http_module
from hoop_core.snowflake.http import SnowflakeHttp, unpacked

LARGE = 200 << 20
PLAIN = b"0123456789abcdef" * 40_000
PACKED = gzip.compress(PLAIN, 1)


def live(account: str = "") -> Live:
    async def nobody(_session: GuardedSession) -> Any:
        raise AssertionError

    guarded = GuardedSession(
        id="s", identity=Identity("i", "s", "n", (), "oidc", ""), role=RoleBinding("v", "R"),
        names=NameContext(), run=RunContext(), client={}, parameters={}, opened_at=datetime.now(UTC),
        open_upstream=nobody, account=account,
    )  # fmt: skip
    return Live(guarded, "m", "t", 1e12, 1e12)


@dataclass(slots=True)
class Bucket:
    """Where Snowflake put the parts: a real server, which counts what it could hand out."""

    body: bytes = PACKED
    coding: str = "gzip"
    pieces: int = 1
    sent: int = 0
    broke_off: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def part(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["x-key"] == "KEY"
        response = web.StreamResponse()
        if self.coding:
            response.headers["Content-Encoding"] = self.coding
        response.content_length = len(self.body) * self.pieces
        try:
            await response.prepare(request)
            for _ in range(self.pieces):
                await response.write(self.body)
                self.sent += len(self.body)
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            self.broke_off.set()
            raise
        return response

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Bucket]:
        app = web.Application()
        app.router.add_get("/part", self.part)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert site._server is not None and runner.addresses
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/part"
        try:
            yield self
        finally:
            await runner.cleanup()


@dataclass(slots=True)
class World:
    """A gateway of parts alone, on a port of its own."""

    bucket: Bucket
    log: AuditLog
    recordings: Path
    live: Live = field(default_factory=live)
    url: str = ""
    shaped: Callable[[Response], Response] = field(default=lambda response: response)
    chunks: ChunkSet = field(init=False)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[World]:
        async with self.bucket.open():
            http = SnowflakeHttp(SnowflakeSettings(account="A", url="http://127.0.0.1:9"))
            streamer = PartStreamer(
                lambda _account: http,
                Recorder(str(self.recordings)),
                self.log,
                Screeners(),
                check_standing=lambda _connection, _exceptions: None,
            )
            self.chunks = ChunkSet("s", "q", "arrow", (self.bucket.url,), {"x-key": "KEY"})

            async def part(request: Request) -> Response:
                response = await streamer.respond(
                    self.chunks, 0, self.live, takes_gzip=takes_gzip(request)
                )
                return self.shaped(response)

            config = uvicorn.Config(
                Starlette(routes=[Route("/part", part)]),
                host="127.0.0.1", port=0, log_level="critical", lifespan="off",
                loop="none", timeout_graceful_shutdown=1,
            )  # fmt: skip
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server._serve())
            while not server.started:
                await asyncio.sleep(0.01)
            self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/part"
            try:
                yield self
            finally:
                server.should_exit = True
                await serving
                await http.aclose()

    def entries(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(e.text)["data"] for e in self.log.entries() if e.kind == kind]


@pytest.fixture
def opened(log: AuditLog, tmp_path: Path) -> Callable[..., World]:
    return lambda **bucket: World(Bucket(**bucket), log, tmp_path / "rec")


def raw_client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(auto_decompress=False)


async def settled(amount: Callable[[], int]) -> int:
    """An amount that has not grown for a while."""
    before = -1
    while (now := amount()) != before:
        before = now
        await asyncio.sleep(0.3)
    return before


# -- memory ------------------------------------------------------------------------------------------
def test_what_a_slow_client_does_not_take_stays_with_the_storage(
    opened: Callable[..., World],
) -> None:
    """Of 200 MB that the storage would send at once, sockets and buffers take some MB, and no more."""

    async def run() -> None:
        async with opened(body=b"x" * (1 << 20), coding="", pieces=LARGE >> 20).open() as world:
            async with raw_client() as client, client.get(world.url) as response:
                await response.content.readexactly(1 << 20)
                under_way = await settled(lambda: world.bucket.sent)
                assert under_way < 32 << 20
                taken = (1 << 20) + len(await response.content.readexactly(LARGE - (1 << 20)))
            assert taken == LARGE == world.bucket.sent
            [recorded] = world.entries("result.part")
            assert recorded["complete"] and recorded["recording"]["size"] == LARGE

    asyncio.run(run())


def test_a_client_that_leaves_stops_the_download(opened: Callable[..., World]) -> None:
    async def run() -> None:
        async with opened(body=b"x" * (1 << 20), coding="", pieces=LARGE >> 20).open() as world:
            async with raw_client() as client, client.get(world.url) as response:
                await response.content.readexactly(1 << 20)
                response.close()
            await asyncio.wait_for(world.bucket.broke_off.wait(), 20)
            while not (ended := world.entries("result.part")):
                await asyncio.sleep(0.02)
            assert world.bucket.sent < LARGE and world.live.busy == 0
            assert not ended[0]["complete"]

    asyncio.run(run())


def test_closing_the_session_cuts_a_part_short(opened: Callable[..., World]) -> None:
    async def run() -> None:
        async with opened(body=b"x" * (1 << 20), coding="", pieces=LARGE >> 20).open() as world:
            async with raw_client() as client, client.get(world.url) as response:
                await response.content.readexactly(1 << 20)
                world.live.guarded.closed = True
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            assert world.bucket.sent < LARGE

    asyncio.run(run())


# -- as it is packed ---------------------------------------------------------------------------------
def fetched(world: World, accepts: str) -> tuple[dict[str, str], bytes]:
    async def run() -> tuple[dict[str, str], bytes]:
        async with (
            world.open(),
            raw_client() as client,
            client.get(world.url, headers={"Accept-Encoding": accepts}) as response,
        ):
            body = await response.read()
            return {k.lower(): v for k, v in response.headers.items()}, body

    return asyncio.run(run())


def test_a_part_passes_as_snowflake_has_packed_it(opened: Callable[..., World]) -> None:
    world = opened()
    headers, body = fetched(world, "gzip, deflate")
    assert body == PACKED
    assert headers["content-encoding"] == "gzip"
    assert headers["content-length"] == str(len(PACKED))


def test_a_client_that_does_not_take_gzip_gets_it_unpacked(opened: Callable[..., World]) -> None:
    headers, body = fetched(opened(), "identity")
    assert body == PLAIN and "content-encoding" not in headers


@pytest.mark.parametrize("gzipped", [True, False])
def test_a_partition_of_the_sql_api_is_as_long_as_it_says(
    opened: Callable[..., World], gzipped: bool
) -> None:
    world = opened(coding="", body=b'["1"],["2"]')
    columns = ({"name": "A", "type": "text"},)
    world.shaped = partial(as_partition, columns=columns, nullable=True, gzipped=gzipped)
    _, body = fetched(world, "identity")
    assert json.loads(gzip.decompress(body) if gzipped else body) == {"data": [["1"], ["2"]]}


@pytest.mark.parametrize("accepts", ["gzip", "identity"])
def test_the_recording_holds_what_came_from_snowflake(
    opened: Callable[..., World], accepts: str
) -> None:
    world = opened()
    fetched(world, accepts)
    [entry] = world.entries("result.part")
    file = world.recordings / entry["recording"]["path"]
    assert file.name.endswith(".arrow.gz") and file.read_bytes() == PACKED
    assert entry["recording"]["sha256"] == hashlib.sha256(PACKED).hexdigest()


def test_an_unknown_packing_is_refused(opened: Callable[..., World]) -> None:
    _, body = fetched(opened(coding="zstd"), "gzip, zstd")
    assert "unknown packing" in json.loads(body)["message"]


@pytest.mark.parametrize(
    "stored", [PACKED[:-4], PACKED + b"more", PACKED + PACKED, b"no gzip at all"]
)
def test_what_is_not_one_whole_gzip_member_is_not_passed_off_as_rows(stored: bytes) -> None:
    async def run() -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for at in range(0, len(stored), 1000):
                yield stored[at : at + 1000]

        async for _ in unpacked(pieces()):
            pass

    with pytest.raises(SnowflakeUnavailable):
        asyncio.run(run())


# -- what is recorded --------------------------------------------------------------------------------
def test_behind_the_kept_rows_only_the_digest_is_recorded(opened: Callable[..., World]) -> None:
    world = opened()

    async def run() -> None:
        async with world.open(), raw_client() as client:
            world.chunks = replace(world.chunks, kept_parts=0)
            async with client.get(world.url, headers={"Accept-Encoding": "gzip"}) as response:
                assert await response.read() == PACKED

    asyncio.run(run())
    [entry] = world.entries("result.part")
    assert entry["digest"] == {"size": len(PACKED), "sha256": hashlib.sha256(PACKED).hexdigest()}
    assert "recording" not in entry and not list(world.recordings.rglob("*part*"))


class Broken(PartWriter):
    def write(self, *pieces: bytes) -> None:
        raise StoreUnavailable("The disk is full.")


def test_what_cannot_be_recorded_does_not_arrive_whole() -> None:
    """The last piece waits for the record."""

    class Upstream:
        packed, size = False, 12

        async def pieces(self) -> AsyncIterator[bytes]:
            yield b"first "
            yield b"second"

    async def never(*_given: Any, complete: bool) -> None:
        raise AssertionError(complete)

    async def run() -> bytes:
        from contextlib import AsyncExitStack

        passage = Passage(
            Source(Upstream()), Broken(), statement_id="q", live=live(), held=AsyncExitStack(),
            finish=never, fetched=lambda: None, stalled_seconds=5,
        )  # fmt: skip
        got = b""
        with pytest.raises(StoreUnavailable):
            async for piece in passage.pieces():
                got += piece
        return got

    assert asyncio.run(run()) == b"first "


# -- whose client ------------------------------------------------------------------------------------
def test_parts_come_through_the_client_of_the_sessions_own_account(
    log: AuditLog, tmp_path: Path
) -> None:
    asked: list[str] = []

    def of(account: str) -> SnowflakeHttp:
        asked.append(account)
        return SnowflakeHttp(SnowflakeSettings(account=account, url="http://127.0.0.1:9"))

    async def run() -> Response:
        streamer = PartStreamer(
            of, Recorder(str(tmp_path)), log, Screeners(), check_standing=lambda *_given: None
        )
        chunks = ChunkSet("s", "q", "arrow", ("http://127.0.0.1:9/part",), {})
        return await streamer.respond(chunks, 0, live("SECOND"), takes_gzip=True)

    assert asyncio.run(run()).status_code == 503
    assert asked == ["SECOND"]


@pytest.mark.parametrize("body", [PLAIN, PACKED])
def test_a_part_that_is_looked_at_takes_room_for_what_it_is_unpacked(body: bytes) -> None:
    """However small it comes in: a part of blanks is packed a thousand times smaller."""

    class Packed:
        async def pieces(self) -> AsyncIterator[bytes]:
            yield body

    heard: list[int] = []
    assert asyncio.run(read_whole(Packed(), heard.append)) == body  # type: ignore[arg-type]
    assert heard[-1] == len(PLAIN)


# -- shares ------------------------------------------------------------------------------------------
def test_one_caller_reads_so_many_parts_at_once(
    opened: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks_module, "_OF_ONE", 1)

    async def run() -> None:
        slow_bucket = opened(body=b"x" * (1 << 20), coding="", pieces=LARGE >> 20)
        async with slow_bucket.open() as world, raw_client() as client:
            async with client.get(world.url) as slow:
                await slow.content.readexactly(1)
                async with client.get(world.url) as refused:
                    assert refused.status == 503
                    assert "Too many parts" in (await refused.json())["message"]
                slow.close()
            while world.live.busy:
                await asyncio.sleep(0.02)
            async with client.get(world.url) as free:
                assert free.status == 200
                free.close()

    asyncio.run(run())


def test_slow_readers_of_parts_do_not_hold_up_statements(
    opened: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "_CONNECTIONS", 1)

    async def run() -> None:
        world = opened(body=b"x" * (1 << 20), coding="", pieces=LARGE >> 20)
        async with world.bucket.open() as bucket:
            http = SnowflakeHttp(
                SnowflakeSettings(account="A", url=bucket.url.removesuffix("/part"))
            )
            slow = await http.part(bucket.url, {"x-key": "KEY"})
            try:
                assert await asyncio.wait_for(http.status(20), 20) == 404
            finally:
                await slow.aclose()
                await http.aclose()

    asyncio.run(run())
