"""TLS: which versions, whose certificates, what happens when they change, and where plain HTTP is refused."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hoop_core.config import GatewaySettings
from hoop_core.errors import ConfigError
from hoop_core.server.tls import Certificates, certificates_of
from tests.serving_world import World, answer_of, hung_up, request, world


@dataclass(frozen=True)
class Pair:
    certificate: bytes
    key: bytes
    serial: int

    def put(self, folder: Path) -> tuple[Path, Path]:
        """As cert-manager does: both are replaced."""
        for name, content in (("tls.crt", self.certificate), ("tls.key", self.key)):
            new = folder / f"{name}.new"
            new.write_bytes(content)
            new.chmod(0o600)
            new.replace(folder / name)
        return folder / "tls.crt", folder / "tls.key"


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Authority")])
        self.certificate = self._made(self._name, self._key.public_key(), authority=True)

    def _made(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, *, authority: bool
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if authority:
            usage = dict.fromkeys(
                (
                    "digital_signature", "content_commitment", "key_encipherment",
                    "data_encipherment", "key_agreement", "encipher_only", "decipher_only",
                ),
                False,
            )  # fmt: skip
            builder = builder.add_extension(
                x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True
            )
        return builder.sign(self._key, hashes.SHA256())

    def pair(self, name: str = "localhost") -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._made(subject, key.public_key(), authority=False)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return Pair(made.public_bytes(serialization.Encoding.PEM), pem, made.serial_number)

    def put(self, folder: Path) -> Path:
        file = folder / "ca.crt"
        file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return file


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def trusting(authority: Authority, folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.put(folder))


def dial(made: World, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(made.dial(), server_hostname="localhost")


def serial(connection: ssl.SSLSocket) -> int:
    der = connection.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def test_a_certificate_that_changes_is_shown_to_the_next_client(
    authority: Authority, tmp_path: Path
) -> None:
    first, second = authority.pair(), authority.pair()
    certificates = Certificates(*first.put(tmp_path), None)
    context = trusting(authority, tmp_path)
    with world(certificates=certificates) as made:
        with dial(made, context) as connection:
            assert serial(connection) == first.serial
            second.put(tmp_path)
            certificates.look()
            connection.sendall(request())  # who is connected stays so
            assert answer_of(connection).status == 200
        with dial(made, context) as connection:
            assert serial(connection) == second.serial
            connection.sendall(request())
            assert answer_of(connection).status == 200


@pytest.mark.parametrize("what", ["half replaced", "rubbish", "gone", "open to others"])
def test_a_changed_certificate_that_cannot_be_used_leaves_the_old_one_in_place(
    authority: Authority, tmp_path: Path, what: str
) -> None:
    first, second = authority.pair(), authority.pair()
    certificate, key = first.put(tmp_path)
    certificates = Certificates(certificate, key, None)
    match what:
        case "half replaced":
            certificate.write_bytes(second.certificate)
        case "rubbish":
            certificate.write_text("no certificate")
        case "gone":
            certificate.unlink()
        case _:
            second.put(tmp_path)
            key.chmod(0o644)
    certificates.look()
    with world(certificates=certificates) as made:
        with dial(made, trusting(authority, tmp_path)) as connection:
            assert serial(connection) == first.serial
        second.put(tmp_path)
        certificates.look()
        with dial(made, trusting(authority, tmp_path)) as connection:
            assert serial(connection) == second.serial


def test_versions_before_tls_1_2_are_refused(authority: Authority, tmp_path: Path) -> None:
    certificates = Certificates(*authority.pair().put(tmp_path), None)
    assert certificates.context.current.minimum_version is ssl.TLSVersion.TLSv1_2
    old = trusting(authority, tmp_path)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with world(certificates=certificates) as made, pytest.raises(ssl.SSLError):
        dial(made, old)


def test_with_a_client_authority_only_its_certificates_are_let_in(
    authority: Authority, tmp_path: Path
) -> None:
    (tmp_path / "client").mkdir()
    ca = authority.put(tmp_path)
    certificates = Certificates(*authority.pair().put(tmp_path), ca)
    theirs = authority.pair("a client").put(tmp_path / "client")
    with world(certificates=certificates) as made:
        refused = pytest.raises((ssl.SSLError, ConnectionError, EOFError))
        with refused, dial(made, trusting(authority, tmp_path)) as stranger:
            stranger.sendall(request())
            answer_of(stranger)
        known = trusting(authority, tmp_path)
        known.load_cert_chain(*theirs)
        with dial(made, known) as connection:
            connection.sendall(request())
            assert answer_of(connection).status == 200
        assert len(made.seen) == 1


def test_a_handshake_that_never_comes_is_given_up(authority: Authority, tmp_path: Path) -> None:
    certificates = Certificates(*authority.pair().put(tmp_path), None)
    with world(certificates=certificates, header_seconds=0.3) as made, made.dial() as silent:
        assert hung_up(silent)


def test_plain_http_on_the_tls_port_gets_no_answer(authority: Authority, tmp_path: Path) -> None:
    certificates = Certificates(*authority.pair().put(tmp_path), None)
    with world(certificates=certificates) as made:
        with made.dial() as plain:
            plain.sendall(request())
            assert hung_up(plain)
        assert made.seen == []


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "hoop.example.com", ""])
def test_plain_http_where_others_could_listen_is_a_wrong_setting(host: str) -> None:
    with pytest.raises(ConfigError, match="plain HTTP"):
        certificates_of(GatewaySettings(host=host))
    assert certificates_of(GatewaySettings(host=host, unsafe_plaintext=True)) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_plain_http_on_loopback_is_served(host: str) -> None:
    assert certificates_of(GatewaySettings(host=host)) is None


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o601])
def test_a_key_that_others_can_read_or_change_is_refused(
    authority: Authority, tmp_path: Path, mode: int
) -> None:
    certificate, key = authority.pair().put(tmp_path)
    key.chmod(mode)
    with pytest.raises(ConfigError, match="open to other users"):
        Certificates(certificate, key, None)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_a_key_of_the_owner_and_its_group_is_taken(
    authority: Authority, tmp_path: Path, mode: int
) -> None:
    certificate, key = authority.pair().put(tmp_path)
    key.chmod(mode)
    assert Certificates(certificate, key, None).context.current


def test_an_encrypted_key_is_refused_without_a_question(
    authority: Authority, tmp_path: Path
) -> None:
    certificate, key = authority.pair().put(tmp_path)
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    with pytest.raises(ConfigError, match="cannot be used"):
        Certificates(certificate, key, None)


def test_half_of_the_tls_settings_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only one is set"):
        certificates_of(GatewaySettings(tls_certificate=tmp_path / "tls.crt"))
    with pytest.raises(ConfigError, match="no TLS"):
        certificates_of(GatewaySettings(tls_client_ca=tmp_path / "ca.crt"))


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tls\.crt cannot be read"):
        Certificates(tmp_path / "tls.crt", tmp_path / "tls.key", None)
