"""Parameters and connections for an ordinary Snowflake driver that talks to Hoop.

Nothing here enforces anything: the gateway does. A client that leaves this module out and points its
driver at Hoop by hand gets the same treatment.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hoop_core.client.address import GatewayAddress
from hoop_core.errors import ConfigError, GatewayUnavailable
from hoop_core.identity.tokens import GivenToken, TokenSource, token_source
from hoop_core.model import RunContext

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection
    from snowflake.snowpark import Session
    from sqlalchemy.engine import Engine

    from hoop_core.config import Settings

GATEWAY_ENV = "HOOP_GATEWAY_URL"
CONTEXT_PARAMETER = "HOOP_CONTEXT"
ACCOUNT = "hoop"
USER = "hoop"
LOGIN_SECONDS = 60

# The connector's own numbers for "no connection could be made" and for a login that timed out.
_CONNECT_ERRNOS = frozenset({250001, 250003, 251011, 251012})


def hoop_context(run: RunContext | None, purpose: str | None = None) -> dict[str, str]:
    """The run context as the flat object of strings that travels in HOOP_CONTEXT."""
    context: dict[str, str] = {}
    if run is not None:
        if run.orchestrator:
            context["orchestrator"] = run.orchestrator
        context.update({k: str(v) for k, v in run.fields.items()})
    if purpose:
        context["purpose"] = purpose
    return context


def connection_parameters(
    gateway: GatewayAddress,
    token: str,
    *,
    database: str | None = None,
    schema: str | None = None,
    role: str | None = None,
    warehouse: str | None = None,
    run: RunContext | None = None,
    session_parameters: Mapping[str, Any] | None = None,
    purpose: str | None = None,
    application: str | None = None,
) -> dict[str, Any]:
    """Keyword arguments for `snowflake.connector.connect`.

    `network_timeout` is left out on purpose. The connector not only bounds each exchange with it: it
    cancels the statement after that many seconds, so that a statement held for a person would be
    taken back. Without it the driver follows 333333 for as long as the gateway answers; each exchange
    is bounded by the connector's socket timeout of 60 s, which is longer than the gateway's poll.
    """
    parameters = {
        k: v for k, v in (session_parameters or {}).items() if k.upper() != CONTEXT_PARAMETER
    }
    if context := hoop_context(run, purpose):
        parameters[CONTEXT_PARAMETER] = json.dumps(
            context, ensure_ascii=False, separators=(",", ":"), sort_keys=True
        )
    named = {
        "database": database,
        "schema": schema,
        "role": role,
        "warehouse": warehouse,
        "application": application,
    }
    return {
        "account": ACCOUNT,
        "user": USER,
        "host": gateway.host,
        "port": gateway.port,
        "protocol": gateway.protocol,
        "authenticator": "oauth",
        "token": token,
        "login_timeout": LOGIN_SECONDS,
        # Probing the cloud's metadata service is for logging in to Snowflake itself.
        "platform_detection_timeout_seconds": 0.0,
        "session_parameters": parameters,
        **{k: v for k, v in named.items() if v},
    }


def open_connection(parameters: Mapping[str, Any]) -> SnowflakeConnection:
    """`snowflake.connector.connect`, with a clear GatewayUnavailable when Hoop cannot be reached.

    Every refusal by Hoop itself is the connector's ordinary exception, with its errno.
    """
    import snowflake.connector  # noqa: PLC0415  slow to import, and not every client needs it

    try:
        return snowflake.connector.connect(**parameters)
    except snowflake.connector.errors.OperationalError as e:
        if e.errno not in _CONNECT_ERRNOS:
            raise
        where = f"{parameters['protocol']}://{parameters['host']}:{parameters['port']}"
        raise unreachable(where) from e


def unreachable(where: str) -> GatewayUnavailable:
    """The error for a gateway that does not answer."""
    return GatewayUnavailable(
        f"Hoop at {where} does not answer; nothing was run.",
        "Check the address and that `hoop serve` runs there. A gateway without TLS (development only) "
        "wants http:// before its address.",
    )


def snowpark_session(parameters: Mapping[str, Any]) -> Session:
    """A Snowpark session through Hoop. Close it after use.

    Before it signs out, Snowpark would call SYSTEM$CANCEL_ALL_QUERIES, a function that acts on the
    account and is refused. It has nothing to do here: when a session ends, Hoop drops its user, and
    with it whatever still runs.
    """
    from snowflake.snowpark import Session  # noqa: PLC0415  an optional driver, slow to import

    session: Session = Session.builder.configs(dict(parameters)).create()
    session.cancel_all = lambda: None  # type: ignore[method-assign]
    return session


def sqlalchemy_url(gateway: GatewayAddress, database: str = "", schema: str = "") -> str:
    """A snowflake-sqlalchemy URL that leads to Hoop. It holds no token: URLs end up in logs."""
    path = "/".join(quote(part, safe="") for part in (database, schema) if part)
    host = f"[{gateway.host}]" if ":" in gateway.host else gateway.host
    return f"snowflake://{USER}@{host}:{gateway.port}/{path}"


def sqlalchemy_engine(
    url: str, parameters: Callable[[], Mapping[str, Any]], **engine_options: Any
) -> Engine:
    """An engine whose every new connection asks `parameters` anew, and so for a token that is fresh.

    Source: SQLAlchemy's "Generating dynamic authentication tokens" (the event do_connect).
    """
    import sqlalchemy  # noqa: PLC0415  slow to import, and not every client needs it

    engine = sqlalchemy.create_engine(url, **engine_options)

    @sqlalchemy.event.listens_for(engine, "do_connect")
    def through_hoop(_dialect: Any, _record: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        mine = parameters()
        given = kwargs.get("session_parameters") or {}
        kwargs.update(mine, session_parameters={**given, **mine["session_parameters"]})

    return engine


_embedded_lock = threading.Lock()
_embedded_url: list[str] = []


def embedded_gateway_url(settings: Settings | None = None) -> str:
    """The URL of this process's embedded gateway, started at first use and shared from then on.

    For one host and for trying things out: a process cannot guard itself.
    """
    with _embedded_lock:
        if not _embedded_url:
            from hoop_core.config import load_settings  # noqa: PLC0415
            from hoop_core.server.embedded import start_embedded  # noqa: PLC0415  heavy

            _embedded_url.append(start_embedded(settings or load_settings()).url)
        return _embedded_url[0]


def resolve_gateway(gateway_url: str | None = None) -> GatewayAddress:
    """The address that was given, else $HOOP_GATEWAY_URL, else the embedded gateway's."""
    url = gateway_url or os.environ.get(GATEWAY_ENV) or embedded_gateway_url()
    return GatewayAddress.parse(url)


def connect(
    gateway_url: str | None = None,
    token: str | TokenSource | None = None,
    *,
    database: str | None = None,
    schema: str | None = None,
    role: str | None = None,
    warehouse: str | None = None,
    run: RunContext | None = None,
    session_parameters: Mapping[str, Any] | None = None,
    purpose: str | None = None,
    **options: Any,
) -> SnowflakeConnection:
    """A connection of the ordinary Snowflake connector that goes through Hoop.

    `token` is the caller's OIDC token or a source of it (default: `token_source()`). `options` go to
    the connector as they are (`autocommit`, `paramstyle`, `timezone`, ...).

    Raises GatewayUnavailable, IdentityError (no token to present), ConfigError, and the connector's
    own exceptions for what Hoop refuses.
    """
    source = GivenToken(token) if isinstance(token, str) else token or token_source()
    gateway = resolve_gateway(gateway_url)
    parameters = connection_parameters(
        gateway,
        source.token(),
        database=database,
        schema=schema,
        role=role,
        warehouse=warehouse,
        run=run,
        session_parameters=session_parameters,
        purpose=purpose,
    )
    return open_connection({**parameters, **checked_options(options)})


def checked_options(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Further connector options, as they are. ConfigError for one that would lead around Hoop."""
    if fixed := sorted(set(options) & _FIXED):
        raise ConfigError(
            f"{', '.join(fixed)} cannot be set on a connection to Hoop.",
            "Hoop's address and the caller's identity token take their place.",
        )
    return options


_FIXED = frozenset(
    {
        "account",
        "authenticator",
        "host",
        "passcode",
        "password",
        "port",
        "private_key",
        "private_key_file",
        "protocol",
        "session_parameters",
        "token",
        "token_file_path",
        "user",
    }
)
