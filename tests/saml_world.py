"""A SAML identity provider for tests: makes responses, signs them as it is told, and wraps them for attacks."""

from __future__ import annotations

import asyncio
import base64
import copy
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from lxml import etree
from signxml.algorithms import SignatureMethod
from signxml.signer import XMLSigner

from hoop_core.config import SamlSettings
from hoop_core.identity.proof import Proof
from hoop_core.identity.saml import SamlVerifier

IDP, HOOP, ACS = (
    "https://idp.example/saml",
    "https://hoop.example",
    "https://hoop.example/hoop/sso/saml",
)
NS = {
    "saml": "urn:oasis:names:tc:SAML:2.0:assertion",
    "samlp": "urn:oasis:names:tc:SAML:2.0:protocol",
    "ds": "http://www.w3.org/2000/09/xmldsig#",
}
EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"


class Signer:
    """A key and its certificate."""

    def __init__(self, bits: int = 2048, *, days: int = 30) -> None:
        self.key = rsa.generate_private_key(65537, bits)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idp")])
        start = datetime.now(UTC) + timedelta(days=min(0, days - 1), hours=-1)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.key.public_key())
            .serial_number(1)
            .not_valid_before(start)
            .not_valid_after(datetime.now(UTC) + timedelta(days=days))
            .sign(self.key, hashes.SHA256())
        )

    def file(self, folder: Path, name: str = "idp.pem") -> Path:
        path = folder / name
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))
        return path


SIGNER, STRANGER = Signer(), Signer()


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def response(
    *,
    name: str = "una@corp.example",
    groups: tuple[str, ...] = ("ml-agents",),
    answers: str | None = "_req1",
    assertion_id: str = "_a1",
    audience: str = HOOP,
    recipient: str = ACS,
    issuer: str = IDP,
    begins: float = -5,
    ends: float = 300,
    confirmation_ends: float = 300,
    signed_in: float = -10,
    session_ends: float | None = 3600,
    name_format: str = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
    status: str = "urn:oasis:names:tc:SAML:2.0:status:Success",
    drop: tuple[str, ...] = (),
    change: Callable[[etree._Element], None] | None = None,
) -> etree._Element:
    """An unsigned response. `drop` names elements to leave out, `change` is done before signing."""
    reply = f' InResponseTo="{answers}"' if answers else ""
    over = f' SessionNotOnOrAfter="{at(session_ends)}"' if session_ends is not None else ""
    values = "".join(f"<saml:AttributeValue>{g}</saml:AttributeValue>" for g in groups)
    root = etree.fromstring(
        f"""<samlp:Response xmlns:samlp="{NS["samlp"]}" xmlns:saml="{NS["saml"]}" ID="_r1" Version="2.0"
 IssueInstant="{at(0)}" Destination="{recipient}"{reply}><saml:Issuer>{issuer}</saml:Issuer>
<samlp:Status><samlp:StatusCode Value="{status}"/></samlp:Status>
<saml:Assertion ID="{assertion_id}" Version="2.0" IssueInstant="{at(0)}"><saml:Issuer>{issuer}</saml:Issuer>
<saml:Subject><saml:NameID Format="{name_format}">{name}</saml:NameID>
<saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><saml:SubjectConfirmationData
 NotOnOrAfter="{at(confirmation_ends)}" Recipient="{recipient}"{reply}/></saml:SubjectConfirmation></saml:Subject>
<saml:Conditions NotBefore="{at(begins)}" NotOnOrAfter="{at(ends)}"><saml:AudienceRestriction>
<saml:Audience>{audience}</saml:Audience></saml:AudienceRestriction></saml:Conditions>
<saml:AuthnStatement AuthnInstant="{at(signed_in)}"{over}><saml:AuthnContext><saml:AuthnContextClassRef>
urn:oasis:names:tc:SAML:2.0:ac:classes:Password</saml:AuthnContextClassRef></saml:AuthnContext></saml:AuthnStatement>
<saml:AttributeStatement><saml:Attribute Name="groups">{values}</saml:Attribute>
<saml:Attribute Name="email"><saml:AttributeValue>{name}</saml:AttributeValue></saml:Attribute>
</saml:AttributeStatement></saml:Assertion></samlp:Response>"""
    )
    for tag in drop:
        for element in root.findall(f".//saml:{tag}", NS):
            element.getparent().remove(element)
    if change is not None:
        change(root)
    return root


def assertion_of(root: etree._Element) -> etree._Element:
    found = root.find("saml:Assertion", NS)
    assert found is not None
    return found


class _Sha1Signer(XMLSigner):
    def check_deprecated_methods(self) -> None:
        """So that a weak signature can be made at all."""


def sign(
    root: etree._Element,
    *,
    what: str = "assertion",
    signer: Signer = SIGNER,
    method: SignatureMethod = SignatureMethod.RSA_SHA256,
    digest: str = "sha256",
) -> etree._Element:
    """The same document with a signature on its `assertion`, on the whole `response`, or on `both`."""
    root = etree.fromstring(etree.tostring(root))
    maker = (_Sha1Signer if digest == "sha1" else XMLSigner)(
        signature_algorithm=method, digest_algorithm=digest, c14n_algorithm=EXCLUSIVE
    )
    for part in ("assertion", "response") if what == "both" else (what,):
        element = assertion_of(root) if part == "assertion" else root
        made = maker.sign(
            copy.deepcopy(element), key=signer.key, cert=[signer.certificate],
            reference_uri=element.get("ID"), id_attribute="ID",
        )  # fmt: skip
        signature = made.find("ds:Signature", NS)
        assert signature is not None
        element.insert(1, signature)  # after Issuer, as the schema wants it
    return root


def encoded(root: etree._Element | bytes) -> str:
    raw = root if isinstance(root, bytes) else etree.tostring(root)
    return base64.b64encode(raw).decode()


def settings(folder: Path, *signers: Signer, **changes: Any) -> SamlSettings:
    files = [s.file(folder, f"idp{n}.pem") for n, s in enumerate(signers or (SIGNER,))]
    return SamlSettings(entity_id=IDP, certificates=tuple(files), audience=HOOP, **changes)


def verify(
    given: etree._Element | bytes | str, chosen: SamlSettings, answers: str | None = "_req1"
) -> Proof:
    text = given if isinstance(given, str) else encoded(given)
    return asyncio.run(SamlVerifier([chosen], ACS).verify(text, answers=answers))
