"""Names and literals in SQL that Hoop writes for people to run: nothing in them can end a statement.

https://docs.snowflake.com/en/sql-reference/identifiers-syntax · reserved-keywords · data-types-text
"""

from __future__ import annotations

import re

from hoop_core.errors import ConfigError

_PLAIN = re.compile(r"[A-Z_][A-Z0-9_$]*\Z")
_MOST_CHARACTERS = 255
_WORDS = """
ACCOUNT ALL ALTER AND ANY AS BETWEEN BY CASE CAST CHECK COLUMN CONNECT CONNECTION CONSTRAINT CREATE
CROSS CURRENT CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER DATABASE DELETE DISTINCT DROP
ELSE EXISTS FALSE FOLLOWING FOR FROM FULL GRANT GROUP GSCLUSTER HAVING ILIKE IN INCREMENT INNER INSERT
INTERSECT INTO IS ISSUE JOIN LATERAL LEFT LIKE LOCALTIME LOCALTIMESTAMP MINUS NATURAL NOT NULL OF ON OR
ORDER ORGANIZATION QUALIFY REGEXP REVOKE RIGHT RLIKE ROW ROWS SAMPLE SCHEMA SELECT SET SOME START TABLE
TABLESAMPLE THEN TO TRIGGER TRUE TRY_CAST UNION UNIQUE UPDATE USING VALUES VIEW WHEN WHENEVER WHERE WITH
FUNCTION NETWORK POLICY ROLE RULE USER WAREHOUSE FUTURE IF
"""
_RESERVED = frozenset(_WORDS.split())


def identifier(part: str) -> str:
    """One part of a name in stored case: bare when that means the same, else in double quotes.

    Raises ConfigError for what no administrator should paste: control characters, `$$` (it would end
    a function's body), template braces, a name that is empty or too long for Snowflake.
    """
    if not part or len(part) > _MOST_CHARACTERS or not part.isprintable():
        raise ConfigError(
            f"{_shown(part)} cannot be a Snowflake name here.",
            "Use 1 to 255 printable characters.",
        )
    for mark in ("$$", "{{", "}}"):
        if mark in part:
            raise ConfigError(
                f"The name {_shown(part)} holds {mark}, which has a meaning of its own in this text.",
                "Rename the object in Snowflake, then in the policy.",
            )
    if _PLAIN.match(part) and part not in _RESERVED:
        return part
    return '"' + part.replace('"', '""') + '"'


def dotted(*parts: str) -> str:
    """A qualified name. Raises ConfigError."""
    return ".".join(map(identifier, parts))


def literal(text: str) -> str:
    """A string literal: backslashes and quotes escaped."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def remark(text: str) -> str:
    """Foreign text for a comment: one line of printable ASCII, whatever a reader takes for a line end."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)


def _shown(part: str) -> str:
    return f"`{remark(part[:60])}`"
