"""Requests for a session of another replica: what goes there, what comes back, and where nothing goes."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from hoop_core.config import GatewaySettings
from hoop_core.errors import ConfigError, SessionGone
from hoop_core.gateway import forwarding as module
from hoop_core.gateway.forwarding import FORWARDED_TO, Forwarding
from hoop_core.gateway.owners import digest_of
from hoop_core.gateway.protocol import in_snowflakes_shape
from hoop_core.replicas import checked_url, own_url

HANDLE = "h" * 43
SESSION = "ses_1"
AUTHORIZATION = {"Authorization": f'Snowflake Token="{HANDLE}"'}
METHODS = ["GET", "POST", "PUT"]


@dataclass
class Owners:
    """The store, as a table of one session."""

    url: str
    me: str = "rep_me"
    owner: str | None = "rep_other"
    looked_up: int = 0

    def owner_of(self, *, digest: str | None = None, session_id: str | None = None) -> str | None:
        self.looked_up += 1
        return self.owner if digest == digest_of(HANDLE) or session_id == SESSION else None

    def alive(self) -> dict[str, str]:
        return {"rep_me": "", "rep_other": self.url}


@dataclass
class Book:
    here: set[str] = field(default_factory=set)

    def holds(self, *, digest: str | None = None, session_id: str | None = None) -> bool:
        return bool({digest, session_id} & self.here)


@dataclass
class Peer:
    """The replica that holds the session. It does what a test tells it to, and remembers."""

    answer: Callable[[Request], Awaitable[Response]]
    seen: list[Request] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        self.seen.append(request)
        return await self.answer(request)


async def echo(request: Request) -> Response:
    hashed, size = hashlib.sha256(), 0
    async for piece in request.stream():
        hashed.update(piece)
        size += len(piece)
    return JSONResponse(
        {
            "method": request.method,
            "path": request.scope["raw_path"].decode(),
            "query": request.scope["query_string"].decode(),
            "headers": [[n.decode(), v.decode("latin-1")] for n, v in request.scope["headers"]],
            "sha256": hashed.hexdigest(),
            "size": size,
        },
        headers={"x-owner": "yes", "connection": "close"},
    )


@asynccontextmanager
async def serving(app: Any, **options: Any) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_level="critical", lifespan="off", proxy_headers=False, **options
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        yield listener.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await task


@dataclass
class Setting:
    client: httpx.AsyncClient
    peer: Peer
    owners: Owners
    book: Book
    forwarding: Forwarding


@asynccontextmanager
async def world(
    answer: Callable[[Request], Awaitable[Response]] = echo,
    *,
    url: str | None = None,
    peer_tls: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Setting]:
    peer = Peer(answer)
    app = Starlette(routes=[Route("/{path:path}", peer.take, methods=METHODS)])
    async with serving(app, **(peer_tls or {})) as port:
        scheme = "https" if peer_tls else "http"
        owners, book = Owners(url or f"{scheme}://127.0.0.1:{port}"), Book()
        forwarding = Forwarding(GatewaySettings(**settings), owners, book)  # type: ignore[arg-type]

        async def here(_request: Request) -> Response:
            if book.here:
                return JSONResponse({"here": True})
            raise SessionGone("This session is closed or was never opened here.")

        front = Starlette(
            routes=[
                Route(
                    "/parts/{session_id}/{rest:path}",
                    in_snowflakes_shape(forwarding.by_session(here)),
                    methods=METHODS,
                ),
                Route(
                    "/{path:path}", in_snowflakes_shape(forwarding.by_handle(here)), methods=METHODS
                ),
            ]
        )
        async with (
            serving(front) as front_port,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{front_port}", timeout=20, trust_env=False
            ) as client,
        ):
            try:
                yield Setting(client, peer, owners, book, forwarding)
            finally:
                await forwarding.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


# ------------------------------------------------------------------ what goes and what comes


def test_a_request_arrives_as_it_was_sent() -> None:
    async def go() -> None:
        async with world() as w:
            body = bytes(range(256)) * 8192
            said = await w.client.post(
                "/queries/v1/query-request?requestId=a%2Fb&x=%C3%BC",
                content=body,
                headers={**AUTHORIZATION, "Content-Encoding": "x-test", "X-Any": "1"},
            )
            told = said.json()
            assert said.status_code == 200 and said.headers["x-owner"] == "yes"
            assert (told["method"], told["path"]) == ("POST", "/queries/v1/query-request")
            assert told["query"] == "requestId=a%2Fb&x=%C3%BC"
            assert told["sha256"] == hashlib.sha256(body).hexdigest()
            headers = dict(told["headers"])
            assert headers["authorization"] == AUTHORIZATION["Authorization"]
            assert headers["content-encoding"] == "x-test" and headers["x-any"] == "1"
            assert headers["content-length"] == str(len(body))
            assert headers[FORWARDED_TO] == "rep_other"

    run(go)


def test_what_belongs_to_one_connection_or_is_claimed_of_the_client_stays_here() -> None:
    async def go() -> None:
        async with world() as w:
            dropped = {
                "Connection": "close, X-Secret-Hop",
                "X-Secret-Hop": "1",
                "Te": "trailers",
                "Upgrade": "h2c",
                "Proxy-Authorization": "Basic x",
                "X-Forwarded-For": "6.6.6.6",
                "X-Forwarded-Proto": "https",
                "Forwarded": "for=6.6.6.6",
                "X-Real-Ip": "6.6.6.6",
            }
            said = await w.client.get("/x", headers={**AUTHORIZATION, **dropped})
            told = said.json()["headers"]
            names = {name for name, _ in told}
            assert not names & {"x-secret-hop", "te", "upgrade", "proxy-authorization", "forwarded"}
            assert not names & {"x-real-ip", "x-forwarded-proto"}
            assert [v for n, v in told if n == "x-forwarded-for"] == ["127.0.0.1"]
            assert len([v for n, v in told if n == "host"]) == 1

    run(go)


def test_a_body_of_unknown_length_goes_through() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 10_000

    async def go() -> None:
        async with world() as w:
            said = await w.client.put("/x", content=pieces(), headers=AUTHORIZATION)
            assert said.json()["size"] == 500_000

    run(go)


def test_an_answer_streams_and_its_status_stays() -> None:
    first_seen = asyncio.Event()

    async def answer(_request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"first"
            await first_seen.wait()
            yield b"second"

        return StreamingResponse(pieces(), status_code=206)

    async def go() -> None:
        async with world(answer) as w, w.client.stream("GET", "/x", headers=AUTHORIZATION) as said:
            assert said.status_code == 206
            arriving = said.aiter_raw()
            assert await anext(arriving) == b"first"
            first_seen.set()
            assert b"".join([p async for p in arriving]) == b"second"

    run(go)


def test_a_part_of_a_result_is_found_by_its_session() -> None:
    async def go() -> None:
        async with world() as w:
            said = await w.client.get(f"/parts/{SESSION}/q/3", headers={"x-hoop-chunk": "secret"})
            assert dict(said.json()["headers"])["x-hoop-chunk"] == "secret"
            said = await w.client.get("/parts/ses_2/q/3")
            assert said.json()["success"] is False and len(w.peer.seen) == 1

    run(go)


def test_a_redirect_of_the_owner_is_not_followed() -> None:
    async def answer(_request: Request) -> Response:
        return RedirectResponse("http://127.0.0.1:9/elsewhere")

    async def go() -> None:
        async with world(answer) as w:
            said = await w.client.get("/x", headers=AUTHORIZATION)
            assert said.status_code == 307

    run(go)


# ------------------------------------------------------------------ clients that leave, owners that fail


async def _leaves(w: Setting, gone: asyncio.Event) -> None:
    """A client that asks, reads what there is, and closes its connection."""
    port = httpx.URL(w.client.base_url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"GET /x HTTP/1.1\r\nHost: h\r\nAuthorization: {AUTHORIZATION['Authorization']}\r\n\r\n"
    writer.write(head.encode())
    while not w.peer.seen:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    writer.close()
    await asyncio.wait_for(gone.wait(), 10)
    del reader


def test_a_client_that_leaves_takes_its_request_back() -> None:
    gone = asyncio.Event()

    async def answer(request: Request) -> Response:
        while not await request.is_disconnected():
            await asyncio.sleep(0.01)
        gone.set()
        return Response()

    async def go() -> None:
        async with world(answer) as w:
            await _leaves(w, gone)

    run(go)


def test_a_client_that_leaves_in_the_middle_stops_the_answer() -> None:
    gone = asyncio.Event()

    async def answer(request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 1000
                    await asyncio.sleep(0.01)
            finally:
                gone.set()

        return StreamingResponse(pieces())

    async def go() -> None:
        async with world(answer) as w:
            await _leaves(w, gone)

    run(go)


def test_one_session_does_not_take_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OF_ONE_SESSION", 2)
    go_on = asyncio.Event()

    async def answer(request: Request) -> Response:
        await go_on.wait()
        return JSONResponse({})

    async def go() -> None:
        async with world(answer) as w:
            waiting = [asyncio.create_task(w.client.get("/x", headers=AUTHORIZATION)) for _ in "12"]
            while len(w.peer.seen) < 2:
                await asyncio.sleep(0.01)
            refused = await w.client.get("/x", headers=AUTHORIZATION)
            assert refused.status_code == 503 and "too many requests" in refused.text
            go_on.set()
            assert {(await w).status_code for w in waiting} == {200}
            for _ in range(3):  # their places are free again
                assert (await w.client.get("/x", headers=AUTHORIZATION)).status_code == 200

    run(go)


def test_an_owner_that_does_not_answer_is_an_error_that_drivers_try_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]

    async def go() -> None:
        async with world(url=f"http://127.0.0.1:{port}") as w:
            said = await w.client.post("/x", json={}, headers=AUTHORIZATION)
            assert said.status_code == 503
            assert said.json()["code"] == "099104" and "token" not in said.text.lower()
            assert w.forwarding.counters.unreachable == 1

    run(go)


def test_an_answer_that_breaks_off_is_not_taken_for_whole() -> None:
    async def answer(_request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError

        return StreamingResponse(pieces(), headers={"content-length": "100"})

    async def go() -> None:
        async with world(answer) as w:
            with pytest.raises(httpx.RemoteProtocolError):
                await w.client.get("/x", headers=AUTHORIZATION)

    run(go)


# ------------------------------------------------------------------ where nothing goes


def test_a_session_of_this_process_is_answered_here_without_the_store() -> None:
    async def go() -> None:
        async with world() as w:
            w.book.here = {digest_of(HANDLE)}
            assert (await w.client.get("/x", headers=AUTHORIZATION)).json() == {"here": True}
            assert w.owners.looked_up == 0 and w.peer.seen == []

    run(go)


@pytest.mark.parametrize("owner", [None, "rep_me", "rep_dead"])
def test_without_a_living_owner_elsewhere_the_session_is_gone(owner: str | None) -> None:
    async def go() -> None:
        async with world() as w:
            w.owners.owner = owner
            said = await w.client.get("/x", headers=AUTHORIZATION)
            assert (said.status_code, said.json()["code"]) == (200, "390111")
            assert w.peer.seen == []
            assert w.forwarding.counters.orphaned == (owner == "rep_dead")

    run(go)


def test_what_was_forwarded_once_is_not_forwarded_again() -> None:
    async def go() -> None:
        async with world() as w:
            said = await w.client.get("/x", headers={**AUTHORIZATION, FORWARDED_TO: "rep_me"})
            assert said.json()["code"] == "390111"
            assert w.peer.seen == [] and w.owners.looked_up == 0

    run(go)


def test_a_request_without_a_handle_asks_nobody() -> None:
    async def go() -> None:
        async with world() as w:
            for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": HANDLE}):
                said = await w.client.get("/x", headers=headers)
                assert said.json()["code"] == "390111"
            assert w.owners.looked_up == 0

    run(go)


def test_a_handle_is_looked_up_once_known_or_not() -> None:
    async def go() -> None:
        async with world() as w:
            unknown = {"Authorization": f'Snowflake Token="{"u" * 43}"'}
            for headers in (AUTHORIZATION, unknown) * 5:
                await w.client.get("/x", headers=headers)
            assert w.owners.looked_up == 2 and len(w.peer.seen) == 5

    run(go)


def test_who_guesses_handles_is_told_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOKUPS_PER_MINUTE", 5)

    async def go() -> None:
        async with world() as w:
            assert (await w.client.get("/x", headers=AUTHORIZATION)).status_code == 200
            guesses = [f'Snowflake Token="{n:043}"' for n in range(20)]
            said = [
                (await w.client.get("/x", headers={"Authorization": g})).status_code
                for g in guesses
            ]
            assert said == [200] * 4 + [503] * 16
            assert w.owners.looked_up == 5
            # who is known already goes on
            assert (await w.client.get("/x", headers=AUTHORIZATION)).status_code == 200

    run(go)


def test_a_proxy_of_the_environment_sees_no_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)

    async def go() -> None:
        async with world() as w:
            assert (await w.client.get("/x", headers=AUTHORIZATION)).status_code == 200

    run(go)


BAD_ADDRESSES = [
    "http://10.1.2.3:8750",
    "http://replica:8750",
    "http://127.1:8750",
    "http://localhost.example.com",
    "ftp://127.0.0.1",
    "file:///etc/passwd",
    "127.0.0.1:8750",
    "https://user:pass@replica:8750",
    "https://replica:8750/path",
    "https://replica:8750?x=1",
    "https://replica:8750#x",
    "https://replica\\@evil",
    "https://replica:8750\r\nX: y",
    "https://replica evil",
    "",
]


@pytest.mark.parametrize("url", BAD_ADDRESSES)
def test_an_address_that_handles_must_not_travel_to_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        checked_url(url, plain=False)


def test_an_address_of_the_store_that_is_in_clear_is_not_used() -> None:
    async def go() -> None:
        async with world(url="http://10.255.255.1:8750") as w:
            said = await w.client.get("/x", headers=AUTHORIZATION)
            assert said.status_code == 503 and "10.255" not in said.text

    run(go)


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"host": "127.0.0.1"}, ""),
        ({"host": "0.0.0.0"}, ""),
        ({"host": "::"}, ""),
        ({"host": "10.0.0.1"}, ""),
        ({"host": "10.0.0.1", "unsafe_plain_replicas": True}, "http://10.0.0.1:8750"),
        ({"host": "10.0.0.1", "tls_certificate": "c.pem"}, "https://10.0.0.1:8750"),
        ({"host": "fd00::1", "tls_certificate": "c.pem"}, "https://[fd00::1]:8750"),
        ({"host": "::", "replica_url": "https://pod-1:8750/"}, "https://pod-1:8750"),
        ({"host": "127.0.0.1", "replica_url": "http://127.0.0.1:1"}, "http://127.0.0.1:1"),
    ],
)
def test_the_own_address_is_told_only_where_it_means_this_process(
    settings: dict[str, Any], url: str
) -> None:
    assert own_url(GatewaySettings(**settings)) == url


def test_an_own_address_in_clear_is_an_error() -> None:
    with pytest.raises(ConfigError, match="in clear"):
        own_url(GatewaySettings(replica_url="http://10.0.0.1:8750"))


# ------------------------------------------------------------------ TLS


@dataclass(frozen=True)
class Pki:
    folder: Path

    def issued(self, name: str, *, by: str | None = None, address: str = "127.0.0.1") -> Path:
        """A certificate with its key in one file; without `by` an authority of its own."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer, issuer_key = subject, key
        if by is not None:
            pem = (self.folder / f"{by}.pem").read_bytes()
            issuer = x509.load_pem_x509_certificate(pem).subject
            loaded = serialization.load_pem_private_key(pem, None)
            assert isinstance(loaded, ec.EllipticCurvePrivateKey)
            issuer_key = loaded
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        )
        if by is not None:
            usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            san = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(san, critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        path = self.folder / f"{name}.pem"
        path.write_bytes(
            builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return path


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    made = Pki(tmp_path)
    made.issued("ca")
    made.issued("other-ca")
    return made


def _status(peer: dict[str, Any], **settings: Any) -> int:
    found: list[int] = []

    async def go() -> None:
        async with world(peer_tls=peer, **settings) as w:
            found.append((await w.client.get("/x", headers=AUTHORIZATION)).status_code)
            assert len(w.peer.seen) == (found[0] == 200)

    run(go)
    return found[0]


def test_a_replica_is_believed_by_its_certificate(pki: Pki) -> None:
    own = pki.issued("replica", by="ca")
    serves = {"ssl_certfile": str(own)}
    assert _status(serves, replica_ca=pki.folder / "ca.pem") == 200
    assert _status(serves, replica_ca=pki.folder / "other-ca.pem") == 503
    assert _status(serves) == 503  # no public authority has signed it


def test_a_certificate_for_another_address_is_not_believed(pki: Pki) -> None:
    other = pki.issued("replica", by="ca", address="10.0.0.1")
    assert _status({"ssl_certfile": str(other)}, replica_ca=pki.folder / "ca.pem") == 503


def test_a_replica_shows_its_own_certificate_where_clients_need_one(pki: Pki) -> None:
    own = pki.issued("replica", by="ca")
    serves = {
        "ssl_certfile": str(own),
        "ssl_ca_certs": str(pki.folder / "ca.pem"),
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
    }
    authority = pki.folder / "ca.pem"
    shown = {"tls_certificate": own, "tls_key": own, "tls_client_ca": authority}
    assert _status(serves, replica_ca=authority, **shown) == 200
    assert _status(serves, replica_ca=authority) == 503


def test_an_authority_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="replica_ca"):
        Forwarding(GatewaySettings(replica_ca=tmp_path / "no.pem"), None, None)  # type: ignore[arg-type]
