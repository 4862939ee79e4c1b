"""What is put before approvers has an end: a few small packed requests must not become gigabytes of questions."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from hoop_core.audit.log import AuditLog
from hoop_core.errors import ApprovalRefused
from hoop_core.guard import Guard


def test_more_values_than_anybody_could_look_at_are_not_asked_about(log: AuditLog) -> None:
    none: Any = None
    guard = Guard(none, none, none, none, log, none, none)
    terms = SimpleNamespace(decision=SimpleNamespace(approval=object()))
    plan: Any = SimpleNamespace(verdict=terms)
    bound = {"1": {"type": "TEXT", "value": ["x" * 15] * 400_000}}
    request: Any = SimpleNamespace(bindings=bound)
    with pytest.raises(ApprovalRefused, match="Send fewer at a time") as refused:
        asyncio.run(guard.ask(none, request, plan))
    assert refused.value.reason == "APPROVAL_TOO_LARGE"
