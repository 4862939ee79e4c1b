"""What a connection of the type `hoop_snowflake` says: Hoop's address, and where the identity token comes from."""

from __future__ import annotations

from typing import Any

from hoop_core.client import GatewayAddress, TokenSource, resolve_gateway, token_source
from hoop_core.errors import ConfigError

CONN_TYPE = "hoop_snowflake"


def checked(connection: Any) -> Any:
    """The connection. Raises ConfigError when it is of another type: then its host is not Hoop, and its
    password would go there as an identity token."""
    if connection.conn_type != CONN_TYPE:
        raise ConfigError(
            f"The connection {connection.conn_id} is of the type {connection.conn_type!r}.",
            f"Make one of the type {CONN_TYPE}, with Hoop's address as its host.",
        )
    return connection


def gateway_of(connection: Any) -> GatewayAddress:
    host = (connection.host or "").strip()
    if not host:
        return resolve_gateway()
    if "://" not in host:
        host = f"{connection.extra_dejson.get('protocol') or 'https'}://{host}"
    if connection.port:
        host = f"{host.rstrip('/')}:{connection.port}"
    return GatewayAddress.parse(host)


def token_of(connection: Any) -> TokenSource:
    extra = connection.extra_dejson
    return token_source(
        connection.password or None,
        env=extra.get("token_env") or None,
        file=extra.get("token_file") or None,
    )
