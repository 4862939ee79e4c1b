"""SAML 2.0 responses: who is proven, for whom, when, and in answer to what.

SAML Core 2.0 section 2, SAML Profiles 2.0 section 4.1.4 (web browser SSO). Only the element that a
configured certificate signed is read, save for what may make a refusal of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import Certificate, load_pem_x509_certificates
from lxml import etree  # type: ignore[import-untyped]

from hoop_core.config import SamlSettings
from hoop_core.errors import ConfigError, IdentityError, Unavailable
from hoop_core.identity.claims import further, groups_named, is_name, shown_name
from hoop_core.identity.fetch import check_url
from hoop_core.identity.proof import Proof, Use
from hoop_core.identity.saml_document import (
    SAML,
    SAMLP,
    parse,
    refused,
    response_of,
    signed_assertion,
)
from hoop_core.model import Identity

_SUCCESS = "urn:oasis:names:tc:SAML:2.0:status:Success"
_BEARER = "urn:oasis:names:tc:SAML:2.0:cm:bearer"
_TRANSIENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"
_LONGEST_SUBJECT, _LEAST_RSA, _LEAST_EC = 255, 2048, 256
_AT_ONCE, _MOST_WAITING = 2, 64
_ON_THE_WAY = 30
"""Seconds between a sign-in at the provider and its response here."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)\Z")
_CONDITIONS = {"AudienceRestriction", "OneTimeUse", "ProxyRestriction"}
Attributes = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class SamlProvider:
    """One trusted identity provider."""

    settings: SamlSettings
    certificates: tuple[Certificate, ...] = field(repr=False)
    acs_url: str

    @classmethod
    def of(cls, settings: SamlSettings, acs_url: str) -> SamlProvider:
        """Raises ConfigError for certificates or addresses that prove nothing."""
        if "#" in settings.entity_id:
            raise ConfigError("saml.entity_id has a `#` in it.", "Copy it from the metadata.")
        if settings.sso_url:
            check_url(settings.sso_url, "saml.sso_url")
        if settings.native_sso_url:
            check_url(settings.native_sso_url, "saml.native_sso_url")
            if not settings.allow_unsolicited:
                raise ConfigError(
                    "saml.native_sso_url needs saml.allow_unsolicited: such responses answer no request."
                )
        found = tuple(c for path in settings.certificates for c in _certificates(path))
        return cls(settings, found, settings.acs_url or acs_url)


def _certificates(path: object) -> Sequence[Certificate]:
    try:
        with open(str(path), "rb") as f:  # noqa: PTH123 - a Path or a text
            found = load_pem_x509_certificates(f.read(1 << 20))
    except OSError as e:
        raise ConfigError(f"The SAML certificate {path} cannot be read: {e.strerror}.") from None
    except ValueError:
        raise ConfigError(
            f"{path} holds no PEM certificate.", "Correct saml.certificates."
        ) from None
    for certificate in found:
        key = certificate.public_key()
        strong = (isinstance(key, RSAPublicKey) and key.key_size >= _LEAST_RSA) or (
            isinstance(key, EllipticCurvePublicKey) and key.curve.key_size >= _LEAST_EC
        )
        if not strong:
            raise ConfigError(
                f"The key of the SAML certificate {path} is too weak or of another kind.",
                "Have the identity provider sign with RSA of 2048 bits or more, or with P-256 or more.",
            )
    return found


class SamlVerifier:
    """Turns a response into a proven Identity, or raises IdentityError."""

    def __init__(self, settings: Sequence[SamlSettings], acs_url: str) -> None:
        """`acs_url` is where responses are posted to, for providers that name no other. Raises ConfigError."""
        self.providers = {s.entity_id: SamlProvider.of(s, acs_url) for s in settings}
        if len(self.providers) != len(settings):
            raise ConfigError("Two [[saml]] sections have the same entity_id.")
        self._takes_pages = any(s.native_sso_url for s in settings)
        # XML costs milliseconds of CPU: it has threads of its own, and a queue with an end.
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="saml")
        self._waiting = 0

    async def verify(
        self, response: str, *, answers: str | None = None, max_age: int | None = None
    ) -> Proof:
        """`response` is base64; `answers` the id of Hoop's request for it, None where a driver brings one unasked:
        then it may be the page that holds it, if some provider lets drivers speak with it themselves.
        `max_age`: seconds since the person proved themselves to the provider, if fewer than its settings allow.

        Raises IdentityError, Unavailable.
        """
        if not self.providers:  # before anything of it is read
            raise refused("No SAML provider is configured here.", "Connect with a token.")
        if self._waiting >= _MOST_WAITING:
            raise Unavailable("Too many SAML responses wait to be verified.", "Try again.")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._threads, self._verify, response, answers, max_age
            )
        finally:
            self._waiting -= 1

    def _verify(self, response: str, answers: str | None, max_age: int | None) -> Proof:
        page = self._takes_pages and answers is None and response.lstrip().startswith("<")
        encoded = response_of(response) if page else response
        root = parse(encoded)
        provider = self.providers.get(_text(root.find(f"{SAML}Assertion/{SAML}Issuer")))
        if provider is None:
            raise refused("The SAML assertion's issuer is not trusted here.")
        _check_response(root, provider, answers)
        assertion = signed_assertion(root, provider.certificates)
        digest = hashlib.sha256(encoded.encode()).hexdigest()
        return _Reading(assertion, provider, answers, datetime.now(UTC), max_age).proof(digest)


def _check_response(root: etree._Element, provider: SamlProvider, answers: str | None) -> None:
    """The envelope. It may be unsigned, so nothing of it makes anybody trusted."""
    status = root.find(f"{SAMLP}Status/{SAMLP}StatusCode")
    if status is None or status.get("Value") != _SUCCESS:
        raise refused("The identity provider says that the sign-in failed.")
    if root.get("Version") != "2.0":
        raise refused("The SAML response is of another version than 2.0.")
    issuer = root.find(f"{SAML}Issuer")
    if issuer is not None and _text(issuer) != provider.settings.entity_id:
        raise refused("The SAML response and its assertion are of different issuers.")
    if root.get("Destination", provider.acs_url) != provider.acs_url:
        raise refused(
            "The SAML response was made for another destination.", _meant_for(provider.acs_url)
        )
    if root.get("InResponseTo", answers) != answers:
        raise refused("The SAML response answers another request.")


@dataclass(frozen=True, slots=True)
class _Reading:
    """The signed assertion, and what it is held against."""

    assertion: etree._Element
    provider: SamlProvider
    answers: str | None
    now: datetime
    max_age: int | None = None

    @property
    def settings(self) -> SamlSettings:
        return self.provider.settings

    @property
    def leeway(self) -> timedelta:
        return timedelta(seconds=self.settings.leeway_seconds)

    def proof(self, token_digest: str) -> Proof:
        identifier = self.assertion.get("ID", "")
        if self.assertion.get("Version") != "2.0" or not identifier:
            raise refused("The SAML assertion is of another version than 2.0, or has no id.")
        if _text(self.assertion.find(f"{SAML}Issuer")) != self.settings.entity_id:
            raise refused("The SAML assertion's issuer is not trusted here.")
        self._not_future(_time(self.assertion, "IssueInstant", needed=True))
        until = max(self._check_conditions(), self._check_confirmation())
        ends = self._check_authentication()
        attributes = self._attributes()
        subject = self._subject(attributes)
        settings = self.settings
        names = attributes.get(settings.name_attribute, []) if settings.name_attribute else []
        identity = Identity(
            issuer=settings.entity_id,
            subject=subject,
            name=shown_name(names[0] if len(names) == 1 else None, subject),
            groups=groups_named(attributes.get(settings.groups_attribute, []), settings),
            method="saml",
            token_digest=token_digest,
            expires_at=ends,
            claims=further({n: _one_or_all(attributes.get(n)) for n in settings.claims}),
        )
        # Bearer assertions count once (SAML Profiles 2.0 section 4.1.4.5).
        return Proof(
            identity, Use.of(settings.entity_id, identifier, until, settings.leeway_seconds)
        )

    def _not_future(self, at: datetime | None) -> None:
        if at is not None and at - self.leeway > self.now:
            raise refused(
                "The SAML assertion is not valid yet.",
                "Check the clocks of Hoop and of the identity provider.",
            )

    def _not_over(self, at: datetime | None) -> None:
        if at is not None and at + self.leeway <= self.now:
            raise refused("The SAML assertion has expired.")

    def _check_conditions(self) -> datetime:
        conditions = self.assertion.findall(f"{SAML}Conditions")
        if len(conditions) != 1:
            raise refused("The SAML assertion does not say for whom it is (Conditions).")
        if any(_local(c) not in _CONDITIONS for c in conditions[0]):
            raise refused("The SAML assertion has a condition that Hoop does not know.")
        self._not_future(_time(conditions[0], "NotBefore"))
        ends = _time(conditions[0], "NotOnOrAfter", needed=True)
        self._not_over(ends)
        audiences = [
            {_text(a) for a in r.findall(f"{SAML}Audience")}
            for r in conditions[0].findall(f"{SAML}AudienceRestriction")
        ]
        # all of them have to name us (SAML Core 2.0 section 2.5.1.4)
        if not audiences or not all(self.settings.audience in a for a in audiences):
            raise refused(
                "The SAML assertion was made for another audience.",
                _meant_for(self.settings.audience),
            )
        return ends or self.now

    def _check_confirmation(self) -> datetime:
        """One bearer confirmation that fits; its end."""
        faults: list[IdentityError] = []
        for confirmation in self.assertion.findall(f"{SAML}Subject/{SAML}SubjectConfirmation"):
            if confirmation.get("Method") != _BEARER:
                continue
            try:
                return self._confirmed(confirmation.findall(f"{SAML}SubjectConfirmationData"))
            except IdentityError as e:
                faults.append(e)
        raise faults[0] if faults else refused("The SAML assertion does not say who may bring it.")

    def _confirmed(self, data: list[etree._Element]) -> datetime:
        if len(data) != 1:
            raise refused("The SAML assertion does not say who may bring it.")
        if data[0].get("Recipient") != self.provider.acs_url:
            raise refused(
                "The SAML assertion was made for another recipient.",
                _meant_for(self.provider.acs_url),
            )
        self._not_future(_time(data[0], "NotBefore"))
        ends = _time(data[0], "NotOnOrAfter", needed=True)
        self._not_over(ends)
        if data[0].get("InResponseTo") != self.answers:
            raise refused("The SAML assertion answers another request.")
        if self.answers is None and not self.settings.allow_unsolicited:
            raise refused(
                "Nobody asked for this SAML assertion.",
                "Sign in with the browser, or set saml.allow_unsolicited.",
            )
        return ends or self.now

    def _check_authentication(self) -> datetime | None:
        """When the provider's own session ends, if it says so."""
        statements = self.assertion.findall(f"{SAML}AuthnStatement")
        if not statements:
            raise refused("The SAML assertion does not say that anybody signed in.")
        ends: list[datetime] = []
        for statement in statements:
            signed_in = _time(statement, "AuthnInstant", needed=True) or self.now
            self._not_future(signed_in)
            most = self.settings.max_age_seconds
            asked_anew = most if self.max_age is None else min(most, self.max_age + _ON_THE_WAY)
            oldest = timedelta(seconds=asked_anew) + self.leeway
            if self.now - signed_in > oldest:
                raise refused("The sign-in at the identity provider is too long ago.")
            over = _time(statement, "SessionNotOnOrAfter")
            self._not_over(over)
            ends += [over] if over else []
        return min(ends) if ends else None

    def _attributes(self) -> Attributes:
        found: Attributes = {}
        for attribute in self.assertion.findall(f"{SAML}AttributeStatement/{SAML}Attribute"):
            values = [_text(v) for v in attribute.findall(f"{SAML}AttributeValue")]
            found.setdefault(attribute.get("Name", ""), []).extend(values)
        return found

    def _subject(self, attributes: Attributes) -> str:
        names = self.assertion.findall(f"{SAML}Subject/{SAML}NameID")
        if self.settings.subject_attribute:
            given = attributes.get(self.settings.subject_attribute, [])
        else:
            given = [_text(n) for n in names]
            if any(n.get("Format") == _TRANSIENT for n in names):
                # Another name each time would let people approve what they asked for themselves.
                raise refused(
                    "The SAML assertion names the person for this one time only (transient NameID).",
                    "Have the identity provider send a persistent one, or set saml.subject_attribute.",
                )
        if len(given) != 1 or not is_name(given[0], _LONGEST_SUBJECT):
            raise refused("The SAML assertion does not name one person.")
        return given[0]


def _one_or_all(values: list[str] | None) -> str | list[str] | None:
    return values[0] if values is not None and len(values) == 1 else values


def _meant_for(ours: str) -> str:
    return f"Enter {ours} at the identity provider, exactly as it stands here."


def _local(element: etree._Element) -> str:
    return str(element.tag).removeprefix(SAML)


def _text(element: etree._Element | None) -> str:
    """All of an element's text, or nothing where something else than text is in it."""
    return "" if element is None or len(element) else (element.text or "").strip()


def _time(element: etree._Element, name: str, *, needed: bool = False) -> datetime | None:
    text = element.get(name)
    if text is None and not needed:
        return None
    if text is None or not _TIME.match(text):
        raise refused(f"The SAML assertion has no time where one must be ({name}).")
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise refused(f"The SAML assertion has no time where one must be ({name}).") from None
