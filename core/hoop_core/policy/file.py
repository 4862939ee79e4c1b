"""The policy file (YAML, version 1). Every mistake is a ConfigError with file, line and nearest word.

Each part of the file has its reader in `policy.sections`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from hoop_core.errors import ConfigError
from hoop_core.masking.masks import HASH_FUNCTION
from hoop_core.policy.model import Policy
from hoop_core.policy.sections.cases import case_reader
from hoop_core.policy.sections.detectors import read_detector
from hoop_core.policy.sections.filters import read_filter
from hoop_core.policy.sections.masks import lines_of, read_hash_function, read_mask, read_tags
from hoop_core.policy.sections.recordings import read_recording
from hoop_core.policy.sections.retention import read_retention
from hoop_core.policy.sections.rules import read_role, rule_reader
from hoop_core.yaml_reader import Mistakes, Value, read_document

NO_POLICY = ("cases", "catalog")
"""Keys that nothing is decided by. They are not in the digest: a new test leaves grants valid."""
_T = TypeVar("_T")
KEYS = (
    *("version", "roles", "tags", "hash_function", "masks"),
    *("row_filters", "detectors", "recordings", "retention", "rules"),
    *NO_POLICY,
)


def load_policy(path: Path) -> Policy:
    """Read a policy file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise ConfigError(
            f"The policy {path} cannot be read: {e}.", "Check the path and the file's permissions."
        ) from None
    return parse_policy(text, str(path))


def parse_policy(text: str, source: str) -> Policy:
    """Read a policy from its text; `source` is the name that errors give it.

    Raises ConfigError for the first mistake.
    """
    return _parsed(text, source, Mistakes(first_only=True))


def check_policy(text: str, source: str) -> Policy:
    """The same, and every mistake that can be found is told.

    Raises ConfigError; one that tells several says each in a line of its own, in the file's order.
    """
    mistakes = Mistakes()
    policy = _parsed(text, source, mistakes)
    mistakes.told()
    return policy


def _parsed(text: str, source: str, mistakes: Mistakes) -> Policy:
    top = mistakes.mapping(read_document(text, source), "the policy", KEYS, ("version",))
    if "version" in top and top["version"].data != 1:
        mistakes.add(top["version"].wrong("`version` must be 1."))
    tags = read_tags(top["tags"], mistakes) if "tags" in top else {}

    def each(key: str, read: Callable[[Value], _T]) -> tuple[_T, ...]:
        return mistakes.each(top[key], f"`{key}`", read) if key in top else ()

    def one(key: str, read: Callable[[Value], _T], otherwise: _T) -> _T:
        found = mistakes.read(read, top[key]) if key in top else None
        return otherwise if found is None else found

    policy = Policy(
        digest="",
        tags=tags,
        tag_lines=lines_of(top["tags"]) if tags else {},
        rules=each("rules", rule_reader(tuple(tags))),
        roles=each("roles", read_role),
        masks=each("masks", partial(read_mask, tags=tags)),
        row_filters=each("row_filters", read_filter),
        detectors=each("detectors", read_detector),
        recordings=each("recordings", read_recording),
        retention=one("retention", lambda value: read_retention(value, tuple(tags), mistakes), ()),
        hash_function=one("hash_function", read_hash_function, HASH_FUNCTION),
        cases=each("cases", case_reader()),
        catalog=one("catalog", lambda value: value.text("`catalog`"), None),
        source=source,
        text=text,
    )
    # last, because only now it is certain that all of it can be written as JSON
    decisive = {key: value.data for key, value in top.items() if key not in NO_POLICY}
    canonical = json.dumps(decisive, sort_keys=True, default=str, separators=(",", ":"))
    return replace(policy, digest=hashlib.sha256(canonical.encode()).hexdigest())
