"""A browser sign-in at an OIDC issuer: authorization code with PKCE.

OpenID Connect Core 1.0 section 3.1, RFC 7636 (PKCE), RFC 9207 (the issuer in the answer), RFC 9700.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from hoop_core.errors import ConfigError, IdentityError, Unavailable
from hoop_core.identity.fetch import NoAnswer, https_only
from hoop_core.identity.keys import Issuer
from hoop_core.identity.oidc import TokenVerifier
from hoop_core.identity.proof import Proof
from hoop_core.model import Json

_LONGEST_CODE = 4096


@dataclass(frozen=True, slots=True)
class CodeRequest:
    """What one sign-in is held against when the browser comes back."""

    nonce: str = field(repr=False)
    verifier: str = field(repr=False)

    @classmethod
    def new(cls) -> CodeRequest:
        return cls(secrets.token_urlsafe(32), secrets.token_urlsafe(48))

    @classmethod
    def from_json(cls, given: Json) -> CodeRequest:
        return cls(str(given["nonce"]), str(given["verifier"]))

    def as_json(self) -> Json:
        return {"nonce": self.nonce, "verifier": self.verifier}

    @property
    def challenge(self) -> str:
        digest = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


async def authorization_url(
    issuer: Issuer,
    request: CodeRequest,
    *,
    state: str,
    redirect_uri: str,
    wishes: Mapping[str, str] | None = None,
) -> str:
    """Where to send the browser. `wishes` are further parameters, as `prompt`.

    Raises IdentityError, Unavailable.
    """
    document = await issuer.document()
    endpoint = https_only(
        document.get("authorization_endpoint"), issuer.settings.issuer, "sign-in page"
    )
    query = urlencode(
        {
            "response_type": "code",
            "client_id": issuer.settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(issuer.settings.scopes),
            "state": state,
            "nonce": request.nonce,
            "code_challenge": request.challenge,
            "code_challenge_method": "S256",
            **(wishes or {}),
        }
    )
    return endpoint + ("&" if "?" in endpoint else "?") + query


async def proof_of_code(
    verifier: TokenVerifier,
    issuer: Issuer,
    request: CodeRequest,
    answer: Mapping[str, str],
    *,
    redirect_uri: str,
    max_age: int | None = None,
) -> Proof:
    """Who signed in, from what the browser brought back. Raises IdentityError, Unavailable.

    `max_age`: so many seconds ago, at most, they were asked who they are.
    """
    document = await check_sender(issuer, answer)
    code = answer.get("code", "")
    if "error" in answer or not 0 < len(code) <= _LONGEST_CODE:
        raise IdentityError(
            "The identity provider did not let you sign in.",
            "Start again, or ask those who run it.",
        )
    endpoint = https_only(document.get("token_endpoint"), issuer.settings.issuer, "token address")
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": request.verifier,
        "client_id": issuer.settings.client_id,
    }
    try:
        tokens = await issuer.web.post(endpoint, form, _client_proof(issuer))
    except NoAnswer as e:
        if str(e) in {"HTTP 400", "HTTP 401"}:
            raise IdentityError(
                "The identity provider did not accept the sign-in's code.", "Start again."
            ) from None
        raise Unavailable(
            f"The identity provider {issuer.settings.issuer} gave no token ({e}).", "Start again."
        ) from None
    token = tokens.get("id_token")
    if not isinstance(token, str):
        raise IdentityError(
            "The identity provider gave no ID token.", "Add `openid` to the scopes."
        )
    return await verifier.verify_id_token(token, issuer, request.nonce, max_age=max_age)


async def check_sender(issuer: Issuer, answer: Mapping[str, str]) -> Json:
    """The answer is this issuer's (RFC 9207); its discovery document. Raises IdentityError, Unavailable."""
    document = await issuer.document()
    said = answer.get("iss")
    if said is None and document.get("authorization_response_iss_parameter_supported") is True:
        raise IdentityError("The identity provider's answer does not say whose it is (iss).")
    if said is not None and said != issuer.settings.issuer:
        raise IdentityError("The answer is of another identity provider (iss).", "Start again.")
    return document


def _client_proof(issuer: Issuer) -> dict[str, str]:
    """client_secret_basic (RFC 6749 section 2.3.1); nothing for a public client."""
    file = issuer.settings.client_secret_file
    if file is None:
        return {}
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"identity.client_secret_file {file} cannot be read: {type(e).__name__}."
        ) from None
    both = f"{quote(issuer.settings.client_id, safe='')}:{quote(secret, safe='')}"
    return {"authorization": "Basic " + base64.b64encode(both.encode()).decode()}
