"""No sequence of requests, answers, retries, expiries, policy changes, crashes and concurrent consumers runs a
statement without a valid quorum, runs it twice on one grant, or lets the requester count.

What happened is judged by the log alone (approvals_model), which shares no code with the desk.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from sqlalchemy import Connection

from hoop_core.approvals import desk as desk_module
from hoop_core.approvals.binding import Binding, Bound, digest
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.errors import ApprovalRefused, HoopError
from hoop_core.model import (
    AnswerVerdict,
    ApprovalStatus,
    ApprovalTerms,
    BreakGlass,
    Identity,
    Json,
    RoleBinding,
    RunContext,
)
from hoop_core.store import Store
from tests.approvals_model import checked
from tests.postgres_server import Server

YES, NO = AnswerVerdict.APPROVE, AnswerVerdict.REJECT
HOUR, HALF = timedelta(hours=1), timedelta(minutes=30)
TERMS = ApprovalTerms(
    ("owners",), 2, HOUR, HALF, break_glass=BreakGlass(("oncall",), timedelta(minutes=10))
)
ONCE = ApprovalTerms(("owners",), 1, HOUR, HALF)


def person(name: str, *groups: str) -> Identity:
    return Identity("https://idp", name, name, groups, "oidc", "")


AGENTS = (person("agent", "ml", "owners", "oncall"), person("other", "ml", "owners"))
PEOPLE = (
    *AGENTS,
    *(person(n, "owners") for n in ("ann", "ben", "cat")),
    person("dan", "oncall"),
    person("eve", "ml"),
    replace(person("bot", "owners"), actors=("https://idp#robot",)),
)


def bound(text: str, who: Identity, policy: int = 0) -> Binding:
    return Binding(
        identity=who,
        role=RoleBinding("v", "R"),
        fingerprint=text,
        executed_sha256="e",
        parameters_sha256="p",
        policy_digest=f"policy {policy}",
        catalog_digest="c",
        run=RunContext("airflow", {"dag_id": "d", "run_id": "1", "task_id": "t"}),
    )


class StandingBound:
    """A standing approval of whatever its requester runs under one policy."""

    def __init__(self, binding: Binding) -> None:
        self.identity, self.digest = binding.identity, digest(["standing", binding.digest])

    @property
    def scope(self) -> str:
        return digest(["standing", self.identity.key])


def put(desk: ApprovalDesk, binding: Bound, terms: ApprovalTerms = TERMS) -> str:
    standing = binding.scope is not None
    question = {
        "requester": binding.identity.key,
        "sql": "x",
        "standing": standing,
        "uses_at_most": 10_000,
    }
    return desk.ask(binding, terms, question, session_id=None).id


def run(desk: ApprovalDesk, log: AuditLog, identifier: str, binding: Bound, now: datetime) -> None:
    """What the guard does in the transaction of the intent."""

    def write(connection: Connection) -> Json:
        if isinstance(binding, Binding):
            desk.consume(connection, identifier, binding)
        else:
            desk.use_standing(connection, identifier, binding.scope or "")
        return {"approval": identifier, "binding": binding.digest, "now": now.isoformat()}

    log.append("statement.intent", write)


def told(log: AuditLog) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in log.entries():
        parsed = json.loads(entry.text)
        yield parsed["kind"], parsed["data"]


class _Crash(Exception):
    pass


class Approving(RuleBasedStateMachine):
    """One desk, several replicas of it, and a clock that jumps."""

    asked = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.key = load_or_create_key(Path(self.folder.name) / "k", "t/l")
        self.stores: list[Store] = []
        self.start()
        self.original, self.now = desk_module.utc_now, utc_now()
        desk_module.utc_now = lambda: self.now
        self.policy = 0

    def start(self) -> None:
        """A process starts anew; what it knew is lost."""
        store = Store(f"sqlite:///{self.folder.name}/x.db")
        store.migrate()
        self.stores.append(store)
        self.log = AuditLog(store, self.key)
        self.desk = ApprovalDesk(store, self.log)

    def teardown(self) -> None:
        desk_module.utc_now = self.original
        for store in self.stores:
            store.close()
        self.folder.cleanup()

    @rule(target=asked, text=st.sampled_from("ab"), who=st.sampled_from(AGENTS))
    def ask(self, text: str, who: Identity) -> tuple[str, Bound]:
        binding = bound(text, who, self.policy)
        return put(self.desk, binding), binding

    @rule(target=asked, who=st.sampled_from(AGENTS))
    def ask_standing(self, who: Identity) -> tuple[str, Bound]:
        binding = StandingBound(bound("s", who, self.policy))
        return put(self.desk, binding, ONCE), binding

    @rule(of=asked, who=st.sampled_from(PEOPLE), verdict=st.sampled_from([YES, YES, NO]))
    def answer(self, of: tuple[str, Bound], who: Identity, verdict: AnswerVerdict) -> None:
        self.tried(lambda: self.desk.answer(of[0], who, verdict, "because"))

    @rule(of=asked, who=st.sampled_from(PEOPLE), reason=st.sampled_from(["fire", " "]))
    def break_glass(self, of: tuple[str, Bound], who: Identity, reason: str) -> None:
        self.tried(lambda: self.desk.break_glass(of[0], who, reason))

    @rule(of=asked, who=st.sampled_from(PEOPLE))
    def review(self, of: tuple[str, Bound], who: Identity) -> None:
        self.tried(lambda: self.desk.review(of[0], who, "seen"))

    @rule(of=asked, who=st.sampled_from(PEOPLE), standing=st.booleans())
    def take_back(self, of: tuple[str, Bound], who: Identity, standing: bool) -> None:
        move = self.desk.revoke if standing else self.desk.withdraw
        self.tried(lambda: move(of[0], who, "not any more"))

    @rule(of=asked)
    def drift(self, of: tuple[str, Bound]) -> None:
        if of[1].scope is not None:
            self.desk.drifted(of[0], "its tables have changed")

    @rule(of=asked)
    def use(self, of: tuple[str, Bound]) -> None:
        """As the guard does: with the binding that the statement has under the policy of the moment."""
        identifier, binding = of
        if isinstance(binding, Binding):
            binding = replace(binding, policy_digest=f"policy {self.policy}")
        self.tried(lambda: run(self.desk, self.log, identifier, binding, self.now))

    @rule(of=asked)
    def crash_while_using(self, of: tuple[str, Bound]) -> None:
        """The process dies after the grant was used up and before the intent is durable."""

        def write(connection: Connection) -> Json:
            if isinstance(of[1], Binding):
                self.desk.consume(connection, of[0], of[1])
            else:
                self.desk.use_standing(connection, of[0], of[1].scope or "")
            raise _Crash

        with contextlib.suppress(_Crash, HoopError):
            self.log.append("statement.intent", write)
        self.start()

    @rule(of=asked)
    def use_twice_at_once(self, of: tuple[str, Bound]) -> None:
        """Two replicas at the same moment."""
        first = (self.desk, self.log)
        self.start()
        barrier, errors = threading.Barrier(2), []

        def consume(desk: ApprovalDesk, log: AuditLog) -> None:
            barrier.wait(10)
            try:
                run(desk, log, of[0], of[1], self.now)
            except ApprovalRefused as e:
                errors.append(e)

        threads = [threading.Thread(target=consume, args=a) for a in (first, (self.desk, self.log))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        if of[1].scope is None:
            assert errors

    @rule()
    def another_policy(self) -> None:
        self.policy += 1

    @rule(minutes=st.sampled_from([1, 9, 11, 29, 31, 61]))
    def later(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    def tried(self, move: Any) -> None:
        with contextlib.suppress(ApprovalRefused):
            move()

    @invariant()
    def every_use_was_approved(self) -> None:
        questions = checked(told(self.log))
        for identifier, question in questions.items():
            row = self.desk.get(identifier)
            assert question.standing or question.uses <= 1
            assert row.uses == (question.uses if question.standing else 0)
            assert (row.status is ApprovalStatus.CONSUMED) == (
                not question.standing and question.uses == 1
            )
            if row.emergency:
                reviewed = row.emergency["review"]
                assert row.review_open == (reviewed is None)
                assert reviewed is None or reviewed["by"] != row.emergency["by"]


TestApproving = Approving.TestCase
TestApproving.settings = settings(max_examples=20, stateful_step_count=25, deadline=None)


class ApprovingForLong(Approving):
    """The same machine with far more and longer sequences."""


TestApprovingForLong = pytest.mark.nightly(ApprovingForLong.TestCase)
TestApprovingForLong.settings = settings(max_examples=500, stateful_step_count=60, deadline=None)


PROCESSES, ORIGIN = 8, "test.example/log"


def _replica(url: str, key: Path, seed: int, steps: int) -> None:
    """One process of eight: whatever comes to its mind, over and over."""
    chance = random.Random(seed)
    store = Store(url, busy_seconds=20)
    log = AuditLog(store, load_or_create_key(key, ORIGIN))
    desk = ApprovalDesk(store, log)
    for _ in range(steps):
        who = chance.choice(AGENTS)
        binding = bound(chance.choice("abcd"), who, chance.randrange(2))
        subject: Bound = StandingBound(binding) if chance.random() < 0.1 else binding
        try:
            identifier = put(desk, subject, ONCE if subject.scope else TERMS)
            for _ in range(chance.randrange(4)):
                desk.answer(
                    identifier, chance.choice(PEOPLE), chance.choice([YES, YES, YES, NO]), "so"
                )
            match chance.randrange(6):
                case 0:
                    desk.break_glass(identifier, chance.choice(PEOPLE), "fire")
                case 1:
                    desk.withdraw(identifier, who, "no need")
                case 2:
                    desk.review(identifier, chance.choice(PEOPLE), "seen")
            run(desk, log, identifier, subject, utc_now())
        except ApprovalRefused:
            continue
    store.close()


def _race(url: str, key: Path, identifier: str, binding: Binding) -> None:
    store = Store(url, busy_seconds=20)
    log = AuditLog(store, load_or_create_key(key, ORIGIN))
    try:
        run(ApprovalDesk(store, log), log, identifier, binding, utc_now())
    except ApprovalRefused:
        pass
    finally:
        store.close()


def _all(work: list[tuple[Any, ...]], target: Any) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=target, args=arguments) for arguments in work]
    for process in processes:
        process.start()
    for process in processes:
        process.join(150)
        assert process.exitcode == 0


@pytest.mark.postgres
@pytest.mark.parametrize("steps", [10, pytest.param(400, marks=pytest.mark.nightly)])
def test_eight_processes_never_run_what_was_not_approved(
    postgres: Server, tmp_path: Path, steps: int
) -> None:
    url, key = postgres.emptied(), tmp_path / "log.key"
    log_key = load_or_create_key(key, ORIGIN)
    _all([(url, key, seed, steps) for seed in range(PROCESSES)], _replica)
    store = Store(url)
    questions = checked(told(AuditLog(store, log_key)))
    store.close()
    assert sum(q.uses for q in questions.values()) > 0
    assert {q.uses for q in questions.values() if not q.standing} <= {0, 1}


@pytest.mark.postgres
def test_of_eight_processes_one_uses_a_grant(postgres: Server, tmp_path: Path) -> None:
    url, key = postgres.emptied(), tmp_path / "log.key"
    store = Store(url)
    log = AuditLog(store, load_or_create_key(key, ORIGIN))
    desk = ApprovalDesk(store, log)
    binding = bound("a", AGENTS[0])
    identifier = put(desk, binding)
    for who in PEOPLE[2:4]:
        desk.answer(identifier, who, YES, "fine")
    _all([(url, key, identifier, binding)] * PROCESSES, _race)
    assert [q.uses for q in checked(told(log)).values()] == [1]
    store.close()
