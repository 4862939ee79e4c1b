"""The pages that a browser passes through on its way to an identity provider and back to a program."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from html import escape
from urllib.parse import parse_qsl, urlencode

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from hoop_core.errors import HoopError, Refused, Unavailable, where
from hoop_core.http import BadRequest, unexpected
from hoop_core.identity.saml_document import MOST_CHARACTERS
from hoop_core.model import Identity, Json
from hoop_core.signin.browser import OIDC_BACK, SAML_BACK, START, BrowserSignIn
from hoop_core.signin.door import SignIn, TooManyFailures

_log = structlog.get_logger(__name__)
_MOST_FIELDS = 10
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class SsoPages:
    """No scripts, no cookies: what belongs together is in the store under a digest of the address."""

    def __init__(self, sign_in: SignIn, browser: BrowserSignIn) -> None:
        self._sign_in, self._browser = sign_in, browser

    def routes(self) -> list[Route]:
        return [
            Route("/console/login", self._page(self.console_login), methods=["GET"]),
            Route(START, self._page(self.start), methods=["GET"]),
            Route(OIDC_BACK, self._page(self.back_with_code), methods=["GET"]),
            Route(SAML_BACK, self._page(self.back_with_response), methods=["POST"]),
        ]

    async def console_login(self, request: Request) -> Response:
        """Where newer drivers send the browser, with a proof key of their own."""
        asked = request.query_params
        page, _ = await self._browser.begin(
            asked.get("browser_mode_redirect_port"),
            asked.get("proof_key", ""),
            address=_client(request)["address"],
        )
        return _onwards(page)

    async def start(self, request: Request) -> Response:
        handle, chosen = request.query_params.get("login", ""), request.query_params.get("provider")
        found = await self._browser.leave(handle, chosen)
        return _onwards(found) if found else self._choices(handle)

    async def back_with_code(self, request: Request) -> Response:
        answer = dict(request.query_params)
        identity, program = await self._browser.back_with_code(answer)
        return self._home(identity, program)

    async def back_with_response(self, request: Request) -> Response:
        form = await _form(request)
        proof, journey = await self._browser.back_with_response(
            form.get("SAMLResponse", ""), form.get("RelayState", "")
        )
        await self._sign_in.spend(proof, journey.handle)
        return self._home(proof.identity, await self._browser.arrive(journey, proof.identity))

    def _home(self, identity: Identity, program: str) -> Response:
        _log.info("a browser signed in", issuer=identity.issuer)
        return _onwards(program)

    def _choices(self, handle: str) -> Response:
        links = "".join(
            f'<li><a href="{START}?{escape(urlencode({"login": handle, "provider": c.name}))}">'
            f"{escape(c.name)}</a></li>"
            for c in self._browser.choices
        )
        return _html("Sign in to Hoop", f"<p>Sign in with:</p><ul>{links}</ul>")

    def _page(
        self, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """Every error as a page; refusals are counted and on record as those of drivers are."""

        async def call(request: Request) -> Response:
            client = _client(request)
            try:
                self._sign_in.admit(client)
                return await endpoint(request)
            except Unavailable as e:
                _log.error("a browser's sign-in was refused", path=request.url.path, why=e.text)
                return _fault(e, 503)
            except HoopError as e:
                self._sign_in.failed(client)
                await self._sign_in.refused(None, client, e)
                return _fault(e, 429 if isinstance(e, TooManyFailures) else 403)
            except Exception as e:
                # The browser must get an answer, and the details belong to our own log only.
                _log.error("a page failed inside Hoop", path=request.url.path, where=where(e))
                return _fault(unexpected(), 500)

        return call


def _client(request: Request) -> Json:
    return {
        "application": "browser",
        "path": request.url.path[:200],
        "address": request.client.host if request.client else None,
    }


async def _form(request: Request) -> dict[str, str]:
    """An HTML form's fields, each once. Raises BadRequest."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadRequest("This is not a form.")
    raw, most = bytearray(), 2 * MOST_CHARACTERS
    try:
        async for piece in request.stream():
            raw += piece
            if len(raw) > most:
                raise BadRequest("The form is too long.")
        found = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            max_num_fields=_MOST_FIELDS,
            errors="strict",
        )
    except ClientDisconnect:
        raise BadRequest("The browser went away in the middle of its form.") from None
    except ValueError:
        raise BadRequest("The form cannot be read.") from None
    if len(dict(found)) != len(found):
        raise BadRequest("The form has the same field twice.")
    return dict(found)


def _onwards(url: str) -> Response:
    return RedirectResponse(url, status_code=303, headers=_HEADERS)


def _fault(error: HoopError | Refused, status: int) -> Response:
    told = f"<p>{escape(error.message)}</p><p>{escape(error.hint)}</p>"
    return _html("You are not signed in", told, status)


def _html(title: str, body: str, status: int = 200) -> Response:
    style = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}"
    )
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{style}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>",
        status_code=status,
        headers=_HEADERS,
    )
