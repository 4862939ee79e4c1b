"""A compact JWT and its signature, read strictly: RFC 7515, RFC 7519, RFC 8725.

The signature itself is joserfc's work. What is here decides what is put before it, and that claims are
read from the very bytes that were proven.
"""

from __future__ import annotations

import base64
import json
import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import JWKRegistry, Key

from hoop_core.errors import IdentityError

# joserfc warns at each use of "EdDSA", for RFC 9864 names the curves instead. Issuers say EdDSA still.
warnings.filterwarnings("ignore", "EdDSA is deprecated", SecurityWarning)

GET_NEW = "Fetch a new token from your identity provider and connect again."
MOST_CHARACTERS = 16 * 1024
_LONGEST_HEADER = 4 * 1024
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+\Z")
_RSA_BITS = range(2048, 8193)
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "Ed25519": "Ed25519"}
_KEY_TYPES = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}

ASYMMETRIC = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)  # fmt: skip
"""The signature algorithms that settings may name: no shared secrets, no SHA-1, no "none"."""


@dataclass(frozen=True, slots=True)
class Compact:
    """A token taken apart. Before `proven` nothing in it is to be believed."""

    text: str = field(repr=False)
    header: Mapping[str, Any]
    claims: Mapping[str, Any] = field(repr=False)

    @property
    def algorithm(self) -> str:
        return str(self.header.get("alg"))


def parse(token: str) -> Compact:
    """Take a token apart. Raises IdentityError for what is no signed JWT, or can be read in two ways."""
    segments = token.split(".") if len(token) <= MOST_CHARACTERS else []
    if len(segments) != 3 or not all(map(_SEGMENT.match, segments[:2])):
        raise IdentityError("The token is not a signed JWT.", GET_NEW)
    if segments[2] and not _SEGMENT.match(segments[2]):
        raise IdentityError("The token is not a signed JWT.", GET_NEW)
    try:
        if len(segments[0]) > _LONGEST_HEADER:
            raise ValueError
        header, claims = (_object(_decoded(s)) for s in segments[:2])
    except _Doubled:
        raise IdentityError(
            "The token says the same thing twice (a doubled name).", GET_NEW
        ) from None
    except (ValueError, RecursionError):
        raise IdentityError("The token is not a signed JWT.", GET_NEW) from None
    if "crit" in header:
        # RFC 7515 section 4.1.11: whoever does not know an extension that is critical refuses.
        raise IdentityError("The token asks for an extension that Hoop does not know (crit).")
    return Compact(token, header, claims)


def check_type(token: Compact, accepted: Collection[str]) -> None:
    """RFC 8725 section 3.11: one kind of token is not taken for another. Raises IdentityError."""
    said = token.header.get("typ", "JWT")
    name = said.lower().removeprefix("application/") if isinstance(said, str) else ""
    if name not in {a.lower().removeprefix("application/") for a in accepted}:
        raise IdentityError(
            "The token is of another kind than Hoop takes (typ).",
            f"Accepted: {', '.join(accepted)}.",
        )
    if "events" in token.claims:  # RFC 8417: logout tokens and the like may come without a typ
        raise IdentityError("The token tells of an event; it does not prove who calls.", GET_NEW)


def proven(token: Compact, keys: Collection[Mapping[str, Any]]) -> bool:
    """Whether one of the published keys made the signature, with the algorithm that the token names.

    `jwk`, `jku`, `x5u` and `x5c` of the header are never looked at.
    """
    return any(_signed_with(token, key) for key in keys)


def _signed_with(token: Compact, published: Mapping[str, Any]) -> bool:
    key = usable(published, token.algorithm)
    if key is None:
        return False
    # strict_check_header=False: names that we do not know change nothing (RFC 7515 section 4)
    registry = _Registry(algorithms=[token.algorithm], strict_check_header=False)
    try:
        signed = jws.deserialize_compact(token.text, key, registry=registry)
    except (JoseError, ValueError, TypeError):
        return False
    return bool(_object(signed.payload) == token.claims)


class _Registry(jws.JWSRegistry):
    max_header_length = _LONGEST_HEADER
    max_payload_length = MOST_CHARACTERS


def usable(published: Mapping[str, Any], algorithm: str) -> Key | None:
    """A published key, if it fits the algorithm: type, curve, size, use. Private parts are left out."""
    kind = _KEY_TYPES.get(algorithm[:2])
    if kind is None or published.get("kty") != kind or published.get("use", "sig") != "sig":
        return None
    if published.get("alg", algorithm) != algorithm:
        return None
    operations = published.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    wanted = "Ed25519" if kind == "OKP" else _CURVES.get(algorithm)
    if wanted is not None and published.get("crv") != wanted:
        return None
    public = {k: published[k] for k in ("kty", "n", "e", "crv", "x", "y") if k in published}
    try:
        key = JWKRegistry.import_key(public)
        raw = key.public_key if hasattr(key, "public_key") else None
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    if isinstance(raw, RSAPublicKey) and (
        raw.key_size not in _RSA_BITS or raw.public_numbers().e.bit_length() > 32
    ):
        return None
    return key


class _Doubled(ValueError):
    """A name stands twice in one object: two readers could take another one each."""


def _decoded(segment: str) -> bytes:
    return base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)


def _object(raw: bytes) -> dict[str, Any]:
    """A JSON object without doubled names, without NaN, in Unicode that can be written. ValueError else."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise _Doubled
        return found

    def refuse(_constant: str) -> None:
        raise ValueError

    value = json.loads(raw.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    if not isinstance(value, dict):
        raise ValueError
    json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair cannot be stored
    return value
