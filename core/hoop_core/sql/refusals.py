"""One way to refuse a text, with the error numbers that Snowflake itself uses.

1003/42000 is Snowflake's "SQL compilation error: syntax error"; 8/0A000 its "actual statement count
did not match the desired statement count"; everything else is 3001/42501, "insufficient privileges".
"""

from __future__ import annotations

from hoop_core.errors import StatementRefused

_SYNTAX = frozenset({"UNPARSEABLE", "EMPTY", "UNREADABLE_TOKEN", "NUL", "BACKTICK", "NON_ASCII"})


def refuse(code: str, message: str, hint: str = "") -> StatementRefused:
    """The refusal to raise; `code` is the stable word that reasons, logs and tests use."""
    if code in _SYNTAX:
        return StatementRefused(message, hint, reason=code, errno=1003, sqlstate="42000")
    if code == "MULTI_STATEMENT":
        return StatementRefused(message, hint, reason=code, errno=8, sqlstate="0A000")
    return StatementRefused(message, hint, reason=code)
