"""TLS at the gateway's own port: TLS 1.2 and later, certificates that change while it runs, mTLS."""

from __future__ import annotations

import ssl
import stat
from pathlib import Path
from typing import Any

import structlog

from hoop_core.config import GatewaySettings
from hoop_core.errors import ConfigError
from hoop_core.replicas import is_loopback

_log = structlog.get_logger(__name__)
_OTHERS = stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP
_Mark = tuple[tuple[int, int, int], ...]


class RotatingContext(ssl.SSLContext):
    """Hands every new connection to the newest certificate that was found to be good.

    asyncio and uvloop begin each TLS connection with `wrap_bio` of the context that they were given.
    """

    current: ssl.SSLContext

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.current.wrap_bio(*args, **kwargs)


class Certificates:
    """The files of a certificate and its key, looked at again and again."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None) -> None:
        """Raises ConfigError."""
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        self.context = RotatingContext(ssl.PROTOCOL_TLS_SERVER)
        self._mark = self._marked()
        self.context.current = self._load()
        self._refused: _Mark | None = None

    def look(self) -> None:
        """Take over changed files, when they fit together. Otherwise the old certificate stays."""
        try:
            mark = self._marked()
            if mark in {self._mark, self._refused}:
                return
            self._refused = mark
            self.context.current = self._load()
        except ConfigError as e:
            _log.error("the changed TLS certificate is not used, the old one stays", why=e.text)
            return
        self._mark, self._refused = mark, None
        _log.info("another TLS certificate is in use")

    def _files(self) -> list[Path]:
        return [f for f in (self._certificate, self._key, self._client_ca) if f is not None]

    def _marked(self) -> _Mark:
        marks = []
        for file in self._files():
            try:
                found = file.stat()
            except OSError as e:
                raise ConfigError(
                    f"The TLS file {file} cannot be read: {e.strerror}.",
                    "Correct gateway.tls_certificate, gateway.tls_key or gateway.tls_client_ca.",
                ) from None
            marks.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(marks)

    def _load(self) -> ssl.SSLContext:
        if self._key.stat().st_mode & _OTHERS:
            raise ConfigError(
                f"The TLS key {self._key} is open to other users of this machine.",
                "Set its mode to 0600, or to 0640 where the gateway reads it by its group.",
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        context.set_alpn_protocols(["http/1.1"])
        try:
            # an encrypted key must not stop the gateway with a question on the terminal
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
            if self._client_ca is not None:
                context.load_verify_locations(self._client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ValueError) as e:  # ssl.SSLError is an OSError
            why = getattr(e, "reason", None) or getattr(e, "strerror", None) or str(e)
            raise ConfigError(
                f"The TLS certificate {self._certificate} with the key {self._key} cannot be used: {why}.",
                "Both must be PEM, unencrypted, and belong together.",
            ) from None
        return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def certificates_of(settings: GatewaySettings) -> Certificates | None:
    """None for plain HTTP. Raises ConfigError, also for plain HTTP where others could listen."""
    certificate, key = settings.tls_certificate, settings.tls_key
    if (certificate is None) != (key is None):
        raise ConfigError(
            "Of gateway.tls_certificate and gateway.tls_key only one is set.", "Set both or none."
        )
    if certificate is not None and key is not None:
        return Certificates(certificate, key, settings.tls_client_ca)
    if settings.tls_client_ca is not None:
        raise ConfigError(
            "gateway.tls_client_ca asks for client certificates, but there is no TLS.",
            "Set gateway.tls_certificate and gateway.tls_key.",
        )
    if not is_loopback(settings.host) and not settings.unsafe_plaintext:
        raise ConfigError(
            f"Hoop would speak plain HTTP on {settings.host}: tokens and results would travel in clear.",
            "Set gateway.tls_certificate and gateway.tls_key, or listen on 127.0.0.1 behind a proxy on "
            "this host. gateway.unsafe_plaintext = true allows it where the network itself encrypts.",
        )
    return None
