"""`recordings`: how many rows of a result are kept beside its digest."""

from __future__ import annotations

from hoop_core.policy.model import RecordingRule
from hoop_core.policy.sections.common import groups, word
from hoop_core.yaml_reader import Value

KEYS = ("rows", "groups", "except_groups")
MOST_ROWS = 1_000_000_000
ALL, DIGEST = "all", "digest"


def read_recording(value: Value) -> RecordingRule:
    f = value.mapping("a recording", KEYS, ("rows",))
    rows: int | None
    if isinstance(f["rows"].data, int) and not isinstance(f["rows"].data, bool):
        rows = f["rows"].integer("`rows`", 1, MOST_ROWS)
    else:
        rows = {ALL: None, DIGEST: 0}[word(f["rows"], "`rows`", (ALL, DIGEST), kind="recording")]
    return RecordingRule(
        rows,
        groups=groups(f, "groups"),
        except_groups=groups(f, "except_groups") or frozenset(),
        line=value.line,
    )
