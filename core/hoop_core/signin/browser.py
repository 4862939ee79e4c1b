"""Signing in with a browser: a program asks, a person proves at the identity provider, the program gets a token.

The program waits on a port of its own host. It alone has the proof key, and only a browser on that host can
bring it the token: neither is of use without the other. All steps may come to different replicas.

Hoop's own pages are such a program, too: the browser is on an errand for them, has the proof key in a cookie, and
brings the token back to them itself. So nobody's browser can be made to finish what another one began.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from urllib.parse import urlencode, urlsplit

from hoop_core.errors import IdentityError, NotServed, Unavailable
from hoop_core.http import BadRequest
from hoop_core.identity.code_flow import (
    CodeRequest,
    authorization_url,
    check_sender,
    proof_of_code,
)
from hoop_core.identity.oidc import TokenVerifier
from hoop_core.identity.proof import Proof, Use, identity_as_json, identity_from_json
from hoop_core.identity.saml import SamlVerifier
from hoop_core.identity.saml_request import authn_request_url
from hoop_core.identity.throttle import Throttle, neighbourhood
from hoop_core.model import Identity, Json
from hoop_core.store.sign_ins import Journey, Journeys

START, OIDC_BACK, SAML_BACK = "/hoop/sso/start", "/hoop/sso/oidc", "/hoop/sso/saml"
ARRIVED = "/sign-in/arrived"
"""The page to which a browser brings what it got on an errand."""
_NOBODY_ASKED = frozenset(
    {"login_required", "interaction_required", "account_selection_required", "consent_required"}
)
"""What a provider says that may not ask, and would have to (OpenID Connect Core 3.1.2.6)."""
_PORTS = range(1024, 65_536)
_PROOF_KEYS = range(32, 129)
_LONGEST_HANDLE = 100
_BEGUN_PER_MINUTE, _PROVEN_PER_MINUTE = 300, 60
"""Of one address, and of one person who is signed in: how many there may be of all is bounded, and nobody is to take
all places.
"""
_AGAIN = "Start the sign-in again in the program that you came from."


@dataclass(frozen=True, slots=True)
class Choice:
    """A provider that a person may sign in with; `name` is its issuer or entity id."""

    name: str


@dataclass(frozen=True, slots=True)
class Errand:
    """What a browser is sent to a provider for by the pages: to sign in, or to prove once more who answers."""

    next: str
    """The page that it was on its way to."""
    answer: str | None = None
    """Digest of the handle of an answer that waits for this proof."""
    hint: str = ""
    """Whom the provider may expect; proves nothing."""
    max_age: int | None = None
    """How many seconds ago the person may have been asked."""
    asking: bool = False
    """Whether the provider was told to ask the person; before that, an answer's proof is tried without."""

    def as_json(self) -> Json:
        return {"errand": asdict(self)}

    @classmethod
    def of(cls, journey: Journey) -> Errand | None:
        """None: a program waits."""
        if journey.port or not journey.request:
            return None
        return cls(**journey.request["errand"])

    def wishes(self) -> dict[str, str]:
        """What an OIDC provider is asked for beyond a proof."""
        if self.answer is None:
            return {}
        asked = {"prompt": "login" if self.asking else "none"}
        if self.hint:
            asked["login_hint"] = self.hint
        return asked if self.max_age is None else {**asked, "max_age": str(self.max_age)}


class BrowserSignIn:
    """Both ends of it: what the program asks for, and what the browser passes through."""

    def __init__(
        self,
        verifier: TokenVerifier,
        saml: SamlVerifier,
        journeys: Journeys,
        *,
        public_url: str,
        seconds: int,
    ) -> None:
        self._verifier, self._saml, self._journeys = verifier, saml, journeys
        self._public_url, self._seconds = public_url.rstrip("/"), seconds
        for_browsers = [i.settings.issuer for i in verifier.issuers if i.settings.client_id]
        self._backs = {name: OIDC_BACK + _own_part(for_browsers, name) for name in for_browsers}
        self._begun, self._proofs = Throttle(_BEGUN_PER_MINUTE), Throttle(_PROVEN_PER_MINUTE)
        self.choices = tuple(
            Choice(name)
            for name in (
                *for_browsers,
                *(p.settings.entity_id for p in saml.providers.values() if p.settings.sso_url),
            )
        )

    # ------------------------------------------------------------------ the program

    async def begin(
        self, port: object, proof_key: str | None = None, *, address: str | None
    ) -> tuple[str, str]:
        """The page that a browser has to open, and the proof key. Raises BadRequest, NotServed, Unavailable.

        Of newer drivers the proof key is their own.
        """
        if not self.choices:
            raise NotServed(
                "No identity provider for browsers is configured here.",
                "Connect with authenticator='oauth' and a token, or ask for `client_id` or `sso_url`.",
            )
        at = _port(port)
        key = secrets.token_urlsafe(32) if proof_key is None else proof_key
        if len(key) not in _PROOF_KEYS:
            raise BadRequest("The proof key is too short or too long.")
        self._count(address)
        handle = await self._begin(key, at)
        return f"{self._public_url}{START}?{urlencode({'login': handle})}", key

    async def begin_errand(
        self, errand: Errand, provider: str, proof_key: str, *, address: str | None
    ) -> str:
        """Where the pages send a browser that has this proof key. Raises IdentityError, Unavailable."""
        self._count(address)
        handle = await self._begin(proof_key, 0, errand.as_json())
        return str(await self.leave(handle, provider))

    async def begin_proof(self, errand: Errand, who: Identity, proof_key: str) -> tuple[str, str]:
        """The same for somebody who is signed in, and is to prove it once more: counted by person, so that nobody
        behind the same address has to wait for them. Also the digest by which the store knows it.

        Raises IdentityError, Unavailable.
        """
        if self._proofs.full(who.key):
            raise Unavailable("You have begun too many answers.", "Try again in a minute.")
        self._proofs.failed(who.key)
        handle = await self._begin(proof_key, 0, errand.as_json())
        return str(await self.leave(handle, who.issuer)), _digest(handle)

    def _count(self, address: str | None) -> None:
        where = neighbourhood(address)
        if self._begun.full(where):
            raise Unavailable(
                "Too many browsers begin to sign in from your address.", "Try again in a minute."
            )
        self._begun.failed(where)

    async def _begin(self, key: str, port: int, request: Json | None = None) -> str:
        handle = secrets.token_urlsafe(32)
        await asyncio.to_thread(
            self._journeys.begin, _digest(handle), _digest(key), port, self._seconds, request
        )
        return handle

    def native(self, authenticator: str) -> Json:
        """Where a driver that speaks with Okta itself has to go. Raises NotServed."""
        for provider in self._saml.providers.values():
            page = provider.settings.native_sso_url
            if page and _place(page) == _place(authenticator):
                scheme, host, port = _place(page)
                shown = host if port is None else f"{host}:{port}"
                return {
                    "ssoUrl": page,
                    "tokenUrl": f"{scheme}://{shown}/api/v1/authn",
                    "proofKey": None,
                }
        raise NotServed(
            "No identity provider at this address is configured here.",
            "Ask for `saml.native_sso_url`, or connect with authenticator='externalbrowser'.",
        )

    async def redeem(self, ticket: str, proof_key: str) -> Proof:
        """Who came back with this token, for the program that asked. Raises IdentityError."""
        found = await self._redeemed(ticket, proof_key)
        if found is None or found.identity is None or Errand.of(found) is not None:
            raise IdentityError(
                "The browser's sign-in is not known, is over, or was another program's.",
                "Connect again.",
            )
        return Proof(identity_from_json(found.identity), _ticket_use(ticket, found))

    async def errand_done(self, ticket: str, proof_key: str) -> tuple[Proof, Errand]:
        """Who came back with this token to the pages, and for what they had gone. Raises IdentityError."""
        found = await self._redeemed(ticket, proof_key)
        errand = Errand.of(found) if found else None
        if found is None or found.identity is None or errand is None:
            raise IdentityError(
                "This sign-in is not known, is over, or was begun in another browser.",
                "Open the page again that you wanted to see.",
            )
        return Proof(identity_from_json(found.identity), _ticket_use(ticket, found)), errand

    async def _redeemed(self, ticket: str, proof_key: str) -> Journey | None:
        found = await asyncio.to_thread(self._journeys.by_ticket, _digest(ticket))
        expected = found.proof_key if found else _digest("")
        return found if hmac.compare_digest(expected, _digest(proof_key)) else None

    # ------------------------------------------------------------------ the browser

    async def leave(self, handle: str, chosen: str | None) -> str | None:
        """Where the provider's page is; None when the person has to choose one first. Raises IdentityError."""
        journey = await self._journey(handle)
        if chosen is None and len(self.choices) != 1:
            return None
        name = self.choices[0].name if chosen is None else chosen
        if name not in {c.name for c in self.choices}:
            raise IdentityError("There is no such identity provider here.", _AGAIN)
        return await self._leave(journey, handle, name)

    async def _leave(self, journey: Journey, handle: str, name: str) -> str:
        errand = Errand.of(journey)
        kept = errand.as_json() if errand else {}
        issuer = self._verifier.issuer(name)
        if issuer is not None:
            request = CodeRequest.new()
            await self._chosen(journey, name, request.as_json() | kept)
            return await authorization_url(
                issuer,
                request,
                state=handle,
                redirect_uri=self._public_url + self._backs[name],
                wishes=errand.wishes() if errand else None,
            )
        request_id = "_" + secrets.token_hex(20)
        await self._chosen(journey, name, {"id": request_id} | kept)
        anew = errand is not None and errand.max_age is not None
        return authn_request_url(self._saml.providers[name], request_id, handle, anew=anew)

    async def back_with_code(
        self, answer: Mapping[str, str], at: str
    ) -> tuple[Identity | None, str]:
        """From an OIDC issuer: who came back, and where they go on to; None: to the provider once more.

        `at` is the path to which they came back: each issuer has its own, so that none can have a code of
        another's brought here, and passed on to itself (RFC 9700 section 4.4). Raises IdentityError, Unavailable.
        """
        handle = answer.get("state", "")
        journey = await self._journey(handle)
        issuer = self._verifier.issuer(journey.provider or "")
        if issuer is None or journey.request is None:
            raise _unknown()
        if at != self._backs.get(issuer.settings.issuer):
            raise IdentityError("The answer came back from another identity provider.", _AGAIN)
        errand = Errand.of(journey)
        silent = errand is not None and errand.answer is not None and not errand.asking
        if errand is not None and silent and answer.get("error") in _NOBODY_ASKED:
            await check_sender(issuer, answer)
            asking = replace(journey, request=replace(errand, asking=True).as_json())
            return None, await self._leave(asking, handle, issuer.settings.issuer)
        proof = await proof_of_code(
            self._verifier,
            issuer,
            CodeRequest.from_json(journey.request),
            answer,
            redirect_uri=self._public_url + at,
            max_age=errand.max_age if errand else None,
        )
        return await self._arrived(journey, proof.identity)

    async def back_with_response(self, response: str, handle: str) -> tuple[Proof, Journey]:
        """From a SAML provider: who came back; `arrive` has to follow. Raises IdentityError, Unavailable."""
        journey = await self._journey(handle)
        if journey.request is None or "id" not in journey.request:
            raise _unknown()
        errand = Errand.of(journey)
        proof = await self._saml.verify(
            response,
            answers=str(journey.request["id"]),
            max_age=errand.max_age if errand else None,
        )
        if proof.identity.issuer != journey.provider:
            raise IdentityError("The answer is of another identity provider.", _AGAIN)
        return proof, journey

    async def arrive(self, journey: Journey, identity: Identity) -> str:
        """The address where they go on. Raises IdentityError when somebody was faster."""
        return (await self._arrived(journey, identity))[1]

    async def _arrived(self, journey: Journey, identity: Identity) -> tuple[Identity, str]:
        ticket = secrets.token_urlsafe(32)
        done = await asyncio.to_thread(
            self._journeys.arrive, journey.handle, identity_as_json(identity), _digest(ticket)
        )
        if not done:
            raise _unknown()
        if not journey.port:
            return identity, f"{self._public_url}{ARRIVED}?{urlencode({'ticket': ticket})}"
        # Only ever to the host that the browser runs on (RFC 8252 section 7.3).
        return identity, f"http://localhost:{journey.port}/?{urlencode({'token': ticket})}"

    async def errand(self, handle: str) -> Errand | None:
        """What a browser is on its way for; None: for a program, or nobody knows."""
        if not 0 < len(handle) <= _LONGEST_HANDLE:
            return None
        found = await asyncio.to_thread(self._journeys.by_handle, _digest(handle))
        return Errand.of(found) if found else None

    async def _chosen(self, journey: Journey, provider: str, request: Json) -> None:
        if not await asyncio.to_thread(self._journeys.choose, journey.handle, provider, request):
            raise _unknown()

    async def _journey(self, handle: str) -> Journey:
        if not 0 < len(handle) <= _LONGEST_HANDLE:
            raise _unknown()
        found = await asyncio.to_thread(self._journeys.by_handle, _digest(handle))
        if found is None:
            raise _unknown()
        return found


def _own_part(issuers: Sequence[str], name: str) -> str:
    """What an issuer's redirect URI has more than the only issuer's."""
    return "" if len(issuers) == 1 else f"/{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _ticket_use(ticket: str, journey: Journey) -> Use:
    return Use(_digest("ticket:" + ticket), journey.expires_at)


def _unknown() -> IdentityError:
    return IdentityError("This sign-in is not known, or took too long.", _AGAIN)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def _port(given: object) -> int:
    """The port on which the program waits: a text of digits, as drivers send it. Raises BadRequest."""
    text = str(given) if isinstance(given, (str, int)) and not isinstance(given, bool) else ""
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) in _PORTS):
        raise BadRequest("BROWSER_MODE_REDIRECT_PORT must be a port from 1024 to 65535.")
    return int(text)


def _place(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url.strip())
        return parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        return "", "", None
