"""What several sections share: name patterns, durations, closed lists of words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from hoop_core.model import account_key
from hoop_core.spans import parse_span
from hoop_core.sql.names import Pattern, parse_parts
from hoop_core.yaml_reader import Fields, Value

_MOST_DAYS = 90


def patterns(value: Value, what: str, parts: int) -> tuple[Pattern, ...]:
    """A list of table (3 parts) or column (4 parts) patterns that is not empty."""
    found = tuple(pattern(item, what, parts) for item in value.items(what))
    if not found:
        raise value.wrong(f"{what} must not be empty.")
    return found


def pattern(value: Value, what: str, parts: int) -> Pattern:
    """One table (3 parts) or column (4 parts) pattern."""
    text = value.text(f"a name in {what}")
    found = parse_parts(text)
    if found is None or len(found) != parts:
        shape = "DATABASE.SCHEMA.TABLE" + (".COLUMN" if parts == 4 else "")
        raise value.wrong(
            f"`{text}` is not {shape}.",
            "`*` stands for one whole part; put names with other characters in double quotes.",
        )
    return Pattern(found)


def word(value: Value, what: str, valid: Sequence[str], *, kind: str) -> str:
    """One of a closed list of words; `kind` is what the list holds, for the complaint."""
    text = value.text(what)
    if text not in valid:
        raise value.unknown(kind, text, valid)
    return text


def check_tag(value: Value, what: str, tag: str, tags: Sequence[str]) -> None:
    """Raises ConfigError for a tag that the policy does not define."""
    if not tags:
        raise value.wrong(
            f"unknown {what} `{tag}`: the policy defines no tags.",
            f"Write `tags: {{{tag}: [DATABASE.SCHEMA.TABLE.COLUMN]}}`.",
        )
    if tag not in tags:
        raise value.unknown(what, tag, tags)


def groups(fields: Fields, key: str) -> frozenset[str] | None:
    """A list of groups that may be left out: None then."""
    return frozenset(fields[key].texts(f"`{key}`")) if key in fields else None


def accounts(fields: Fields) -> frozenset[str] | None:
    """The Snowflake accounts that an entry is for; None where it is for all."""
    if "accounts" not in fields:
        return None
    return frozenset(account_key(name) for name in fields["accounts"].texts("`accounts`"))


def duration(value: Value, what: str) -> timedelta:
    span = parse_span(value.data) if isinstance(value.data, str) else None
    if span is None:
        raise value.wrong(f"{what} must be a number and s, m, h or d: 30m, 24h, 7d.")
    if not timedelta(0) < span <= timedelta(days=_MOST_DAYS):
        raise value.wrong(f"{what} must be above 0 and at most {_MOST_DAYS}d.")
    return span
