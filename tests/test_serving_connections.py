"""What a client may do to a connection before anybody knows what it wants: slow, long, many, ambiguous."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.serving_world import PATIENCE, World, answer_of, hung_up, request, world


@pytest.fixture(scope="module")
def plain() -> Iterator[World]:
    with world() as made:
        yield made
        assert made.faults == []


@pytest.fixture(scope="module")
def strict() -> Iterator[World]:
    """Impatient, and with room for four connections."""
    limits = {"header_seconds": 0.3, "body_seconds": 0.3, "stalled_seconds": 0.3}
    with world(**limits, max_connections=4, max_connections_per_address=2) as made:
        yield made
        assert made.faults == []


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


# ---------------------------------------------------------------------- framing

JSON = b'{"a": 1}'
CHUNKED = b"Transfer-Encoding: chunked\r\n"
HEAD = b"POST /read HTTP/1.1\r\nHost: hoop.test\r\n"

AMBIGUOUS = {
    "length and chunked": HEAD + b"Content-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "chunked and length": HEAD + CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "two different lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    "a list of lengths": HEAD + b"Content-Length: 2, 2\r\n\r\n{}",
    "a signed length": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "a hexadecimal length": HEAD + b"Content-Length: 0x2\r\n\r\n{}",
    "a negative length": HEAD + b"Content-Length: -2\r\n\r\n{}",
    "a length too long": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "a length with a space before the colon": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "a folded header": HEAD + b"X-A: b\r\n Content-Length: 2\r\n\r\n",
    "bare LF": HEAD.replace(b"\r\n", b"\n") + b"Content-Length: 2\n\n{}",
    "one bare LF": HEAD + b"X-A: b\nContent-Length: 2\r\n\r\n{}",
    "a bare CR": HEAD + b"X-A: b\rContent-Length: 2\r\n\r\n{}",
    "a NUL": HEAD + b"X-A: b\0c\r\n\r\n",
    "chunked twice": HEAD + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
    "chunked, identity": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "gzip, chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n",
    "xchunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked with a tab": HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST /read HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "underscored length": HEAD + b"Content_Length: 40\r\nContent-Length: 2\r\n\r\n{}",
    "underscored coding": HEAD + b"Transfer_Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
    "underscored address": HEAD + b"X_Forwarded_For: 1.1.1.1\r\nContent-Length: 2\r\n\r\n{}",
    "two authorizations": HEAD + b"Authorization: a\r\nAuthorization: b\r\n\r\n",
    "two encodings": HEAD + b"Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n\r\n",
    "two hosts": HEAD + b"Host: other.test\r\n\r\n",
    "no host": b"GET /read HTTP/1.1\r\n\r\n",
    "a host with a path": b"GET /read HTTP/1.1\r\nHost: hoop.test/other\r\n\r\n",
    "a host with a user": b"GET /read HTTP/1.1\r\nHost: a@hoop.test\r\n\r\n",
    "an absolute target": b"GET http://other.test/read HTTP/1.1\r\nHost: hoop.test\r\n\r\n",
    "an authority target": b"CONNECT other.test:80 HTTP/1.1\r\nHost: hoop.test\r\n\r\n",
    "an asterisk target": b"OPTIONS * HTTP/1.1\r\nHost: hoop.test\r\n\r\n",
    "a fragment": b"GET /read#x HTTP/1.1\r\nHost: hoop.test\r\n\r\n",
    "HTTP/0.9": b"GET /read\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": b"GET /read HTTP/1.2\r\nHost: hoop.test\r\n\r\n",
    "an upgrade": HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
    "a websocket": HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "an unknown method": b"BREW /read HTTP/1.1\r\nHost: hoop.test\r\n\r\n",
    "no HTTP at all": b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
    "a space in the target": b"GET /read x HTTP/1.1\r\nHost: hoop.test\r\n\r\n",
    "UTF-8 in the target": "GET /é HTTP/1.1\r\nHost: hoop.test\r\n\r\n".encode(),
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_what_two_servers_could_read_in_two_ways_reaches_no_route(plain: World, what: str) -> None:
    before = len(plain.seen)
    smuggled = request("/read", "X-Smuggled: yes")
    with plain.dial() as connection:
        connection.sendall(AMBIGUOUS[what] + smuggled)
        assert answer_of(connection).status in {400, 505}
        assert hung_up(connection)
    assert len(plain.seen) == before


def test_a_broken_chunk_ends_the_connection_and_reads_no_further(plain: World) -> None:
    before = len(plain.bodies)
    with plain.dial() as connection:
        connection.sendall(HEAD + CHUNKED + b"\r\n2\r\n{}X\r\n0\r\n\r\n" + request())
        assert hung_up(connection)
    assert len(plain.bodies) == before


def test_a_trailer_is_no_header(plain: World) -> None:
    raw = HEAD + CHUNKED + b"\r\n2\r\n{}\r\n0\r\nAuthorization: stolen\r\n\r\n"
    assert plain.ask(raw).json["authorization"] == []


def test_two_requests_in_one_packet_are_answered_in_order(plain: World) -> None:
    first = request("/read", "Authorization: one", method="POST", body=b"{}")
    second = request("/read", "Authorization: two", method="POST", body=b"{}")
    with plain.dial() as connection:
        connection.sendall(first + second)
        received = b""
        while received.count(b"authorization") < 2:
            received += connection.recv(65536)
    assert received.index(b'["one"]') < received.index(b'["two"]')


def test_a_refusal_behind_an_answer_that_is_under_way_is_not_written_into_it(plain: World) -> None:
    with plain.dial(buffer=4096) as connection:
        connection.sendall(request("/large") + AMBIGUOUS["two lengths"])
        received = b""
        while piece := _read(connection):
            received += piece
    assert b"BAD_REQUEST" not in received


def _read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 20)
    except ConnectionError:
        return b""


# ---------------------------------------------------------------------- length and number


def test_more_headers_than_the_limit_are_refused(plain: World) -> None:
    many = [f"X-{n}: {n}" for n in range(200)]
    assert plain.ask(request("/read", *many)).status == 431


@pytest.mark.parametrize("ended", [True, False])
def test_longer_headers_than_the_limit_are_refused_with_and_without_an_end(
    plain: World, ended: bool
) -> None:
    raw = request("/read", "X-A: " + "a" * (1 << 20))
    with plain.dial() as connection:
        try:
            connection.sendall(raw if ended else raw.rstrip())
            assert answer_of(connection).status == 431
        except ConnectionError:
            pass  # the answer is there before we have sent everything, and then nobody listens
        assert hung_up(connection)


def test_a_target_longer_than_the_limit_is_refused(plain: World) -> None:
    assert plain.ask(request("/" + "a" * 20_000)).status == 414


def test_an_address_has_so_many_connections_and_another_one_still_gets_in(strict: World) -> None:
    held = [strict.dial() for _ in range(2)]
    try:
        eventually(lambda: len(strict.connections.open) == 2)
        with strict.dial() as third:
            assert answer_of(third).status == 503
            assert hung_up(third)
        assert strict.ask(request(), source="127.0.0.2").status == 200
    finally:
        for connection in held:
            connection.close()
    eventually(lambda: not strict.connections.open and not strict.connections.by_address)


def test_all_addresses_together_have_so_many_connections(strict: World) -> None:
    held = [strict.dial(source=f"127.0.0.{n}") for n in (3, 3, 4, 4)]
    try:
        eventually(lambda: len(strict.connections.open) == 4)
        with strict.dial(source="127.0.0.5") as fifth:
            answer = answer_of(fifth)
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
    finally:
        for connection in held:
            connection.close()
    eventually(lambda: not strict.connections.open)


def test_a_trusted_proxy_may_have_more_connections_than_a_client() -> None:
    one = world(max_connections_per_address=1, trusted_proxies=("127.0.0.1",))
    with one as made, made.dial(), made.dial() as second:
        second.sendall(request())
        assert answer_of(second).status == 200


# ---------------------------------------------------------------------- pace


def test_headers_that_come_too_slowly_are_given_up(strict: World) -> None:
    with strict.dial() as connection:
        connection.sendall(b"GET /read HTTP/1.1\r\nHost: hoop.")
        assert answer_of(connection).status == 408
        assert hung_up(connection)


def test_headers_that_never_begin_are_given_up(strict: World) -> None:
    with strict.dial() as connection:
        assert hung_up(connection)


def test_the_second_request_of_a_connection_has_a_time_limit_too(strict: World) -> None:
    with strict.dial() as connection:
        connection.sendall(request())
        assert answer_of(connection).status == 200
        connection.sendall(b"GET /re")
        assert answer_of(connection).status == 408


def test_a_body_that_comes_too_slowly_is_refused(strict: World) -> None:
    before = len(strict.bodies)
    with strict.dial() as connection:
        connection.sendall(request("/read", "Content-Length: 1000", method="POST") + b'{"a":')
        answer = answer_of(connection)
    assert answer.json["reason"] == "TOO_SLOW"
    assert len(strict.bodies) == before


def test_a_body_that_goes_on_behind_its_answer_is_not_read_for_ever(strict: World) -> None:
    head = request("/unread/x", "Content-Length: 100000", method="POST")
    with strict.dial() as connection:
        connection.sendall(head)
        assert answer_of(connection).status == 200
        assert hung_up(connection)


def test_a_connection_is_used_again_after_a_body_that_nobody_wanted(plain: World) -> None:
    with plain.dial() as connection:
        connection.sendall(request("/unread/x", "Content-Length: 4", method="POST"))
        assert answer_of(connection).status == 200
        connection.sendall(b"rest" + request())
        assert answer_of(connection).status == 200


@pytest.mark.parametrize("path", ["/large", "/stream"])
def test_a_client_that_does_not_read_its_answer_is_dropped(strict: World, path: str) -> None:
    with strict.dial(buffer=4096) as connection:
        connection.sendall(request(path))
        eventually(lambda: len(strict.connections.open) == 1)
        # 16 MB at 32 KB a second are waited for; a client that takes nothing is told by its full buffer
        for open_ in list(strict.connections.open):
            eventually(lambda o=open_: o._full_until is not None)
            open_._full_until = 0.0
        eventually(lambda: not strict.connections.open)


def test_a_client_that_reads_slowly_gets_all_of_it(plain: World) -> None:
    received = 0
    with plain.dial(buffer=65536) as connection:
        connection.sendall(request("/stream"))
        while received < 16 << 20:
            received += len(connection.recv(1 << 16))
    assert received >= 16 << 20


def test_a_kept_connection_that_is_not_used_is_closed() -> None:
    with world(keep_alive_seconds=1) as made, made.dial() as connection:
        connection.sendall(request())
        assert answer_of(connection).status == 200
        assert hung_up(connection)
