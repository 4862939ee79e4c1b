"""One session at Snowflake under a minted user: sign-in, queries, result chunks, the end.

Requests and answers are passed on as the JSON that drivers exchange, so that whatever a driver can say
reaches Snowflake unchanged, save for the statement's text. The protocol is not published; it is what
Snowflake's open-source drivers speak (snowflake-connector-python, gosnowflake).
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from hoop_core.config import SnowflakeSettings
from hoop_core.errors import SnowflakeError, SnowflakeUnavailable
from hoop_core.model import Json, Lease, NameContext, quote_part
from hoop_core.snowflake.client_kinds import HOOP, ClientApp
from hoop_core.snowflake.http import Part, SnowflakeHttp, unpacked
from hoop_core.snowflake.keypair import login_token

IN_PROGRESS = {"333333", "333334"}
SESSION_ENDED = frozenset({390101, 390103, 390104, 390111, 390114, 390115, 390195, 390422})
"""Codes that say: this session answers no more. The last one is a network policy, looked at on each request."""
_TOKEN_EXPIRED = "390112"  # noqa: S105 - an error code
_MOST_IN_PART = 64 << 20
_SSE_C_ALGORITHM = "x-amz-server-side-encryption-customer-algorithm"
_SSE_C_KEY = "x-amz-server-side-encryption-customer-key"
_HINT = "Try again once Snowflake answers."


def raise_for_answer(answer: Mapping[str, Any]) -> None:
    """Raise SnowflakeError when `answer` is one of Snowflake's error answers."""
    if answer.get("success"):
        return
    data = answer.get("data") or {}
    code = str(answer.get("code") or data.get("errorCode") or "000000")
    raise SnowflakeError(
        str(answer.get("message") or "Snowflake refused without a reason."),
        errno=int(code) if code.isdigit() else 99000,
        sqlstate=str(data.get("sqlState") or "58000"),
    )


@dataclass(slots=True)
class SnowflakeSession:
    """Open with `open_session`. Not for sharing between Hoop sessions."""

    http: SnowflakeHttp
    token: str = field(repr=False)
    master_token: str = field(repr=False)
    names: NameContext
    session_id: str
    parameters: list[Json]
    info: Json
    version: str = ""
    """Snowflake's own, as it told at sign-in."""
    _renewing: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def query(self, body: Json, request_id: uuid.UUID) -> Json:
        """Run a query-request and wait until it is done; the answer is Snowflake's, also on errors.

        Raises SnowflakeUnavailable when the connection breaks: whether the statement ran is then known to
        Snowflake alone, under `request_id`. With the reason NOT_REACHED it did not run.
        """
        path = f"/queries/v1/query-request?requestId={request_id}"
        answer = await self._call("POST", path, body)
        while str(answer.get("code")) in IN_PROGRESS:
            answer = await self._poll(_result_path(answer))
        data = answer.get("data") or {}
        if answer.get("success") and "finalDatabaseName" in data:
            self.names = NameContext(data["finalDatabaseName"], data.get("finalSchemaName"))
        return answer

    async def _poll(self, path: str) -> Json:
        try:
            return await self._call("GET", path, None)
        except SnowflakeUnavailable as e:
            # Not reached any more, perhaps, but the statement is there.
            raise SnowflakeUnavailable(e.message, e.hint) from None

    async def rows(self, sql: str) -> list[dict[str, Any]]:
        """A statement of Hoop's own (SHOW, DESCRIBE, histories), answered as JSON rows."""
        body = {
            "sqlText": sql,
            "asyncExec": False,
            "sequenceId": 0,
            # the caller may have set another count for the session
            "parameters": {
                "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "JSON",
                "MULTI_STATEMENT_COUNT": 1,
            },
        }
        answer = await self.query(body, uuid.uuid4())
        raise_for_answer(answer)
        data = answer["data"]
        if data.get("queryResultFormat") != "json":
            raise SnowflakeUnavailable("Snowflake answered a SHOW or DESCRIBE in an unknown form.")
        names = [str(c["name"]).lower() for c in data["rowtype"]]
        rows = [dict(zip(names, row, strict=True)) for row in data["rowset"]]
        for chunk in data.get("chunks") or ():
            more = await self._chunk_rows(str(chunk["url"]), upstream_headers(data))
            rows += [dict(zip(names, row, strict=True)) for row in more]
        return rows

    async def _chunk_rows(self, url: str, headers: Mapping[str, str]) -> list[list[Any]]:
        """The rows of one further part: an array's content, without its brackets."""
        content = bytearray()
        async with self.chunk(url, headers) as part:
            pieces = unpacked(part.pieces()) if part.packed else part.pieces()
            async for piece in pieces:
                content += piece
                if len(content) > _MOST_IN_PART:
                    raise SnowflakeUnavailable(
                        f"A part of an answer has more than {_MOST_IN_PART >> 20} MB.", _HINT
                    )
        try:
            rows: list[list[Any]] = json.loads(b"[" + bytes(content) + b"]")
        except (ValueError, RecursionError):
            raise SnowflakeUnavailable("A part of an answer is not JSON.", _HINT) from None
        if not all(isinstance(row, list) for row in rows):
            raise SnowflakeUnavailable("A part of an answer has an unknown form.", _HINT)
        return rows

    async def abort(self, request_id: uuid.UUID) -> None:
        path = f"/queries/v1/abort-request?requestId={uuid.uuid4()}"
        await self._call("POST", path, {"requestId": str(request_id)})

    async def heartbeat(self) -> None:
        raise_for_answer(await self._call("POST", "/session/heartbeat", {}))

    async def close(self) -> None:
        """End the session. The minted user ends it too, so a failure here is not an error."""
        with suppress(SnowflakeUnavailable, SnowflakeError):
            await self._call("POST", "/session?delete=true", {})

    @asynccontextmanager
    async def chunk(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[Part]:
        """Stream one result chunk from where Snowflake put it. Raises SnowflakeUnavailable."""
        part = await self.http.part(url, headers)
        try:
            yield part
        finally:
            await part.aclose()

    async def _call(self, method: str, path: str, body: Json | None) -> Json:
        answer = await self.http.call(method, path, body, self.token)
        if str(answer.get("code")) == _TOKEN_EXPIRED:
            await self._renew(self.token)
            answer = await self.http.call(method, path, body, self.token)
        return answer

    async def _renew(self, expired: str) -> None:
        async with self._renewing:
            if self.token != expired:  # another request was faster
                return
            body = {"oldSessionToken": expired, "requestType": "RENEW"}
            path = f"/session/token-request?requestId={uuid.uuid4()}"
            answer = await self.http.call("POST", path, body, self.master_token)
            raise_for_answer(answer)
            self.token = answer["data"]["sessionToken"]
            self.master_token = answer["data"]["masterToken"]


def upstream_headers(data: Mapping[str, Any]) -> dict[str, str]:
    """What a request for a part of this result must say, for it is encrypted where it lies."""
    if data.get("chunkHeaders"):
        return {str(k): str(v) for k, v in data["chunkHeaders"].items()}
    if data.get("qrmk"):
        return {_SSE_C_ALGORITHM: "AES256", _SSE_C_KEY: str(data["qrmk"])}
    return {}


def _result_path(answer: Mapping[str, Any]) -> str:
    """Where to poll: a path of the same server, for the session token goes along.

    Raises SnowflakeUnavailable for any other address.
    """
    data = answer.get("data")
    path = data.get("getResultUrl") if isinstance(data, dict) else None
    if not isinstance(path, str) or not path.startswith("/queries/"):
        raise SnowflakeUnavailable("Snowflake says to wait, but at no address of its own.", _HINT)
    return path


# What the analysis takes for granted, whatever the account or the user defaults to: quoted names are
# kept as written, and one text is one statement
# (https://docs.snowflake.com/en/sql-reference/parameters#quoted-identifiers-ignore-case).
_PINNED = {"QUOTED_IDENTIFIERS_IGNORE_CASE": False, "MULTI_STATEMENT_COUNT": 1}


async def open_session(
    http: SnowflakeHttp,
    settings: SnowflakeSettings,
    lease: Lease,
    *,
    names: NameContext | None = None,
    parameters: Mapping[str, Any] | None = None,
    client: ClientApp = HOOP,
) -> SnowflakeSession:
    """Sign in as the leased user, and as `client`. Raises SnowflakeError (refused) or SnowflakeUnavailable."""
    names = names or NameContext()
    query = {
        "requestId": str(uuid.uuid4()),
        "roleName": lease.role.snowflake_role,
        "warehouse": lease.role.warehouse,
        # Connection options are identifiers: what is stored in lower case must be quoted again.
        "databaseName": names.database and quote_part(names.database),
        "schemaName": names.schema and quote_part(names.schema),
    }
    data = {
        "CLIENT_APP_ID": client.name,
        "CLIENT_APP_VERSION": client.version,
        "ACCOUNT_NAME": settings.account,
        "LOGIN_NAME": lease.snowflake_user,
        "AUTHENTICATOR": "SNOWFLAKE_JWT",
        "TOKEN": login_token(settings.account, lease.snowflake_user, lease.private_key),
        "SESSION_PARAMETERS": {**(parameters or {}), **_PINNED},
        "CLIENT_ENVIRONMENT": {"APPLICATION": "Hoop"},
    }
    asked = urlencode({k: v for k, v in query.items() if v is not None})
    path = f"/session/v1/login-request?{asked}"
    answer = await http.call("POST", path, {"data": data}, None)
    raise_for_answer(answer)
    opened = answer["data"]
    info = opened.get("sessionInfo") or {}
    return SnowflakeSession(
        http=http,
        token=opened["token"],
        master_token=opened.get("masterToken") or "",
        names=NameContext(info.get("databaseName"), info.get("schemaName")),
        session_id=str(opened.get("sessionId") or ""),
        parameters=list(opened.get("parameters") or []),
        info=info,
        version=str(opened.get("serverVersion") or "")[:64],
    )
