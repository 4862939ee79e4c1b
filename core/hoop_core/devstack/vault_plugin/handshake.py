"""go-plugin's handshake: who may start us, AutoMTLS, and the one line on standard output.

Reference: github.com/hashicorp/go-plugin, server.go, mtls.go and docs/internals.md.
"""

from __future__ import annotations

import base64
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

COOKIE_NAME = "VAULT_DATABASE_PLUGIN"
COOKIE_VALUE = "926a0820-aea2-be28-51d6-83cdf00e8edb"
"""Not a secret: go-plugin's check that a plugin is not started by hand."""

_CORE_PROTOCOL = 1
_SUPPORTED = (6, 5)
"""dbplugin versions, best first: 6 is 5 with multiplexing."""


class HandshakeRefused(Exception):
    """We were not started by OpenBao or Vault, or it speaks no protocol that we know."""


@dataclass(frozen=True, slots=True)
class Handshake:
    """What was agreed with the server that started us."""

    protocol: int
    certificate_der: bytes
    tls: ssl.SSLContext = field(repr=False)
    asks_broker_multiplexing: bool

    def line(self, socket_path: Path) -> str:
        """The line that the server reads from our standard output, without the line end."""
        certificate = base64.b64encode(self.certificate_der).decode().rstrip("=")
        line = f"{_CORE_PROTOCOL}|{self.protocol}|unix|{socket_path}|grpc|{certificate}"
        # Broker multiplexing (yamux) is not offered; it is only mentioned when it was asked for.
        return f"{line}|false" if self.asks_broker_multiplexing else line


def negotiate(environment: Mapping[str, str]) -> Handshake:
    """Read the server's side of the handshake from our environment.

    Raises HandshakeRefused; nothing is served without AutoMTLS, because anybody on the host who
    can open the socket could otherwise make and drop Snowflake users.
    """
    if environment.get(COOKIE_NAME) != COOKIE_VALUE:
        raise HandshakeRefused(
            "This is a database plugin: OpenBao starts it, you do not. "
            "Register it in the plugin catalog instead."
        )
    asked = {
        int(v) for v in environment.get("PLUGIN_PROTOCOL_VERSIONS", "").split(",") if v.isdigit()
    }
    protocol = next((v for v in _SUPPORTED if v in asked), None)
    if protocol is None:
        raise HandshakeRefused(
            f"The server speaks database plugin protocol {sorted(asked)}, this plugin 5 and 6."
        )
    client_certificate = environment.get("PLUGIN_CLIENT_CERT", "")
    if not client_certificate:
        raise HandshakeRefused("The server offered no AutoMTLS certificate (PLUGIN_CLIENT_CERT).")
    context, der = _mutual_tls(client_certificate)
    return Handshake(protocol, der, context, bool(environment.get("PLUGIN_MULTIPLEX_GRPC")))


def _mutual_tls(client_certificate: str) -> tuple[ssl.SSLContext, bytes]:
    """A server context that admits only the holder of `client_certificate`, and our own certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _self_signed(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cadata=client_certificate)
    except ssl.SSLError as e:
        raise HandshakeRefused("PLUGIN_CLIENT_CERT is not a PEM certificate.") from e
    context.set_alpn_protocols(["h2"])
    # ssl loads a key only from a file; NamedTemporaryFile makes it 0600.
    with tempfile.NamedTemporaryFile(suffix=".pem") as pem:
        pem.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        pem.write(certificate.public_bytes(serialization.Encoding.PEM))
        pem.flush()
        context.load_cert_chain(pem.name)
    return context, certificate.public_bytes(serialization.Encoding.DER)


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """go-plugin's client pins this certificate as its only root and asks for the name localhost."""
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(seconds=30))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
