"""The endpoints that drivers call. Whatever is not listed here is refused (I6)."""

from __future__ import annotations

import time
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
from hoop_core.gateway.forwarding import Forwarding
from hoop_core.gateway.monitoring import status_json
from hoop_core.gateway.queries import StatementBoard
from hoop_core.gateway.sessions import Handles, Live, SessionBook
from hoop_core.gateway.wire import failure, handle_of, success, takes_gzip
from hoop_core.http import SMALL_BODY, BadRequest, read_json, text_of, unexpected
from hoop_core.model import Json
from hoop_core.parameters import TOLD, told
from hoop_core.results.answers import CHUNK_HEADER, CHUNK_PATH

_log = structlog.get_logger(__name__)
Endpoint = Callable[[Request], Awaitable[Response]]
_STAGED_BINDS = 65_280
"""Values above which drivers bind through a stage: Snowflake's own default."""
_NEVER_STAGED = (1 << 31) - 1
"""Not 0: to the Node.js driver that means every array."""
_REQUEST_IDS = ("requestId", "request_id")
_LONGEST_ID = 200
_SPOKEN = "9.0.0"
"""The version of the service that drivers believe they speak with."""
_BEAT_SECONDS = 60.0
_LOGIN_OPTIONS = ("databaseName", "schemaName", "roleName", "warehouse")


class Protocol:
    """The client protocol over the session book and the statement board."""

    def __init__(
        self,
        settings: GatewaySettings,
        book: SessionBook,
        board: StatementBoard,
        parts: PartStreamer,
        forwarding: Forwarding,
    ) -> None:
        self._settings, self._book, self._board, self._parts = settings, book, board, parts
        self._forwarding = forwarding
        board.session_ended = book.close_soon

    def routes(self) -> list[Route]:
        # What belongs to a session is answered by the replica that holds it.
        held = self._forwarding.by_handle
        post = {
            "/session/v1/login-request": self.login,
            "/session/token-request": held(self.renew),
            "/session/heartbeat": held(self.heartbeat),
            "/session": held(self.end),
            "/queries/v1/query-request": held(self.query),
            "/queries/v1/abort-request": held(self.abort),
            "/queries/{statement_id}/abort-request": held(self.abort_by_id),
            "/telemetry/send": self.telemetry,
            "/telemetry/send/sessionless": self.telemetry,
        }
        get = {
            "/queries/{statement_id}/result": held(self.result),
            "/monitoring/queries/{statement_id}": held(self.monitor),
            # so version 5 of the Python connector writes it
            "/monitoring/queries//{statement_id}": held(self.monitor),
            CHUNK_PATH + "/{session_id}/{statement_id}/{number}": self._forwarding.by_session(
                self.part
            ),
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
        request_id = next((v for k in _REQUEST_IDS if (v := request.query_params.get(k))), None)
        if request_id and len(request_id) > _LONGEST_ID:
            raise BadRequest(f"A request id has at most {_LONGEST_ID} characters.")
        handles, live = await self._book.open(data, options, client, request_id=request_id)
        guarded = live.guarded
        return success(
            {
                **self._handles(handles),
                "displayUserName": guarded.identity.name,
                # The JDBC driver takes the first word apart into numbers.
                "serverVersion": f"{_SPOKEN} Hoop {__version__}",
                "firstLogin": False,
                "remMeToken": None,
                "remMeValidityInSeconds": 0,
                "healthCheckInterval": 45,
                "newClientForUpgrade": None,
                "sessionId": guarded.number,
                "parameters": _client_parameters(live, self._board.stages_binds(live)),
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
        handles, live = await self._book.renew(handle_of(request))
        seconds = self._settings.session_token_seconds
        return success(
            {
                "sessionToken": handles.token,
                "masterToken": handles.master,
                "validityInSecondsST": seconds,
                "validityInSecondsMT": self._settings.session_seconds,
                "masterValidityInSeconds": self._settings.session_seconds,
                "sessionId": live.guarded.number,
            }
        )

    async def heartbeat(self, request: Request) -> Response:
        """The session is wanted: here, and at Snowflake when it has not heard of it for a while."""
        live = self._live(request)
        if live.guarded.wants_beat(time.monotonic(), _BEAT_SECONDS):
            await self._book.beat(live)
        return success(None)

    async def end(self, request: Request) -> Response:
        """Ending twice is no error, and a handle that has expired still ends its session."""
        if request.query_params.get("delete", "").lower() != "true":
            raise NotServed("Of a session, only its end can be asked for.")
        live = self._book.of_handle(handle_of(request))
        if live is not None:
            await self._book.close(live, "closed by the client")
        return success(None)

    async def query(self, request: Request) -> Response:
        live = self._book.find(handle_of(request), to_begin=True)
        body = await self._body(request)
        request_id = request.query_params.get("requestId") or str(uuid.uuid4())
        running = self._board.submit(live, request_id, body)
        return JSONResponse(await self._board.submitted(running))

    async def result(self, request: Request) -> Response:
        live = self._live(request)
        return JSONResponse(await self._board.answer_by_id(live, _id_of(request)))

    async def monitor(self, request: Request) -> Response:
        """How the caller's own statements are doing; of others there are none."""
        running = self._board.status(self._live(request), _id_of(request))
        return success({"queries": [status_json(running)] if running else []})

    async def abort_by_id(self, request: Request) -> Response:
        await self._board.abort_by_id(self._live(request), _id_of(request))
        return success(None)

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
        return await self._parts.respond(chunks, int(wanted), live, takes_gzip=takes_gzip(request))

    def _live(self, request: Request) -> Live:
        return self._book.find(handle_of(request))

    async def _body(self, request: Request) -> Json:
        return await read_json(request, self._settings.max_body_bytes)


def _client_parameters(live: Live, stages_binds: bool) -> list[Json]:
    """What drivers read at sign-in. Without the right to PUT, array binds stay in the request."""
    binds = {
        "name": "CLIENT_STAGE_ARRAY_BINDING_THRESHOLD",
        "value": _STAGED_BINDS if stages_binds else _NEVER_STAGED,
    }
    return [*told(TOLD, live.guarded.parameters), binds]


def _id_of(request: Request) -> str:
    """A statement's id as it stands in the address; its case does not matter."""
    return str(request.path_params["statement_id"]).lower()


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
