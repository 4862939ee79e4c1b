"""Approvals: four eyes, single use, in time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection

from hoop_core.approvals import desk as desk_module
from hoop_core.approvals.approval import NoSuchApproval
from hoop_core.approvals.binding import Binding
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import ApprovalRefused
from hoop_core.model import (
    AnswerVerdict,
    ApprovalStatus,
    ApprovalTerms,
    Identity,
    Json,
    RoleBinding,
    RunContext,
)
from hoop_core.store import Store
from tests.postgres_server import BOTH

DATABASES = BOTH

YES, NO = AnswerVerdict.APPROVE, AnswerVerdict.REJECT
TERMS = ApprovalTerms(("owners",), 2, timedelta(hours=1), timedelta(minutes=30))


def person(name: str, *groups: str) -> Identity:
    return Identity("https://idp", name, name, groups, "oidc", "")


AGENT = person("agent", "ml", "owners")
ANN, BEN, CAT = (person(n, "owners") for n in ("ann", "ben", "cat"))


def binding(**changes: Any) -> Binding:
    base = Binding(
        identity=AGENT,
        role=RoleBinding("v", "R"),
        fingerprint="f",
        executed_sha256="e",
        parameters_sha256="p",
        policy_digest="d",
        catalog_digest="c",
        run=RunContext(
            "airflow", {"dag_id": "d", "run_id": "1", "task_id": "t", "try_number": "1"}
        ),
    )
    return replace(base, **changes)


@pytest.fixture
def desk(store: Store, log: AuditLog) -> ApprovalDesk:
    return ApprovalDesk(store, log)


def ask(desk: ApprovalDesk, bound: Binding | None = None) -> str:
    return desk.ask(bound or binding(), TERMS, {"sql": "x"}, session_id=None).id


def use(desk: ApprovalDesk, log: AuditLog, identifier: str, bound: Binding | None = None) -> None:
    def write(connection: Connection) -> Json:
        desk.consume(connection, identifier, bound or binding())
        return {}

    log.append("statement.intent", write)


def test_two_distinct_persons_approve(desk: ApprovalDesk, log: AuditLog) -> None:
    asked = ask(desk)
    assert desk.answer(asked, ANN, YES, "fine").status is ApprovalStatus.PENDING
    assert desk.answer(asked, BEN, YES, "fine").status is ApprovalStatus.APPROVED
    use(desk, log, asked)
    assert desk.get(asked).status is ApprovalStatus.CONSUMED


def test_a_grant_cannot_be_used_twice(desk: ApprovalDesk, log: AuditLog) -> None:
    asked = ask(desk)
    desk.answer(asked, ANN, YES, "fine")
    desk.answer(asked, BEN, YES, "fine")
    use(desk, log, asked)
    with pytest.raises(ApprovalRefused, match="is used"):
        use(desk, log, asked)


def test_one_person_counts_once(desk: ApprovalDesk) -> None:
    asked = ask(desk)
    desk.answer(asked, ANN, YES, "fine")
    with pytest.raises(ApprovalRefused, match="already"):
        desk.answer(asked, replace(ANN, name="Ann again"), YES, "fine")
    assert desk.get(asked).status is ApprovalStatus.PENDING


@pytest.mark.parametrize(
    ("who", "says"), [(AGENT, "own request"), (person("eve", "ml"), "none of the groups")]
)
def test_requester_and_strangers_do_not_count(
    desk: ApprovalDesk, log: AuditLog, who: Identity, says: str
) -> None:
    asked = ask(desk)
    with pytest.raises(ApprovalRefused, match=says):
        desk.answer(asked, who, YES, "please")
    assert desk.get(asked).answers == ()
    assert "approval.answer_refused" in [e.kind for e in log.entries()]


@pytest.mark.parametrize("verdict", [YES, NO])
def test_an_answer_needs_a_reason(desk: ApprovalDesk, verdict: AnswerVerdict) -> None:
    with pytest.raises(ApprovalRefused, match="reason"):
        desk.answer(ask(desk), ANN, verdict, "  ")


def test_one_no_ends_it(desk: ApprovalDesk) -> None:
    asked = ask(desk)
    desk.answer(asked, ANN, YES, "fine")
    assert desk.answer(asked, BEN, NO, "no").status is ApprovalStatus.REJECTED
    with pytest.raises(ApprovalRefused, match="rejected already"):
        desk.answer(asked, CAT, YES, "fine")


def test_a_no_before_use_takes_the_grant_back(desk: ApprovalDesk, log: AuditLog) -> None:
    asked = ask(desk)
    desk.answer(asked, ANN, YES, "fine")
    desk.answer(asked, BEN, YES, "fine")
    assert desk.answer(asked, ANN, NO, "on second thought").status is ApprovalStatus.REJECTED
    with pytest.raises(ApprovalRefused):
        use(desk, log, asked)


@pytest.mark.parametrize(
    "change",
    [
        {"identity": person("other", "ml")},
        {"role": RoleBinding("v", "R2")},
        {"fingerprint": "f2"},
        {"executed_sha256": "e2"},
        {"parameters_sha256": "p2"},
        {"policy_digest": "d2"},
        {"catalog_digest": "c2"},
        {"run": RunContext("airflow", {"dag_id": "d", "run_id": "2", "task_id": "t"})},
        {"run": RunContext()},
    ],
)
def test_a_grant_fits_only_what_it_was_given_for(
    desk: ApprovalDesk, log: AuditLog, change: dict[str, Any]
) -> None:
    asked = ask(desk)
    desk.answer(asked, ANN, YES, "fine")
    desk.answer(asked, BEN, YES, "fine")
    with pytest.raises(ApprovalRefused):
        use(desk, log, asked, binding(**change))
    assert ask(desk, binding(**change)) != asked


def test_a_retry_of_the_same_task_finds_its_question_again(desk: ApprovalDesk) -> None:
    fields = {"dag_id": "d", "run_id": "1", "task_id": "t", "try_number": "2"}
    assert ask(desk) == ask(desk, binding(run=RunContext("airflow", fields)))


def test_unanswered_questions_and_unused_grants_expire(
    desk: ApprovalDesk, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    unanswered, unused = ask(desk), ask(desk, binding(fingerprint="g"))
    desk.answer(unused, ANN, YES, "fine")
    desk.answer(unused, BEN, YES, "fine")
    now = utc_now()
    monkeypatch.setattr(desk_module, "utc_now", lambda: now + timedelta(minutes=31))
    assert desk.get(unused).status is ApprovalStatus.EXPIRED
    assert desk.get(unanswered).status is ApprovalStatus.PENDING
    monkeypatch.setattr(desk_module, "utc_now", lambda: now + timedelta(minutes=61))
    assert desk.get(unanswered).status is ApprovalStatus.EXPIRED
    with pytest.raises(ApprovalRefused, match="expired"):
        desk.answer(unanswered, ANN, YES, "late")


def test_an_unknown_approval_is_said_to_be_unknown(desk: ApprovalDesk) -> None:
    with pytest.raises(NoSuchApproval):
        desk.get("apr_nothing")
