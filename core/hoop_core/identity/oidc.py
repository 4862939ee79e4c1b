"""OIDC tokens: whose key, which signature, which claims. Everything that is not proven is refused.

OpenID Connect Core 1.0 section 3.1.3.7, RFC 7519 (JWT), RFC 8725 (JWT best current practices).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence

from hoop_core.config import IssuerSettings
from hoop_core.errors import ConfigError, IdentityError
from hoop_core.identity.claims import check_asked_lately, identity_of
from hoop_core.identity.fetch import Web
from hoop_core.identity.jose import ASYMMETRIC, GET_NEW, Compact, check_type, parse, proven
from hoop_core.identity.keys import Issuer, issuer_of
from hoop_core.identity.proof import Proof, Use
from hoop_core.model import Identity

_MOST_KEYS_TRIED = 4
_LONGEST_ID = 512


class TokenVerifier:
    """Turns a token into a proven Identity, or raises IdentityError."""

    def __init__(
        self, issuers: Sequence[IssuerSettings], web: Callable[[IssuerSettings], Web] | None = None
    ) -> None:
        """Raises ConfigError for settings under which nobody could be trusted."""
        for settings in issuers:
            if not settings.algorithms or set(settings.algorithms) - ASYMMETRIC:
                raise ConfigError(
                    f"identity.algorithms of {settings.issuer} may only name asymmetric algorithms: "
                    f"{', '.join(sorted(ASYMMETRIC))}."
                )
        if len({s.issuer for s in issuers}) != len(issuers):
            raise ConfigError(
                "Two [[identity]] sections are for the same issuer.",
                "One section takes tokens of one audience; `authorized_parties` names several clients.",
            )
        self._issuers = {s.issuer: issuer_of(s, web(s) if web else None) for s in issuers}

    @property
    def issuers(self) -> tuple[Issuer, ...]:
        """The trusted issuers, in the order of the settings."""
        return tuple(self._issuers.values())

    def issuer(self, name: str) -> Issuer | None:
        """A trusted issuer."""
        return self._issuers.get(name)

    def issuer_named(self, token: str) -> str | None:
        """Which trusted issuer a token claims to be of; nothing is proven by it."""
        try:
            named = parse(token).claims.get("iss")
        except IdentityError:
            return None
        return named if isinstance(named, str) and named in self._issuers else None

    async def verify(self, token: str) -> Proof:
        """Check signature, issuer, audience and times. Raises IdentityError or Unavailable."""
        compact = parse(token)
        issuer = self._issuer_of(compact)
        check_type(compact, issuer.settings.token_types)
        await self._signed(compact, issuer)
        identity = identity_of(
            compact.claims,
            issuer.settings,
            token_digest=hashlib.sha256(token.encode()).hexdigest(),
        )
        return Proof(identity, _use(compact, issuer.settings, identity))

    async def verify_id_token(
        self, token: str, issuer: Issuer, nonce: str, *, max_age: int | None = None
    ) -> Proof:
        """The ID token that a browser sign-in brought: made for the client, and for this one sign-in.

        `max_age`: seconds since the person was asked who they are (OpenID Connect Core 3.1.3.7, `auth_time`).
        Raises IdentityError or Unavailable.
        """
        compact, settings = parse(token), issuer.settings
        if compact.claims.get("iss") != settings.issuer:
            raise IdentityError("The identity provider sent a token of another issuer.")
        check_type(compact, ("JWT",))
        await self._signed(compact, issuer)
        said = compact.claims.get("nonce")
        if not isinstance(said, str) or not hmac.compare_digest(said.encode(), nonce.encode()):
            raise IdentityError("The token was made for another sign-in (nonce).", "Start again.")
        if compact.claims.get("azp", settings.client_id) != settings.client_id:
            raise IdentityError("The token was made for another client (azp).", "Start again.")
        if max_age is not None:
            check_asked_lately(compact.claims, settings, max_age)
        mine = settings.model_copy(update={"authorized_parties": ()})
        digest = hashlib.sha256(token.encode()).hexdigest()
        identity = identity_of(
            compact.claims, mine, token_digest=digest, audience=settings.client_id
        )
        return Proof(identity, None)

    def _issuer_of(self, token: Compact) -> Issuer:
        named = token.claims.get("iss")
        issuer = self._issuers.get(named) if isinstance(named, str) else None
        if issuer is None:
            raise IdentityError(
                "The token's issuer is not trusted here.",
                "Use a token of " + (" or ".join(self._issuers) or "a configured issuer") + ".",
            )
        return issuer

    async def _signed(self, token: Compact, issuer: Issuer) -> None:
        accepted = issuer.settings.algorithms
        key_id = token.header.get("kid")
        if token.algorithm not in accepted:
            raise IdentityError(
                "The token's signature algorithm is not accepted.",
                f"Accepted: {', '.join(accepted)}.",
            )
        if not isinstance(key_id, str) or not 0 < len(key_id) <= _LONGEST_ID:
            raise IdentityError("The token does not say which key signed it (no kid).", GET_NEW)
        if not proven(token, (await issuer.keys(key_id))[:_MOST_KEYS_TRIED]):
            raise IdentityError("The token's signature is wrong.", GET_NEW)


def _use(token: Compact, settings: IssuerSettings, identity: Identity) -> Use | None:
    if not settings.single_use or identity.expires_at is None:
        return None
    identifier = token.claims.get("jti")
    if not isinstance(identifier, str) or not 0 < len(identifier) <= _LONGEST_ID:
        raise IdentityError(
            "The token has no id (jti), without which nobody can tell whether it was used before.",
            "Have the identity provider put a jti into it, or set `identity.single_use` to false.",
        )
    return Use.of(settings.issuer, identifier, identity.expires_at, settings.leeway_seconds)
