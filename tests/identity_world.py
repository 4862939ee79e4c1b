"""An identity provider made of two documents, and tokens of it: what the tests of identity share."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import httpx
from joserfc import jws
from joserfc.jwk import RSAKey

from hoop_core.config import IssuerSettings
from hoop_core.identity.fetch import Web
from hoop_core.identity.oidc import TokenVerifier
from hoop_core.identity.proof import Proof

ISSUER = "https://idp.example"
SETTINGS = IssuerSettings(issuer=ISSUER, audience="hoop")
KEY = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"}, private=True)
OTHER = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig"}, private=True)


class Provider:
    """Serves discovery and keys to the verifier's own HTTP client."""

    def __init__(self, *keys: Any, issuer: str = ISSUER) -> None:
        self.keys: list[Any] = list(keys)
        self.issuer = self.said = issuer
        self.jwks_uri = f"{issuer}/keys"
        self.fetched, self.down = 0, False
        self.seen: list[httpx.Request] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if self.down:
            raise httpx.ConnectError("down")
        if request.url.path.endswith("openid-configuration"):
            return httpx.Response(200, json={"issuer": self.said, "jwks_uri": self.jwks_uri})
        self.fetched += 1
        keys = [k if isinstance(k, dict) else k.as_dict(private=False) for k in self.keys]
        return httpx.Response(200, json={"keys": keys})

    def web(self) -> Web:
        return Web(transport=httpx.MockTransport(self))

    def verifier(self, settings: IssuerSettings = SETTINGS) -> TokenVerifier:
        return TokenVerifier([settings], lambda _: self.web())

    def verify(self, text: str, settings: IssuerSettings = SETTINGS) -> Proof:
        return asyncio.run(self.verifier(settings).verify(text))


def with_settings(**changes: Any) -> IssuerSettings:
    return IssuerSettings(**{**SETTINGS.model_dump(), **changes})


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    base = {"iss": ISSUER, "aud": "hoop", "sub": "u1", "iat": now, "exp": now + 300,
            "groups": ["b", "a"], "preferred_username": "una"}  # fmt: skip
    return {k: v for k, v in {**base, **changes}.items() if v is not ...}


def token(key: Any = KEY, header: dict[str, Any] | None = None, **changes: Any) -> str:
    return signed(json.dumps(claims(**changes)).encode(), key, header)


def signed(payload: bytes, key: Any = KEY, header: dict[str, Any] | None = None) -> str:
    """Any bytes as a token, signed properly."""
    head = {"alg": "RS256", "kid": "k1", **(header or {})}
    head = {k: v for k, v in head.items() if v is not None}
    algorithm = jws.JWSRegistry.algorithms[head["alg"]]
    parts = f"{encoded(json.dumps(head).encode())}.{encoded(payload)}"
    return f"{parts}.{encoded(algorithm.sign(parts.encode(), key))}"


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).decode().rstrip("=")
