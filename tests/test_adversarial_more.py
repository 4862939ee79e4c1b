"""More adversarial statements, each with its expected outcome, and ordinary ones that must be allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hoop_core.model import Outcome
from hoop_core.policy.file import load_policy
from hoop_core.sql.catalog import load_catalog
from tests.noninterference import ask

DATA = Path(__file__).parent / "data"
POLICY = load_policy(DATA / "adversarial_policy.yaml")
CATALOG = load_catalog(DATA / "adversarial_catalog.yaml")


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


ADVERSARIAL, ORDINARY = lines("adversarial_more.jsonl"), lines("ordinary.jsonl")


@pytest.mark.parametrize("case", ADVERSARIAL, ids=lambda c: str(c["id"]))
def test_a_statement_has_its_expected_outcome(case: dict[str, Any]) -> None:
    verdict = ask(case["sql"], POLICY, CATALOG)
    outcome, reasons = verdict.decision.outcome, verdict.decision.reasons
    if case["expect"] == "deny":
        assert (outcome, verdict.rewritten) == (Outcome.DENY, None)
        assert reasons[0].code != "INTERNAL"  # refused on purpose, not by an accident
    elif case["expect"] == "approve":
        assert outcome in {Outcome.DENY, Outcome.REQUIRE_APPROVAL}
    else:
        assert outcome is Outcome.ALLOW, reasons
        assert {m.column for m in verdict.decision.masked} == {"EMAIL", "SSN"}
        assert "AS _g" in (verdict.rewritten or "")


@pytest.mark.parametrize("case", ORDINARY, ids=lambda c: str(c["id"]))
def test_an_ordinary_statement_is_allowed(case: dict[str, Any]) -> None:
    verdict = ask(case["sql"], POLICY, CATALOG)
    assert verdict.decision.outcome is Outcome.ALLOW, verdict.decision.reasons
