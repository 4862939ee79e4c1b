"""Which statement runs under which standing approval: everything that was approved has to be so still."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hoop_core.approvals import schedules
from hoop_core.approvals.approval import Approval
from hoop_core.approvals.binding import Binding, shown_digest, terms_digest
from hoop_core.approvals.schedules import Found, StandingBinding
from hoop_core.http import BadRequest
from hoop_core.model import (
    ApprovalStatus,
    ApprovalTerms,
    Decision,
    FilteredTable,
    Identity,
    MaskedColumn,
    NameContext,
    Outcome,
    Reason,
    RoleBinding,
    RunContext,
    StandingTerms,
    TableName,
    Verdict,
)
from hoop_core.sql.statement import analyse
from hoop_core.sql.templates import Template
from hoop_core.windows import Window

NOW = datetime(2026, 11, 23, tzinfo=UTC)
AGENT = Identity("https://idp", "agent", "agent", ("ml",), "oidc", "")
NAMES = NameContext("D", "S")
RUN = RunContext("airflow", {"dag_id": "d", "task_id": "t", "run_id": "1"})
TEMPLATE = Template.read(
    "DELETE FROM T WHERE N = {n}", {"n": {"type": "number", "min": 0, "max": 9}}
)
TERMS = ApprovalTerms(
    ("owners",),
    1,
    timedelta(hours=1),
    timedelta(hours=1),
    standing=StandingTerms(timedelta(days=9), 100),
)
TABLE = TableName("D", "S", "T")
DECISION = Decision(
    Outcome.REQUIRE_APPROVAL,
    (Reason("APPROVAL_REQUIRED", "needs approval by 1 of owners (rule r)"),),
    ("r",),
    (MaskedColumn(TABLE, "EMAIL", "null"),),
    "policy",
    TERMS,
    filtered=(FilteredTable(TABLE, "REGION = 'EU'"),),
)


def judged(sql: str = "DELETE FROM T WHERE N = 5", decision: Decision = DECISION) -> Verdict:
    return Verdict(decision, analyse(sql, NAMES).statement, sql)


def bound(decision: Decision = DECISION, **changes: Any) -> Binding:
    base = Binding(
        identity=AGENT,
        role=RoleBinding("v", "R"),
        fingerprint="f",
        executed_sha256="e",
        parameters_sha256="p",
        policy_digest="policy",
        catalog_digest="c",
        run=RUN,
        found_digest="tables",
        terms_digest=terms_digest(decision),
        shown_digest=shown_digest(decision),
    )
    return replace(base, **changes)


def granted(identifier: str = "apr_1", *, uses: int = 0, template: Template = TEMPLATE) -> Approval:
    standing = StandingBinding(bound(), NAMES, template, 100, 5, timedelta(days=1))
    body = schedules.question(standing, judged(), {}, {"name": "agent"}, "nightly")
    return Approval(
        identifier, "b", standing.scope, AGENT.key, ApprovalStatus.APPROVED, ("owners",), 1, body, (),
        NOW, NOW, NOW + timedelta(days=1), None, uses=uses,
    )  # fmt: skip


def find(
    *standing: Approval,
    verdict: Verdict | None = None,
    binding: Binding | None = None,
    names: NameContext = NAMES,
) -> Found:
    return schedules.find(
        standing or (granted(),),
        verdict or judged(),
        binding or bound(),
        names=names,
        bindings=None,
        now=NOW,
    )


def test_a_statement_within_the_bounds_runs_under_it() -> None:
    found = find()
    assert found.fitting is not None
    assert found.values == {"n": "5"}


WEAKER = replace(DECISION, masked=())
OTHER_ROWS = replace(DECISION, filtered=(FilteredTable(TABLE, "REGION = 'US'"),))
SHOWN = replace(DECISION, masked=(), exposed=(MaskedColumn(TABLE, "EMAIL", "null"),))
MORE_VOICES = replace(DECISION, approval=replace(TERMS, quorum=2))
OTHER_GROUP = replace(DECISION, approval=replace(TERMS, approvers=("others",)))
AT_NIGHT = replace(
    DECISION, approval=replace(TERMS, windows=(Window(("mon",), "01:00", "02:00", "UTC"),))
)
FEWER_ROWS = replace(
    DECISION, approval=replace(TERMS, standing=StandingTerms(timedelta(days=9), 99))
)
ANOTHER_RULE = replace(
    DECISION, reasons=(*DECISION.reasons, Reason("APPROVAL_REQUIRED", "by 1 of owners (rule s)"))
)


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        (WEAKER, "other masks"),
        (OTHER_ROWS, "other masks or row filters"),
        (SHOWN, "other masks"),
        (MORE_VOICES, "other approvers"),
        (OTHER_GROUP, "other approvers"),
        (AT_NIGHT, "other approvers"),
        (FEWER_ROWS, "other approvers"),
        (ANOTHER_RULE, "other approvers"),
    ],
)
def test_under_another_protection_or_other_terms_it_is_asked_about_and_not_ended(
    decision: Decision, says: str
) -> None:
    found = find(verdict=judged(decision=decision), binding=bound(decision))
    assert found.fitting is None
    assert found.drifted == ()
    assert [says in r.message for r in found.notes] == [True]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"policy_digest": "p2"}, "the policy has changed"),
        ({"found_digest": "t2"}, "its tables have changed"),
    ],
)
def test_another_policy_or_other_tables_end_it(change: dict[str, str], why: str) -> None:
    found = find(binding=bound(**change))
    assert found.fitting is None
    assert found.drifted == (("apr_1", why),)


def test_other_settings_are_asked_about() -> None:
    found = find(binding=bound(settings={"TIMEZONE": "UTC"}))
    assert found.fitting is None
    assert "other session settings" in found.notes[0].message


def test_used_up_it_is_asked_about() -> None:
    assert find(granted(uses=4)).fitting is not None
    assert "5 times" in find(granted(uses=5)).notes[0].message


def test_another_schema_makes_another_table_of_the_same_text() -> None:
    assert find(names=NameContext("D", "OTHER")).fitting is None


def test_another_text_of_the_same_work_supersedes_it() -> None:
    found = find(verdict=judged("DELETE FROM T WHERE N <> 5"))
    assert found.fitting is None
    assert [identifier for identifier, _ in found.superseded] == ["apr_1"]
    assert [r.code for r in found.notes] == ["STANDING_ENDS"]


def test_two_templates_of_one_task_do_not_supersede_each_other() -> None:
    other = Template.read(
        "DELETE FROM T WHERE M = {m}", {"m": {"type": "number", "min": 0, "max": 9}}
    )
    found = find(granted("apr_1", template=other), granted("apr_2"))
    assert found.fitting is not None
    assert (found.fitting.id, found.superseded) == ("apr_2", ())


@pytest.mark.parametrize(
    "change",
    [
        {"identity": replace(AGENT, subject="other")},
        {"identity": replace(AGENT, actors=("https://idp#bot",))},
        {"role": RoleBinding("v", "OTHER")},
        {"account": "ACME"},
        {"run": RunContext("airflow", {"dag_id": "d", "task_id": "u"})},
        {"run": RunContext("dagster", {"dag_id": "d", "task_id": "t"})},
    ],
)
def test_it_is_found_for_its_requester_and_schedule_only(change: dict[str, Any]) -> None:
    one, other = bound(), bound(**change)
    scopes = {schedules.scope_of(b.identity, b.role, b.account, b.run) for b in (one, other)}
    assert len(scopes) == 2


def test_each_run_of_a_schedule_finds_it() -> None:
    later = RunContext(
        "airflow", {**RUN.fields, "run_id": "2", "try_number": "3", "map_index": "7"}
    )
    assert schedules.schedule_of(later) == schedules.schedule_of(RUN)


@pytest.mark.parametrize(
    "run",
    [RunContext(), RunContext("prefect", {"flow": "f"}), RunContext("airflow", {"dag_id": "d"})],
)
def test_it_is_for_one_task_of_a_schedule(run: RunContext) -> None:
    with pytest.raises(BadRequest, match="one task of a schedule"):
        schedules.check_schedule(run)


def test_a_grant_for_one_use_is_bound_to_the_terms_it_was_given_under() -> None:
    assert bound().digest != bound(MORE_VOICES).digest
    assert bound().digest != bound(ANOTHER_RULE).digest
