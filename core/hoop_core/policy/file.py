"""The policy file (YAML, version 1). Every mistake is a ConfigError with file, line and nearest word.

Each part of the file has its reader in `policy.sections`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from hoop_core.errors import ConfigError
from hoop_core.masking.masks import HASH_FUNCTION
from hoop_core.policy.model import Policy
from hoop_core.policy.sections.cases import read_cases
from hoop_core.policy.sections.detectors import read_detector
from hoop_core.policy.sections.filters import read_filter
from hoop_core.policy.sections.masks import read_hash_function, read_mask, read_tags
from hoop_core.policy.sections.rules import read_role, read_rules
from hoop_core.policy.yaml_reader import read_document

NO_POLICY = ("cases", "catalog")
"""Keys that nothing is decided by. They are not in the digest: a new test leaves grants valid."""
KEYS = (
    *("version", "roles", "tags", "hash_function", "masks", "row_filters", "detectors", "rules"),
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
    """Read a policy from its text; `source` is the name that errors give it. Raises ConfigError."""
    root = read_document(text, source)
    top = root.mapping("the policy", KEYS, ("version",))
    if top["version"].data != 1:
        raise top["version"].wrong("`version` must be 1.")
    tags = read_tags(top["tags"]) if "tags" in top else {}
    policy = Policy(
        digest="",
        tags=tags,
        rules=read_rules(top["rules"], tuple(tags)) if "rules" in top else (),
        roles=tuple(map(read_role, top["roles"].items("`roles`"))) if "roles" in top else (),
        masks=tuple(read_mask(v, tags) for v in top["masks"].items("`masks`"))
        if "masks" in top
        else (),
        row_filters=tuple(map(read_filter, top["row_filters"].items("`row_filters`")))
        if "row_filters" in top
        else (),
        detectors=tuple(map(read_detector, top["detectors"].items("`detectors`")))
        if "detectors" in top
        else (),
        hash_function=read_hash_function(top["hash_function"])
        if "hash_function" in top
        else HASH_FUNCTION,
        cases=read_cases(top["cases"]) if "cases" in top else (),
        catalog=top["catalog"].text("`catalog`") if "catalog" in top else None,
        source=source,
        text=text,
    )
    # last, because only now it is certain that all of it can be written as JSON
    decisive = {key: value.data for key, value in top.items() if key not in NO_POLICY}
    canonical = json.dumps(decisive, sort_keys=True, default=str, separators=(",", ":"))
    return replace(policy, digest=hashlib.sha256(canonical.encode()).hexdigest())
