"""Masking exceptions: who may be asked, what a grant changes, and that it ends when it should."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from sqlalchemy import Connection

from hoop_core.approvals import desk as desk_module
from hoop_core.approvals.approval import Approval
from hoop_core.approvals.book import Wanted
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.approvals.exceptions import ExceptionBinding, InForce, question, scope_of
from hoop_core.approvals.standing import StandingGrants
from hoop_core.audit.checkpoint import LogKey, load_or_create_key
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.verify import verify_bundle, verify_store
from hoop_core.config import Settings
from hoop_core.credentials.log_key import opened_log
from hoop_core.errors import ApprovalRefused, ConfigError, PolicyDenied, StoreUnavailable
from hoop_core.evidence.bundle import Population, export_bundle
from hoop_core.guard import Guard
from hoop_core.judge import judge_text
from hoop_core.model import (
    AnswerVerdict,
    ApprovalStatus,
    Decision,
    Identity,
    Json,
    NameContext,
    Outcome,
    RoleBinding,
    RunContext,
    TableName,
    Verdict,
)
from hoop_core.policy.exceptions import ColumnName, offer, parse_column
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy, RoleRule
from hoop_core.policy.schema import json_schema
from hoop_core.records import person_json, used_first
from hoop_core.session.guarded import GuardedSession, QueryRequest
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.live_catalog import LiveCatalog
from hoop_core.store import Store
from hoop_core.web.masking import MaskingExceptions
from tests.postgres_server import BOTH

DATABASES = BOTH

YES, NO = AnswerVerdict.APPROVE, AnswerVerdict.REJECT
CUSTOMERS = TableName("PROD", "CRM", "CUSTOMERS")
EMAIL, SSN, PHONE, NOTE = (ColumnName(CUSTOMERS, c) for c in ("EMAIL", "SSN", "PHONE", "NOTE"))
ROLE = RoleBinding("ml-reader", "ML_READER")
HOUR = timedelta(hours=1)
TEXT = """
version: 1
masks:
  - columns: ["PROD.CRM.CUSTOMERS.EMAIL"]
    mask: email_domain
    except_groups: [pii]
    exceptions: {approvers: [privacy, owners], quorum: 1, valid_for: 4h, pending_for: 12h}
  - columns: ["*.*.*.PHONE"]
    mask: constant
    exceptions: {approvers: [owners], quorum: 2, valid_for: 2h}
  - {columns: ["PROD.CRM.CUSTOMERS.SSN"], mask: "null"}
rules:
  - {name: read, groups: [agents], reads: ["PROD.CRM.*"], then: allow}
  - {name: write, groups: [agents], kinds: [insert, create_table_as, update],
     writes: ["PROD.CRM.*"], then: allow}
"""
POLICY = parse_policy(TEXT, "p.yaml")
CATALOG = Catalog.from_mapping(
    {
        CUSTOMERS: {"ID": "NUMBER", "EMAIL": "VARCHAR", "PHONE": "VARCHAR", "SSN": "VARCHAR"},
        TableName("PROD", "CRM", "COPY"): {"V": "VARCHAR"},
    }
)


def person(name: str, *groups: str) -> Identity:
    return Identity("https://idp", name, name, groups, "oidc", "")


AGENT = person("agent", "agents", "owners")
ANN, BEN = person("ann", "owners"), person("ben", "owners")
EVE = person("eve", "agents")


def bound(
    *columns: ColumnName,
    identity: Identity = AGENT,
    role: RoleBinding = ROLE,
    policy: Policy = POLICY,
    span: timedelta = HOUR,
) -> ExceptionBinding:
    return ExceptionBinding(identity, role, policy, columns or (EMAIL,), span)


def ask(desk: ApprovalDesk, wanted: ExceptionBinding) -> Approval:
    offered = offer(wanted.policy, wanted.identity, wanted.columns, wanted.span)
    body = question(wanted, person_json(wanted.identity), "a campaign", offered)
    return desk.ask(wanted, wanted.terms(offered), body, session_id=None)


def standing(desk: ApprovalDesk, wanted: ExceptionBinding) -> InForce:
    return InForce.of(desk.standing.ask(wanted.scope))


def judged(
    sql: str, exceptions: InForce, *, identity: Identity = AGENT, policy: Policy = POLICY
) -> Verdict:
    verdict = judge_text(
        sql,
        NameContext("PROD", "CRM"),
        identity=identity,
        policy=policy,
        catalog=CATALOG,
        run=RunContext(),
        now=datetime(2026, 3, 2, tzinfo=UTC),
        exceptions=exceptions.columns,
    )
    return replace(verdict, decision=exceptions.named_in(verdict.decision))


def reasons(decision: Decision) -> dict[str, str]:
    return {r.code: r.message for r in decision.reasons}


@pytest.fixture
def desk(store: Store, log: AuditLog) -> ApprovalDesk:
    return ApprovalDesk(store, log)


@pytest.fixture
def granted(desk: ApprovalDesk) -> Approval:
    return desk.answer(ask(desk, bound()).id, ANN, YES, "fine")


# ------------------------------------------------------------------ what the policy offers


@pytest.mark.parametrize(
    ("identity", "column", "span", "reason"),
    [
        (AGENT, SSN, HOUR, "EXCEPTION_NOT_OFFERED"),
        (AGENT, NOTE, HOUR, "NOTHING_TO_EXCEPT"),
        (person("pia", "agents", "pii"), EMAIL, HOUR, "NOTHING_TO_EXCEPT"),
        (person("out", "others"), EMAIL, HOUR, "NOT_GRANTED"),
        (person("out", "others"), NOTE, HOUR, "NOT_GRANTED"),
        (AGENT, EMAIL, timedelta(hours=5), "EXCEPTION_TOO_LONG"),
    ],
)
def test_what_is_not_offered_is_refused_with_its_reason(
    identity: Identity, column: ColumnName, span: timedelta, reason: str
) -> None:
    with pytest.raises(PolicyDenied) as caught:
        offer(POLICY, identity, (column,), span)
    assert caught.value.reason == reason
    assert caught.value.hint


def test_several_columns_need_terms_that_satisfy_every_mask() -> None:
    terms = offer(POLICY, AGENT, (EMAIL, PHONE), HOUR).terms
    assert (terms.approvers, terms.quorum) == (("owners",), 2)
    assert (terms.valid_for, terms.pending_for) == (timedelta(hours=2), timedelta(hours=12))


def test_one_offered_column_does_not_carry_another_through() -> None:
    with pytest.raises(PolicyDenied) as caught:
        offer(POLICY, AGENT, (EMAIL, SSN), HOUR)
    assert caught.value.reason == "EXCEPTION_NOT_OFFERED"


def test_every_mask_of_one_column_must_offer_it() -> None:
    second = '  - {columns: ["PROD.CRM.*.EMAIL"], mask: "null"}\nrules:'
    policy = parse_policy(TEXT.replace("rules:", second), "p.yaml")
    with pytest.raises(PolicyDenied) as caught:
        offer(policy, AGENT, (EMAIL,), HOUR)
    assert caught.value.reason == "EXCEPTION_NOT_OFFERED"


def test_masks_without_a_common_approver_cannot_be_lifted_together() -> None:
    policy = parse_policy(TEXT.replace("approvers: [owners]", "approvers: [legal]"), "p.yaml")
    with pytest.raises(PolicyDenied) as caught:
        offer(policy, AGENT, (EMAIL, PHONE), HOUR)
    assert caught.value.reason == "EXCEPTION_CONFLICT"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("exceptions: {approver: [a]}", "p.yaml:7: unknown key .*`approver`.*`approvers`"),
        ("exceptions: {quorum: 2}", "p.yaml:7: .*needs `approvers`"),
        ("exceptions: {approvers: []}", "p.yaml:7: .*must not be empty"),
        ("exceptions: {approvers: [a], valid_for: 1y}", "p.yaml:7: .*number and s, m, h or d"),
        ("exception: {approvers: [a]}", "p.yaml:7: unknown key .*`exceptions`"),
    ],
)
def test_a_mistake_in_exceptions_is_named_with_its_line(text: str, says: str) -> None:
    policy = TEXT.replace("exceptions: {approvers: [privacy, owners], quorum: 1, valid_for: 4h, "
                          "pending_for: 12h}", text)  # fmt: skip
    assert policy != TEXT
    with pytest.raises(ConfigError, match=says):
        parse_policy(policy, "p.yaml")


def test_the_schema_knows_exceptions_of_every_mask() -> None:
    masks = json_schema()["properties"]["masks"]["items"]["oneOf"]
    assert masks and all("approvers" in m["properties"]["exceptions"]["required"] for m in masks)


@pytest.mark.parametrize(
    "text",
    [
        "PROD.CRM.CUSTOMERS",
        "PROD.CRM.CUSTOMERS.*",
        "*.CRM.CUSTOMERS.EMAIL",
        "",
        "a.b.c.d.e",
        "a..c.d",
    ],
)
def test_only_whole_column_names_can_be_asked_for(text: str) -> None:
    assert parse_column(text) is None


def test_column_names_are_folded_as_snowflake_does() -> None:
    assert parse_column("prod.crm.customers.email") == EMAIL
    assert str(parse_column('prod.crm."Odd.Name".email')) == 'PROD.CRM."Odd.Name".EMAIL'


# ------------------------------------------------------------------ what a grant changes


def test_an_approved_exception_shows_the_column_and_says_so(
    desk: ApprovalDesk, granted: Approval
) -> None:
    verdict = judged("SELECT id, email, ssn FROM customers", standing(desk, bound()))
    shown = [(m.column, m.mask, m.exception) for m in verdict.decision.exposed]
    assert shown == [("EMAIL", "email_domain", granted.id)]
    assert [m.column for m in verdict.decision.masked] == ["PHONE", "SSN"]
    said = reasons(verdict.decision)["MASKING_EXCEPTION"]
    assert granted.valid_until is not None
    for part in (granted.id, "PROD.CRM.CUSTOMERS.EMAIL", "approved by ann"):
        assert part in said
    assert granted.valid_until.isoformat(timespec="seconds") in said


def test_a_pending_request_shows_nothing(desk: ApprovalDesk) -> None:
    ask(desk, bound())
    assert standing(desk, bound()).columns == frozenset()


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE fresh AS SELECT email FROM customers",
        "INSERT INTO copy SELECT email FROM customers",
    ],
)
def test_what_an_exception_shows_cannot_be_written_elsewhere(
    desk: ApprovalDesk, granted: Approval, sql: str
) -> None:
    in_force = standing(desk, bound())
    verdict = judged(sql, in_force)
    assert verdict.decision.outcome is Outcome.ALLOW
    assert verdict.rewritten == judged(sql, InForce()).rewritten
    assert verdict.decision.exposed == ()
    assert "EMAIL" in reasons(verdict.decision)["EXCEPTION_NOT_APPLIED"]


def test_an_exception_does_not_open_the_table_for_changes(
    desk: ApprovalDesk, granted: Approval
) -> None:
    only = parse_policy(
        TEXT.replace('  - {columns: ["PROD.CRM.CUSTOMERS.SSN"], mask: "null"}\n', "").replace(
            '"*.*.*.PHONE"', '"*.*.*.NO_SUCH"'
        ),
        "p.yaml",
    )
    desk.answer(ask(desk, bound(policy=only)).id, ANN, YES, "fine")
    verdict = judged(
        "UPDATE customers SET id = 1 WHERE id = 2", standing(desk, bound(policy=only)), policy=only
    )
    assert "WRITE_TO_PROTECTED" in reasons(verdict.decision)


def test_an_exception_lifts_no_row_filter(desk: ApprovalDesk) -> None:
    filtered = parse_policy(
        TEXT.replace(
            "rules:", 'row_filters:\n  - {table: "PROD.CRM.CUSTOMERS", where: "ID > 7"}\nrules:', 1
        ),
        "p.yaml",
    )
    wanted = bound(policy=filtered)
    desk.answer(ask(desk, wanted).id, ANN, YES, "fine")
    verdict = judged("SELECT email FROM customers", standing(desk, wanted), policy=filtered)
    assert [m.column for m in verdict.decision.exposed if m.exception] == ["EMAIL"]
    assert verdict.rewritten is not None and '"ID" > 7' in verdict.rewritten


@pytest.mark.parametrize("minutes", [(5, 60), (60, 5)])
def test_the_grant_that_lasts_longest_is_the_one_named(
    desk: ApprovalDesk, minutes: tuple[int, ...]
) -> None:
    by_minutes = {m: ask(desk, bound(span=timedelta(minutes=m))) for m in minutes}
    for asked in by_minutes.values():
        desk.answer(asked.id, ANN, YES, "fine")
    verdict = judged("SELECT email FROM customers", standing(desk, bound()))
    assert {m.exception for m in verdict.decision.exposed} == {by_minutes[60].id}


def test_a_denied_statement_names_no_exception(desk: ApprovalDesk, granted: Approval) -> None:
    verdict = judged("SELECT email FROM prod.hr.salaries", standing(desk, bound()))
    assert verdict.decision.outcome is Outcome.DENY and verdict.decision.exposed == ()
    assert "MASKING_EXCEPTION" not in reasons(verdict.decision)


def test_describing_a_masked_table_exposes_nothing() -> None:
    verdict = judged("DESCRIBE TABLE customers", InForce())
    assert verdict.decision.outcome is Outcome.ALLOW and verdict.decision.exposed == ()


# ------------------------------------------------------------------ what it is bound to


@pytest.mark.parametrize(
    "change",
    [
        {"identity": person("other", "agents", "owners")},
        {"identity": replace(AGENT, issuer="https://else")},
        {"role": RoleBinding("ml-reader", "OTHER_ROLE")},
        {"policy": parse_policy(TEXT.replace("quorum: 2", "quorum: 3"), "p.yaml")},
        {"identity": replace(AGENT, groups=("agents", "owners", "pii"))},
    ],
    ids=["person", "issuer", "role", "policy", "masks that bind the caller"],
)
def test_an_exception_holds_only_for_what_it_was_given_for(
    desk: ApprovalDesk, granted: Approval, change: dict[str, Any]
) -> None:
    assert standing(desk, bound()).columns
    assert not standing(desk, bound(**change)).columns


def test_other_groups_that_change_no_mask_do_not_end_it(
    desk: ApprovalDesk, granted: Approval
) -> None:
    moved = replace(AGENT, groups=("agents", "new-team"))
    assert scope_of(moved, ROLE, POLICY, "") == bound().scope


def test_asking_again_finds_the_open_request(desk: ApprovalDesk) -> None:
    asked = ask(desk, bound(EMAIL, PHONE))
    assert ask(desk, bound(PHONE, EMAIL)).id == asked.id
    assert ask(desk, bound(EMAIL, PHONE, span=timedelta(minutes=5))).id != asked.id
    assert ask(desk, bound(EMAIL)).id != asked.id


# ------------------------------------------------------------------ who may end it, and when it ends


def test_the_requester_cannot_approve_it_but_can_revoke_it(
    desk: ApprovalDesk, log: AuditLog
) -> None:
    asked = ask(desk, bound())
    with pytest.raises(ApprovalRefused, match="own request"):
        desk.answer(asked.id, AGENT, YES, "please")
    desk.answer(asked.id, ANN, YES, "fine")
    ended = desk.revoke(asked.id, AGENT, "done")
    assert ended.status is ApprovalStatus.REVOKED
    assert ended.revocation is not None and ended.revocation["by"]["name"] == "agent"
    assert not standing(desk, bound()).columns
    assert [e.kind for e in log.entries()][-1] == "approval.revoked"


def test_a_requester_who_is_no_approver_can_revoke_it(desk: ApprovalDesk) -> None:
    wanted = bound(identity=EVE)
    asked = ask(desk, wanted)
    desk.answer(asked.id, ANN, YES, "fine")
    desk.revoke(asked.id, EVE, "done")
    assert not standing(desk, wanted).columns


def test_an_approver_can_revoke_or_reject_it_afterwards(desk: ApprovalDesk) -> None:
    for end in (
        lambda i: desk.revoke(i, BEN, "incident"),
        lambda i: desk.answer(i, BEN, NO, "incident"),
    ):
        asked = ask(desk, bound())
        desk.answer(asked.id, ANN, YES, "fine")
        assert standing(desk, bound()).columns
        end(asked.id)
        assert not standing(desk, bound()).columns


@pytest.mark.parametrize(
    ("who", "reason", "says"),
    [(EVE, "x", "neither asked"), (ANN, " ", "needs a reason")],
)
def test_a_revocation_by_a_stranger_or_without_a_reason_is_refused_and_logged(
    desk: ApprovalDesk, log: AuditLog, granted: Approval, who: Identity, reason: str, says: str
) -> None:
    with pytest.raises(ApprovalRefused, match=says):
        desk.revoke(granted.id, who, reason)
    assert standing(desk, bound()).columns
    assert [e.kind for e in log.entries()][-1] == "approval.revoke_refused"


def test_what_has_ended_cannot_be_revoked_again(desk: ApprovalDesk, granted: Approval) -> None:
    desk.revoke(granted.id, ANN, "x")
    with pytest.raises(ApprovalRefused, match="revoked already"):
        desk.revoke(granted.id, ANN, "x")


def test_its_time_runs_from_the_last_yes(
    desk: ApprovalDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = utc_now()
    asked = ask(desk, bound())
    monkeypatch.setattr(desk_module, "utc_now", lambda: start + timedelta(hours=3))
    desk.answer(asked.id, ANN, YES, "fine")
    monkeypatch.setattr(desk_module, "utc_now", lambda: start + timedelta(hours=3, minutes=59))
    assert standing(desk, bound()).columns
    monkeypatch.setattr(desk_module, "utc_now", lambda: start + timedelta(hours=4))
    assert not standing(desk, bound()).columns
    assert desk.get(asked.id).status is ApprovalStatus.EXPIRED


def test_an_exception_that_ends_after_the_decision_stops_the_intent(
    desk: ApprovalDesk, log: AuditLog, granted: Approval
) -> None:
    def intent(connection: Connection) -> Json:
        desk.check_standing(connection, [granted.id])
        return {}

    before = log.append("statement.intent", intent)
    desk.revoke(granted.id, ANN, "incident")
    with pytest.raises(ApprovalRefused, match=granted.id):
        log.append("statement.intent", intent)
    assert [e.seq for e in log.entries() if e.kind == "statement.intent"] == [before]


def test_an_exception_is_no_grant_for_a_statement(
    desk: ApprovalDesk, log: AuditLog, granted: Approval
) -> None:
    with pytest.raises(ApprovalRefused):
        log.append(
            "statement.intent",
            lambda c: desk.consume(c, granted.id, bound(EMAIL, PHONE)) or {},  # type: ignore[arg-type, func-returns-value]
        )
    assert desk.get(granted.id).status is ApprovalStatus.APPROVED


def test_evidence_with_exceptions_verifies(
    store: Store,
    desk: ApprovalDesk,
    log: AuditLog,
    log_key: LogKey,
    granted: Approval,
    tmp_path: Path,
) -> None:
    desk.revoke(granted.id, ANN, "done")
    with pytest.raises(ApprovalRefused):
        desk.revoke(granted.id, EVE, "again")
    ask(desk, bound(PHONE))
    log.checkpoint()
    url = str(store.url)
    assert verify_store(url, verifier_key=log_key.verifier_key).faults == ()
    options: dict[str, Any] = {
        "store": {"url": url, "recordings": str(tmp_path / "recordings")},
        "audit": {"key_file": tmp_path / "log.key", "origin": "test.example/log"},
    }
    bundle = tmp_path / "evidence.zip"
    chosen = Settings(**options)
    with opened_log(chosen) as (opened, own):
        export_bundle(chosen, bundle, Population("test"), log=own, store=opened)
    assert verify_bundle(bundle, verifier_key=log_key.verifier_key).faults == ()


def test_an_exception_of_another_policy_is_said_to_be_void(
    log: AuditLog, desk: ApprovalDesk, granted: Approval
) -> None:
    def told(policy: Policy) -> tuple[bool, bool]:
        guard: Any = SimpleNamespace(policy=policy, desk=desk)
        shown = MaskingExceptions(guard, log).as_json(desk.get(granted.id))
        return shown["in_force"], shown["void"]

    assert told(POLICY) == (True, False)
    assert told(parse_policy(TEXT.replace("quorum: 2", "quorum: 3"), "p.yaml")) == (False, True)
    desk.revoke(granted.id, ANN, "done")
    assert told(POLICY) == (False, False)


def test_nobody_is_asked_without_end(log: AuditLog, desk: ApprovalDesk) -> None:
    guard: Any = SimpleNamespace(
        policy=replace(POLICY, roles=(RoleRule(frozenset({"agents"}), ROLE),)),
        desk=desk,
        catalog=LiveCatalog(_describe),
        choose_account=lambda _: "",
    )

    async def flood() -> None:
        asking = MaskingExceptions(guard, log)
        for seconds in range(1, 30):
            body = {"columns": ["PROD.CRM.CUSTOMERS.EMAIL"], "seconds": seconds, "reason": "x"}
            await asking.ask(AGENT, body)

    with pytest.raises(ApprovalRefused, match="20 unanswered"):
        asyncio.run(flood())
    assert len(desk.list(Wanted(status=ApprovalStatus.PENDING))) == 20
    assert [e.kind for e in log.entries()][-1] == "approval.request_refused"


@pytest.mark.parametrize(
    ("column", "reason", "says"),
    [
        ("PROD.CRM.CUSTOMERS.PHONE", "UNKNOWN_OBJECT", "PROD.CRM.CUSTOMERS"),
        ("PROD.CRM.COPY.PHONE", "UNKNOWN_COLUMN", "no column PHONE"),
        ("PROD.CRM.COPY.VV", "UNKNOWN_COLUMN", "Did you mean V?"),
        ("PROD.CRM.CUSTOMER.EMAIL", "UNKNOWN_OBJECT", "Did you mean PROD.CRM.CUSTOMERS?"),
        ("PROD.HR.NOTHING.AT_ALL", "NOT_GRANTED", "granted by no rule"),
    ],
)
def test_nobody_is_asked_about_a_column_that_is_not_there(
    log: AuditLog, desk: ApprovalDesk, column: str, reason: str, says: str
) -> None:
    async def describe(table: TableName) -> CatalogObject | None:
        return None if table == CUSTOMERS else await _describe(table)

    guard: Any = SimpleNamespace(
        policy=replace(POLICY, roles=(RoleRule(frozenset({"agents"}), ROLE),)),
        desk=desk,
        catalog=LiveCatalog(describe),
        choose_account=lambda _: "",
    )
    body = {"columns": [column], "seconds": 60, "reason": "x"}
    with pytest.raises(PolicyDenied, match=says) as caught:
        asyncio.run(MaskingExceptions(guard, log).ask(AGENT, body))
    assert caught.value.reason == reason
    assert desk.list() == []


async def _describe(table: TableName) -> CatalogObject | None:
    return CATALOG.get(table)


class _Unread:
    """A desk whose store does not answer."""

    def __init__(self) -> None:
        self.standing = StandingGrants(self._read)

    def _read(self, scope: str) -> list[Approval]:
        raise StoreUnavailable("The store cannot be read.")


def test_an_unread_store_refuses_the_statement_instead_of_masking(log: AuditLog) -> None:
    none: Any = None
    desk: Any = _Unread()
    guard = Guard(POLICY, none, desk, none, log, none, none)
    session = GuardedSession(
        id="ses_1", identity=AGENT, role=ROLE, names=NameContext("PROD", "CRM"), run=RunContext(),
        client={}, parameters={}, opened_at=utc_now(), open_upstream=none,
    )  # fmt: skip
    request = QueryRequest("st_1", "SELECT email FROM customers", None, {})
    with pytest.raises(StoreUnavailable):
        asyncio.run(guard.run(session, request))
    assert [e.kind for e in log.entries()] == ["statement.refused"]


# ------------------------------------------------------------------ no sequence gets around it


class Excepting(RuleBasedStateMachine):
    """Random answers, revocations and hours; the model beside it knows only the rules."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = DESKS[0]
        self.original, self.now = desk_module.utc_now, utc_now()
        desk_module.utc_now = lambda: self.now
        self.yes: set[str] = set()
        self.until: datetime | None = None
        self.over = False

    def teardown(self) -> None:
        desk_module.utc_now = self.original

    @initialize()
    def put(self) -> None:
        # a role of its own: examples share one store, and must not share a scope
        self.wanted = bound(PHONE, role=RoleBinding("v", f"R{len(DESKS)}"))
        DESKS.append(self.desk)
        self.asked = ask(self.desk, self.wanted)
        self.pending_until = self.now + timedelta(hours=24)

    def _time_is_up(self) -> bool:
        return self.now >= (self.until or self.pending_until)

    @rule(who=st.sampled_from([AGENT, ANN, BEN, EVE]), verdict=st.sampled_from([YES, YES, NO]))
    def reply(self, who: Identity, verdict: AnswerVerdict) -> None:
        try:
            self.desk.answer(self.asked.id, who, verdict, "because")
        except ApprovalRefused:
            return
        assert who in (ANN, BEN) and not self.over and not self._time_is_up()
        if verdict is NO:
            self.over = True
            return
        self.yes.add(who.key)
        if len(self.yes) == 2:
            self.until = self.now + HOUR

    @rule(who=st.sampled_from([AGENT, ANN, EVE]))
    def revoke(self, who: Identity) -> None:
        try:
            self.desk.revoke(self.asked.id, who, "because")
        except ApprovalRefused:
            return
        assert who is not EVE and not self.over
        self.over = True

    @rule(minutes=st.sampled_from([1, 29, 31, 61, 1439]))
    def later(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @invariant()
    def shown_exactly_while_two_others_said_yes(self) -> None:
        if not hasattr(self, "wanted"):
            return
        holds = not self.over and self.until is not None and self.now < self.until
        assert bool(standing(self.desk, self.wanted).columns) == holds


DESKS: list[ApprovalDesk] = []


@pytest.fixture(scope="class")
def shared_desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("excepting")
    store = Store(f"sqlite:///{folder / 'x.db'}")
    store.migrate()
    DESKS[:] = [ApprovalDesk(store, AuditLog(store, load_or_create_key(folder / "k", "t/l")))]
    yield
    store.close()


TestExcepting = pytest.mark.usefixtures("shared_desk")(Excepting.TestCase)
TestExcepting.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)


# ------------------------------------------------------------------ what approvers are shown


def test_masks_that_the_statement_does_not_read_come_last() -> None:
    verdict = replace(
        judged("SELECT email FROM customers", InForce()), columns=((CUSTOMERS, ("EMAIL",)),)
    )
    masked = [
        {"table": str(CUSTOMERS), "column": c, "mask": "null"} for c in ("PHONE", "EMAIL")
    ] + [{"table": "A.B.C", "column": "X", "mask": "null"}]
    assert [(m["column"], m["used"]) for m in used_first(masked, verdict)] == [
        ("EMAIL", True),
        ("X", None),
        ("PHONE", False),
    ]
