"""SAML responses: what the identity provider signed, about one person, for Hoop, now, once."""

from __future__ import annotations

import asyncio
import base64
import copy
import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from signxml.algorithms import SignatureMethod

from hoop_core.config import SamlSettings
from hoop_core.errors import ConfigError, IdentityError
from hoop_core.identity import saml, saml_document
from hoop_core.identity.saml import SamlVerifier
from hoop_core.identity.saml_document import response_of
from tests.saml_world import (
    ACS,
    HOOP,
    IDP,
    NS,
    SIGNER,
    STRANGER,
    Signer,
    assertion_of,
    encoded,
    response,
    settings,
    sign,
    verify,
)

SAML = "{" + NS["saml"] + "}"


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> SamlSettings:
    return settings(tmp_path_factory.mktemp("saml"))


@pytest.mark.parametrize("what", ["assertion", "response", "both"])
def test_a_signed_response_gives_the_identity(trusting: SamlSettings, what: str) -> None:
    proof = verify(sign(response(groups=("b", "a")), what=what), trusting)
    who = proof.identity
    assert (who.issuer, who.subject, who.name) == (IDP, "una@corp.example", "una@corp.example")
    assert (who.groups, who.method) == (("a", "b"), "saml")
    assert who.expires_at is not None
    assert proof.use is not None


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> SamlSettings:
    """A provider that drivers speak with themselves."""
    return settings(tmp_path_factory.mktemp("native"), allow_unsolicited=True,
                    native_sso_url="https://corp.okta.example/app/x")  # fmt: skip


def _page(**given: Any) -> str:
    hidden = html.escape(encoded(sign(response(**given)))).replace("+", "&#x2b;")
    return f'<html><form action="{ACS}"><input name="SAMLResponse" type="hidden" value="{hidden}"/></form>'


def test_the_page_that_holds_a_response_is_read_as_drivers_send_it(native: SamlSettings) -> None:
    assert verify(_page(answers=None), native, None).identity.subject == "una@corp.example"


@pytest.mark.parametrize(
    ("page", "holds"),
    [
        ("<INPUT\nTYPE = hidden NAME='SAMLResponse' VALUE=abc= >", "abc="),
        ('<input disabled name="SAMLResponse"value="a&#x2b;b&amp;"/>', "a+b&"),
        ('<input name=other value=x><input/name=SAMLResponse value="y">', "y"),
        ('<input name="SAMLResponse" name="other" value="x" value="y">', "x"),
    ],
)
def test_the_field_of_a_page_is_found_as_browsers_read_it(page: str, holds: str) -> None:
    assert response_of(page) == holds


@pytest.mark.parametrize(
    "page",
    [
        "<html></html>",
        "<!-- ",
        "<input name='SAMLResponse'>" * 2,
        f"<input name=SAMLResponse value='&#{'9' * 5000};'>",
        "<inputs name=SAMLResponse value=x>",
        '<input name="SAMLResponse',
    ],
)
def test_a_page_without_one_response_is_refused(native: SamlSettings, page: str) -> None:
    with pytest.raises(IdentityError, match="holds no SAML response"):
        verify(page, native, None)


def test_no_page_is_read_where_no_driver_could_have_it_from(
    trusting: SamlSettings, native: SamlSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr(saml, "response_of", lambda page: read.append(page) or page)
    for chosen, answers in ((trusting, None), (trusting, "_req1"), (native, "_req1")):
        with pytest.raises(IdentityError, match="not base64"):
            verify(_page(answers=answers), chosen, answers)
    with pytest.raises(IdentityError, match="No SAML provider"):
        asyncio.run(SamlVerifier([], ACS).verify(_page(answers=None)))
    assert read == []


class Counted:
    """A pattern that notes from where it is tried, and what it took."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self.pattern, self.tried, self.took = pattern, list[int](), 0

    def match(self, text: str, at: int) -> re.Match[str] | None:
        return self._noted(at, self.pattern.match(text, at))

    def search(self, text: str, at: int) -> re.Match[str] | None:
        return self._noted(at, self.pattern.search(text, at))

    def _noted(self, at: int, found: re.Match[str] | None) -> re.Match[str] | None:
        self.tried.append(at)
        self.took += found.end() - found.start() if found else 0
        return found


@pytest.mark.parametrize(
    "part",
    ["<a ", "<", "<input ", "<input a='", "<input a=\"'", "<input a", "<input a=", "<input =",
     "<input name=SAMLResponse ", "/ ", "<input " + "a " * 50, "<!--", "<![CDATA[", "&#"],
)  # fmt: skip
def test_a_page_is_read_once_whatever_it_is(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counters = [Counted(saml_document._INPUT), Counted(saml_document._ATTRIBUTE)]
    monkeypatch.setattr(saml_document, "_INPUT", counters[0])
    monkeypatch.setattr(saml_document, "_ATTRIBUTE", counters[1])
    page = ("<" + part * 300_000)[:300_000]
    with pytest.raises(IdentityError):
        response_of(page)
    for counter in counters:
        assert counter.tried == sorted(counter.tried)
        assert len(counter.tried) <= len(page) // 2 + 1
    assert sum(c.took for c in counters) <= len(page)
    assert "HTMLParser" not in vars(saml_document)  # quadratic: CVE-2025-6069


def test_attributes_become_name_groups_and_claims(tmp_path: Path) -> None:
    chosen = settings(tmp_path, name_attribute="email", subject_attribute="email",
                      claims=("email", "none"), group_prefix="okta:")  # fmt: skip
    root = response(name_format="urn:oasis:names:tc:SAML:2.0:nameid-format:transient")
    who = verify(sign(root), chosen).identity
    assert (who.subject, who.groups) == ("una@corp.example", ("okta:ml-agents",))
    assert who.claims == {"email": "una@corp.example"}


def test_each_assertion_has_a_use_of_its_own(trusting: SamlSettings) -> None:
    uses = [verify(sign(response(assertion_id=i)), trusting).use for i in ("_a1", "_a1", "_a2")]
    digests = [u.digest for u in uses if u is not None]
    assert digests[0] == digests[1] != digests[2]


# ------------------------------------------------------------------ whose signature


def test_an_unsigned_response_is_refused(trusting: SamlSettings) -> None:
    with pytest.raises(IdentityError, match="is signed"):
        verify(response(), trusting)


def test_a_signature_of_a_stranger_is_refused(trusting: SamlSettings) -> None:
    """Its certificate is in KeyInfo, where nobody looks."""
    with pytest.raises(IdentityError, match="No configured certificate"):
        verify(sign(response(), signer=STRANGER), trusting)


def test_during_a_change_of_certificates_both_are_taken(tmp_path: Path) -> None:
    chosen = settings(tmp_path, STRANGER, SIGNER)
    assert verify(sign(response()), chosen).identity
    assert verify(sign(response(), signer=STRANGER), chosen).identity


def test_an_expired_certificate_signs_no_longer(tmp_path: Path) -> None:
    old = Signer(days=-1)
    with pytest.raises(IdentityError, match="No configured certificate"):
        verify(sign(response(), signer=old), settings(tmp_path, old))


def test_sha1_is_refused(trusting: SamlSettings) -> None:
    weak = sign(response(), method=SignatureMethod.RSA_SHA1, digest="sha1")
    with pytest.raises(IdentityError, match="No configured certificate"):
        verify(weak, trusting)


def test_a_sha1_digest_under_a_strong_signature_is_refused(trusting: SamlSettings) -> None:
    with pytest.raises(IdentityError, match="No configured certificate"):
        verify(sign(response(), digest="sha1"), trusting)


def test_a_short_rsa_key_cannot_be_configured(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too weak"):
        SamlVerifier([settings(tmp_path, Signer(1024))], ACS)


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    file = tmp_path / "idp.pem"
    chosen = SamlSettings(entity_id=IDP, certificates=(file,), audience=HOOP)
    with pytest.raises(ConfigError, match="cannot be read"):
        SamlVerifier([chosen], ACS)
    file.write_text("nothing")
    with pytest.raises(ConfigError, match="no PEM certificate"):
        SamlVerifier([chosen], ACS)


@pytest.mark.parametrize("what", ["assertion", "response"])
@pytest.mark.parametrize("path", [".//saml:NameID", ".//saml:AttributeValue", ".//saml:Audience"])
def test_one_changed_letter_breaks_the_signature(
    trusting: SamlSettings, what: str, path: str
) -> None:
    root = sign(response(), what=what)
    found = root.find(path, NS)
    assert found is not None
    found.text = "x" + (found.text or "")
    with pytest.raises(IdentityError, match="No configured certificate"):
        verify(root, trusting)


def test_where_both_are_signed_both_have_to_be_good(trusting: SamlSettings) -> None:
    root = sign(sign(response()), what="response", signer=STRANGER)
    with pytest.raises(IdentityError, match="No configured certificate"):
        verify(root, trusting)


# ------------------------------------------------------------------ signature wrapping

SIGNED_ASSERTION, SIGNED_RESPONSE = "assertion", "response"


def _evil(of: etree._Element, *, keep_signature: bool = False) -> etree._Element:
    """A copy with another name in it and another id."""
    made = copy.deepcopy(of)
    made.set("ID", "_evil")
    for name in made.iter(f"{SAML}NameID", f"{SAML}AttributeValue"):
        name.text = "admin"
    if not keep_signature:
        for signature in made.findall("ds:Signature", NS):
            made.remove(signature)
    return made


def _taken(root: etree._Element) -> etree._Element:
    """The signature of `root`, taken out of it."""
    signature = root.find("ds:Signature", NS)
    assert signature is not None
    root.remove(signature)
    return signature


def _xsw1(root: etree._Element) -> etree._Element:
    evil, signature = _evil(root), copy.deepcopy(root.find("ds:Signature", NS))
    _taken(root)
    signature.append(root)
    evil.insert(1, signature)
    return evil


def _xsw2(root: etree._Element) -> etree._Element:
    evil, signature = _evil(root), _taken(root)
    evil.insert(1, root)
    evil.insert(2, signature)
    return evil


def _xsw3(root: etree._Element) -> etree._Element:
    root.insert(0, _evil(assertion_of(root)))
    return root


def _xsw4(root: etree._Element) -> etree._Element:
    genuine = assertion_of(root)
    evil = _evil(genuine)
    root.remove(genuine)
    evil.append(genuine)
    root.append(evil)
    return root


def _xsw5(root: etree._Element) -> etree._Element:
    genuine = assertion_of(root)
    evil = _evil(genuine, keep_signature=True)
    _taken(genuine)
    root.remove(genuine)
    root.append(evil)
    root.append(genuine)
    return root


def _xsw6(root: etree._Element) -> etree._Element:
    genuine = assertion_of(root)
    evil = _evil(genuine, keep_signature=True)
    _taken(genuine)
    root.remove(genuine)
    signature = evil.find("ds:Signature", NS)
    assert signature is not None
    signature.append(genuine)
    root.append(evil)
    return root


def _xsw7(root: etree._Element) -> etree._Element:
    extensions = etree.Element("{" + NS["samlp"] + "}Extensions")
    extensions.append(_evil(assertion_of(root)))
    root.insert(1, extensions)
    return root


def _xsw8(root: etree._Element) -> etree._Element:
    genuine = assertion_of(root)
    evil = _evil(genuine, keep_signature=True)
    _taken(genuine)
    root.remove(genuine)
    signature = evil.find("ds:Signature", NS)
    assert signature is not None
    holder = etree.SubElement(signature, "{" + NS["ds"] + "}Object")
    holder.append(genuine)
    root.append(evil)
    return root


def _same_id(root: etree._Element) -> etree._Element:
    evil = _evil(assertion_of(root), keep_signature=True)
    evil.set("ID", "_a1")
    assertion_of(root).getparent().replace(assertion_of(root), evil)
    return root


def _extra(root: etree._Element) -> etree._Element:
    """A signed response to which somebody added an assertion, outside of what is digested: nowhere."""
    root.append(_evil(assertion_of(root)))
    return root


@pytest.mark.parametrize("what", ["assertion", "response", "both"])
@pytest.mark.parametrize(
    "attack", [_xsw1, _xsw2, _xsw3, _xsw4, _xsw5, _xsw6, _xsw7, _xsw8, _same_id, _extra]
)
def test_a_genuine_signature_does_not_vouch_for_what_is_wrapped_around_it(
    trusting: SamlSettings, attack: Callable[[etree._Element], etree._Element], what: str
) -> None:
    root = sign(response(), what=what)
    if attack in {_xsw1, _xsw2} and what == SIGNED_ASSERTION:
        root = sign(root, what="response", signer=STRANGER)
    if attack in {_xsw5, _xsw6, _xsw8} and what == SIGNED_RESPONSE:
        root = sign(response(), what="both")
    attacked = etree.fromstring(etree.tostring(attack(root)))
    with pytest.raises(IdentityError):
        verify(attacked, trusting)


def test_an_assertion_beside_a_signed_one_is_refused(trusting: SamlSettings) -> None:
    root = sign(response())
    root.append(_evil(assertion_of(root)))
    with pytest.raises(IdentityError, match="exactly one assertion"):
        verify(root, trusting)


def _reference(root: etree._Element, uri: str) -> None:
    found = root.find(".//ds:Reference", NS)
    assert found is not None
    found.set("URI", uri)


@pytest.mark.parametrize("uri", ["", "#_r1", "#xpointer(/)", "https://evil.example/a", "#"])
def test_a_signature_of_another_part_is_refused(trusting: SamlSettings, uri: str) -> None:
    root = sign(response())
    _reference(root, uri)
    with pytest.raises(IdentityError, match="in the form that SAML asks for"):
        verify(root, trusting)


@pytest.mark.parametrize(
    "algorithm",
    ["http://www.w3.org/TR/1999/REC-xpath-19991116", "http://www.w3.org/TR/1999/REC-xslt-19991116",
     "http://www.w3.org/2001/10/xml-exc-c14n#WithComments",
     "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"],
)  # fmt: skip
def test_a_transform_that_saml_does_not_know_is_refused(
    trusting: SamlSettings, algorithm: str
) -> None:
    root = sign(response())
    found = root.findall(".//ds:Transform", NS)[-1]
    found.set("Algorithm", algorithm)
    with pytest.raises(IdentityError, match="in the form that SAML asks for"):
        verify(root, trusting)


# ------------------------------------------------------------------ XML as a weapon


@pytest.mark.parametrize("path", [".//saml:NameID", ".//saml:AttributeValue"])
def test_a_comment_cannot_cut_a_name_in_two(trusting: SamlSettings, path: str) -> None:
    root = sign(response(name="admin@corp.example.evil.example", groups=("admins-x",)))
    found = root.find(path, NS)
    assert found is not None
    found.text, rest = (found.text or "")[:6], (found.text or "")[6:]
    found.append(etree.Comment("x"))
    found[0].tail = rest
    with pytest.raises(IdentityError, match="comments or instructions"):
        verify(root, trusting)


@pytest.mark.parametrize("inserted", ["<!-- a -->", "<?php x ?>"])
def test_comments_and_instructions_are_refused_wherever_they_stand(
    trusting: SamlSettings, inserted: str
) -> None:
    raw = etree.tostring(sign(response()))
    for changed in (
        inserted.encode() + raw,
        raw.replace(b"<saml:Subject>", inserted.encode() + b"<saml:Subject>"),
    ):
        with pytest.raises(IdentityError, match="comments or instructions"):
            verify(changed, trusting)


_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a SYSTEM "https://evil.example/a.dtd">',
        f'<!DOCTYPE a [<!ENTITY l0 "ha">{_LAUGHS}]>',
        "<!DOCTYPE a>",
        "<!doctype a>",
    ],
)
def test_a_document_type_is_refused_before_anybody_reads_it(
    trusting: SamlSettings, declared: str
) -> None:
    with pytest.raises(IdentityError, match="document type"):
        verify(declared.encode() + etree.tostring(sign(response())), trusting)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-7", "utf-32"])
def test_other_encodings_cannot_hide_a_document_type(trusting: SamlSettings, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE a><a/>'
    with pytest.raises(IdentityError, match="UTF-8"):
        verify(text.encode(encoding), trusting)


def test_another_encoding_may_not_even_be_named(trusting: SamlSettings) -> None:
    raw = b'<?xml version="1.0" encoding="UTF-7"?>' + etree.tostring(sign(response()))
    with pytest.raises(IdentityError, match="another encoding"):
        verify(raw, trusting)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("not base64!", "base64"),
        ("", "not XML"),
        (base64.b64encode(b"<a>").decode(), "not XML"),
        (base64.b64encode(b"<a/>").decode(), "not one SAML response"),
        (base64.b64encode(b"<a>" * 20_000).decode(), "not XML"),
        (base64.b64encode(b"<a>" + b"<b/>" * 3000 + b"</a>").decode(), "too many parts"),
        ("A" * 200_000, "too long"),
        (base64.b64encode(b"<a>\xff</a>").decode(), "UTF-8"),
    ],
)
def test_what_is_no_response_is_refused(trusting: SamlSettings, given: str, says: str) -> None:
    with pytest.raises(IdentityError, match=says):
        verify(given, trusting)


def test_an_encrypted_assertion_is_refused_with_the_reason(trusting: SamlSettings) -> None:
    root = response()
    etree.SubElement(root, SAML + "EncryptedAssertion")
    root.remove(assertion_of(root))
    with pytest.raises(IdentityError, match="encrypted"):
        verify(sign(root, what="response"), trusting)


# ------------------------------------------------------------------ what the assertion says


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"audience": "https://other.example"}, "another audience"),
        ({"audience": HOOP + "/"}, "another audience"),
        ({"recipient": "https://other.example/acs"}, "another destination"),
        ({"answers": "_other"}, "another request"),
        ({"answers": None}, "another request"),
        ({"issuer": "https://evil.example"}, "not trusted"),
        ({"ends": -60}, "expired"),
        ({"begins": 60}, "not valid yet"),
        ({"confirmation_ends": -60}, "expired"),
        ({"session_ends": -60}, "expired"),
        ({"signed_in": -4000}, "too long ago"),
        ({"signed_in": 60}, "not valid yet"),
        ({"drop": ("AuthnStatement",)}, "does not say that anybody signed in"),
        ({"drop": ("Conditions",)}, "for whom it is"),
        ({"drop": ("AudienceRestriction",)}, "another audience"),
        ({"drop": ("SubjectConfirmation",)}, "who may bring it"),
        ({"drop": ("SubjectConfirmationData",)}, "who may bring it"),
        ({"drop": ("Subject",)}, "who may bring it"),
        ({"drop": ("NameID",)}, "not name one person"),
        ({"name": ""}, "not name one person"),
        ({"name": "a\u202eb"}, "not name one person"),
        ({"name": "x" * 256}, "not name one person"),
        ({"name_format": "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"}, "transient"),
        ({"groups": ("",)}, "not a list"),
        ({"status": "urn:oasis:names:tc:SAML:2.0:status:Requester"}, "sign-in failed"),
    ],
)
@pytest.mark.parametrize("what", ["assertion", "response"])
def test_what_does_not_fit_is_refused(
    trusting: SamlSettings, what: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(IdentityError, match=says):
        verify(sign(response(**changes), what=what), trusting)


def _set(path: str, name: str, value: str | None) -> Callable[[etree._Element], None]:
    def change(root: etree._Element) -> None:
        found = root.find(path, NS)
        assert found is not None
        if value is None:
            del found.attrib[name]
        else:
            found.set(name, value)

    return change


_DATA = ".//saml:SubjectConfirmationData"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set(_DATA, "Recipient", "https://other.example/acs"), "another recipient"),
        (_set(_DATA, "Recipient", None), "another recipient"),
        (_set(_DATA, "InResponseTo", "_other"), "another request"),
        (_set(_DATA, "InResponseTo", None), "another request"),
        (_set(_DATA, "NotOnOrAfter", None), "no time"),
        (_set(_DATA, "NotOnOrAfter", "tomorrow"), "no time"),
        (_set(_DATA, "NotOnOrAfter", "2999-13-01T00:00:00Z"), "no time"),
        (_set(_DATA, "NotBefore", "2999-01-01T00:00:00Z"), "not valid yet"),
        (_set(".//saml:SubjectConfirmation", "Method", "urn:oasis:names:tc:SAML:2.0:cm:sender-vouches"),
         "who may bring it"),
        (_set(".//saml:Conditions", "NotOnOrAfter", None), "no time"),
        (_set("saml:Assertion", "Version", "1.1"), "another version"),
        (_set("saml:Assertion", "IssueInstant", "2999-01-01T00:00:00Z"), "not valid yet"),
        (_set(".", "Version", "1.1"), "another version"),
    ],
)  # fmt: skip
def test_signed_parts_that_do_not_fit_are_refused(
    trusting: SamlSettings, change: Callable[[etree._Element], None], says: str
) -> None:
    with pytest.raises(IdentityError, match=says):
        verify(sign(response(change=change)), trusting)


def test_an_unsigned_envelope_cannot_lift_what_the_assertion_says(trusting: SamlSettings) -> None:
    root = sign(response(recipient="https://other.example/acs", answers="_other"))
    root.set("Destination", ACS)
    root.set("InResponseTo", "_req1")
    with pytest.raises(IdentityError, match="another recipient"):
        verify(root, trusting)


def test_an_unknown_condition_is_refused(trusting: SamlSettings) -> None:
    def change(root: etree._Element) -> None:
        found = root.find(".//saml:Conditions", NS)
        assert found is not None
        etree.SubElement(found, SAML + "Condition")

    with pytest.raises(IdentityError, match="condition that Hoop does not know"):
        verify(sign(response(change=change)), trusting)


def test_every_audience_restriction_has_to_name_hoop(trusting: SamlSettings) -> None:
    def change(root: etree._Element) -> None:
        found = root.find(".//saml:Conditions", NS)
        assert found is not None
        second = etree.SubElement(found, SAML + "AudienceRestriction")
        etree.SubElement(second, SAML + "Audience").text = "https://other.example"

    with pytest.raises(IdentityError, match="another audience"):
        verify(sign(response(change=change)), trusting)


def test_a_response_that_nobody_asked_for_needs_a_setting(
    trusting: SamlSettings, tmp_path: Path
) -> None:
    unasked = sign(response(answers=None))
    with pytest.raises(IdentityError, match="Nobody asked"):
        verify(unasked, trusting, None)
    open_door = settings(tmp_path, allow_unsolicited=True)
    assert verify(unasked, open_door, None).identity
    with pytest.raises(IdentityError, match="another request"):
        verify(sign(response(answers="_req1")), open_door, None)
    with pytest.raises(IdentityError, match="another request"):
        verify(unasked, open_door, "_req1")


def test_sign_in_at_okta_by_the_driver_needs_unsolicited_responses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="allow_unsolicited"):
        SamlVerifier([settings(tmp_path, native_sso_url="https://corp.okta.example/app/x")], ACS)


def test_two_sections_for_one_provider_are_refused(trusting: SamlSettings) -> None:
    with pytest.raises(ConfigError, match="same entity_id"):
        SamlVerifier([trusting, trusting], ACS)


def test_nothing_of_a_response_is_repeated_in_a_refusal(trusting: SamlSettings) -> None:
    with pytest.raises(IdentityError) as caught:
        verify(sign(response(name="secret-name", groups=("secret-group",), ends=-60)), trusting)
    assert "secret" not in str(caught.value)
