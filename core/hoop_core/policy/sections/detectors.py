"""`detectors`: what happens to results in which values of some kind are found."""

from __future__ import annotations

from hoop_core.model import Detector, DetectorAction
from hoop_core.policy.model import DetectorRule
from hoop_core.policy.sections.common import groups, word
from hoop_core.yaml_reader import Value

KEYS = ("detect", "action", "except_groups")


def read_detector(value: Value) -> DetectorRule:
    f = value.mapping("a detector", KEYS, ("detect", "action"))
    valid = [d.value for d in Detector]
    kinds = [
        word(v, "a kind of value", valid, kind="detector") for v in f["detect"].items("`detect`")
    ]
    if not kinds:
        raise f["detect"].wrong("`detect` must not be empty.", f"Valid: {', '.join(valid)}.")
    action = word(f["action"], "`action`", [a.value for a in DetectorAction], kind="action")
    return DetectorRule(
        frozenset(map(Detector, kinds)),
        DetectorAction(action),
        groups(f, "except_groups") or frozenset(),
        line=value.line,
    )
