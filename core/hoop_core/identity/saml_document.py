"""A SAML response as XML: parsed without anything that XML can do to a reader, and its signatures verified.

The signatures are signxml's work (W3C XML Signature). It gives back the element that was signed, read anew
from the very bytes that were digested; the rest of Hoop sees nothing else of the document.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Iterator, Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509 import Certificate
from lxml import etree  # type: ignore[import-untyped]
from signxml.algorithms import DigestAlgorithm, SignatureMethod
from signxml.exceptions import SignXMLException
from signxml.verifier import SignatureConfiguration, XMLVerifier

from hoop_core.errors import IdentityError

SAML = "{urn:oasis:names:tc:SAML:2.0:assertion}"
SAMLP = "{urn:oasis:names:tc:SAML:2.0:protocol}"
DS = "{http://www.w3.org/2000/09/xmldsig#}"
MOST_CHARACTERS = 128 * 1024
"""Of the response, in base64."""
_MOST_ELEMENTS = 2000
_HINT = "Sign in to your identity provider again."
_ENCODING = re.compile(rb"""\A\s*<\?xml[^>]*\bencoding\s*=\s*["']([^"']*)["']""")
_INPUT = re.compile(r"<input(?=[\s/])", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    r"""[\s/]*+([^\s/=>"'<]++)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>"'<]++)))?"""
)
"""One attribute; its value in quotes of either kind, or in none. Nothing in it is tried a second time."""
_TRANSFORMS = [
    "http://www.w3.org/2000/09/xmldsig#enveloped-signature",
    "http://www.w3.org/2001/10/xml-exc-c14n#",
]
"""All that SAML allows (SAML core 2.0 section 5.4.4), without the form that keeps comments."""
_METHODS = frozenset(
    {
        SignatureMethod.RSA_SHA256,
        SignatureMethod.RSA_SHA384,
        SignatureMethod.RSA_SHA512,
        SignatureMethod.SHA256_RSA_MGF1,
        SignatureMethod.SHA384_RSA_MGF1,
        SignatureMethod.SHA512_RSA_MGF1,
        SignatureMethod.ECDSA_SHA256,
        SignatureMethod.ECDSA_SHA384,
        SignatureMethod.ECDSA_SHA512,
    }
)
_DIGESTS = frozenset({DigestAlgorithm.SHA256, DigestAlgorithm.SHA384, DigestAlgorithm.SHA512})


def refused(message: str, hint: str = _HINT) -> IdentityError:
    return IdentityError(message, hint, reason="SAML")


def response_of(page: str) -> str:
    """The base64 text of the response in a page: drivers that speak with Okta send the page that it came in.

    No browser's reading of HTML: one look at each character, whatever the page is. Raises IdentityError.
    """
    found = [v for name, v in _fields(page) if name == "SAMLResponse"]
    if len(found) != 1:
        raise refused("The identity provider's page holds no SAML response.")
    try:
        return html.unescape(found[0])
    except ValueError:  # of a character's number with thousands of digits
        raise refused("The identity provider's page holds no SAML response.") from None


def _fields(page: str) -> Iterator[tuple[str, str]]:
    """Name and value of the page's `<input>`s. What was read is never read again."""
    at = 0
    while begun := _INPUT.search(page, at):
        at = begun.end()
        given: dict[str, str] = {}
        while attribute := _ATTRIBUTE.match(page, at):
            at = attribute.end()
            value = attribute[2] or attribute[3] or attribute[4] or ""
            given.setdefault(attribute[1].lower(), value)
        yield given.get("name", ""), given.get("value", "")


def parse(encoded: str) -> etree._Element:
    """The response's root. Raises IdentityError for whatever a plain response has no use for."""
    if len(encoded) > MOST_CHARACTERS:
        raise refused("The SAML response is too long.")
    try:
        raw = base64.b64decode("".join(encoded.split()), validate=True)
        text = raw.decode("utf-8")
    except (binascii.Error, ValueError):
        raise refused("The SAML response is not base64 of UTF-8 text.") from None
    named = _ENCODING.match(raw)
    # UTF-16 is found out without being named: every other byte is a zero then
    if "\x00" in text or (named and named[1].lower() not in {b"utf-8", b"us-ascii"}):
        raise refused("The SAML response is in another encoding than UTF-8.")
    if "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise refused("The SAML response has a document type, which could make it mean anything.")
    try:
        root = etree.fromstring(raw, parser=_parser())
    except (etree.XMLSyntaxError, ValueError):
        raise refused("The SAML response is not XML.") from None
    _check_tree(root)
    return root


def _parser() -> etree.XMLParser:
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        dtd_validation=False,
        huge_tree=False,
        recover=False,
        remove_comments=False,
        remove_pis=False,
    )


def _check_tree(root: etree._Element) -> None:
    nodes = list(root.getroottree().iter())
    before = root.getprevious()
    if before is not None or any(not isinstance(n.tag, str) for n in nodes):
        # A comment cuts a name in two for some readers; nothing legitimate needs one.
        raise refused("The SAML response has comments or instructions in it.")
    if len(nodes) > _MOST_ELEMENTS:
        raise refused("The SAML response has too many parts.")
    ids = [v for n in nodes for k, v in n.attrib.items() if _local(k).lower() == "id"]
    if len(set(ids)) != len(ids):
        raise refused("Two parts of the SAML response have the same id.")
    if root.tag != f"{SAMLP}Response" or len(list(root.iter(f"{SAMLP}Response"))) != 1:
        raise refused("This is not one SAML response.")
    if any(True for _ in root.iter(f"{SAML}EncryptedAssertion", f"{SAML}EncryptedID")):
        raise refused(
            "The SAML assertion is encrypted, which Hoop does not read.",
            "Turn assertion encryption off for Hoop at the identity provider: TLS hides it on its way.",
        )
    assertions = list(root.iter(f"{SAML}Assertion"))
    if len(assertions) != 1 or assertions[0].getparent() is not root:
        raise refused("The SAML response does not hold exactly one assertion.")
    places = {root, assertions[0]}
    if any(s.getparent() not in places for s in root.iter(f"{DS}Signature")):
        raise refused("A signature stands where SAML has none.")


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def signed_assertion(root: etree._Element, certificates: Sequence[Certificate]) -> etree._Element:
    """The assertion, out of what one of the certificates signed. Raises IdentityError.

    The assertion or the whole response has to be signed; every signature that is there has to be good.
    """
    assertion = root.find(f"{SAML}Assertion")
    if assertion is None:
        raise refused("The SAML response does not hold exactly one assertion.")
    found: etree._Element | None = None
    if root.find(f"{DS}Signature") is not None:
        whole = _verified(root, root, "./", certificates)
        found = whole.find(f"{SAML}Assertion")
    if assertion.find(f"{DS}Signature") is not None:
        found = _verified(root, assertion, f"./{SAML}Assertion/", certificates)
    if found is None:
        raise refused("Neither the SAML response nor its assertion is signed.")
    return found


def _verified(
    root: etree._Element, element: etree._Element, place: str, certificates: Sequence[Certificate]
) -> etree._Element:
    """What a signature at `place` vouches for: the element that it stands in, or nothing."""
    _check_shape(element)
    settings = SignatureConfiguration(
        location=place,
        expect_references=1,
        signature_methods=_METHODS,
        digest_algorithms=_DIGESTS,
    )
    why = ""
    for certificate in certificates:
        try:
            # x509_cert: what the document itself says about keys (KeyInfo) is never trusted.
            result = XMLVerifier().verify(
                root,
                x509_cert=certificate,
                id_attribute="ID",
                expect_config=settings,
                parser=_parser(),
            )
        except (SignXMLException, etree.LxmlError, UnsupportedAlgorithm, ValueError, TypeError,
                KeyError, NotImplementedError) as e:  # fmt: skip
            why = type(e).__name__
            continue
        signed = result.signed_xml if not isinstance(result, list) else None
        if signed is None or signed.tag != element.tag or signed.get("ID") != element.get("ID"):
            raise refused("The signature is one of another part of the SAML response.")
        return signed
    raise refused(
        f"No configured certificate made the signature of the SAML response ({why}).",
        "If the identity provider signs with a new certificate, add it to `saml.certificates`.",
    )


def _check_shape(element: etree._Element) -> None:
    """One signature over the element itself, by its ID, changed by nothing but what SAML allows."""
    signatures = element.findall(f"{DS}Signature")
    references = element.findall(f"{DS}Signature/{DS}SignedInfo/{DS}Reference")
    if len(signatures) != 1 or len(references) != 1:
        raise refused("The SAML response is not signed in the form that SAML asks for.")
    named = element.get("ID")
    methods = element.findall(f"{DS}Signature/{DS}SignedInfo/{DS}CanonicalizationMethod")
    steps = [t.get("Algorithm") for t in references[0].findall(f"{DS}Transforms/{DS}Transform")]
    if not named or references[0].get("URI") != f"#{named}" or steps != _TRANSFORMS:
        raise refused("The SAML response is not signed in the form that SAML asks for.")
    if [m.get("Algorithm") for m in methods] != _TRANSFORMS[1:]:
        raise refused("The SAML response is not signed in the form that SAML asks for.")
    if element.find(f"{DS}Signature/{DS}Object") is not None:
        raise refused("The SAML response is not signed in the form that SAML asks for.")
