"""OIDC tokens: discovery, keys, signature and claims. Everything that is not proven is refused.

OpenID Connect Core 1.0 section 3.1.3.7, RFC 7519 (JWT), RFC 8725 (JWT best current practices).
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from hoop_core.config import IssuerSettings
from hoop_core.errors import ConfigError, IdentityError, Unavailable
from hoop_core.model import Identity

_MAX_TOKEN = 16 * 1024
_KEYS_FRESH_SECONDS = 600.0
_REFRESH_AT_MOST_EVERY = 10.0
_EXPIRED = 390318
_ASYMMETRIC = {
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
}  # fmt: skip
_GET_NEW = "Fetch a new token from your identity provider and connect again."


@dataclass(slots=True)
class _Keys:
    by_id: dict[str, dict[str, Any]]
    fetched: float


@dataclass(slots=True)
class _Issuer:
    """One trusted issuer and its cached key set."""

    settings: IssuerSettings
    http: httpx.Client
    keys: _Keys | None = None
    attempted: float = field(default=float("-inf"))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def key(self, key_id: str) -> dict[str, Any]:
        """The public key `key_id`; an unknown id refreshes the set, at most every ten seconds."""
        with self.lock:
            stale = self.keys is None or time.monotonic() - self.keys.fetched > _KEYS_FRESH_SECONDS
            known = self.keys is not None and key_id in self.keys.by_id
            rested = time.monotonic() - self.attempted > _REFRESH_AT_MOST_EVERY
            if (self.keys is None) or (rested and (stale or not known)):
                self.attempted = time.monotonic()
                self.keys = self._fetch()
            if key_id not in self.keys.by_id:
                raise IdentityError(
                    f"The token was signed with a key that {self.settings.issuer} does not publish.",
                    _GET_NEW,
                )
            return self.keys.by_id[key_id]

    def _fetch(self) -> _Keys:
        base = self.settings.discovery_url or self.settings.issuer.rstrip("/")
        try:
            document = self._get(f"{base}/.well-known/openid-configuration")
            if document.get("issuer") != self.settings.issuer:
                raise IdentityError(
                    f"The discovery document of {self.settings.issuer} names another issuer.",
                    "Correct `identity.issuer` in hoop.toml.",
                )
            published = self._get(str(document["jwks_uri"]))["keys"]
        except (httpx.HTTPError, KeyError, ValueError, TypeError) as e:
            raise Unavailable(
                f"The keys of the identity provider {self.settings.issuer} cannot be fetched "
                f"({type(e).__name__}).",
                "No caller can be verified until it answers again.",
            ) from None
        usable = {
            str(k["kid"]): k
            for k in published
            if isinstance(k, dict) and "kid" in k and k.get("use", "sig") == "sig"
            and k.get("kty") in {"RSA", "EC", "OKP"}
        }  # fmt: skip
        return _Keys(usable, time.monotonic())

    def _get(self, url: str) -> dict[str, Any]:
        response = self.http.get(url)
        response.raise_for_status()
        if len(response.content) > 1 << 20:
            raise ValueError("the answer is too long")
        document = response.json()
        if not isinstance(document, dict):
            raise TypeError("the answer is not an object")
        return document


class TokenVerifier:
    """Turns a token into an Identity, or raises IdentityError."""

    def __init__(self, issuers: Sequence[IssuerSettings], http: httpx.Client | None = None) -> None:
        if not issuers:
            raise ConfigError(
                "No identity provider is configured.", "Add an [[identity]] section to hoop.toml."
            )
        for settings in issuers:
            symmetric = set(settings.algorithms) - _ASYMMETRIC
            if symmetric or not settings.algorithms:
                raise ConfigError(
                    f"identity.algorithms of {settings.issuer} may only name asymmetric algorithms: "
                    f"{', '.join(sorted(_ASYMMETRIC))}."
                )
        client = http or httpx.Client(timeout=5.0, follow_redirects=False)
        self._issuers = {s.issuer: _Issuer(s, client) for s in issuers}

    def verify(self, token: str) -> Identity:
        """Check signature, issuer, audience and times. Raises IdentityError or Unavailable."""
        header, unverified = _peek(token)
        issuer = self._issuers.get(str(unverified.get("iss")))
        if issuer is None:
            raise IdentityError(
                "The token's issuer is not trusted here.",
                "Use a token of " + " or ".join(self._issuers) + ".",
            )
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in issuer.settings.algorithms:
            raise IdentityError(
                "The token's signature algorithm is not accepted.",
                f"Accepted: {', '.join(issuer.settings.algorithms)}.",
            )
        if not isinstance(key_id, str):
            raise IdentityError("The token does not say which key signed it (no kid).", _GET_NEW)
        keys = KeySet.import_key_set({"keys": [issuer.key(key_id)]})
        try:
            claims = jwt.decode(token, keys, algorithms=list(issuer.settings.algorithms)).claims
        except (JoseError, ValueError, TypeError):
            raise IdentityError("The token's signature is wrong.", _GET_NEW) from None
        return _identity(claims, issuer.settings, token)


def _peek(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims before any proof: only used to find the issuer's keys."""
    parts = token.split(".")
    try:
        if len(parts) != 3 or len(token) > _MAX_TOKEN:
            raise ValueError
        header, claims = (
            json.loads(base64.urlsafe_b64decode(p + "=" * (-len(p) % 4))) for p in parts[:2]
        )
        if not isinstance(header, dict) or not isinstance(claims, dict):
            raise TypeError
    except (ValueError, TypeError, RecursionError):
        raise IdentityError("The token is not a signed JWT.", _GET_NEW) from None
    return header, claims


def _number(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise IdentityError(f"The token's claim {name} is not a time.", _GET_NEW)
    return float(value)


def _check_times(claims: Mapping[str, Any], leeway: float) -> float:
    now = time.time()
    expires = _number(claims, "exp")
    if expires is None:
        raise IdentityError("The token never expires (no exp).", "Use a token with an expiry.")
    if expires + leeway < now:
        raise IdentityError("The token has expired.", _GET_NEW, errno=_EXPIRED)
    for claim in ("nbf", "iat"):
        value = _number(claims, claim)
        if value is not None and value - leeway > now:
            raise IdentityError(
                f"The token is not valid yet ({claim} is in the future).",
                "Check the clocks of Hoop and of the identity provider.",
            )
    return expires


def _identity(claims: Mapping[str, Any], settings: IssuerSettings, token: str) -> Identity:
    expires = _check_times(claims, settings.leeway_seconds)
    if claims.get("iss") != settings.issuer:
        raise IdentityError("The token's issuer is not trusted here.", _GET_NEW)
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if settings.audience not in audiences:
        raise IdentityError(
            "The token was made for another audience.",
            f"Ask for a token with the audience {settings.audience!r}.",
        )
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise IdentityError("The token names no subject (sub).", _GET_NEW)
    groups = _descend(claims, settings.groups_claim)
    if groups is None:
        groups = []
    if not isinstance(groups, list) or not all(isinstance(g, str) for g in groups):
        raise IdentityError(f"The token's claim {settings.groups_claim} is not a list of names.")
    name = claims.get(settings.name_claim)
    return Identity(
        issuer=settings.issuer,
        subject=subject,
        name=name if isinstance(name, str) and name else subject,
        groups=tuple(sorted(set(groups))),
        method="oidc",
        token_digest=hashlib.sha256(token.encode()).hexdigest(),
        expires_at=datetime.fromtimestamp(expires, UTC),
        claims=_further(claims, settings.claims),
    )


_MOST_VALUES, _LONGEST_VALUE = 100, 256


def _further(claims: Mapping[str, Any], names: Sequence[str]) -> dict[str, str | tuple[str, ...]]:
    """The claims that the settings name. What is of another shape counts as missing: whoever asks for it
    is refused then.
    """
    found: dict[str, str | tuple[str, ...]] = {}
    for name in names:
        value = claims.get(name) if "://" in name else _descend(claims, name)
        if isinstance(value, str) and _usable(value):
            found[name] = value
        elif (
            isinstance(value, list) and 0 < len(value) <= _MOST_VALUES and all(map(_usable, value))
        ):
            found[name] = tuple(sorted(set(value)))
    return found


def _usable(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= _LONGEST_VALUE


def _descend(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name; dots lead into objects."""
    value: Any = claims
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
