"""HTTP to Snowflake: the calls of the drivers' protocol, and result parts from where Snowflake put them.

aiohttp takes a fifth of the processor time that httpx takes for a small call.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Mapping

import aiohttp
from yarl import URL

from hoop_core import __version__
from hoop_core.config import SnowflakeSettings
from hoop_core.errors import SnowflakeUnavailable
from hoop_core.model import Json

_HINT = "Try again once Snowflake answers."
NOT_REACHED = "SNOWFLAKE_NOT_REACHED"
"""The reason when there was no connection: Snowflake has not heard of the request."""
_PIECE, _CONNECTIONS = 1 << 18, 512
_CODINGS = {"": False, "identity": False, "gzip": True, "x-gzip": True}
"""How parts are stored, and whether that is packed. Snowflake packs otherwise only when a session asks for it."""
_HEADERS = {
    "Accept": "application/snowflake",
    "Content-Type": "application/json",
    "User-Agent": f"hoop/{__version__}",
}


class SnowflakeHttp:
    """Two pools of connections for all sessions of an account: clients that read their parts slowly must not hold
    up the statements of others. For one event loop.

    No proxy, no cookies and no `.netrc` of whoever started the process, and no redirects: tokens pass here.
    """

    def __init__(self, settings: SnowflakeSettings) -> None:
        base = settings.url or f"https://{settings.account}.snowflakecomputing.com"
        self._base = base.rstrip("/")
        # reads wait as long as Snowflake's long poll
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_seconds, sock_read=settings.request_seconds
        )
        self._pools: dict[str, aiohttp.ClientSession] = {}

    def _session(self, what: str = "calls") -> aiohttp.ClientSession:
        """Made on first use: aiohttp wants the running loop."""
        if what not in self._pools:
            self._pools[what] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=20),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                trust_env=False,
            )
        return self._pools[what]

    async def call(self, method: str, path: str, body: Json | None, token: str | None) -> Json:
        """One exchange of JSON. `path` is below Snowflake's address, encoded already.

        Raises SnowflakeUnavailable.
        """
        headers = _HEADERS | ({"Authorization": f'Snowflake Token="{token}"'} if token else {})
        data = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        url = URL(self._base + path, encoded=True)
        try:
            async with self._session().request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as response:
                status, content = response.status, await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as e:
            raise SnowflakeUnavailable(
                f"Snowflake cannot be reached ({type(e).__name__}).", _HINT, reason=NOT_REACHED
            ) from None
        except (aiohttp.ClientError, TimeoutError) as e:
            raise SnowflakeUnavailable(
                f"Snowflake does not answer ({type(e).__name__}).", _HINT
            ) from None
        try:
            answer = json.loads(content)
        except (ValueError, RecursionError):
            raise SnowflakeUnavailable(
                f"Snowflake answered with something that is not JSON (HTTP {status}).", _HINT
            ) from None
        if not isinstance(answer, dict):
            raise SnowflakeUnavailable("Snowflake answered in an unknown form.", _HINT)
        return answer

    async def part(self, url: str, headers: Mapping[str, str]) -> Part:
        """A part of a result; whoever asks closes it. Raises SnowflakeUnavailable."""
        try:
            response = await self._session("parts").get(
                URL(url, encoded=True),
                headers={**headers, "Accept-Encoding": "gzip"},
                allow_redirects=False,
                auto_decompress=False,
                read_bufsize=_PIECE,
            )
        except (aiohttp.ClientError, TimeoutError, ValueError) as e:
            raise _not_fetched(type(e).__name__) from None
        coding = response.headers.get("Content-Encoding", "").strip().lower()
        if response.status != 200 or coding not in _CODINGS:
            response.close()
            why = f"HTTP {response.status}" if coding in _CODINGS else "an unknown packing"
            raise _not_fetched(why)
        return Part(response, packed=_CODINGS[coding])

    async def status(self, seconds: float) -> int:
        """What Snowflake's address answers to GET /, without its content. Raises SnowflakeUnavailable."""
        timeout = aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session().get(
                URL(self._base + "/", encoded=True), allow_redirects=False, timeout=timeout
            ) as response:
                return response.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as e:
            raise SnowflakeUnavailable(
                f"Snowflake does not answer ({type(e).__name__}).", _HINT
            ) from e

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.close()


class Part:
    """A result part as it comes in, byte for byte; `packed` with gzip or not, and `size` bytes when it is told.

    No more of it is in memory than two pieces: what nobody takes stays with who sends it.
    """

    def __init__(self, response: aiohttp.ClientResponse, *, packed: bool) -> None:
        self._response = response
        self.packed, self.size = packed, response.content_length

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises SnowflakeUnavailable."""
        try:
            async for piece in self._response.content.iter_any():
                yield piece
        except (aiohttp.ClientError, TimeoutError) as e:
            raise _not_fetched(type(e).__name__) from None

    async def aclose(self) -> None:
        """Give the connection back; one with bytes left to read is closed."""
        self._response.release()


async def unpacked(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What is in one whole gzip member (RFC 1952), a piece at a time. Raises SnowflakeUnavailable."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        async for piece in pieces:
            rest = piece
            while rest:
                plain = await asyncio.to_thread(unpacker.decompress, rest, _PIECE)
                if plain:
                    yield plain
                rest = unpacker.unconsumed_tail
                if unpacker.unused_data:
                    raise _not_fetched("something follows its end")
        while plain := await asyncio.to_thread(unpacker.decompress, b"", _PIECE):
            yield plain
    except zlib.error:
        raise _not_fetched("it is not packed as it says") from None
    if not unpacker.eof:
        raise _not_fetched("it is cut short")


def _not_fetched(why: str) -> SnowflakeUnavailable:
    return SnowflakeUnavailable(
        f"A part of the result cannot be fetched ({why}).", "Run the statement again."
    )
