"""What hook, resource, CLI and programs use: connections, connection parameters, the REST client.

from hoop_core.client import connect

with connect("https://hoop.example.com", token) as connection:
    connection.cursor().execute("SELECT ...")
"""

from __future__ import annotations

from hoop_core.client.address import GatewayAddress
from hoop_core.client.connection import (
    checked_options,
    connect,
    connection_parameters,
    embedded_gateway_url,
    hoop_context,
    open_connection,
    resolve_gateway,
    snowpark_session,
    sqlalchemy_engine,
    sqlalchemy_url,
)
from hoop_core.client.rest import HoopClient
from hoop_core.client.statements import bind, split_script
from hoop_core.client.values import (
    MASKING_EXCEPTION,
    STANDING_APPROVAL,
    Answer,
    Approval,
    Emergency,
    Impact,
    MaskedName,
    Person,
    Revocation,
)
from hoop_core.identity.client_credentials import ClientCredentials
from hoop_core.identity.tokens import (
    SOURCE_ENVS,
    CommandToken,
    EnvironmentToken,
    FetchedToken,
    FileToken,
    GivenToken,
    TokenSource,
    token_source,
)
from hoop_core.model import AnswerVerdict, ApprovalStatus

__all__ = [
    "MASKING_EXCEPTION",
    "SOURCE_ENVS",
    "STANDING_APPROVAL",
    "Answer",
    "AnswerVerdict",
    "Approval",
    "ApprovalStatus",
    "ClientCredentials",
    "CommandToken",
    "Emergency",
    "EnvironmentToken",
    "FetchedToken",
    "FileToken",
    "GatewayAddress",
    "GivenToken",
    "HoopClient",
    "Impact",
    "MaskedName",
    "Person",
    "Revocation",
    "TokenSource",
    "bind",
    "checked_options",
    "connect",
    "connection_parameters",
    "embedded_gateway_url",
    "hoop_context",
    "open_connection",
    "resolve_gateway",
    "snowpark_session",
    "split_script",
    "sqlalchemy_engine",
    "sqlalchemy_url",
    "token_source",
]
