"""The session parameters that a caller may set, by what they do.

A parameter that is in none of these sets cannot be set: it would change which objects are meant
(QUOTED_IDENTIFIERS_IGNORE_CASE, SEARCH_PATH), how many statements run, or how the run is labelled.
https://docs.snowflake.com/en/sql-reference/parameters
"""

from __future__ import annotations

MEANING = frozenset({
    "BINARY_INPUT_FORMAT", "BINARY_OUTPUT_FORMAT", "DATE_INPUT_FORMAT", "DATE_OUTPUT_FORMAT",
    "ERROR_ON_NONDETERMINISTIC_MERGE", "ERROR_ON_NONDETERMINISTIC_UPDATE",
    "GEOGRAPHY_OUTPUT_FORMAT", "GEOMETRY_OUTPUT_FORMAT", "STRICT_JSON_OUTPUT",
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
    "CLIENT_TIMESTAMP_TYPE_MAPPING", "GO_QUERY_RESULT_FORMAT", "JDBC_QUERY_RESULT_FORMAT",
    "NODE_QUERY_RESULT_FORMAT", "ODBC_QUERY_RESULT_FORMAT", "PYTHON_CONNECTOR_QUERY_RESULT_FORMAT",
    "QUERY_TAG", "ROWS_PER_RESULTSET",
})  # fmt: skip

ALTERABLE = MEANING | _MANNER
"""What ALTER SESSION may set."""
AT_SIGN_IN = ALTERABLE | _OF_DRIVERS
"""What a driver may set when it signs in, or with one statement."""
