"""A tap on the line between two parts: passes HTTP on and does something at one message, exactly there.

Neither part knows of it: they are only given its address.
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_PIECE = 64 * 1024
_SECONDS = 120
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass(frozen=True)
class Message:
    """A request on its way; its body as text."""

    method: str
    path: str
    body: str


class Moment(StrEnum):
    ASKED = "asked"  # the request is here, and goes on afterwards
    RUNNING = "running"  # the server has it whole, and works on it
    ANSWERED = "answered"  # the answer is here, and goes on afterwards
    MIDWAY = "midway"  # a piece of the answer has gone on


@dataclass
class Trap:
    """Does `act` at the first message that fits, once. `busy` says for RUNNING that the work has begun."""

    fits: Callable[[Message], bool]
    moment: Moment
    act: Callable[[], None]
    busy: Callable[[], None] = lambda: None
    sprung: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _taken: bool = False

    def takes(self, message: Message) -> bool:
        with self._lock:
            if self._taken or not self.fits(message):
                return False
            self._taken = True
            return True

    def spring(self) -> None:
        if not self.sprung.is_set():
            self.act()
            self.sprung.set()


class Tap:
    """Listens on a free loopback port from the beginning; `target` is the server's port."""

    def __init__(self) -> None:
        self.target = 0
        self.trap: Trap | None = None
        tap = self

        class Handler(_Handler):
            def __init__(self, *arguments: Any) -> None:
                self.tap = tap
                super().__init__(*arguments)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A part that was killed breaks its connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    tap: Tap

    def log_message(self, *_: Any) -> None:
        return None

    def _pass(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        zipped = self.headers.get("Content-Encoding") == "gzip"
        text = (gzip.decompress(raw) if zipped else raw).decode("utf-8", "replace")
        trap = self.tap.trap
        if trap is not None and not trap.takes(Message(self.command, self.path, text)):
            trap = None
        if trap is not None and trap.moment is Moment.ASKED:
            trap.spring()
        line = HTTPConnection("127.0.0.1", self.tap.target, timeout=_SECONDS)
        try:
            line.request(self.command, self.path, raw or None, dict(self.headers.items()))
            if trap is not None and trap.moment is Moment.RUNNING:
                trap.busy()
                trap.spring()
            self._give_back(line.getresponse(), trap)
        except (OSError, HTTPException):
            # A part died: the other one sees what it would see of it, a connection that breaks.
            self.close_connection = True
        finally:
            line.close()
            if trap is not None:
                trap.spring()

    def _give_back(self, answer: HTTPResponse, trap: Trap | None) -> None:
        length = answer.headers.get("Content-Length")
        content = b""
        midway = trap is not None and trap.moment is Moment.MIDWAY
        if length is None or not midway:
            content = answer.read()
            length = length or str(len(content))
        if trap is not None and trap.moment is Moment.ANSWERED:
            trap.spring()
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        if answer.status not in {204, 304}:
            self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[:_PIECE])
        if trap is not None and midway:
            self.wfile.write(answer.read(_PIECE))
            trap.spring()
        self.wfile.write(content[_PIECE:])
        while piece := answer.read(_PIECE):
            self.wfile.write(piece)
        self.wfile.flush()

    do_GET = do_POST = do_PUT = do_LIST = do_DELETE = do_HEAD = _pass  # noqa: N815


def quietly(act: Callable[[], Any]) -> None:
    """Run what a crash elsewhere may break."""
    with suppress(Exception):
        act()
