"""How a driver asks where people prove who they are: `authenticator-request`.

The public sources of snowflake-connector-python (auth/webbrowser.py, auth/okta.py) say what is sent.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hoop_core.gateway.protocol import in_snowflakes_shape
from hoop_core.gateway.wire import success
from hoop_core.http import SMALL_BODY, BadRequest, read_json, text_of
from hoop_core.signin.browser import BrowserSignIn


class Authenticator:
    """For drivers that open a browser, or speak with Okta themselves."""

    def __init__(self, browser: BrowserSignIn) -> None:
        self._browser = browser

    def routes(self) -> list[Route]:
        return [
            Route("/session/authenticator-request", in_snowflakes_shape(self.ask), methods=["POST"])
        ]

    async def ask(self, request: Request) -> Response:
        data = (await read_json(request, SMALL_BODY)).get("data")
        if not isinstance(data, dict):
            raise BadRequest("The sign-in holds no data.")
        authenticator = text_of(data, "AUTHENTICATOR") or ""
        if authenticator.upper() != "EXTERNALBROWSER":
            return success(self._browser.native(authenticator))
        page, key = await self._browser.begin(
            data.get("BROWSER_MODE_REDIRECT_PORT"),
            address=request.client.host if request.client else None,
        )
        return success({"ssoUrl": page, "tokenUrl": None, "proofKey": key})
