"""Who finds which requests in the list, and how many of one requester may wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from hoop_core.approvals import moves
from hoop_core.approvals.binding import digest
from hoop_core.approvals.book import Wanted
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.errors import ApprovalRefused
from hoop_core.model import AnswerVerdict, ApprovalStatus, ApprovalTerms, Identity
from hoop_core.store import Store
from tests.postgres_server import BOTH

DATABASES = BOTH

PENDING = ApprovalStatus.PENDING


def person(name: str, *groups: str) -> Identity:
    return Identity("https://idp", name, name, groups, "oidc", "")


EVE, AGENT, ANN = person("eve", "ml"), person("agent", "ml"), person("ann", "owners")


@dataclass(frozen=True)
class Bound:
    identity: Identity
    number: int
    scope: str | None = None

    @property
    def digest(self) -> str:
        return digest([self.identity.key, self.number, self.scope])


@pytest.fixture
def desk(store: Store, log: AuditLog) -> ApprovalDesk:
    return ApprovalDesk(store, log)


def ask(
    desk: ApprovalDesk,
    who: Identity,
    number: int,
    *,
    approvers: tuple[str, ...] = ("owners",),
    scope: str | None = None,
    dag: str = "d",
) -> str:
    terms = ApprovalTerms(approvers, 1, timedelta(hours=1), timedelta(hours=1))
    body = {"sql": "x", "run": {"orchestrator": "airflow", "fields": {"dag_id": dag}}}
    return desk.ask(Bound(who, number, scope), terms, body, session_id=None).id


def test_the_requests_of_others_push_nothing_out_of_a_persons_list(desk: ApprovalDesk) -> None:
    mine = ask(desk, AGENT, 0)
    theirs = [ask(desk, EVE, n, approvers=("others",)) for n in range(6)]
    assert [a.id for a in desk.list(Wanted(seen_by=AGENT, limit=3))] == [mine]
    assert [a.id for a in desk.list(Wanted(seen_by=ANN, limit=3))] == [mine]
    assert [a.id for a in desk.list(Wanted(seen_by=EVE))] == theirs[::-1]
    assert desk.list(Wanted(seen_by=person("nobody"))) == []
    assert len(desk.list()) == 7


def test_a_group_is_compared_as_a_whole_and_as_it_is_written(desk: ApprovalDesk) -> None:
    odd = 'own"ers, Zoë%'
    asked = ask(desk, AGENT, 0, approvers=("first", odd))
    assert [a.id for a in desk.list(Wanted(seen_by=person("p", odd)))] == [asked]
    for near in ('own"ers', "Zoë%", "FIRST", "firs", "first,", "%"):
        assert desk.list(Wanted(seen_by=person("p", near))) == []


def test_those_that_wait_come_oldest_first_and_none_is_pushed_out(desk: ApprovalDesk) -> None:
    asked = [ask(desk, AGENT, n) for n in range(4)]
    assert [a.id for a in desk.list(Wanted(status=PENDING, seen_by=ANN, limit=2))] == asked[:2]
    assert [a.id for a in desk.list(Wanted(seen_by=ANN, limit=2))] == asked[:1:-1]


def test_a_run_finds_its_own_request_behind_any_number_of_others(desk: ApprovalDesk) -> None:
    mine = ask(desk, AGENT, 0, dag="it's mine")
    for n in range(1, 5):
        ask(desk, AGENT, n)
    for run, found in (({"dag_id": "it's mine"}, [mine]), ({"dag_id": "it"}, [])):
        assert [a.id for a in desk.list(Wanted(seen_by=AGENT, run=run, limit=2))] == found
    assert desk.list(Wanted(seen_by=AGENT, run={"task_id": "d"})) == []


def test_one_requester_may_have_so_many_that_wait_and_others_are_free(
    desk: ApprovalDesk, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "MOST_PENDING", 3)
    first, *_ = [ask(desk, EVE, n) for n in range(3)]
    before = len(list(log.entries()))
    with pytest.raises(ApprovalRefused, match="3 unanswered requests for approval"):
        ask(desk, EVE, 3)
    assert len(list(log.entries())) == before
    assert ask(desk, EVE, 0) == first  # asked already
    ask(desk, AGENT, 0)
    ask(desk, EVE, 0, scope="standing")
    desk.answer(first, ANN, AnswerVerdict.REJECT, "no")
    ask(desk, EVE, 4)


def test_the_limits_are_what_the_documentation_says() -> None:
    assert (moves.MOST_PENDING, moves.MOST_STANDING) == (200, 20)


@pytest.mark.parametrize("scope", [None, "standing"])
def test_those_who_ask_at_the_same_moment_get_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: str | None
) -> None:
    monkeypatch.setattr(moves, "MOST_PENDING", 4)
    monkeypatch.setattr(moves, "MOST_STANDING", 4)
    store = Store(f"sqlite:///{tmp_path / 'own.db'}", busy_seconds=30)
    store.migrate()
    desk = ApprovalDesk(store, AuditLog(store, load_or_create_key(tmp_path / "k", "t/log")))
    together = threading.Barrier(12)
    refused: list[str] = []

    def asking(number: int) -> Callable[[], None]:
        def run() -> None:
            together.wait()
            try:
                ask(desk, EVE, number, scope=scope)
            except ApprovalRefused as e:
                refused.append(e.message)

        return run

    threads = [threading.Thread(target=asking(n)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.list(Wanted(status=PENDING))) == 4
    assert len(refused) == 8
    store.close()


def test_a_nul_in_one_question_keeps_nobody_from_the_others(desk: ApprovalDesk) -> None:
    odd = ask(desk, EVE, 0, dag="other\x00")
    plain = ask(desk, AGENT, 1, dag=r"\u0000")
    mine = ask(desk, AGENT, 2)
    assert [a.id for a in desk.list(Wanted(run={"dag_id": "d"}))] == [mine]
    assert desk.list(Wanted(run={"dag_id": "\x00"})) == []
    assert {a.id for a in desk.list()} == {odd, plain, mine}
