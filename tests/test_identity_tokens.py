"""Tokens that a job fetches: before they end, once for all who ask, and shown nowhere."""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from hoop_core.client import token_source
from hoop_core.errors import ConfigError, HoopError, IdentityError, Unavailable
from hoop_core.identity import tokens as module
from hoop_core.identity.client_credentials import ClientCredentials
from hoop_core.identity.refreshing import Fetched, Refreshing
from hoop_core.identity.tokens import CommandToken, FetchedToken

SECRET = "s3cret/with:marks"


@pytest.fixture(autouse=True)
def bare_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOOP_TOKEN", "HOOP_TOKEN_FILE", "HOOP_TOKEN_COMMAND", "HOOP_OIDC_TOKEN_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "DEFAULT_TOKEN_FILE", tmp_path / "none-here")
    module._refreshing.cache_clear()


# ------------------------------------------------------------------ refreshing


class Source:
    """Hands out numbered tokens, or fails."""

    def __init__(self, seconds: float | None = 600) -> None:
        self.seconds, self.asked, self.fails = seconds, 0, False
        self.gate: threading.Event | None = None

    def fetch(self) -> Fetched:
        self.asked += 1
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.fails:
            raise Unavailable("The endpoint is down.")
        return Fetched(f"t{self.asked}", self.seconds)


class World:
    def __init__(self, source: Source) -> None:
        self.now, self.source = 1000.0, source
        self.held = Refreshing(source, clock=lambda: self.now, wall=lambda: self.now)


def test_a_token_is_kept_until_a_part_of_its_life_is_left() -> None:
    world = World(Source(600))
    assert [world.held.token() for _ in range(3)] == ["t1"] * 3
    world.now += 400  # at the earliest after 600 - 1.5 * 120 seconds
    assert world.held.token() == "t1"
    world.now += 100  # at the latest after 600 - 120
    assert world.held.token() == "t2"
    assert world.source.asked == 2


def test_a_fetch_that_fails_goes_unnoticed_while_the_token_is_good() -> None:
    world = World(Source(600))
    world.held.token()
    world.source.fails = True
    world.now += 500
    assert world.held.token() == "t1"
    asked = world.source.asked
    assert [world.held.token() for _ in range(5)] == ["t1"] * 5
    assert world.source.asked == asked  # a pause before the next try
    world.now += 90  # ten seconds before its end it is not handed out
    with pytest.raises(Unavailable):
        world.held.token()


def test_without_any_token_failures_are_not_hammered_and_recovery_is_seen() -> None:
    world = World(Source())
    world.source.fails = True
    for _ in range(5):
        with pytest.raises(Unavailable):
            world.held.token()
    assert world.source.asked == 1
    world.now += 1.1
    world.source.fails = False
    assert world.held.token() == "t2"


def test_pauses_grow_and_are_bounded() -> None:
    world = World(Source())
    world.source.fails = True
    for _ in range(500):
        with pytest.raises(Unavailable):
            world.held.token()
        world.now += 1
    assert 10 <= world.source.asked <= 30


def test_many_threads_share_one_fetch() -> None:
    world = World(Source())
    world.source.gate = threading.Event()
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(world.held.token())) for _ in range(20)]
    for thread in threads:
        thread.start()
    world.source.gate.set()
    for thread in threads:
        thread.join(10)
    assert found == ["t1"] * 20


def test_while_one_thread_fetches_the_others_go_on_with_the_good_token() -> None:
    world = World(Source(600))
    world.held.token()
    world.source.gate = threading.Event()
    world.now += 500
    fetching = threading.Thread(target=world.held.token)
    fetching.start()
    while world.source.asked < 2:
        time.sleep(0.001)
    assert world.held.token() == "t1"
    world.source.gate.set()
    fetching.join(10)
    assert world.held.token() == "t2"


@pytest.mark.parametrize(("exp", "asked"), [(300, 1), (10, 3), ("x", 1), (True, 1), (None, 1)])
def test_a_token_says_itself_when_it_ends(exp: Any, asked: int) -> None:
    class Jwt(Source):
        def fetch(self) -> Fetched:
            super().fetch()
            ends = 1000 + exp if isinstance(exp, int) and exp is not True else exp
            body = base64.urlsafe_b64encode(json.dumps({"exp": ends}).encode()).decode().rstrip("=")
            return Fetched(f"a.{body}.c")

    world = World(Jwt())
    for _ in range(3):
        world.held.token()
    assert world.source.asked == asked


# ------------------------------------------------------------------ a command


def _printing(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_a_command_prints_the_token() -> None:
    source = FetchedToken(CommandToken(_printing("print('a.b.c')")))
    assert source.token() == source.token() == "a.b.c"


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("/nowhere/at-all",), "could not be run"),
        ((), "could not be run"),
        (_printing("import sys; print('secret'); sys.exit(3)"), "ended with 3"),
        (_printing("print('')"), "is empty"),
        (_printing("print('two words')"), "is not a token"),
        (_printing("print('x' * 70000)"), "too long"),
    ],
)
def test_a_command_that_prints_no_token_is_refused(argv: tuple[str, ...], says: str) -> None:
    with pytest.raises(IdentityError, match=says) as caught:
        FetchedToken(CommandToken(argv)).token()
    assert "secret" not in str(caught.value)


def test_nothing_of_a_command_goes_through_a_shell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mark = tmp_path / "made"
    words = [*_printing("import sys; print(len(sys.argv))"), f"; touch {mark}", "$(id)"]
    monkeypatch.setenv("HOOP_TOKEN_COMMAND", json.dumps(words))
    assert token_source().token() == "3"
    assert not mark.exists()


@pytest.mark.parametrize("text", ["[]", "[1]", '["a"', "'open", '[""]'])
def test_a_variable_that_is_no_command_is_refused(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("HOOP_TOKEN_COMMAND", text)
    with pytest.raises(ConfigError, match="is no command"):
        token_source()


# ------------------------------------------------------------------ client credentials


class Endpoint(ThreadingHTTPServer):
    """A token endpoint; keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[dict[str, str], dict[str, str]]] = []
        self.answer: tuple[int, bytes] = (200, b'{"access_token": "a.b.c", "expires_in": 600}')
        self.headers: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/token"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        form = {k: v[0] for k, v in parse_qs(body).items()}
        self.server.asked.append((form, {k.lower(): v for k, v in self.headers.items()}))
        status, content = self.server.answer
        self.send_response(status)
        for name, value in {**self.server.headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(10)


def test_a_secret_travels_as_basic_authentication(endpoint: Endpoint) -> None:
    source = ClientCredentials(endpoint.url, "job", SECRET, scope="hoop", audience="aud")
    assert source.fetch() == Fetched("a.b.c", 600.0)
    ((form, headers),) = endpoint.asked
    assert form == {"grant_type": "client_credentials", "scope": "hoop", "audience": "aud"}
    assert base64.b64decode(headers["authorization"][6:]) == b"job:s3cret%2Fwith%3Amarks"


def test_a_secret_in_a_file_is_read_at_each_fetch(endpoint: Endpoint, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    source = ClientCredentials(endpoint.url, "job", secret_file=file)
    for text in ("one", "two"):
        file.write_text(text + "\n")
        source.fetch()
    sent = [base64.b64decode(h["authorization"][6:]) for _, h in endpoint.asked]
    assert sent == [b"job:one", b"job:two"]


@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_a_key_signs_a_proof_of_its_own(endpoint: Endpoint, tmp_path: Path, kind: str) -> None:
    key: Any = RSAKey.generate_key(2048) if kind == "rsa" else ECKey.generate_key("P-256")
    file = tmp_path / "key.pem"
    file.write_bytes(key.as_pem(private=True))
    ClientCredentials(endpoint.url, "job", private_key_file=file, private_key_id="k1").fetch()
    ((form, headers),) = endpoint.asked
    assert "authorization" not in headers
    token = jwt.decode(form["client_assertion"], key, algorithms=["RS256", "ES256"])
    assert token.header["kid"] == "k1"
    assert (token.claims["iss"], token.claims["sub"], token.claims["aud"]) == (
        "job", "job", endpoint.url,
    )  # fmt: skip
    assert 0 < token.claims["exp"] - token.claims["iat"] <= 60
    assert token.claims["jti"]


@pytest.mark.parametrize(
    ("status", "body", "error", "says"),
    [
        (
            401,
            b'{"error": "invalid_client"}',
            IdentityError,
            r"refused the client \(invalid_client\)",
        ),
        (400, b'{"error": "<script> s3cret"}', IdentityError, r"refused the client\."),
        (500, b"", Unavailable, "HTTP 500"),
        (302, b"", Unavailable, "HTTP 302"),
        (200, b"<html>", Unavailable, "holds no token"),
        (200, b"[]", Unavailable, "holds no token"),
        (200, b"{}", Unavailable, "holds no token"),
        (200, b'{"access_token": 7}', Unavailable, "holds no token"),
        (200, b'{"access_token": "a.b.c", "expires_in": "soon"}', Unavailable, "holds no token"),
        (200, b" " * 300_000, Unavailable, "too long"),
    ],
)
def test_what_is_no_token_is_refused(
    endpoint: Endpoint, status: int, body: bytes, error: type[HoopError], says: str
) -> None:
    endpoint.answer = (status, body)
    endpoint.headers = {"location": "http://127.0.0.1:9/"} if status == 302 else {}
    with pytest.raises(error, match=says) as caught:
        ClientCredentials(endpoint.url, "job", SECRET).fetch()
    assert "s3cret" not in str(caught.value)


def test_an_endpoint_that_is_not_there_is_said_to_be_down() -> None:
    with pytest.raises(Unavailable, match="gave no token"):
        ClientCredentials("http://127.0.0.1:9/token", "job", SECRET).fetch()


def test_a_secret_does_not_travel_in_clear() -> None:
    with pytest.raises(ConfigError, match="http:// address of another host"):
        ClientCredentials("http://idp.example/token", "job", SECRET).fetch()


@pytest.mark.parametrize(
    "proofs",
    [{}, {"secret": "a", "private_key_file": Path("k")}, {"secret": "a", "secret_file": Path("s")}],
)
def test_a_client_proves_itself_in_one_way(proofs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="in no way, or in several"):
        ClientCredentials("https://idp.example/token", "job", **proofs).check()


def test_variables_name_the_endpoint_and_all_share_its_token(
    monkeypatch: pytest.MonkeyPatch, endpoint: Endpoint
) -> None:
    monkeypatch.setenv("HOOP_OIDC_TOKEN_URL", endpoint.url)
    with pytest.raises(ConfigError, match="HOOP_OIDC_CLIENT_ID"):
        token_source()
    monkeypatch.setenv("HOOP_OIDC_CLIENT_ID", "job")
    monkeypatch.setenv("HOOP_OIDC_CLIENT_SECRET", SECRET)
    assert [token_source().token() for _ in range(5)] == ["a.b.c"] * 5
    assert len(endpoint.asked) == 1


def test_no_secret_is_in_a_representation() -> None:
    source = FetchedToken(ClientCredentials("https://idp.example/token", "job", SECRET))
    assert SECRET not in repr(source)
    assert "a.b.c" not in repr(Fetched("a.b.c"))
