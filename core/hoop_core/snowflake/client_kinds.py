"""As which client Hoop signs in: Snowflake picks the form of results by it.

A client's id and version tell Snowflake whether it reads Arrow (JDBC, Go, the Python connector) or JSON
only (Node.js, clients that it does not know), and which `*_QUERY_RESULT_FORMAT` parameter counts for it.
So Hoop's session for a driver says what the driver said, and the driver gets what it can read. Source:
the drivers' login requests, and the Python connector's note on `internal_application_name`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from hoop_core import __version__
from hoop_core.model import Json

_VERSION = re.compile(r"[0-9][0-9A-Za-z.+_-]{0,39}\Z")
_KNOWN = {
    name.lower(): name
    for name in (
        ".NET",
        "Go",
        "JavaScript",
        "JDBC",
        "ODBC",
        "PDO",
        "PythonConnector",
        "PythonSnowpark",
        "SNOWFLAKE_CLI",
        "SnowflakeSQLAlchemy",
        "SnowSQL",
    )
}


@dataclass(frozen=True, slots=True)
class ClientApp:
    """CLIENT_APP_ID and CLIENT_APP_VERSION of a sign-in at Snowflake."""

    name: str = "Hoop"
    version: str = __version__


HOOP = ClientApp()
"""Snowflake answers a client that it does not know with JSON, which every client reads."""


def signs_in_as(client: Json) -> ClientApp:
    """The app for a session's `client` (application, version): the driver's own if it is one of Snowflake's.

    What a client calls itself is hearsay: only the ids of Snowflake's drivers go on, in their own spelling.
    """
    name = _KNOWN.get(_text(client.get("application")).lower())
    version = _text(client.get("version"))
    return ClientApp(name, version) if name and _VERSION.match(version) else HOOP


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
