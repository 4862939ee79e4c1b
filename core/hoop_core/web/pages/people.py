"""Who is in front of a page: cookies, and the sessions that they stand for.

RFC 6265bis (`__Host-`, SameSite); OWASP's cheat sheet on session management. The store has digests only.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from hoop_core.config import PageSettings
from hoop_core.identity.proof import identity_as_json, identity_from_json
from hoop_core.model import Identity
from hoop_core.store import Store
from hoop_core.store.web_sessions import WebSessions

_LONGEST_COOKIE = 100


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who is signed in. `handle` is the session's digest, `csrf` what their forms have to bring."""

    identity: Identity
    handle: str
    csrf: str


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


class People:
    """Sessions of browsers; the same on all replicas."""

    def __init__(self, settings: PageSettings, store: Store, *, public_url: str) -> None:
        self._settings = settings
        self._sessions = WebSessions(store, idle_seconds=settings.idle_seconds)
        place = urlsplit(public_url)
        self._origin = f"{place.scheme}://{place.netloc}".lower()
        self._secure = place.scheme == "https"
        # Cookies know no ports: on one host several gateways must not overwrite each other's.
        suffix = "" if self._secure else f"-{place.port or 80}"
        prefix = "__Host-" if self._secure else ""
        self._session_cookie = f"{prefix}hoop-session{suffix}"
        self._journey_cookie = f"{prefix}hoop-sign-in{suffix}"

    # ------------------------------------------------------------------ sessions

    async def visitor(self, request: Request, *, touch: bool = True) -> Visitor | None:
        """Who is signed in with this browser. What an open page asks by itself is no use of the session (not
        `touch`). Raises StoreUnavailable.
        """
        raw = self._cookie(request, self._session_cookie)
        if not raw:
            return None
        found = await asyncio.to_thread(self._sessions.find, digest(raw), touch=touch)
        if found is None:
            return None
        return Visitor(identity_from_json(found.identity), found.handle, _csrf(raw))

    async def sign_in(self, request: Request, response: Response, identity: Identity) -> None:
        """A new session under a new handle, whatever the browser had before. Raises StoreUnavailable."""
        await self.sign_out(request, response)
        ends = datetime.now(UTC) + timedelta(seconds=self._settings.session_seconds)
        if identity.method == "saml" and identity.expires_at is not None:
            ends = min(
                ends, identity.expires_at
            )  # the provider's own session; a token's end is none
        raw = secrets.token_urlsafe(32)
        await asyncio.to_thread(self._sessions.begin, digest(raw), identity_as_json(identity), ends)
        self._set(response, self._session_cookie, raw, None)

    async def proven_again(self, visitor: Visitor, identity: Identity) -> None:
        """What a fresh proof says of the same person, as their groups, holds from now on."""
        await asyncio.to_thread(
            self._sessions.proven_again, visitor.handle, identity_as_json(identity)
        )

    async def sign_out(self, request: Request, response: Response) -> None:
        """End the session here and in the store. Raises StoreUnavailable."""
        raw = self._cookie(request, self._session_cookie)
        if raw:
            await asyncio.to_thread(self._sessions.end, digest(raw))
            self._set(response, self._session_cookie, "", 0)

    # ------------------------------------------------------------------ on the way to a provider

    def proof_key(self, request: Request) -> str:
        """What binds a sign-in to this browser; it may be on several at once."""
        return self._cookie(request, self._journey_cookie) or secrets.token_urlsafe(32)

    def bound(self, request: Request) -> str:
        """The same, of a browser that came back; empty where it has none."""
        return self._cookie(request, self._journey_cookie)

    def bind(self, response: Response, proof_key: str, seconds: int) -> None:
        self._set(response, self._journey_cookie, proof_key, seconds)

    # ------------------------------------------------------------------ forms

    def of_our_own(self, request: Request) -> bool:
        """Whether a form comes from our own pages, as the browser itself says (Fetch Metadata, else Origin)."""
        site = request.headers.get("sec-fetch-site")
        if site is not None:
            return site == "same-origin"
        return request.headers.get("origin", "").lower() == self._origin

    def _cookie(self, request: Request, name: str) -> str:
        value = request.cookies.get(name, "")
        return value if 32 <= len(value) <= _LONGEST_COOKIE else ""

    def _set(self, response: Response, name: str, value: str, seconds: int | None) -> None:
        """Lax: providers send browsers back from another site, and then they have to have it."""
        response.set_cookie(
            name,
            value,
            max_age=seconds,
            path="/",
            secure=self._secure,
            httponly=True,
            samesite="lax",
        )


def _csrf(raw: str) -> str:
    """Bound to the session, and of no use for finding its handle."""
    return hmac.new(
        raw.encode("utf-8", "backslashreplace"), b"hoop form", hashlib.sha256
    ).hexdigest()
