"""What every request passes before a route is looked for, and what is written down of it."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.config import LimitSettings
from hoop_core.errors import ConfigError
from hoop_core.http import SMALL_BODY
from hoop_core.server.addresses import Proxies
from hoop_core.telemetry import REGISTRY
from tests.serving_world import PATIENCE, World, hung_up, request, world

LOGIN = "/session/v1/login-request"


@pytest.fixture(scope="module")
def plain() -> Iterator[World]:
    with world(max_body_bytes=1 << 20) as made:
        yield made
        assert made.faults == []


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What is logged meanwhile, with what was bound to the request."""
    kept: list[dict[str, Any]] = []

    def keep(_logger: Any, _name: str, event: Any) -> Any:
        kept.append(dict(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    yield kept
    structlog.configure(**before)


def told(lines: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    until = time.monotonic() + PATIENCE
    while True:
        for line in list(lines):
            if wanted.items() <= line.items():
                return line
        assert time.monotonic() < until, lines
        time.sleep(0.01)


# ---------------------------------------------------------------------- paths and methods

CROOKED = [
    "//read", "/read//", "/./read", "/x/../read", "/..;/read", "/read;a=b", "/%72ead", "/read%00",
    "/read%2f", "/%2e%2e/read", "/read%0d%0aX-A:%20b", "/read\\x", "/..", "/.", "/read/..", "/%",
    "/session/v1//login-request", "/%2fread", "/monitoring/queries///a", "/monitoring//queries/a",
    "/monitoring/queries//a//b", "/monitoring/queries//", "/x/monitoring/queries//a",
]  # fmt: skip


@pytest.mark.parametrize("path", CROOKED)
def test_a_path_that_is_not_in_plain_form_reaches_no_route(plain: World, path: str) -> None:
    before = len(plain.seen)
    assert plain.ask(request(path)).status in {400, 404}
    assert len(plain.seen) == before


def test_a_long_crooked_path_is_refused_at_once(plain: World) -> None:
    # the pattern of plain paths must not try all ways to read one
    assert plain.ask(request("/" + "a" * 8000 + "%")).status == 404


def test_a_final_slash_is_another_address_and_no_redirect(plain: World) -> None:
    answer = plain.ask(request("/read/", host="other.test"))
    assert answer.status == 404
    assert "location" not in answer.headers


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "PROPFIND", "LOCK", "M-SEARCH", "QUERY"])
def test_methods_that_nobody_needs_are_refused(plain: World, method: str) -> None:
    before = len(plain.seen)
    assert plain.ask(request(method=method)).status in {400, 405}
    assert len(plain.seen) == before


def test_an_answer_names_its_request_and_is_kept_by_no_cache(plain: World) -> None:
    headers = plain.ask(request()).headers
    assert headers["x-hoop-request"].startswith("req_")
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


# ---------------------------------------------------------------------- addresses


@pytest.mark.parametrize("forwarded", [None, "6.6.6.6", "127.0.0.1, 6.6.6.6"])
def test_nobody_is_believed_about_addresses_unless_the_settings_say_so(
    plain: World, forwarded: str | None
) -> None:
    headers = [] if forwarded is None else [f"X-Forwarded-For: {forwarded}"]
    assert plain.ask(request("/read", *headers)).json["client"] == "127.0.0.1"


CHAINS = [
    ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
    ("10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
    ("10.0.0.1", ["6.6.6.6", "1.2.3.4"], "1.2.3.4"),
    ("10.0.0.1", ["6.6.6.6, 1.2.3.4, 10.9.9.9"], "1.2.3.4"),
    ("10.0.0.1", ["10.9.9.9"], "10.9.9.9"),
    ("10.0.0.1", ["unknown, 10.9.9.9"], "10.9.9.9"),
    ("10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4"),
    ("10.0.0.1", ["[2001:db8::7]:5678"], "2001:db8::7"),
    ("10.0.0.1", ["::ffff:1.2.3.4"], "1.2.3.4"),
    ("10.0.0.1", ["rubbish"], "10.0.0.1"),
    ("10.0.0.1", [""], "10.0.0.1"),
    ("10.0.0.1", [], "10.0.0.1"),
    ("::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
    ("9.9.9.9", ["1.2.3.4"], "9.9.9.9"),
    (None, ["1.2.3.4"], None),
]


@pytest.mark.parametrize(("peer", "forwarded", "client"), CHAINS)
def test_the_last_address_that_no_trusted_proxy_has_is_the_clients(
    peer: str | None, forwarded: list[str], client: str | None
) -> None:
    assert Proxies(("10.0.0.0/8",)).client(peer, forwarded) == client


@given(st.lists(st.text(max_size=60), max_size=5))
def test_whatever_a_stranger_forwards_its_own_address_counts(forwarded: list[str]) -> None:
    assert Proxies(("10.0.0.0/8",)).client("9.9.9.9", forwarded) == "9.9.9.9"


def test_a_proxy_that_is_no_address_is_a_wrong_setting() -> None:
    with pytest.raises(ConfigError, match="trusted_proxies"):
        Proxies(("proxy.example.com",))


# ---------------------------------------------------------------------- sign-ins


def test_an_address_has_so_many_sign_ins_in_a_minute_and_another_one_still_gets_in() -> None:
    with world(limits=LimitSettings(sign_ins_per_minute=2)) as made:
        raw = request(LOGIN, method="POST", body=b"{}")
        assert [made.ask(raw).status for _ in range(3)] == [200, 200, 429]
        refused = made.ask(raw)
        assert refused.headers["retry-after"] == "5"
        assert refused.json["code"] == "099429"
        assert made.ask(raw, source="127.0.0.2").status == 200


# ---------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "path",
    ["/console/login", "/hoop/sso/start", "/hoop/sso/oidc", "/hoop/sso/oidc/0123456789abcdef",
     "/hoop/sso/saml"],
)  # fmt: skip
def test_pages_on_the_way_to_a_sign_in_count_as_sign_ins(path: str) -> None:
    with world(limits=LimitSettings(sign_ins_per_minute=2)) as made:
        assert [made.ask(request(path)).status for _ in range(3)] == [404, 404, 429]


def test_a_body_that_says_it_is_too_long_is_refused_unread(plain: World) -> None:
    before = len(plain.seen)
    raw = request("/read", f"Content-Length: {100 << 20}", method="POST")
    assert plain.ask(raw).status == 413
    assert len(plain.seen) == before


def test_a_hundred_megabytes_are_neither_kept_nor_waited_for(plain: World) -> None:
    before = len(plain.bodies)
    with plain.dial() as connection:
        connection.sendall(request("/read", "Transfer-Encoding: chunked", method="POST"))
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        try:
            for _ in range(1600):
                connection.sendall(piece)
        except ConnectionError:
            pass  # hung up on us, which is one right way
        else:
            assert hung_up(connection)
    assert len(plain.bodies) == before


def test_before_a_session_is_known_a_body_is_short(plain: World) -> None:
    body = json.dumps({"a": "x" * SMALL_BODY}).encode()
    assert plain.ask(request(LOGIN, method="POST", body=body)).status == 413
    assert plain.ask(request("/read", method="POST", body=body)).status == 200


def test_an_upload_may_be_longer_than_other_bodies(plain: World) -> None:
    answer = plain.ask(request("/streamed/t", method="PUT", body=b"x" * (3 << 20)))
    assert answer.json["length"] == 3 << 20


BODY = b'{"a": 1}'
PACKED = {
    "gzip": (["gzip"], gzip.compress(BODY), True),
    "x-gzip": (["x-gzip"], gzip.compress(BODY), True),
    "identity": (["identity"], BODY, True),
    "gzip twice": (["gzip, gzip"], gzip.compress(gzip.compress(BODY)), False),
    "deflate": (["deflate"], zlib.compress(BODY), False),
    "brotli": (["br"], BODY, False),
    "two members": (["gzip"], gzip.compress(BODY) + gzip.compress(b" "), False),
    "something behind": (["gzip"], gzip.compress(BODY) + b"rest", False),
    "cut short": (["gzip"], gzip.compress(BODY)[:-4], False),
    "no gzip": (["gzip"], BODY, False),
    "a wrong checksum": (["gzip"], gzip.compress(BODY)[:-8] + b"\0" * 8, False),
    "a bomb": (["gzip"], gzip.compress(b'{"a": "' + b"x" * (64 << 20) + b'"}'), False),
    "nothing": (["gzip"], b"", False),
}


@pytest.mark.parametrize("what", PACKED)
def test_a_packed_body_is_one_whole_gzip_member_or_refused(plain: World, what: str) -> None:
    encodings, body, taken = PACKED[what]
    headers = [f"Content-Encoding: {e}" for e in encodings]
    answer = plain.ask(request("/read", *headers, method="POST", body=body))
    assert answer.status == (200 if taken else 400)


# ---------------------------------------------------------------------- what is written down


def test_one_line_a_request_with_the_route_and_without_what_changes_in_it(
    plain: World, lines: list[dict[str, Any]]
) -> None:
    named = plain.ask(request("/unread/ses_secret", method="POST", body=b"{}"))
    line = told(lines, event="request", request=named.headers["x-hoop-request"])
    assert line["route"] == "/unread/{anything}"
    assert (line["method"], line["status"], line["address"]) == ("POST", 200, "127.0.0.1")
    assert "ses_secret" not in json.dumps(lines)


def test_two_routes_of_one_endpoint_are_written_down_apart(
    plain: World, lines: list[dict[str, Any]]
) -> None:
    asked = {
        path: plain.ask(request(path, method="POST", body=b"{}")).headers["x-hoop-request"]
        for path in ("/read", LOGIN)
    }
    for path, name in asked.items():
        assert told(lines, event="request", request=name)["route"] == path


def test_addresses_that_are_not_served_share_one_label(plain: World) -> None:
    for n in range(5):
        plain.ask(request(f"/made-up-{n}"))
    routes = {
        sample.labels["route"]
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if "route" in sample.labels
    }
    assert "unserved" in routes
    assert not [r for r in routes if "made-up" in r]


def test_an_error_inside_is_told_to_nobody_by_its_text(
    plain: World, lines: list[dict[str, Any]]
) -> None:
    answer = plain.ask(request("/fails"))
    assert answer.status == 500
    assert b"marker" not in answer.body
    assert "RuntimeError" in told(lines, event="a request failed inside Hoop")["where"]
    assert "marker" not in json.dumps(lines)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault_of_ours(
    plain: World, lines: list[dict[str, Any]]
) -> None:
    with plain.dial() as connection:
        connection.sendall(request("/read", "Content-Length: 100", method="POST") + b'{"a"')
    told(lines, event="request", route="/read", received=4)
    assert not [x for x in lines if x["event"] == "a request failed inside Hoop"]
