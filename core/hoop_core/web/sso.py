"""Where a browser passes on its way to an identity provider, and where it comes back: for a program, or for our pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlencode

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hoop_core.errors import HoopError, Unavailable, where
from hoop_core.http import unexpected
from hoop_core.identity.saml_document import MOST_CHARACTERS
from hoop_core.model import Identity
from hoop_core.signin.browser import OIDC_BACK, SAML_BACK, START, BrowserSignIn, Errand
from hoop_core.signin.door import SignIn, TooManyFailures
from hoop_core.web.forms import read_form
from hoop_core.web.pages.rendering import Rendering, onwards
from hoop_core.web.pages.ways import client_of

_log = structlog.get_logger(__name__)
Endpoint = Callable[[Request], Awaitable[Response]]
SentBack = Callable[[Request, Errand, HoopError], Awaitable[Response]]


class SsoPages:
    """No scripts, no cookies: what belongs together is in the store under a digest of the address."""

    def __init__(
        self,
        sign_in: SignIn,
        browser: BrowserSignIn,
        rendering: Rendering,
        *,
        sent_back: SentBack,
    ) -> None:
        """`sent_back` makes the page for a browser that was on an errand of our pages and proved nothing."""
        self._sign_in, self._browser = sign_in, browser
        self._rendering, self._sent_back = rendering, sent_back

    def routes(self) -> list[Route]:
        return [
            Route("/console/login", self._page(self._asking(self.console_login)), methods=["GET"]),
            Route(START, self._page(self._asking(self.start)), methods=["GET"]),
            Route(OIDC_BACK, self._page(self.back_with_code), methods=["GET"]),
            Route(OIDC_BACK + "/{issuer}", self._page(self.back_with_code), methods=["GET"]),
            Route(SAML_BACK, self._page(self.back_with_response), methods=["POST"]),
        ]

    async def console_login(self, request: Request) -> Response:
        """Where newer drivers send the browser, with a proof key of their own."""
        asked = request.query_params
        page, _ = await self._browser.begin(
            asked.get("browser_mode_redirect_port"),
            asked.get("proof_key", ""),
            address=client_of(request)["address"],
        )
        return onwards(page)

    async def start(self, request: Request) -> Response:
        handle, chosen = request.query_params.get("login", ""), request.query_params.get("provider")
        found = await self._browser.leave(handle, chosen)
        return onwards(found) if found else self._choices(handle)

    async def back_with_code(self, request: Request) -> Response:
        answer = dict(request.query_params)
        errand = await self._browser.errand(answer.get("state", ""))
        try:
            identity, to = await self._browser.back_with_code(answer, request.url.path)
        except HoopError as e:
            raise _OnErrand(errand, e) from None
        return self._home(identity, to)

    async def back_with_response(self, request: Request) -> Response:
        form = await read_form(request, 2 * MOST_CHARACTERS)
        handle = form.get("RelayState", "")
        errand = await self._browser.errand(handle)
        try:
            proof, journey = await self._browser.back_with_response(
                form.get("SAMLResponse", ""), handle
            )
            await self._sign_in.spend(proof, journey.handle)
            return self._home(proof.identity, await self._browser.arrive(journey, proof.identity))
        except HoopError as e:
            raise _OnErrand(errand, e) from None

    def _asking(self, endpoint: Endpoint) -> Endpoint:
        """A page with a button, where another site's page sent the browser (Fetch Metadata): a program opens it by
        itself, and no link is to sign anybody in to whatever waits on their host.
        """

        async def call(request: Request) -> Response:
            if request.headers.get("sec-fetch-site") not in {"cross-site", "same-site"}:
                return await endpoint(request)
            return self._rendering.message(
                "Do you want to sign in a program?",
                "A page of another site sent you here, to sign in a program on this computer as yourself.",
                "Go on only if you have just started a program that asked you to sign in. If not, close this page.",
                back=(f"{request.url.path}?{request.url.query}", "Sign in the program"),
            )

        return call

    def _home(self, identity: Identity | None, to: str) -> Response:
        """On to whoever waits; nobody came yet where the provider has to ask first."""
        if identity is not None:
            _log.info("a browser signed in", issuer=identity.issuer)
        return onwards(to)

    def _choices(self, handle: str) -> Response:
        ways = [
            (c.name, f"{START}?{urlencode({'login': handle, 'provider': c.name})}")
            for c in self._browser.choices
        ]
        return self._rendering.page("sign_in.html", ways=ways, visitor=None, at="")

    def _page(self, endpoint: Endpoint) -> Endpoint:
        """Every error as a page; refusals are counted and on record as those of drivers are."""

        async def call(request: Request) -> Response:
            try:
                self._sign_in.admit(client_of(request))
                return await endpoint(request)
            except _OnErrand as e:
                return await self._refusal(request, e.error, e.errand)
            except HoopError as e:
                return await self._refusal(request, e, None)
            except Exception as e:
                # The browser must get an answer, and the details belong to our own log only.
                _log.error("a page failed inside Hoop", path=request.url.path, where=where(e))
                return self._fault(unexpected(), 500)

        return call

    async def _refusal(self, request: Request, error: HoopError, errand: Errand | None) -> Response:
        client, status = client_of(request), 403
        if isinstance(error, Unavailable):
            status = 503
            _log.error("a browser's sign-in was refused", path=request.url.path, why=error.text)
        else:
            self._sign_in.failed(client)
            await self._sign_in.refused(None, client, error)
            if errand is not None:
                return await self._sent_back(request, errand, error)
        if isinstance(error, TooManyFailures):
            status = 429
        return self._fault(error, status)

    def _fault(self, error: HoopError, status: int) -> Response:
        return self._rendering.message(
            "You are not signed in", error.message, error.hint, status=status
        )


class _OnErrand(Exception):
    """What was refused, and what the browser had been sent for; None: for a program."""

    def __init__(self, errand: Errand | None, error: HoopError) -> None:
        super().__init__()
        self.errand, self.error = errand, error
