"""Requests of Snowflake's SQL REST API, read: who says what, and which statement is meant.

https://docs.snowflake.com/en/developer-guide/sql-api/reference
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

from starlette.requests import Request

from hoop_core.approvals.binding import digest
from hoop_core.errors import IdentityError
from hoop_core.http import BadRequest, text_of
from hoop_core.model import Identity, Json
from hoop_core.parameters import AT_SIGN_IN
from hoop_core.session.guarded import read_bindings

SUBMITTED = "/api/v2/statements"
LONGEST_SECONDS = 604_800
"""Of a statement, in seconds: what `timeout` 0 stands for."""
_TOKEN_TYPES = frozenset({"", "OAUTH", "PROGRAMMATIC_ACCESS_TOKEN"})
_ACCOUNT = "snowflake-account"
_LONGEST_ID, _LONGEST_NAME, _LONGEST_VALUE = 200, 1_000, 4_096
_LONGEST_TOKEN = 64 * 1024
_TRUTHS = {"true": True, "false": False}
_OWN_PARAMETERS = frozenset({"HOOP_CONTEXT", "MULTI_STATEMENT_COUNT"})


class WrongType(BadRequest):
    reason = "UNSUPPORTED_MEDIA_TYPE"


def client_of(request: Request) -> Json:
    """What the log says of the client."""
    return {
        "application": "SQLAPI",
        "version": request.headers.get("user-agent", "")[:200],
        "address": request.client.host if request.client else None,
    }


def token_of(request: Request) -> str:
    """The caller's own token. Raises IdentityError."""
    form = request.headers.get("x-snowflake-authorization-token-type", "").strip().upper()
    if form not in _TOKEN_TYPES:
        raise IdentityError(
            f"Hoop takes no {form[:40]} tokens.",
            "Send your identity provider's token as `Authorization: Bearer <token>` with "
            "`X-Snowflake-Authorization-Token-Type: OAUTH`.",
        )
    given = request.headers.getlist("authorization")
    scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
    token = token.strip()
    if scheme.lower() == "snowflake":
        # the Python API for objects (snowflake.core) sends its connector's session token
        raise IdentityError(
            "The tokens of sessions are not taken by the REST API.",
            "Manage objects with SQL in the session; the SQL API takes "
            "`Authorization: Bearer <OIDC token>`.",
        )
    if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN:
        raise IdentityError(
            "The request carries no token.",
            "Send `Authorization: Bearer <OIDC token>`, with each request.",
        )
    return token


def request_id_of(request: Request) -> str:
    """The client's id of this request; empty where there is none. Raises BadRequest."""
    given = request.query_params.get("requestId", "")
    if len(given) > _LONGEST_ID or not given.isprintable():
        raise BadRequest(f"requestId is a UUID, of at most {_LONGEST_ID} characters.")
    return given


def handle_for(identity: Identity, request_id: str) -> str:
    """The handle of the statement that a caller asks for under a request id: a UUID, on every replica the same.

    It is no secret: a statement is its caller's own whoever knows its handle.
    """
    of = digest(["sql-api", identity.issuer, identity.subject, list(identity.actors), request_id])
    return str(uuid.UUID(hex=of[:32], version=4))


def session_of(handle: str) -> str:
    """The session that holds the statement of this handle, and nothing else."""
    return "ses_" + handle.replace("-", "")


def read_handle(text: str) -> str | None:
    """A handle as it stands in an address; None for what cannot be one."""
    try:
        handle = str(uuid.UUID(text))
    except ValueError:
        return None
    return handle if handle == text.lower() else None


def partition_of(request: Request) -> int:
    """Which part of a result is asked for. Raises BadRequest."""
    given = request.query_params.get("partition", "0")
    if not (given.isascii() and given.isdecimal() and len(given) <= 6):
        raise BadRequest("partition is a number, from 0 on.")
    return int(given)


@dataclass(frozen=True, slots=True)
class Submission:
    """A statement as a client asks for it."""

    said: str
    """SHA-256 of all that it says: a retry says the same."""
    query: Json = field(repr=False)
    """As drivers would send it."""
    parameters: Json = field(repr=False)
    options: dict[str, str]
    account: str
    timeout: int | None
    detached: bool
    nullable: bool


def check_type(request: Request) -> None:
    """Raises WrongType."""
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise WrongType("The request is not of the type application/json.")


def read_submission(request: Request, body: Json) -> Submission:
    """Raises BadRequest. `database`, `schema` and `role` are names as they are stored, case and all."""
    statement = body.get("statement")
    if not isinstance(statement, str) or not statement.strip():
        raise BadRequest("The request holds no statement.", "Put it into the field `statement`.")
    detached, nullable = _truth(request, "async", False), _truth(request, "nullable", True)
    parameters = _parameters(body.get("parameters"))
    timeout = _timeout(body.get("timeout"))
    if timeout is not None:
        # Snowflake counts too: it ends the statement when this gateway cannot.
        parameters["STATEMENT_TIMEOUT_IN_SECONDS"] = timeout
    account = request.headers.get(_ACCOUNT, "")[:_LONGEST_NAME]
    options = {
        option: '"' + name.replace('"', '""') + '"'
        for option, key in (
            ("databaseName", "database"),
            ("schemaName", "schema"),
            ("roleName", "role"),
        )
        if (name := text_of(body, key, limit=_LONGEST_NAME))
    }
    count = parameters.pop("MULTI_STATEMENT_COUNT", 1)
    return Submission(
        said=digest([body, account, detached, nullable]),
        query={
            "sqlText": statement,
            "bindings": read_bindings(body.get("bindings")),
            "asyncExec": detached,
            "parameters": {"MULTI_STATEMENT_COUNT": count},
        },
        parameters=parameters,
        options=options,
        account=account,
        timeout=timeout,
        detached=detached,
        nullable=nullable,
    )


def _truth(request: Request, name: str, default: bool) -> bool:
    given = request.query_params.get(name)
    if given is None:
        return default
    if given.lower() not in _TRUTHS:
        raise BadRequest(f"{name} is true or false.")
    return _TRUTHS[given.lower()]


def _timeout(given: object) -> int | None:
    if given is None:
        return None
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= LONGEST_SECONDS:
        raise BadRequest(f"timeout is a number of seconds from 0 to {LONGEST_SECONDS}.")
    return given or LONGEST_SECONDS


def _parameters(given: object) -> Json:
    """By upper-case name. What cannot be set is refused: an answer must not look as if it had been."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise BadRequest("parameters is an object of names and values.")
    read: Json = {}
    for name, value in given.items():
        key = name.upper()
        if key not in AT_SIGN_IN | _OWN_PARAMETERS:
            raise BadRequest(
                f"The parameter {name[:100]} cannot be set here.",
                "Leave it out; docs/protocol.md says which can.",
            )
        if not isinstance(value, (str, int, float)) or len(str(value)) > _LONGEST_VALUE:
            raise BadRequest(f"The value of {key} is no text or number, or too long.")
        read[key] = value
    return read
