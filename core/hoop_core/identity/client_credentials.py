"""A job's token from its identity provider's token endpoint (RFC 6749 section 4.4, client credentials).

The client proves itself by a secret (`client_secret_basic`), by a JWT of its own key (`private_key_jwt`,
RFC 7523) or by its certificate (`tls_client_auth`, RFC 8705). Everything is read again at each fetch, so a
secret that was replaced is used at once.
"""

from __future__ import annotations

import base64
import json
import secrets
import ssl
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from hoop_core.errors import ConfigError, IdentityError, Unavailable
from hoop_core.identity.refreshing import Fetched

_SECONDS = 10.0
_MOST_BYTES = 256 * 1024
_ASSERTION_SECONDS = 60
_MOST_SECONDS = 24 * 3600
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """Where the token comes from, and how the client proves itself there: by exactly one of the three."""

    token_url: str
    client_id: str
    secret: str = field(default="", repr=False)
    secret_file: Path | None = None
    private_key_file: Path | None = None
    """PEM (PKCS#8) of an RSA or EC key, whose public part the provider knows."""
    private_key_id: str = ""
    certificate_file: Path | None = None
    certificate_key_file: Path | None = None
    scope: str = ""
    audience: str = ""
    ca_file: Path | None = None

    def check(self) -> None:
        """Raises ConfigError."""
        # The check is the gateway's own; jobs that need no token endpoint do not import it.
        from hoop_core.identity.fetch import check_url  # noqa: PLC0415

        check_url(self.token_url, "The token endpoint's address")
        proofs = [self.secret or self.secret_file, self.private_key_file, self.certificate_file]
        if sum(p is not None and p != "" for p in proofs) != 1 or (
            self.secret and self.secret_file
        ):
            raise ConfigError(
                "The client proves itself in no way, or in several.",
                "Give one of client secret, private key and certificate.",
            )

    def fetch(self) -> Fetched:
        """A new token. Raises IdentityError, Unavailable, ConfigError."""
        self.check()
        form = {"grant_type": "client_credentials"}
        form |= {"scope": self.scope} if self.scope else {}
        form |= {"audience": self.audience} if self.audience else {}
        headers: dict[str, str] = {"accept": "application/json", "accept-encoding": "identity"}
        if self.private_key_file is not None:
            form |= {
                "client_id": self.client_id,
                "client_assertion_type": _ASSERTION_TYPE,
                "client_assertion": self._assertion(self.private_key_file),
            }
        elif self.certificate_file is not None:
            form["client_id"] = self.client_id
        else:
            secret = self.secret or _read(self.secret_file)
            both = f"{quote(self.client_id, safe='')}:{quote(secret, safe='')}"
            headers["authorization"] = "Basic " + base64.b64encode(both.encode()).decode()
        return self._token_of(self._post(form, headers))

    def _assertion(self, file: Path) -> str:
        from joserfc import jwt  # noqa: PLC0415  slow to import, and few jobs need it
        from joserfc.errors import JoseError  # noqa: PLC0415
        from joserfc.jwk import ECKey, RSAKey  # noqa: PLC0415

        pem, now = _read(file), int(time.time())
        for algorithm, kind in (("RS256", RSAKey), ("ES256", ECKey)):
            try:
                key = kind.import_key(pem)
                header = {"alg": algorithm, "typ": "JWT"}
                header |= {"kid": self.private_key_id} if self.private_key_id else {}
                claims = {
                    "iss": self.client_id,
                    "sub": self.client_id,
                    "aud": self.token_url,
                    "jti": secrets.token_urlsafe(16),
                    "iat": now,
                    "exp": now + _ASSERTION_SECONDS,
                }
                return jwt.encode(header, claims, key)
            except (JoseError, ValueError, TypeError):
                continue
        raise ConfigError(f"{file} holds no RSA or P-256 private key (PEM).") from None

    def _post(self, form: dict[str, str], headers: dict[str, str]) -> bytes:
        import httpx  # noqa: PLC0415  slow to import, and few jobs need it

        try:
            deadline = time.monotonic() + _SECONDS
            with (
                httpx.Client(
                    verify=self._tls(), timeout=_SECONDS, follow_redirects=False, trust_env=False
                ) as client,
                client.stream("POST", self.token_url, data=form, headers=headers) as answer,
            ):
                if answer.headers.get("content-encoding", "identity").lower() != "identity":
                    raise _no_token("a packed answer")
                body = bytearray()
                for piece in answer.iter_bytes():
                    body += piece
                    if len(body) > _MOST_BYTES or time.monotonic() > deadline:
                        raise _no_token("the answer is too long")
                status = answer.status_code
        except (httpx.HTTPError, OSError) as e:
            raise _no_token(type(e).__name__) from None
        if status in {400, 401, 403}:
            raise IdentityError(
                f"The token endpoint refused the client{_said(bytes(body))}.",
                "Check client id, proof, scope and audience with the identity provider.",
            )
        if status != httpx.codes.OK:
            raise _no_token(f"HTTP {status}")
        return bytes(body)

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=str(self.ca_file) if self.ca_file else None)
            if self.certificate_file is not None:
                context.load_cert_chain(self.certificate_file, self.certificate_key_file)
        except (OSError, ssl.SSLError) as e:
            raise ConfigError(
                f"The certificates for the token endpoint cannot be used: {type(e).__name__}."
            ) from None
        return context

    def _token_of(self, body: bytes) -> Fetched:
        try:
            found = json.loads(body)
            token = found.get("access_token") or found.get("id_token")
            seconds = found.get("expires_in")
            if not isinstance(token, str) or not token:
                raise TypeError
            if seconds is not None:
                seconds = max(0.0, min(float(seconds), _MOST_SECONDS))
        except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
            raise _no_token("the answer holds no token") from None
        return Fetched(token, seconds)


def _read(file: Path | None) -> str:
    try:
        return "" if file is None else file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{file} cannot be read: {type(e).__name__}.") from None


def _said(body: bytes) -> str:
    """The error's code (RFC 6749 section 5.2), when it is one: a word without anybody's secrets."""
    try:
        word = json.loads(body).get("error")
    except (ValueError, AttributeError, RecursionError):
        return ""
    plain = isinstance(word, str) and word.isascii() and word.replace("_", "").isalpha()
    return f" ({word})" if plain and len(word) <= 40 else ""


def _no_token(why: str) -> Unavailable:
    return Unavailable(
        f"The token endpoint gave no token ({why}).", "Try again, or ask those who run it."
    )
