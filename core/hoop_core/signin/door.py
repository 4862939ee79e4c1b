"""Who is calling: every form in which a client proves it, and what comes of failing too often.

https://docs.snowflake.com/en/developer-guide/python-connector/python-connector-connect#oauth and the public
sources of the connectors say which fields of the sign-in hold what.
"""

from __future__ import annotations

import asyncio

from hoop_core.audit.log import AuditLog
from hoop_core.config import Settings, SignInSettings
from hoop_core.errors import ConfigError, HoopError, IdentityError, Refused
from hoop_core.http import text_of
from hoop_core.identity.oidc import TokenVerifier
from hoop_core.identity.proof import Proof
from hoop_core.identity.saml import SamlVerifier
from hoop_core.identity.saml_document import MOST_CHARACTERS
from hoop_core.identity.throttle import Throttle, neighbourhood
from hoop_core.model import Identity, Json
from hoop_core.signin.browser import SAML_BACK, BrowserSignIn
from hoop_core.signin.refusals import Refusals
from hoop_core.store import Store
from hoop_core.store.sign_ins import Journeys, SeenTokens

_LONGEST_TOKEN = 64 * 1024
_WRONG_PASSWORD = 390100
_HINT = "Connect with authenticator='oauth' and token=<your OIDC token>."
_TOKEN_FORMS = frozenset({"OAUTH", "PROGRAMMATIC_ACCESS_TOKEN", "WORKLOAD_IDENTITY"})


class TooManyFailures(Refused):
    """Nothing was looked at: this address, or this issuer's tokens, failed too often in the last minute."""

    errno, sqlstate, reason = 99429, "08004", "TOO_MANY_FAILURES"

    @classmethod
    def of(cls, where: str) -> TooManyFailures:
        return cls(
            f"There were too many failed sign-ins {where}.",
            "Wait for a minute. Then fetch a new token from your identity provider and connect again.",
        )


class SignIn:
    """One for all doors: drivers, SQL API, REST and pages."""

    def __init__(
        self,
        settings: SignInSettings,
        *,
        verifier: TokenVerifier,
        saml: SamlVerifier,
        browser: BrowserSignIn,
        seen: SeenTokens,
        refusals: Refusals,
    ) -> None:
        self.verifier, self.refusals, self._seen = verifier, refusals, seen
        self.browser, self._saml = browser, saml
        self._addresses = Throttle(settings.failures_per_minute)
        self._issuers = Throttle(settings.issuer_failures_per_minute)

    async def by_login(self, data: Json, client: Json) -> Proof:
        """A driver's sign-in. Raises IdentityError, Unavailable, TooManyFailures, BadRequest."""
        form = (text_of(data, "AUTHENTICATOR") or "SNOWFLAKE").upper()
        response = text_of(data, "RAW_SAML_RESPONSE", limit=2 * MOST_CHARACTERS)
        if not response and form != "EXTERNALBROWSER":
            return await self.by_token(_token(data, form), client)
        self.admit(client)
        try:
            return await self._by_person(data, response)
        except IdentityError:
            self.failed(client)
            raise

    async def _by_person(self, data: Json, response: str | None) -> Proof:
        """What somebody got at an identity provider: by the driver itself, or in a browser."""
        token = text_of(data, "TOKEN", limit=_LONGEST_TOKEN)
        if response and token:
            raise IdentityError("The sign-in brings two proofs of identity.", "Send one of them.")
        if response:
            return await self._saml.verify(response)
        key = text_of(data, "PROOF_KEY")
        if not token or not key:
            raise IdentityError("The browser's sign-in brings no token or no proof key.", _HINT)
        return await self.browser.redeem(token, key)

    async def by_token(self, token: str, client: Json) -> Proof:
        """An OIDC token, whichever way it came. Raises IdentityError, Unavailable, TooManyFailures."""
        self.admit(client)
        issuer = self.verifier.issuer_named(token) or ""
        self.admit(client, issuer)
        try:
            return await self.verifier.verify(token)
        except IdentityError:
            self.failed(client, issuer)
            raise

    def admit(self, client: Json, issuer: str = "") -> None:
        """Before any work is done. Whoever has not failed lately is not kept out by those who have.

        Raises TooManyFailures.
        """
        address = neighbourhood(client.get("address"))
        if self._addresses.full(address):
            raise TooManyFailures.of("from this address")
        if self._issuers.full(issuer) and self._addresses.level(address):
            raise TooManyFailures.of("with tokens of this issuer")

    def failed(self, client: Json, issuer: str = "") -> None:
        """Note a proof that was none."""
        self._addresses.failed(neighbourhood(client.get("address")))
        self._issuers.failed(issuer)

    async def spend(self, proof: Proof, request: str) -> None:
        """Use up what counts once; `request` is the client's id of this request, whose retry is no second use.

        Raises IdentityError, StoreUnavailable.
        """
        use = proof.use
        if use is None:
            return
        if not await asyncio.to_thread(
            self._seen.first_use, use.digest, use.until, use.by(request)
        ):
            raise IdentityError(
                "This proof of identity was used before, and counts once.",
                "Fetch a new token from your identity provider and connect again.",
                reason="REPLAYED",
            )

    def no_retry(self, use: str) -> None:
        """End what `use` (`Use.by`) still allows: its answer has arrived. Raises StoreUnavailable."""
        self._seen.forget(use)

    def leeway_of(self, issuer: str) -> float:
        """Seconds that a proof of this issuer is given beyond its end."""
        found = self.verifier.issuer(issuer) or self._saml.providers.get(issuer)
        return float(found.settings.leeway_seconds) if found else 0.0

    async def refused(self, identity: Identity | None, client: Json, error: HoopError) -> None:
        """Put a refused sign-in on record."""
        await self.refusals.add(identity, client, error)


def sign_in_of(settings: Settings, store: Store, log: AuditLog, *, public_url: str) -> SignIn:
    """The door as it is configured. Raises ConfigError."""
    if not settings.identity and not settings.saml:
        raise ConfigError(
            "No identity provider is configured.", "Add an [[identity]] section to hoop.toml."
        )
    verifier = TokenVerifier(settings.identity)
    saml = SamlVerifier(settings.saml, public_url.rstrip("/") + SAML_BACK)
    if set(saml.providers) & {i.settings.issuer for i in verifier.issuers}:
        raise ConfigError("An [[identity]] and a [[saml]] section have the same name.")
    browser = BrowserSignIn(
        verifier,
        saml,
        Journeys(store),
        public_url=public_url,
        seconds=settings.sign_in.browser_seconds,
    )
    return SignIn(
        settings.sign_in,
        verifier=verifier,
        saml=saml,
        browser=browser,
        seen=SeenTokens(store),
        refusals=Refusals(log, per_minute=settings.sign_in.logged_per_minute),
    )


def _token(data: Json, form: str) -> str:
    """The OIDC token of a sign-in, be it in the field for tokens or, of tools without one, for passwords."""
    token = text_of(data, "TOKEN", limit=_LONGEST_TOKEN)
    if form in _TOKEN_FORMS and token:
        return token
    password = text_of(data, "PASSWORD", limit=_LONGEST_TOKEN)
    if form == "SNOWFLAKE" and password and password.count(".") == 2:
        return password
    if form == "SNOWFLAKE":
        # in the words that tools know of a password that is wrong
        raise IdentityError(
            "Incorrect username or password was specified: Hoop takes no passwords.",
            f"{_HINT} Where a tool has a field for a password only, put the token there.",
            errno=_WRONG_PASSWORD,
        )
    raise IdentityError(f"Hoop takes no {form[:40]} sign-in of this form.", _HINT)
