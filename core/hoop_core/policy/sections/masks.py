"""`tags` and `masks`: which columns are protected, and what is shown instead."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from hoop_core.masking.masks import Mask, MaskName
from hoop_core.policy.model import MaskRule
from hoop_core.policy.sections.common import check_tag, groups, patterns, word
from hoop_core.policy.sections.terms import approval_terms
from hoop_core.sql.names import Pattern
from hoop_core.yaml_reader import Fields, Mistakes, Value

UNITS = ("year", "quarter", "month", "week", "day", "hour")
KEYS = ("tag", "columns", "mask", "except_groups", "exceptions")
MASK_OPTIONS: dict[MaskName, tuple[str, ...]] = {
    MaskName.NULL: (),
    MaskName.CONSTANT: ("value",),
    MaskName.HASH: ("domain",),
    MaskName.PARTIAL: ("keep_first", "keep_last"),
    MaskName.EMAIL_DOMAIN: (),
    MaskName.DATE_TRUNC: ("unit",),
    MaskName.BUCKET: ("size",),
}
HASH_FUNCTION_FORM = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){2}$"
_EVERY_KEY = (*KEYS, *(key for options in MASK_OPTIONS.values() for key in options))

Tags = Mapping[str, tuple[Pattern, ...]]


def read_tags(value: Value, mistakes: Mistakes) -> Tags:
    """A tag that is wrong still has its name: what speaks of it is not wrong for that."""
    entries = mistakes.read(lambda v: v.entries("`tags`"), value) or {}
    found: dict[str, tuple[Pattern, ...]] = {}
    for name, (_, columns) in entries.items():
        read = partial(patterns, what=f"the tag `{name}`", parts=4)
        found[name] = mistakes.read(read, columns) or ()
    return found


def lines_of(value: Value) -> dict[str, int]:
    """Where each tag stands in the file."""
    return {name: key.line for name, (key, _) in value.entries("`tags`").items()}


def read_hash_function(value: Value) -> str:
    """Three plain parts, in stored case: found the same way from wherever a session stands."""
    text = value.text("`hash_function`")
    if not re.fullmatch(HASH_FUNCTION_FORM, text):
        raise value.wrong(
            f"`{text}` is not DATABASE.SCHEMA.FUNCTION.",
            "Write three plain names, as in GOVERNANCE.HOOP.MASK_HASH; `hoop snowflake setup-sql` "
            "makes the function.",
        )
    return text.upper()


def read_mask(value: Value, tags: Tags) -> MaskRule:
    # a key that no mask has is named before anything that is missing: it may be the misspelt one
    given = value.mapping("a mask", _EVERY_KEY)
    if "mask" not in given:
        raise value.wrong("a mask needs `mask`.", f"Valid: {', '.join(MaskName)}.")
    name = MaskName(word(given["mask"], "`mask`", [m.value for m in MaskName], kind="mask"))
    f = value.mapping(f"a mask `{name}`", (*KEYS, *MASK_OPTIONS[name]))
    if ("tag" in f) == ("columns" in f):
        raise value.wrong("a mask needs either `tag` or `columns`.")
    if "tag" in f:
        tag = f["tag"].text("`tag`")
        check_tag(f["tag"], "tag", tag, tuple(tags))
        columns = tags[tag]
    else:
        columns = patterns(f["columns"], "`columns`", 4)
    return MaskRule(
        Mask(name, _options(name, f)),
        columns,
        groups(f, "except_groups") or frozenset(),
        approval_terms(f["exceptions"], "`exceptions`", exceptions=True)
        if "exceptions" in f
        else None,
        line=value.line,
    )


def _options(name: MaskName, f: Fields) -> dict[str, str | int | float | bool]:
    return {key: _option(key, f[key]) for key in MASK_OPTIONS[name] if key in f}


def _option(key: str, value: Value) -> str | int | float | bool:
    data = value.data
    if key in {"keep_first", "keep_last"}:
        return value.integer(f"`{key}`", 0, 64)
    if key == "unit":
        return word(value, "`unit`", UNITS, kind="unit")
    if key == "size":
        if isinstance(data, bool) or not isinstance(data, int | float) or not 0 < data < 1e15:
            raise value.wrong("`size` must be a number above 0.")
        return data
    if key == "domain":
        return value.text("`domain`")
    if isinstance(data, str | int | float | bool):
        return data
    raise value.wrong(f"`{key}` must be a text, a number, true or false.")
