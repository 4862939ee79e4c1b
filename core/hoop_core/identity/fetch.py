"""Asking an identity provider over HTTP: one time limit, bounded answers, no redirects, TLS."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from hoop_core.errors import ConfigError, IdentityError
from hoop_core.model import Json

SECONDS = 5.0
"""For one exchange, from the first look at the name server to the last byte."""
MOST_BYTES = 512 * 1024
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class NoAnswer(Exception):
    """The provider did not answer, or not with what was asked for. The text names the kind of fault."""


def check_url(url: str, what: str, *, unsafe_plain_http: bool = False) -> str:
    """An https:// address, or http:// on this host. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigError(f"{what} is not an address.", "Give it as https://host/path.") from None
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ConfigError(f"{what} is not an https:// address.", "Give it as https://host/path.")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ConfigError(f"{what} carries a user, a password or a fragment.", "Leave them out.")
    local = parts.hostname in _LOOPBACK
    if parts.scheme == "http" and not local and not unsafe_plain_http:
        raise ConfigError(
            f"{what} is an http:// address of another host.",
            "Use https://: who can change the answer on its way can be anybody.",
        )
    return url


class Web:
    """How one provider is reached. A client lives for one exchange: nobody has to close anything."""

    def __init__(
        self,
        *,
        ca_file: Path | None = None,
        proxy: str = "",
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._ca_file, self._proxy, self._transport = ca_file, proxy, transport

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> Json:
        """The JSON object at `url`. Raises NoAnswer."""
        return await self._ask("GET", url, headers or {}, None)

    async def post(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Json:
        """The JSON object that a form is answered with. Raises NoAnswer."""
        return await self._ask("POST", url, headers, form)

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], form: Mapping[str, str] | None
    ) -> Json:
        # Unpacking could make much of little, so nothing packed is taken.
        sent = {"accept": "application/json", "accept-encoding": "identity", **headers}
        try:
            async with (
                asyncio.timeout(SECONDS),
                self._client() as client,
                client.stream(method, url, headers=sent, data=form) as answer,
            ):
                if answer.status_code != httpx.codes.OK:
                    raise NoAnswer(f"HTTP {answer.status_code}")
                if answer.headers.get("content-encoding", "identity").lower() != "identity":
                    raise NoAnswer("a packed answer")
                body = bytearray()
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > MOST_BYTES:
                        raise NoAnswer("the answer is too long")
            found = json.loads(bytes(body))
        except TimeoutError:
            raise NoAnswer("no answer in time") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as e:
            raise NoAnswer(type(e).__name__) from None
        except (ValueError, RecursionError):
            raise NoAnswer("the answer is not JSON") from None
        if not isinstance(found, dict):
            raise NoAnswer("the answer is not an object")
        return found

    def _client(self) -> httpx.AsyncClient:
        """Nothing of the surroundings: no proxy, .netrc or certificates of whoever started the process."""
        if self._transport is not None:
            return httpx.AsyncClient(transport=self._transport, trust_env=False)
        return httpx.AsyncClient(
            verify=_trust(self._ca_file),
            proxy=self._proxy or None,
            timeout=SECONDS,
            follow_redirects=False,
            trust_env=False,
        )


@lru_cache(maxsize=32)
def _trust(ca_file: Path | None) -> ssl.SSLContext:
    """Certificates take 20 ms to read, so they are read once."""
    try:
        return httpx.create_ssl_context(
            verify=True if ca_file is None else ssl.create_default_context(cafile=str(ca_file)),
            trust_env=False,
        )
    except (OSError, ssl.SSLError) as e:
        raise ConfigError(
            f"The certificate authority {ca_file} cannot be read: {type(e).__name__}.",
            "Correct identity.ca_file.",
        ) from None


def https_only(url: object, like: str, what: str) -> str:
    """An address that a provider names: of the same scheme as its own, so that TLS is not lost on the way.

    Raises IdentityError.
    """
    if isinstance(url, str):
        try:
            parts, own = urlsplit(url), urlsplit(like)
            if parts.scheme == own.scheme and parts.hostname and parts.username is None:
                return url
        except ValueError:
            pass
    raise IdentityError(
        f"The identity provider names a {what} that is no {urlsplit(like).scheme}:// address.",
        "Ask those who run it.",
    )
