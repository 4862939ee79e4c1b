"""The endpoints that drivers call. Whatever is not listed here is refused (I6)."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hoop_core import __version__
from hoop_core.config import GatewaySettings
from hoop_core.errors import HoopError, NotServed, SessionGone, StoreUnavailable, where
from hoop_core.gateway.chunks import PartStreamer
from hoop_core.gateway.queries import StatementBoard
from hoop_core.gateway.sessions import Handles, Live, SessionBook
from hoop_core.gateway.wire import failure, handle_of, success
from hoop_core.http import SMALL_BODY, BadRequest, read_json, text_of, unexpected
from hoop_core.model import Json
from hoop_core.results import CHUNK_HEADER, CHUNK_PATH

_log = structlog.get_logger(__name__)
Endpoint = Callable[[Request], Awaitable[Response]]
_LOGIN_OPTIONS = ("databaseName", "schemaName", "roleName", "warehouse")


class Protocol:
    """The client protocol over the session book and the statement board."""

    def __init__(
        self,
        settings: GatewaySettings,
        book: SessionBook,
        board: StatementBoard,
        parts: PartStreamer,
    ) -> None:
        self._settings, self._book, self._board, self._parts = settings, book, board, parts

    def routes(self) -> list[Route]:
        post = {
            "/session/v1/login-request": self.login,
            "/session/token-request": self.renew,
            "/session/heartbeat": self.heartbeat,
            "/session": self.end,
            "/queries/v1/query-request": self.query,
            "/queries/v1/abort-request": self.abort,
            "/telemetry/send": self.telemetry,
        }
        get = {
            "/queries/{statement_id}/result": self.result,
            CHUNK_PATH + "/{statement_id}/{number}": self.part,
        }
        return [
            *(
                Route(path, in_snowflakes_shape(end), methods=["POST"])
                for path, end in post.items()
            ),
            *(Route(path, in_snowflakes_shape(end), methods=["GET"]) for path, end in get.items()),
        ]

    async def login(self, request: Request) -> Response:
        body = await read_json(request, SMALL_BODY)
        data = body.get("data")
        if not isinstance(data, dict):
            raise BadRequest("The sign-in holds no data.")
        options = {k: request.query_params[k] for k in _LOGIN_OPTIONS if k in request.query_params}
        client = {
            "application": text_of(data, "CLIENT_APP_ID", limit=200),
            "version": text_of(data, "CLIENT_APP_VERSION", limit=200),
            "address": request.client.host if request.client else None,
        }
        handles, live = await self._book.open(data, options, client)
        guarded = live.guarded
        return success(
            {
                **self._handles(handles),
                "displayUserName": guarded.identity.name,
                "serverVersion": f"Hoop {__version__}",
                "firstLogin": False,
                "remMeToken": None,
                "remMeValidityInSeconds": 0,
                "healthCheckInterval": 45,
                "newClientForUpgrade": None,
                # Drivers want a number here; it names nothing.
                "sessionId": uuid.uuid4().int >> 74,
                "parameters": [
                    {"name": k, "value": v} for k, v in _client_parameters(live).items()
                ],
                "sessionInfo": {
                    "databaseName": guarded.names.database,
                    "schemaName": guarded.names.schema,
                    "warehouseName": guarded.role.warehouse,
                    "roleName": guarded.role.snowflake_role,
                },
            }
        )

    def _handles(self, handles: Handles) -> Json:
        return {
            "token": handles.token,
            "masterToken": handles.master,
            "validityInSeconds": self._settings.session_token_seconds,
            "masterValidityInSeconds": self._settings.session_seconds,
        }

    async def renew(self, request: Request) -> Response:
        handles, _ = self._book.renew(handle_of(request))
        seconds = self._settings.session_token_seconds
        return success(
            {
                "sessionToken": handles.token,
                "masterToken": handles.master,
                "validityInSecondsST": seconds,
                "validityInSecondsMT": self._settings.session_seconds,
            }
        )

    async def heartbeat(self, request: Request) -> Response:
        self._live(request)
        return success(None)

    async def end(self, request: Request) -> Response:
        if request.query_params.get("delete", "").lower() != "true":
            raise NotServed("Of a session, only its end can be asked for.")
        await self._book.close(self._live(request), "closed by the client")
        return success(None)

    async def query(self, request: Request) -> Response:
        live = self._book.find(handle_of(request), to_begin=True)
        body = await self._body(request)
        request_id = request.query_params.get("requestId") or str(uuid.uuid4())
        running = self._board.submit(live, request_id, body)
        return JSONResponse(await self._board.answer(running))

    async def result(self, request: Request) -> Response:
        running = self._board.find(self._live(request), request.path_params["statement_id"])
        return JSONResponse(await self._board.answer(running))

    async def abort(self, request: Request) -> Response:
        live = self._live(request)
        body = await read_json(request, SMALL_BODY)
        await self._board.abort(live, text_of(body, "requestId") or "")
        return success(None)

    async def telemetry(self, request: Request) -> Response:
        """Answered unread and dropped: it would tell Snowflake who uses what, past the log."""
        return success("Log Received")

    async def part(self, request: Request) -> Response:
        found = self._board.result(request.path_params["statement_id"])
        if found is None or not found[1].admits(request.headers.get(CHUNK_HEADER, "")):
            gone = SessionGone("This result is not kept any more.", "Run the statement again.")
            return JSONResponse(failure(gone), 403)
        live, chunks = found
        wanted = request.path_params["number"]
        if wanted not in map(str, range(len(chunks.urls))):
            return JSONResponse(failure(NotServed("The result has no such part.")), 404)
        return await self._parts.respond(chunks, int(wanted), live)

    def _live(self, request: Request) -> Live:
        return self._book.find(handle_of(request))

    async def _body(self, request: Request) -> Json:
        return await read_json(request, self._settings.max_body_bytes)


def _client_parameters(live: Live) -> Json:
    """What drivers read at sign-in. Array binds stay in the request: there is no stage to PUT to."""
    defaults: Json = {
        "AUTOCOMMIT": True,
        "TIMEZONE": "Etc/UTC",
        "CLIENT_PREFETCH_THREADS": 4,
        "CLIENT_RESULT_CHUNK_SIZE": 160,
        "CLIENT_SESSION_KEEP_ALIVE": False,
        "CLIENT_SESSION_KEEP_ALIVE_HEARTBEAT_FREQUENCY": 3600,
        "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD": 0,
        "CLIENT_TELEMETRY_ENABLED": False,
    }
    return defaults | live.guarded.parameters


def in_snowflakes_shape(endpoint: Endpoint) -> Endpoint:
    """Every error of `endpoint` in Snowflake's own shape; nothing of Hoop's inside gets out."""

    async def call(request: Request) -> Response:
        try:
            return await endpoint(request)
        except StoreUnavailable as e:
            _log.error("refused: the store or the log cannot be used", why=e.text)
            return JSONResponse(failure(e))
        except HoopError as e:
            return JSONResponse(failure(e))
        except Exception as e:
            # The client must get an answer, and the details belong to our own log only.
            _log.error("a request failed inside Hoop", path=request.url.path, where=where(e))
            return JSONResponse(failure(unexpected()))

    return call


async def not_served(request: Request) -> Response:
    """Any other address."""
    _log.warning("an endpoint that Hoop does not serve", path=request.url.path[:200])
    error = NotServed("Hoop does not serve this endpoint.", "Ask the platform team if you need it.")
    return JSONResponse(failure(error), status_code=404)
