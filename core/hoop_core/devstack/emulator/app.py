"""The HTTP protocol of the drivers, as a Starlette application.

Endpoints: login-request, token-request, heartbeat, session?delete, query-request, abort-request,
/queries/{id}/result, /monitoring/queries/{id}, presigned result chunks, telemetry (discarded) and
/healthz. Every other path answers 404. Snowflake answers errors with HTTP 200 and `success: false`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hoop_core.devstack.emulator.accounts import Account, Kind, Securable
from hoop_core.devstack.emulator.engine import Engine
from hoop_core.devstack.emulator.errors import LoginError, SessionError, SqlError
from hoop_core.devstack.emulator.execution import Executor
from hoop_core.devstack.emulator.governing import admits
from hoop_core.devstack.emulator.history import History
from hoop_core.devstack.emulator.http import (
    Handler,
    address_of,
    answer,
    body_of,
    failure,
    folded,
    guarded,
    parameters_of,
    sql_failure,
    token_of,
)
from hoop_core.devstack.emulator.networks import BLOCKED, blocked_text
from hoop_core.devstack.emulator.query import CANCELLED, Outcome, Query
from hoop_core.devstack.emulator.sessions import (
    Session,
    Sessions,
    Tokens,
    parameter_value,
)
from hoop_core.devstack.emulator.signin import sign_in
from hoop_core.devstack.emulator.stages import PATH as STAGES
from hoop_core.devstack.emulator.storage import PATH, Storage

SERVER_VERSION = "9.0.0 hoop-standin"
_IN_PROGRESS, _IN_PROGRESS_ASYNC = "333333", "333334"


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds."""

    slow: float = 2.0
    """A query that runs longer is answered with "in progress"."""
    poll: float = 10.0
    """How long a request for a result waits before it says so again."""
    chunk_url: int = 6 * 3600


class Service:
    """The endpoints and what they share."""

    def __init__(
        self,
        *,
        account: Account,
        sessions: Sessions,
        engine: Engine,
        history: History,
        executor: Executor,
        timing: Timing,
    ) -> None:
        self._account = account
        self._sessions = sessions
        self._engine = engine
        self._history = history
        self._executor = executor
        self._administration = executor.administration
        self._timing = timing
        self._storage = Storage(executor.result_chunk, timing.chunk_url)

    def app(self) -> Starlette:
        def post(path: str, handler: Handler) -> Route:
            return Route(path, guarded(handler), methods=["POST"])

        def get(path: str, handler: Handler) -> Route:
            return Route(path, guarded(handler), methods=["GET"])

        return Starlette(
            routes=[
                get("/healthz", self.health),
                post("/session/v1/login-request", self.login),
                post("/session/token-request", self.renew),
                post("/session/heartbeat", self.heartbeat),
                post("/session", self.session),
                post("/queries/v1/query-request", self.query),
                post("/queries/v1/abort-request", self.abort),
                post("/queries/{query_id}/abort-request", self.abort_by_id),
                get("/queries/{query_id}/result", self.result),
                get("/monitoring/queries/{query_id}", self.monitor),
                get(PATH + "/{query_id}/{index:int}", self._storage.chunk),
                Route(
                    STAGES + "/{stage}/{file:path}", self._executor.stages.upload, methods=["PUT"]
                ),
                post("/telemetry/send", self.telemetry),
            ]
        )

    # -- sessions -------------------------------------------------------------------------------
    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "account": self._account.name})

    async def telemetry(self, request: Request) -> Response:
        return answer("Log Received")

    async def login(self, request: Request) -> Response:
        body = await body_of(request)
        data = body.get("data")
        if not isinstance(data, dict):
            return failure("390400", "Bad request; operation not supported.")
        try:
            return await asyncio.to_thread(
                self._login, data, dict(request.query_params), address_of(request)
            )
        except LoginError as e:
            self._login_event(data, address_of(request), e.factor, e.user, e)
            # No next action: a driver must not ask for another password by itself.
            return failure(e.code, e.message, data={"authnMethod": e.factor, "signInOptions": {}})

    def _session_of(self, request: Request) -> Session:
        """The live session of a request. Each action is held against the network policy anew.

        Raises SessionError.
        """
        session = self._sessions.find(token_of(request))
        self._check_address(session, request)
        return session

    def _check_address(self, session: Session, request: Request) -> None:
        address = address_of(request)
        if not admits(self._account, session.user, address):
            raise SessionError(BLOCKED, blocked_text(address))

    def _login(self, data: Mapping[str, Any], query: Mapping[str, str], address: str) -> Response:
        signed = sign_in(self._account, data, address)
        user = signed.user
        role = folded(query.get("roleName")) or user.properties.get("DEFAULT_ROLE", "PUBLIC")
        with self._account.lock:
            allowed = role in self._account.granted_to(user)
        if not allowed:
            if not query.get("roleName"):
                role = "PUBLIC"
            else:
                text = (
                    f"Role '{role}' specified in the connect string does not exist or not "
                    "authorized. Contact your local system administrator, or attempt to login "
                    "with another role, e.g. PUBLIC."
                )
                raise LoginError("390189", text, factor=signed.factor, user=user.name)
        parameters = {}
        for name, value in (data.get("SESSION_PARAMETERS") or {}).items():
            try:
                key, typed = parameter_value(str(name), value)
            except SqlError as e:
                raise LoginError(e.code, e.message, factor=signed.factor, user=user.name) from None
            parameters[key] = typed
        asked = str(data.get("SECONDARY_ROLES") or "").upper()
        session = Session(
            id=self._sessions.next_id(),
            user=user,
            role=role,
            secondary=asked == "ALL" or (asked != "NONE" and user.secondary_roles),
            connection=self._engine.connect(bool(parameters.get("AUTOCOMMIT", True))),
            parameters=parameters,
            application=str(data.get("CLIENT_APP_ID") or ""),
        )
        self._enter(session, query)
        with self._account.lock:
            user.last_success_login = datetime.now(UTC)
            if not user.usable():
                raise LoginError("390101", "User access disabled.", factor=signed.factor)
            tokens = self._sessions.start(session)
        self._login_event(data, address, signed.factor, user.name, None)
        return answer(self._login_data(session, tokens))

    def _enter(self, session: Session, query: Mapping[str, str]) -> None:
        """The place and warehouse asked for. What is not granted is left out, as in Snowflake."""
        user, roles = session.user, session.roles(self._account)
        default = (user.properties.get("DEFAULT_NAMESPACE") or "").split(".")
        database = folded(query.get("databaseName")) or default[0]
        schema = folded(query.get("schemaName")) or (
            default[1] if len(default) > 1 and not query.get("databaseName") else None
        )
        for wanted in (schema, None):
            if not database:
                break
            try:
                self._administration.enter(session, database, wanted, roles)
                break
            except SqlError:
                continue
        warehouse = folded(query.get("warehouse")) or user.properties.get("DEFAULT_WAREHOUSE")
        if warehouse and self._account.holds(roles, Securable(Kind.WAREHOUSE, (warehouse,))):
            session.warehouse = warehouse

    def _login_data(self, session: Session, tokens: Tokens) -> dict[str, Any]:
        return {
            "masterToken": tokens.master,
            "token": tokens.token,
            "validityInSeconds": tokens.token_seconds,
            "masterValidityInSeconds": tokens.master_seconds,
            "displayUserName": session.user.properties.get("DISPLAY_NAME", session.user.name),
            "serverVersion": SERVER_VERSION,
            "firstLogin": False,
            "remMeToken": None,
            "remMeValidityInSeconds": 0,
            "healthCheckInterval": 45,
            "newClientForUpgrade": None,
            "sessionId": session.id,
            "parameters": parameters_of(session),
            "sessionInfo": {
                "databaseName": session.connection.database,
                "schemaName": session.connection.schema,
                "warehouseName": session.warehouse,
                "roleName": session.role,
            },
            "idToken": None,
            "idTokenValidityInSeconds": 0,
            "responseData": None,
            "mfaToken": None,
            "mfaTokenValidityInSeconds": 0,
        }

    def _login_event(
        self,
        data: Mapping[str, Any],
        address: str,
        factor: str,
        user: str | None,
        error: LoginError | None,
    ) -> None:
        tried = user or str(data.get("LOGIN_NAME") or "").upper()[:255]
        self._history.login(
            {
                "EVENT_TIMESTAMP": datetime.now(UTC),
                "USER_NAME": tried,
                "CLIENT_IP": address,
                "REPORTED_CLIENT_TYPE": str(data.get("CLIENT_APP_ID") or "OTHER")[:80],
                "REPORTED_CLIENT_VERSION": str(data.get("CLIENT_APP_VERSION") or "")[:80],
                "FIRST_AUTHENTICATION_FACTOR": factor,
                "IS_SUCCESS": "NO" if error else "YES",
                "ERROR_CODE": error.code if error else None,
                "ERROR_MESSAGE": error.message.split(".")[0] if error else None,
            }
        )

    async def renew(self, request: Request) -> Response:
        body = await body_of(request)
        if body.get("requestType") != "RENEW":
            return failure("390400", "Bad request; operation not supported.")
        session, tokens = self._sessions.renew(
            token_of(request), str(body.get("oldSessionToken") or "")
        )
        self._check_address(session, request)
        return answer(
            {
                "sessionToken": tokens.token,
                "validityInSecondsST": tokens.token_seconds,
                "masterToken": tokens.master,
                "validityInSecondsMT": tokens.master_seconds,
                "masterValidityInSeconds": tokens.master_seconds,
                "sessionId": session.id,
            }
        )

    async def heartbeat(self, request: Request) -> Response:
        self._session_of(request)
        return answer(None)

    async def session(self, request: Request) -> Response:
        session = self._session_of(request)
        if request.query_params.get("delete") == "true":
            self._sessions.end(session)
        return answer(None)

    # -- queries --------------------------------------------------------------------------------
    async def query(self, request: Request) -> Response:
        session = self._session_of(request)
        body = await body_of(request)
        request_id = request.query_params.get("requestId")
        if not request_id:
            return failure("390400", "Bad request; requestId is missing.")
        if not isinstance(body.get("sqlText"), str):
            return failure("390400", "Bad request; sqlText is missing.")
        query = self._executor.submit(session, request_id, body)
        if body.get("asyncExec"):
            return self._in_progress(query, _IN_PROGRESS_ASYNC)
        return await self._wait(request, query, self._timing.slow)

    async def result(self, request: Request) -> Response:
        session = self._session_of(request)
        query = self._executor.find(request.path_params["query_id"], session.user)
        return await self._wait(request, query, self._timing.poll)

    async def _wait(self, request: Request, query: Query, seconds: float) -> Response:
        done = asyncio.wrap_future(query.done)
        await asyncio.wait({done}, timeout=seconds)
        # Asked again after the wait: nothing leaves for a user who is gone by now.
        self._session_of(request)
        if not query.done.done():
            return self._in_progress(query, _IN_PROGRESS)
        if query.outcome is None:
            return sql_failure(query.error or SqlError(*CANCELLED), query.id)
        base = str(request.base_url).rstrip("/")
        if (put := query.outcome.put) is not None:
            data = self._executor.stages.put_data(query.session, put, query.id, base)
            return answer({**data, **query.outcome.final})
        return answer(self._result_data(query, query.outcome, base))

    def _in_progress(self, query: Query, code: str) -> Response:
        data = {
            "queryId": query.id,
            "getResultUrl": f"/queries/{query.id}/result",
            "queryAbortsAfterSecs": 300,
            "progressDesc": None,
        }
        text = (
            "Query execution in progress."
            if code == _IN_PROGRESS
            else "Query execution in progress. Query ID can be used to fetch the result."
        )
        content = {"data": data, "code": code, "message": text, "success": True}
        return JSONResponse(content)

    def _result_data(self, query: Query, outcome: Outcome, base: str) -> dict[str, Any]:
        session, encoded = query.session, outcome.encoded
        data: dict[str, Any] = {
            "parameters": parameters_of(session),
            "rowtype": [c.rowtype() for c in outcome.table.columns],
            **encoded.inline,
            "total": encoded.total,
            "returned": encoded.total,
            "queryId": query.id,
            "databaseProvider": None,
            **outcome.final,
            "numberOfBinds": outcome.binds,
            "arrayBindSupported": query.kind == "INSERT",
            "statementTypeId": outcome.type_id,
            "version": 1,
            "sendResultTime": int(time.time() * 1000),
        }
        if outcome.affected is not None:
            key = {"INSERT": "numRowsInserted", "UPDATE": "numRowsUpdated"}.get(query.kind)
            key = "numRowsDeleted" if query.kind == "DELETE" else key
            if key:
                data["stats"] = {key: outcome.affected}
        data |= self._storage.links(query, outcome, base)
        return data

    async def abort(self, request: Request) -> Response:
        session = self._session_of(request)
        body = await body_of(request)
        query = session.requests.get(str(body.get("requestId") or ""))
        if query is None or not self._executor.cancel(query):
            return failure("000605", "Identified SQL statement is not currently executing.")
        return answer(None)

    async def abort_by_id(self, request: Request) -> Response:
        session = self._session_of(request)
        query = self._executor.find(request.path_params["query_id"], session.user)
        if not self._executor.cancel(query):
            return failure("000605", "Identified SQL statement is not currently executing.")
        return answer(None)

    async def monitor(self, request: Request) -> Response:
        session = self._session_of(request)
        try:
            query = self._executor.find(request.path_params["query_id"], session.user)
        except SqlError:
            return answer({"queries": []})
        error = query.error
        return answer(
            {
                "queries": [
                    {
                        "id": query.id,
                        "status": query.status,
                        "state": query.status,
                        "sqlText": query.shown,
                        "sessionId": query.session.id,
                        "startTime": int(query.started.timestamp() * 1000),
                        "errorCode": error.code if error else None,
                        "errorMessage": error.message if error else None,
                    }
                ]
            }
        )
