"""Who acts for whom: on record, in conditions, and never an approver of their own request."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from hoop_core.approvals.binding import Binding
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.log import AuditLog
from hoop_core.errors import ApprovalRefused
from hoop_core.identity.proof import identity_as_json, identity_from_json
from hoop_core.model import (
    AnswerVerdict,
    ApprovalTerms,
    Identity,
    NameContext,
    RoleBinding,
    RunContext,
)
from hoop_core.policy.conditions import compile_condition, facts_for
from hoop_core.records import identity_json
from hoop_core.sql.statement import analyse
from hoop_core.store import Store

ISSUER = "https://idp"
TERMS = ApprovalTerms(("owners",), 1, timedelta(hours=1), timedelta(minutes=30))
YES = AnswerVerdict.APPROVE


def person(name: str, *actors: str) -> Identity:
    keys = tuple(f"{ISSUER}#{a}" for a in actors)
    return Identity(ISSUER, name, name, ("owners",), "oidc", "", actors=keys)


def binding(who: Identity) -> Binding:
    return Binding(who, RoleBinding("v", "R"), "f", "e", "p", "d", "c", RunContext())


@pytest.fixture
def desk(store: Store, log: AuditLog) -> ApprovalDesk:
    return ApprovalDesk(store, log)


def ask(desk: ApprovalDesk, who: Identity) -> str:
    return desk.ask(binding(who), TERMS, {"sql": "x"}, session_id=None).id


@pytest.mark.parametrize("actors", [("bob",), ("agent", "bob")])
def test_who_asked_for_it_on_behalf_of_another_may_not_approve_it(
    desk: ApprovalDesk, actors: tuple[str, ...]
) -> None:
    question = ask(desk, person("ann", *actors))
    with pytest.raises(ApprovalRefused, match="on behalf of somebody else"):
        desk.answer(question, person("bob"), YES, "fine")
    with pytest.raises(ApprovalRefused, match="their own request"):
        desk.answer(question, person("ann"), YES, "fine")
    assert desk.answer(question, person("cat"), YES, "fine").status == "approved"


def test_nobody_approves_through_somebody_who_acts_for_them(desk: ApprovalDesk) -> None:
    """Else an agent with a token of an approver's would approve what it asked for."""
    question = ask(desk, person("agent"))
    with pytest.raises(ApprovalRefused, match="has to come from the person"):
        desk.answer(question, person("ann", "agent"), YES, "fine")


def test_a_grant_for_one_actor_is_none_for_another() -> None:
    digests = {binding(p).digest for p in (person("ann"), person("ann", "a"), person("ann", "b"))}
    assert len(digests) == 3


def test_the_question_names_who_acted(desk: ApprovalDesk) -> None:
    shown = desk.get(ask(desk, person("ann", "agent"))).as_json()
    assert shown["actors"] == [f"{ISSUER}#agent"]


def test_the_log_and_conditions_know_them() -> None:
    who = person("ann", "agent")
    assert identity_json(who)["actors"] == [f"{ISSUER}#agent"]
    statement = analyse("SELECT 1", NameContext("D", "S")).statement
    condition = compile_condition("identity.actors.size() == 0")
    for given, holds in ((who, False), (person("ann"), True)):
        facts = facts_for(statement, given, RunContext(), datetime.now(UTC))
        assert condition.holds(facts) is holds


def test_an_identity_comes_back_from_the_store_as_it_was() -> None:
    who = replace(
        person("ann", "agent"),
        expires_at=datetime(2030, 1, 1, tzinfo=UTC),
        claims={"region": "EU", "teams": ("a", "b")},
        token_digest="d",
    )
    assert identity_from_json(identity_as_json(who)) == who
