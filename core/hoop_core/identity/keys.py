"""The published keys of one issuer: fetched, believed for a while, fetched again when a token asks for more.

OpenID Connect Discovery 1.0 section 4, RFC 7517. Whoever waits for a fetch holds no thread and no lock, and
only those wait who cannot do without it. However many tokens with made-up key ids come: one fetch at a
time, and one in ten seconds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from hoop_core.config import IssuerSettings
from hoop_core.errors import HoopError, IdentityError, Unavailable
from hoop_core.identity.fetch import NoAnswer, Web, check_url, https_only
from hoop_core.identity.jose import GET_NEW
from hoop_core.model import Json

_log = structlog.get_logger(__name__)
_REST_SECONDS = 10.0
"""Between two fetches."""
_FIRST_REST_SECONDS = 2.0
"""Between two fetches as long as there are no keys at all."""
_MOST_KEYS = 100
PublishedKey = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Published:
    """What an issuer published, and when it was fetched (`clock`, in seconds)."""

    document: Json
    keys: Mapping[str, tuple[PublishedKey, ...]]
    fetched: float


@dataclass(slots=True)
class Issuer:
    """One trusted issuer."""

    settings: IssuerSettings
    web: Web
    clock: Callable[[], float] = time.monotonic
    _known: Published | None = None
    _attempted: float = float("-inf")
    _failed: HoopError | None = field(default=None, repr=False)
    _fetching: asyncio.Task[None] | None = field(default=None, repr=False)

    async def keys(self, key_id: str) -> Sequence[PublishedKey]:
        """The keys with this id. Raises IdentityError when there is none, Unavailable when nobody knows."""
        known = self._usable()
        if known is None or key_id not in known.keys:
            known = await self._anew()
        elif self.clock() - known.fetched > self.settings.keys_fresh_seconds:
            if self._failed is None:
                known = await self._anew()
            else:  # the issuer was down a moment ago: nobody waits for it who has a key
                self._start()
        found = known.keys.get(key_id, ())
        if not found:
            raise self._failed or IdentityError(
                f"The token was signed with a key that {self.settings.issuer} does not publish.",
                GET_NEW,
            )
        return found

    async def document(self) -> Json:
        """The discovery document. Raises IdentityError or Unavailable."""
        known = self._usable()
        if known is None or self.clock() - known.fetched > self.settings.keys_fresh_seconds:
            known = await self._anew()
        return known.document

    def _usable(self) -> Published | None:
        """What was fetched, as long as it may be believed."""
        if self._known is None:
            return None
        longest = self.settings.keys_fresh_seconds + self.settings.keys_stale_seconds
        return self._known if self.clock() - self._known.fetched <= longest else None

    async def _anew(self) -> Published:
        """Fetch, or wait for the fetch that is under way; what is known when that brings nothing."""
        self._start()
        if self._fetching is not None:
            # A client that goes away must not end a fetch that others wait for.
            await asyncio.shield(self._fetching)
        known = self._usable()
        if known is None:
            raise self._failed or _no_keys(self.settings.issuer, "not asked again yet")
        return known

    def _start(self) -> None:
        if self._fetching is not None and not self._fetching.done():
            return
        self._fetching = None
        rest = _REST_SECONDS if self._usable() else _FIRST_REST_SECONDS
        if self.clock() - self._attempted >= rest:
            self._attempted = self.clock()
            self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        """Never raises: what went wrong is told to those who need the keys."""
        try:
            self._known = await self._published()
            self._failed = None
        except NoAnswer as e:
            self._failed = _no_keys(self.settings.issuer, str(e))
        except HoopError as e:
            self._failed = e
        if self._failed is not None:
            _log.warning("the keys of an issuer cannot be fetched", why=self._failed.text)

    async def _published(self) -> Published:
        settings = self.settings
        base = settings.discovery_url.rstrip("/") or settings.issuer.rstrip("/")
        url = f"{base}/.well-known/openid-configuration"
        document = await self.web.get(url, self._credential())
        if document.get("issuer") != settings.issuer:
            raise IdentityError(
                f"The discovery document of {settings.issuer} names another issuer.",
                "Correct `identity.issuer` in hoop.toml.",
            )
        where = https_only(document.get("jwks_uri"), url, "key set")
        # The bearer token is the issuer's own; another host would be able to use it.
        own = where.startswith(base + "/")
        listed = (await self.web.get(where, self._credential() if own else {})).get("keys")
        if not isinstance(listed, list):
            raise NoAnswer("the key set holds no keys")
        return Published(document, _by_id(listed), self.clock())

    def _credential(self) -> dict[str, str]:
        file = self.settings.discovery_token_file
        if file is None:
            return {}
        try:
            return {"authorization": f"Bearer {file.read_text(encoding='ascii').strip()}"}
        except (OSError, UnicodeDecodeError) as e:
            raise NoAnswer(f"identity.discovery_token_file: {type(e).__name__}") from None


def issuer_of(settings: IssuerSettings, web: Web | None = None) -> Issuer:
    """Raises ConfigError for an address over which keys cannot be trusted."""
    plain = settings.unsafe_plain_http
    check_url(settings.issuer, "identity.issuer", unsafe_plain_http=plain)
    if settings.discovery_url:
        check_url(settings.discovery_url, "identity.discovery_url", unsafe_plain_http=plain)
    return Issuer(settings, web or Web(ca_file=settings.ca_file, proxy=settings.proxy))


def _by_id(listed: list[Any]) -> dict[str, tuple[PublishedKey, ...]]:
    """Keys by their id. Shared secrets are left out; what fits a token is asked when one comes."""
    found: dict[str, tuple[PublishedKey, ...]] = {}
    for key in listed[:_MOST_KEYS]:
        if not isinstance(key, dict) or not isinstance(key.get("kid"), str):
            continue
        if key.get("kty") in {"RSA", "EC", "OKP"}:
            found[key["kid"]] = (*found.get(key["kid"], ()), key)
    return found


def _no_keys(issuer: str, why: str) -> Unavailable:
    return Unavailable(
        f"The keys of the identity provider {issuer} cannot be fetched ({why}).",
        "Whoever signs with a key that is not known cannot be verified until it answers again.",
    )
