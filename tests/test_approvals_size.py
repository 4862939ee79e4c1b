"""What is put before approvers has an end: a few small packed requests must not become gigabytes of questions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hoop_core.asking import Asking
from hoop_core.errors import ApprovalRefused


def test_more_values_than_anybody_could_look_at_are_not_asked_about() -> None:
    none: Any = None
    bound = {"1": {"type": "TEXT", "value": ["x" * 15] * 400_000}}
    request: Any = SimpleNamespace(bindings=bound)
    with pytest.raises(ApprovalRefused, match="Send fewer at a time") as refused:
        Asking(none, none, none).question(none, request, none)
    assert refused.value.reason == "APPROVAL_TOO_LARGE"
