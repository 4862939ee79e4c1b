"""Statement templates of Vault's database engine, turned into single SQL statements.

A template is text with `{{name}}`, `{{username}}`, `{{password}}`, `{{public_key}}` and
`{{expiration}}`, and may hold several statements separated by semicolons. It is cut into tokens
first, so that a semicolon within quotes is not a separator and values are escaped where they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_TOKEN = re.compile(
    r"""
      (?P<single>'(?:[^'\\]|''|\\.)*')
    | (?P<double>"(?:[^"]|"")*")
    | (?P<dollar>\$\$.*?\$\$)
    | (?P<comment>--[^\n]*|//[^\n]*|/\*.*?\*/)
    | (?P<unclosed>['"]|\$\$|/\*)
    | (?P<separator>;)
    | (?P<text>[^'"$;/-]+|.)
    """,
    re.S | re.X,
)
_PLACEHOLDER = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_NAMES = frozenset({"name", "username"})
_BARE = re.compile(r"[A-Za-z0-9_$]+\Z")


class TemplateRefused(ValueError):
    """The template cannot be used safely; nothing was sent to Snowflake."""


def render(templates: Iterable[str], values: Mapping[str, str]) -> list[str]:
    """The statements of `templates` with `values` filled in, in order, without separators.

    Raises TemplateRefused for an unclosed quote, an unknown or missing value, a user name within
    double quotes, and a value outside quotes that is not a plain word.
    """
    statements: list[str] = []
    for template in templates:
        current: list[str] = []
        for token in _TOKEN.finditer(template):
            kind, text = token.lastgroup or "text", token.group()
            if kind == "unclosed":
                raise TemplateRefused(f"the statement template has an unclosed {text}")
            if kind == "separator":
                _finish(statements, current)
                current = []
            elif kind != "comment":
                current.append(_fill(text, kind, values))
            else:
                current.append(" ")
        _finish(statements, current)
    return statements


def _finish(statements: list[str], parts: list[str]) -> None:
    statement = "".join(parts).strip()
    if statement:
        statements.append(statement)


def _fill(text: str, kind: str, values: Mapping[str, str]) -> str:
    """One token with its placeholders filled in, escaped for the quotes around it."""

    def value_of(match: re.Match[str]) -> str:
        key = match[1]
        if key not in values:
            known = ", ".join(sorted(values))
            raise TemplateRefused(
                f"the statement template uses {{{{{key}}}}}, which is not available here ({known})"
            )
        value = values[key]
        if kind == "single":
            return value.replace("\\", "\\\\").replace("'", "''")
        if kind == "dollar" and "$$" not in value:
            return value
        if kind == "text" and _BARE.match(value):
            return value
        raise TemplateRefused(f"{{{{{key}}}}} must stand within single quotes")

    if '"' in text and any(m[1] in _NAMES for m in _PLACEHOLDER.finditer(text)):
        raise TemplateRefused(
            'the user name stands within double quotes ("{{name}}"): Snowflake would store it in '
            "mixed case and the revocation would miss it; write {{name}} without quotes"
        )
    filled = _PLACEHOLDER.sub(value_of, text)
    if kind == "text" and ("{{" in filled or "}}" in filled):
        raise TemplateRefused("the statement template has a placeholder that cannot be read")
    return filled
