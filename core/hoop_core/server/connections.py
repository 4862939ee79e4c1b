"""Connections of the gateway: how many, how slow, and how they end.

uvicorn's protocol for httptools, with limits on what a client may keep waiting. Nothing here knows what a
request asks for. Time limits are kept by `Connections.look`, which the server calls about every second.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import httptools
import structlog
from prometheus_client import Counter as Metric
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from hoop_core.config import GatewaySettings
from hoop_core.server.addresses import Proxies
from hoop_core.server.framing import Fault, fault_of
from hoop_core.telemetry import REGISTRY

_log = structlog.get_logger(__name__)
_LINGER_SECONDS = 2.0
"""How long a body is read on and thrown away whose answer is there already, so that the client sees it."""
_SLOWEST_READER = 32 << 10  # bytes a second
_ERRNO = "099400"

DROPPED = Metric(
    "hoop_connections_dropped", "Connections that Hoop ended.", ["why"], registry=REGISTRY
)


class Connections:
    """All connections of one listener. For one event loop."""

    def __init__(self, settings: GatewaySettings, proxies: Proxies) -> None:
        self.settings, self.proxies = settings, proxies
        self.open: set[EdgeProtocol] = set()
        self.by_address: Counter[str] = Counter()

    def admit(self, address: str) -> str | None:
        """Why a new connection is refused; None when it may stay."""
        if len(self.open) >= self.settings.max_connections:
            return "too_many"
        most = self.settings.max_connections_per_address
        if most and self.by_address[address] >= most and not self.proxies.trusts(address):
            return "too_many_of_one_address"
        return None

    def add(self, connection: EdgeProtocol) -> None:
        self.open.add(connection)
        self.by_address[connection.address] += 1

    def discard(self, connection: EdgeProtocol) -> None:
        if connection not in self.open:
            return
        self.open.discard(connection)
        self.by_address[connection.address] -= 1
        if self.by_address[connection.address] <= 0:
            del self.by_address[connection.address]

    def look(self) -> None:
        """End what has kept us waiting for too long."""
        now = time.monotonic()
        for connection in list(self.open):
            connection.look(now)

    def protocol(self) -> type[EdgeProtocol]:
        """The class that uvicorn makes one of for each connection."""
        mine = self

        class Bound(EdgeProtocol):
            connections_of = mine

        return Bound


class EdgeProtocol(HttpToolsProtocol):
    """One connection."""

    connections_of: Connections

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = ""
        self.refused = False
        self._fault: Fault | None = None
        self._in_head = self._in_request = False
        self._head_bytes = self._headers_bytes = 0
        self._head_since: float | None = None
        self._linger_since: float | None = None
        self._closing_since: float | None = None
        self._full_until: float | None = None

    # ------------------------------------------------------------------ the connection

    def connection_made(self, transport: Any) -> None:
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        why = self.connections_of.admit(self.address)
        if why is not None:
            DROPPED.labels(why).inc()
            self.refused, self.transport = True, transport
            transport.write(_answer(Fault(503, "Hoop has too many connections. Try again later.")))
            transport.close()
            return
        self.connections_of.add(self)
        self._head_since = time.monotonic()
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections_of.discard(self)
        if not self.refused:
            super().connection_lost(exc)

    def look(self, now: float) -> None:
        """End this connection when one of its time limits has passed."""
        settings, transport = self.connections_of.settings, self.transport
        if transport.is_closing():
            # What was written is still on its way to a client that may not read it.
            self._closing_since = self._closing_since or now
            if now - self._closing_since > settings.stalled_seconds:
                self._abort("unread")
        elif self._full_until is not None and now > self._full_until:
            self._abort("unread")
        elif self._linger_since is not None and now - self._linger_since > _LINGER_SECONDS:
            self._abort("body_after_answer")
        elif self._head_since is not None and now - self._head_since > settings.header_seconds:
            DROPPED.labels("slow_headers").inc()
            self._refuse(Fault(408, "The request's headers took too long."))

    def _abort(self, why: str) -> None:
        DROPPED.labels(why).inc()
        self.transport.abort()

    # ------------------------------------------------------------------ reading

    def data_received(self, data: bytes) -> None:
        if self.refused or self._fault is not None:
            return
        if not self._in_request and self._head_since is None:
            self._head_since = time.monotonic()
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(Fault(400, "Hoop serves no other protocol to upgrade to."))
        except httptools.HttpParserError:
            self._refuse(self._fault or Fault(400, "The request is not valid HTTP."))
        else:
            # A header without an end stays inside the parser: what was fed to it counts.
            self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
            if self._head_bytes > self.connections_of.settings.max_header_bytes:
                self._refuse(Fault(431, "The request's headers are too long."))

    def _refuse(self, fault: Fault) -> None:
        """Answer and close; behind a response that is under way an answer would be taken for its body."""
        self._fault = fault
        _log.warning("a request was not taken", status=fault.status, why=fault.message)
        if self.cycle is None or self.cycle.response_complete:
            self.transport.write(_answer(fault))
            self.transport.close()
        else:
            self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._in_request = True
        self._headers_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: whoever looked at the headers has not seen it
        self._headers_bytes += len(name) + len(value)
        settings = self.connections_of.settings
        if (
            len(self.headers) >= settings.max_headers
            or self._headers_bytes > settings.max_header_bytes
        ):
            self._fault = Fault(431, "The request has too many headers, or too long ones.")
            raise _Faulty
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._head_since = False, None
        self._fault = fault_of(self.url, self.parser.get_http_version(), self.headers)
        if self._fault is not None:
            raise _Faulty
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_request = False
        super().on_message_complete()
        if self._linger_since is not None:
            self._linger_since = None
            self._wait_for_next()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._in_request and self.cycle.response_complete and self.cycle.more_body:
            self._unset_keepalive_if_required()
            self._linger_since = time.monotonic()

    def _wait_for_next(self) -> None:
        if not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # ------------------------------------------------------------------ writing

    def pause_writing(self) -> None:
        super().pause_writing()
        unread = self.transport.get_write_buffer_size()
        settings = self.connections_of.settings
        self._full_until = time.monotonic() + settings.stalled_seconds + unread / _SLOWEST_READER

    def resume_writing(self) -> None:
        super().resume_writing()
        self._full_until = None


class _Faulty(Exception):
    """Stops the parser in the middle of a request; what is wrong is kept by the connection."""


def _answer(fault: Fault) -> bytes:
    """A whole response, in the shape of Snowflake's errors, that ends the connection."""
    body = json.dumps(
        {
            "data": None,
            "code": _ERRNO,
            "message": fault.message,
            "success": False,
            "error": {"reason": "BAD_REQUEST", "message": fault.message, "hint": ""},
        }
    ).encode()
    lines = [
        STATUS_LINE[fault.status].rstrip(b"\r\n"),
        b"content-type: application/json",
        b"content-length: " + str(len(body)).encode(),
        b"cache-control: no-store",
        b"connection: close",
    ]
    if fault.status == 503:
        lines.append(b"retry-after: 1")
    return b"\r\n".join([*lines, b"", body])
