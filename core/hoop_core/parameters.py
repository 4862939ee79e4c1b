"""The session parameters that a caller may set, by what they do, and those that drivers are told.

A parameter that is in none of these sets cannot be set: it would change which objects are meant
(QUOTED_IDENTIFIERS_IGNORE_CASE, SEARCH_PATH) or how many statements run.
https://docs.snowflake.com/en/sql-reference/parameters
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MEANING = frozenset({
    "BINARY_INPUT_FORMAT", "BINARY_OUTPUT_FORMAT", "DATE_INPUT_FORMAT", "DATE_OUTPUT_FORMAT",
    "ERROR_ON_NONDETERMINISTIC_MERGE", "ERROR_ON_NONDETERMINISTIC_UPDATE",
    "GEOGRAPHY_OUTPUT_FORMAT", "GEOMETRY_OUTPUT_FORMAT", "JSON_INDENT", "STRICT_JSON_OUTPUT",
    "TIMESTAMP_DAY_IS_ALWAYS_24H", "TIMESTAMP_INPUT_FORMAT", "TIMESTAMP_LTZ_OUTPUT_FORMAT",
    "TIMESTAMP_NTZ_OUTPUT_FORMAT", "TIMESTAMP_OUTPUT_FORMAT", "TIMESTAMP_TYPE_MAPPING",
    "TIMESTAMP_TZ_OUTPUT_FORMAT", "TIMEZONE", "TIME_INPUT_FORMAT", "TIME_OUTPUT_FORMAT",
    "TWO_DIGIT_CENTURY_START", "WEEK_OF_YEAR_POLICY", "WEEK_START",
})  # fmt: skip
"""What a text computes depends on these (a cast to text follows the output formats): approvers sign them,
and row filters must not rest on them."""

_MANNER = frozenset({
    "AUTOCOMMIT", "LOCK_TIMEOUT", "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS",
    "STATEMENT_TIMEOUT_IN_SECONDS", "TRANSACTION_ABORT_ON_ERROR",
    "TRANSACTION_DEFAULT_ISOLATION_LEVEL", "USE_CACHED_RESULT",
})  # fmt: skip
# How results travel, and the caller's own label: the gateway puts its own in front of it.
_OF_DRIVERS = frozenset({
    "CLIENT_MEMORY_LIMIT", "CLIENT_METADATA_REQUEST_USE_CONNECTION_CTX",
    "CLIENT_METADATA_USE_SESSION_DATABASE", "CLIENT_PREFETCH_THREADS", "CLIENT_RESULT_CHUNK_SIZE",
    "CLIENT_RESULT_COLUMN_CASE_INSENSITIVE", "CLIENT_SESSION_KEEP_ALIVE",
    "CLIENT_SESSION_KEEP_ALIVE_HEARTBEAT_FREQUENCY", "CLIENT_TIMESTAMP_TYPE_MAPPING",
    "GO_QUERY_RESULT_FORMAT", "JDBC_FORMAT_DATE_WITH_TIMEZONE", "JDBC_QUERY_RESULT_FORMAT",
    "JDBC_TREAT_DECIMAL_AS_INT", "JDBC_TREAT_TIMESTAMP_NTZ_AS_UTC", "JDBC_USE_SESSION_TIMEZONE",
    "JS_TREAT_INTEGER_AS_BIGINT", "NODE_QUERY_RESULT_FORMAT", "ODBC_QUERY_RESULT_FORMAT",
    "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT", "QUERY_TAG", "ROWS_PER_RESULTSET",
})  # fmt: skip

ALTERABLE = MEANING | _MANNER | _OF_DRIVERS
"""What ALTER SESSION may set. QUERY_TAG too: each statement is sent with Hoop's tag, the caller's behind it."""
SET_IN_VAIN = {"MULTI_STATEMENT_COUNT": frozenset({"0", "1"})}
"""What tools (Ibis) set among others in every session, and to which values. It has no effect: each statement is
sent with a count of 1 of its own. Alone it is refused, for then somebody means it."""
AT_SIGN_IN = ALTERABLE
"""What a driver may set when it signs in, or with one statement."""

TOLD: dict[str, str | int | bool] = {
    "ABORT_DETACHED_QUERY": False,
    "AUTOCOMMIT": True,
    "BINARY_OUTPUT_FORMAT": "HEX",
    "CLIENT_CONSERVATIVE_MEMORY_ADJUST_STEP": 64,
    "CLIENT_DISABLE_INCIDENTS": True,
    "CLIENT_ENABLE_CONSERVATIVE_MEMORY_USAGE": True,
    "CLIENT_ENABLE_LOG_INFO_STATEMENT_PARAMETERS": False,
    "CLIENT_HONOR_CLIENT_TZ_FOR_TIMESTAMP_NTZ": True,
    "CLIENT_MEMORY_LIMIT": 1536,
    "CLIENT_METADATA_REQUEST_USE_CONNECTION_CTX": False,
    "CLIENT_METADATA_USE_SESSION_DATABASE": False,
    "CLIENT_PREFETCH_THREADS": 4,
    "CLIENT_RESULT_CHUNK_SIZE": 160,
    "CLIENT_RESULT_COLUMN_CASE_INSENSITIVE": False,
    "CLIENT_SESSION_CLONE": False,
    "CLIENT_SESSION_KEEP_ALIVE": False,
    "CLIENT_SESSION_KEEP_ALIVE_HEARTBEAT_FREQUENCY": 3600,
    "CLIENT_TIMESTAMP_TYPE_MAPPING": "TIMESTAMP_LTZ",
    "CLIENT_VALIDATE_DEFAULT_PARAMETERS": False,
    "DATE_INPUT_FORMAT": "AUTO",
    "DATE_OUTPUT_FORMAT": "YYYY-MM-DD",
    "GEOGRAPHY_OUTPUT_FORMAT": "GeoJSON",
    "GEOMETRY_OUTPUT_FORMAT": "GeoJSON",
    "GO_QUERY_RESULT_FORMAT": "ARROW",
    "JDBC_ENABLE_COMBINED_DESCRIBE": False,
    "JDBC_FORMAT_DATE_WITH_TIMEZONE": False,
    "JDBC_QUERY_RESULT_FORMAT": "ARROW",
    "JDBC_RS_COLUMN_CASE_INSENSITIVE": False,
    "JDBC_TREAT_DECIMAL_AS_INT": True,
    "JDBC_TREAT_TIMESTAMP_NTZ_AS_UTC": False,
    "JDBC_USE_SESSION_TIMEZONE": True,
    "JS_TREAT_INTEGER_AS_BIGINT": False,
    "NODE_QUERY_RESULT_FORMAT": "JSON",
    "ODBC_QUERY_RESULT_FORMAT": "ARROW",
    "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT": "ARROW",
    # Snowpark writes TEMPORARY then, which is documented, and not SCOPED TEMPORARY.
    "PYTHON_SNOWPARK_USE_SCOPED_TEMP_OBJECTS": False,
    "PYTHON_CONNECTOR_USE_NANOARROW": True,
    "QUERY_TAG": "",
    "ROWS_PER_RESULTSET": 0,
    "STATEMENT_QUEUED_TIMEOUT_IN_SECONDS": 0,
    "STATEMENT_TIMEOUT_IN_SECONDS": 172_800,
    "TIMESTAMP_INPUT_FORMAT": "AUTO",
    "TIMESTAMP_LTZ_OUTPUT_FORMAT": "",
    "TIMESTAMP_NTZ_OUTPUT_FORMAT": "YYYY-MM-DD HH24:MI:SS.FF3",
    "TIMESTAMP_OUTPUT_FORMAT": "YYYY-MM-DD HH24:MI:SS.FF3 TZHTZM",
    "TIMESTAMP_TYPE_MAPPING": "TIMESTAMP_NTZ",
    "TIMESTAMP_TZ_OUTPUT_FORMAT": "",
    "TIMEZONE": "Etc/UTC",
    "TIME_INPUT_FORMAT": "AUTO",
    "TIME_OUTPUT_FORMAT": "HH24:MI:SS",
    "USE_CACHED_RESULT": True,
    "WEEK_OF_YEAR_POLICY": 0,
    "WEEK_START": 0,
}
"""What drivers read of a session's parameters, with Snowflake's defaults. The names are those that the public
sources of the connectors for Python, Go, Java and JavaScript look for."""

OWN: dict[str, str | int | bool] = {
    "CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False,
    "CLIENT_REQUEST_MFA_TOKEN": False,
    "CLIENT_STORE_TEMPORARY_CREDENTIAL": False,
    "CLIENT_TELEMETRY_ENABLED": False,
    "ENABLE_STAGE_S3_PRIVATELINK_FOR_US_EAST_1": False,
    "MULTI_STATEMENT_COUNT": 1,
    "QUOTED_IDENTIFIERS_IGNORE_CASE": False,
    "SERVICE_NAME": "",
}
"""What Hoop says itself, whatever Snowflake or the caller says: it is about the client's way to Hoop."""


def told(*layers: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameters as drivers are told them, later layers over earlier ones; unknown names are left out.

    A value is given the kind (text, number, truth) that drivers expect of that name.
    """
    known: dict[str, Any] = {}
    for layer in layers:
        known |= {
            k: kept for k, v in layer.items() if (kept := _of_kind(TOLD.get(k), v)) is not None
        }
    return [{"name": k, "value": v} for k, v in sorted((known | OWN).items())]


def _of_kind(like: str | int | bool | None, value: Any) -> str | int | bool | None:
    """None for what does not fit, or is not known."""
    text = str(value)
    match like:
        case bool():
            return {"true": True, "false": False}.get(text.lower())
        case int():
            return int(text) if re.fullmatch(r"-?\d{1,10}", text) else None
        case str():
            return text
        case _:
            return None
