"""`retention`: how long the evidence of what is kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

from hoop_core.policy.model import RetentionClass
from hoop_core.policy.sections.common import accounts, check_tag, groups
from hoop_core.spans import parse_span
from hoop_core.yaml_reader import Mistakes, Value

KEYS = ("name", "keep", "recordings", "kinds", "sessions", "groups", "accounts", "tags")
FOREVER = "forever"
MOST_DAYS = 36_500
KIND_FORM = r"[a-z_]+\.([a-z_]+|\*)"
_KIND = re.compile(rf"{KIND_FORM}\Z")


def read_retention(
    value: Value, tags: Sequence[str], mistakes: Mistakes
) -> tuple[RetentionClass, ...]:
    """The classes; two may not have one name, nor may two be for everything."""
    found = mistakes.each(value, "`retention`", lambda v: _class(v, tags))
    names = [c.name for c in found]
    for name in sorted({n for n in names if names.count(n) > 1}):
        mistakes.add(value.wrong(f"two retention classes are called `{name}`."))
    if sum(c.for_all for c in found) > 1:
        mistakes.add(
            value.wrong(
                "more than one retention class is for everything.",
                "Only one of them can go without kinds, sessions, groups, accounts and tags.",
            )
        )
    return found


def _class(value: Value, tags: Sequence[str]) -> RetentionClass:
    f = value.mapping("a retention class", KEYS, ("name", "keep"))
    keep = _keep(f["keep"], "`keep`")
    shorter = _keep(f["recordings"], "`recordings`") if "recordings" in f else keep
    if keep is not None and (shorter is None or shorter > keep):
        raise f["recordings"].wrong("`recordings` cannot be longer than `keep`.")
    for key in ("kinds", "tags"):
        for item in f[key].items(f"`{key}`") if key in f else ():
            text = item.text(f"each of `{key}`")
            if key == "tags":
                check_tag(item, "tag", text, tags)
            elif not _KIND.match(text):
                raise item.wrong(
                    f"`{text}` is no kind of entry.", "Write statement.intent, or statement.*"
                )
    return RetentionClass(
        f["name"].text("`name`"),
        keep,
        shorter,
        kinds=frozenset(f["kinds"].texts("`kinds`")) if "kinds" in f else None,
        sessions=frozenset(f["sessions"].texts("`sessions`")) if "sessions" in f else None,
        groups=groups(f, "groups"),
        accounts=accounts(f),
        tags=frozenset(f["tags"].texts("`tags`")) if "tags" in f else None,
        line=value.line,
    )


def _keep(value: Value, what: str) -> timedelta | None:
    if value.data == FOREVER:
        return None
    span = parse_span(value.data) if isinstance(value.data, str) else None
    if span is None or not timedelta(hours=1) <= span <= timedelta(days=MOST_DAYS):
        raise value.wrong(f"{what} must be {FOREVER}, or between 1h and {MOST_DAYS}d: 90d, 2555d.")
    return span
