"""A listener with the gateway's own connection limits and doorway around a small application, on loopback."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from hoop_core.config import GatewaySettings, LimitSettings, Settings
from hoop_core.http import BadRequest, read_json
from hoop_core.server.addresses import Proxies
from hoop_core.server.connections import Connections
from hoop_core.server.doorway import Doorway
from hoop_core.server.serving import Listener, uvicorn_config
from hoop_core.server.tls import Certificates

PATIENCE = 20.0
"""How long a test waits for what must happen; nothing is measured by it."""


@dataclass(slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class World:
    port: int
    connections: Connections
    seen: list[Request] = field(default_factory=list)
    """Requests that reached a route."""
    bodies: list[bytes] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def dial(self, *, source: str = "127.0.0.1", buffer: int = 0) -> socket.socket:
        made = socket.socket()
        if buffer:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        made.bind((source, 0))
        made.settimeout(PATIENCE)
        made.connect(("127.0.0.1", self.port))
        return made

    def ask(self, raw: bytes, **dialing: Any) -> Answer:
        """Send exactly these bytes and read one answer."""
        with self.dial(**dialing) as connection:
            connection.sendall(raw)
            return answer_of(connection)


def answer_of(connection: socket.socket) -> Answer:
    """Reads one answer. Raises EOFError when the other side hangs up before it is whole."""
    with connection.makefile("rb") as lines:
        status = lines.readline()
        if not status:
            raise EOFError
        headers: dict[str, str] = {}
        while (line := lines.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        body = lines.read(length)
        if len(body) < length:
            raise EOFError
        return Answer(int(status.split()[1]), headers, body)


def hung_up(connection: socket.socket) -> bool:
    """Whether the other side ends the connection; what it still sends is thrown away."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@contextmanager
def world(
    *,
    certificates: Certificates | None = None,
    limits: LimitSettings | None = None,
    streamed: tuple[str, ...] = ("/streamed/",),
    **gateway: Any,
) -> Iterator[World]:
    """The listener, with these settings of `[gateway]`, in a thread and loop of its own."""
    settings = Settings(gateway=GatewaySettings(**gateway), limits=limits or LimitSettings())
    connections = Connections(settings.gateway, Proxies(settings.gateway.trusted_proxies))
    listener = socket.create_server(("127.0.0.1", 0))
    made = World(listener.getsockname()[1], connections)
    app = Doorway(_app(made, settings), settings, streamed=streamed)
    server = Listener(uvicorn_config(app, settings.gateway, connections), connections, certificates)
    started = threading.Event()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: made.faults.append(str(context)))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.005)
        started.set()
        await serving

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    try:
        yield made
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()


def _app(made: World, settings: Settings) -> Any:
    async def read(request: Request) -> Response:
        made.seen.append(request)
        try:
            body = await read_json(request, settings.gateway.max_body_bytes)
        except BadRequest as e:
            return JSONResponse({"reason": e.reason, "message": e.text}, 400)
        made.bodies.append(json.dumps(body).encode())
        return JSONResponse(
            {
                "client": request.client.host if request.client else None,
                "authorization": request.headers.getlist("authorization"),
            }
        )

    async def unread(request: Request) -> Response:
        made.seen.append(request)
        return JSONResponse({"unread": True})

    async def large(request: Request) -> Response:
        made.seen.append(request)
        return Response(b"x" * (16 << 20))

    async def stream(request: Request) -> Response:
        async def pieces() -> Any:
            for _ in range(256):
                yield b"x" * (1 << 16)

        made.seen.append(request)
        return StreamingResponse(pieces())

    async def upload(request: Request) -> Response:
        length = 0
        async for piece in request.stream():
            length += len(piece)
        return JSONResponse({"length": length})

    async def fails(_request: Request) -> Response:
        raise RuntimeError("marker-of-an-inner-error")

    routes = [
        Route("/read", read, methods=["GET", "POST"]),
        Route("/session/v1/login-request", read, methods=["POST"]),
        Route("/unread/{anything}", unread, methods=["POST"]),
        Route("/large", large, methods=["GET"]),
        Route("/stream", stream, methods=["GET"]),
        Route("/streamed/{token}", upload, methods=["PUT"]),
        Route("/fails", fails, methods=["GET"]),
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False
    return app


def request(
    path: str = "/read",
    *headers: str,
    method: str = "GET",
    body: bytes | None = None,
    host: str | None = "hoop.test",
) -> bytes:
    """A well-formed request, save for what the caller puts into it."""
    lines = [f"{method} {path} HTTP/1.1"]
    if host is not None:
        lines.append(f"Host: {host}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + (body or b"")


def client_context(ca: Any, **files: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    if files:
        context.load_cert_chain(**files)
    return context
