"""Signing in to the pages, and out."""

from __future__ import annotations

import secrets
from urllib.parse import urlencode

import structlog
from starlette.requests import Request
from starlette.responses import Response

from hoop_core.config import SignInSettings
from hoop_core.errors import HoopError, IdentityError, NotServed
from hoop_core.http import BadRequest
from hoop_core.signin.browser import Errand
from hoop_core.signin.door import SignIn
from hoop_core.web.pages.answers import Answers
from hoop_core.web.pages.people import People
from hoop_core.web.pages.rendering import Rendering, onwards
from hoop_core.web.pages.ways import client_of, safe_way

_log = structlog.get_logger(__name__)


class Doors:
    def __init__(
        self,
        timing: SignInSettings,
        sign_in: SignIn,
        *,
        people: People,
        answers: Answers,
        rendering: Rendering,
    ) -> None:
        self._seconds, self._sign_in = timing.browser_seconds, sign_in
        self._people, self._answers, self._rendering = people, answers, rendering

    async def sign_in(self, request: Request) -> Response:
        """On to the provider, or a choice of providers where there are several."""
        way = safe_way(request.query_params.get("next"))
        choices = [c.name for c in self._sign_in.browser.choices]
        if not choices:
            raise NotServed(
                "Nobody can sign in with a browser here: no identity provider is set up for it.",
                "Platform team: set `client_id` in an [[identity]] section, or `sso_url` in a [[saml]] one. "
                "Until then use `hoop approvals`.",
            )
        chosen = request.query_params.get("provider")
        if chosen is None and len(choices) > 1:
            ways = [(c, f"/sign-in?{urlencode({'next': way, 'provider': c})}") for c in choices]
            return self._rendering.page("sign_in.html", ways=ways, visitor=None, at="")
        if chosen is not None and chosen not in choices:
            raise BadRequest("There is no such identity provider here.")
        client = client_of(request)
        self._sign_in.admit(client)
        key = self._people.proof_key(request)
        to = await self._sign_in.browser.begin_errand(
            Errand(next=way), chosen or choices[0], key, address=client["address"]
        )
        response = onwards(to)
        self._people.bind(response, key, self._seconds)
        return response

    async def arrived(self, request: Request) -> Response:
        """Back from a provider, with a token that only this browser can use."""
        client = client_of(request)
        try:
            self._sign_in.admit(client)
            proof, errand = await self._sign_in.browser.errand_done(
                request.query_params.get("ticket", ""), self._people.bound(request)
            )
            await self._sign_in.spend(proof, secrets.token_hex(16))
        except IdentityError as e:
            self._sign_in.failed(client)
            await self._sign_in.refused(None, client, e)
            raise
        if errand.answer is not None:
            return await self._answers.proven(request, proof, errand)
        _log.info("somebody signed in to the pages", issuer=proof.identity.issuer)
        response = onwards(safe_way(errand.next))
        await self._people.sign_in(request, response, proof.identity)
        return response

    async def sent_back(self, request: Request, errand: Errand, error: HoopError) -> Response:
        """The page for whoever came back from a provider without a proof."""
        if errand.answer is not None:
            return await self._answers.not_proven(request, errand, error)
        again = (f"/sign-in?{urlencode({'next': safe_way(errand.next)})}", "Sign in again")
        return self._rendering.message(
            "You are not signed in", error.message, error.hint, status=403, back=again
        )

    async def sign_out(self, request: Request) -> Response:
        """Only from a page of ours: nobody else's page signs anybody out."""
        if not self._people.of_our_own(request):
            raise BadRequest("This form did not come from Hoop's own page.", "Sign out on a page.")
        response = onwards("/signed-out")
        await self._people.sign_out(request, response)
        return response

    async def signed_out(self, _request: Request) -> Response:
        return self._rendering.message(
            "You are signed out",
            "Your session in Hoop has ended. You may still be signed in at your identity provider.",
            back=("/sign-in", "Sign in"),
        )
