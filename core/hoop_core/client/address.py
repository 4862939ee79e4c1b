"""Where Hoop is: the one address that a client needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from hoop_core.errors import ConfigError

_PORTS = {"http": 80, "https": 443}
_SNOWFLAKES_OWN = (".snowflakecomputing.com", ".snowflakecomputing.cn")
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
UNSAFE_PLAINTEXT_ENV = "HOOP_UNSAFE_PLAINTEXT"
_HINT = "Give it as https://host[:port], as in https://hoop.example.com."


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """Scheme, host and port of a Hoop gateway."""

    protocol: str
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> GatewayAddress:
        """Read `https://host[:port]`; a bare `host[:port]` means https.

        Raises ConfigError for anything else: user info, a path, a query or another scheme would be
        silently lost in the driver's parameters.
        """
        text = url.strip()
        if "://" not in text:
            text = f"https://{text}"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ConfigError("Hoop's address cannot be read.", _HINT) from None
        if parts.scheme not in _PORTS:
            raise ConfigError(f"Hoop's address has the scheme {parts.scheme!r}.", _HINT)
        if not parts.hostname:
            raise ConfigError("Hoop's address has no host.", _HINT)
        if f".{parts.hostname}".endswith(_SNOWFLAKES_OWN):
            # The token would be handed to somebody else than the one it was issued for.
            raise ConfigError(
                "This is Snowflake's own address, not Hoop's.",
                "The caller's identity token is for Hoop only. " + _HINT,
            )
        if parts.username is not None or parts.password is not None:
            raise ConfigError(
                "Hoop's address carries a user or a password.",
                "Leave them out: the caller's identity token is all that Hoop wants. " + _HINT,
            )
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ConfigError("Hoop's address has something after host and port.", _HINT)
        local = parts.hostname in _LOOPBACK
        if parts.scheme == "http" and not local and os.environ.get(UNSAFE_PLAINTEXT_ENV) != "1":
            raise ConfigError(
                f"Hoop's address http://{parts.hostname} would carry the token in clear.",
                f"Use https://, or set {UNSAFE_PLAINTEXT_ENV}=1 where the network itself encrypts.",
            )
        return cls(parts.scheme, parts.hostname, port or _PORTS[parts.scheme])

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.protocol] else f":{self.port}"
        return f"{self.protocol}://{host}{port}"

    @property
    def on_this_host(self) -> bool:
        return self.host in _LOOPBACK

    def approval_page(self, approval_id: str) -> str:
        """Where a person answers the request."""
        return f"{self.url}/approvals/{approval_id}"

    def __str__(self) -> str:
        return self.url
