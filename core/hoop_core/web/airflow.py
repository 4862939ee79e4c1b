"""REST of the Airflow bridge, for tasks: what to show, and to be looked at. Neither carries any authority."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hoop_core.bridges.airflow.bridge import AirflowBridge
from hoop_core.bridges.airflow.values import Place
from hoop_core.http import SMALL_BODY, BadRequest, read_json, text_of
from hoop_core.model import Identity

_Endpoint = Callable[[Request, Identity], Awaitable[Response]]
_Called = Callable[[_Endpoint], Callable[[Request], Awaitable[Response]]]


class AirflowApi:
    def __init__(
        self, bridge: AirflowBridge, asks: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        """`asks` counts a call as a statement of the identity's, and refuses what is too much."""
        self._bridge, self._asks = bridge, asks

    def routes(self, called: _Called) -> list[Route]:
        """`called` names the caller and answers in case of an error, as for the rest of the API."""
        base = "/hoop/v1/airflow"
        return [
            Route(f"{base}/actions", called(self.show), methods=["POST"]),
            Route(f"{base}/looks", called(self.look), methods=["POST"]),
        ]

    async def show(self, request: Request, caller: Identity) -> Response:
        """What a task that waits for these requests shall show in Required Actions."""
        body = await read_json(request, SMALL_BODY)
        identifiers = body.get("approvals")
        if not isinstance(identifiers, list) or not all(isinstance(i, str) for i in identifiers):
            raise BadRequest("approvals must be a list of requests' ids.")
        place = Place.of(body)
        with self._asks(caller.key):
            shown = await self._bridge.show(caller, text_of(body, "airflow"), place, identifiers)
        return JSONResponse(shown)

    async def look(self, request: Request, caller: Identity) -> Response:
        """Read the answer that was given at this task, if there is one, and say how its requests stand."""
        body = await read_json(request, SMALL_BODY)
        place = Place.of(body)
        with self._asks(caller.key):
            seen = await self._bridge.look(caller, text_of(body, "airflow"), place)
        return JSONResponse(seen)
