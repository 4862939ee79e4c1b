"""What pages keep in the store, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.log import AuditLog
from hoop_core.errors import Unavailable
from hoop_core.store import Store, web_sessions
from hoop_core.store.tables import web_sessions as table
from hoop_core.store.web_sessions import PendingAnswers, WebSessions
from hoop_core.web.pages.live import ALL, Live
from tests.postgres_server import BOTH
from tests.test_approvals_desk import ANN, YES, ask

DATABASES = BOTH
SOON = timedelta(hours=1)


@pytest.fixture
def sessions(store: Store) -> WebSessions:
    return WebSessions(store, idle_seconds=60)


def _seen(store: Store, ago: float) -> None:
    at = datetime.now(UTC) - timedelta(seconds=ago)
    with store.write() as connection:
        connection.execute(update(table).values(seen_at=at))


def test_a_session_is_found_until_it_ends(store: Store, sessions: WebSessions) -> None:
    sessions.begin("a" * 64, {"who": "ann"}, datetime.now(UTC) + SOON)
    found = sessions.find("a" * 64)
    assert found is not None
    assert found.identity == {"who": "ann"}
    assert sessions.find("b" * 64) is None
    sessions.end("a" * 64)
    assert sessions.find("a" * 64) is None


def test_looking_keeps_a_session_alive_and_silence_ends_it(
    store: Store, sessions: WebSessions
) -> None:
    sessions.begin("a" * 64, {}, datetime.now(UTC) + SOON)
    _seen(store, 50)
    assert sessions.find("a" * 64) is not None
    with store.read() as connection:
        seen = connection.scalar(select(table.c.seen_at))
    assert seen is not None
    assert datetime.now(UTC) - seen < timedelta(seconds=20)
    _seen(store, 61)
    assert sessions.find("a" * 64) is None


def test_what_has_ended_is_cleared_away_at_the_next_sign_in(
    store: Store, sessions: WebSessions
) -> None:
    sessions.begin("a" * 64, {}, datetime.now(UTC) - SOON)
    assert sessions.find("a" * 64) is None
    sessions.begin("b" * 64, {}, datetime.now(UTC) + SOON)
    with store.read() as connection:
        assert connection.scalar(select(func.count()).select_from(table)) == 1


def test_a_fresh_proof_changes_what_a_session_says(sessions: WebSessions) -> None:
    sessions.begin("a" * 64, {"groups": ["x"]}, datetime.now(UTC) + SOON)
    assert sessions.proven_again("a" * 64, {"groups": []})
    found = sessions.find("a" * 64)
    assert found is not None
    assert found.identity == {"groups": []}
    assert not sessions.proven_again("b" * 64, {})


def test_an_answer_waits_for_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pending = PendingAnswers(store)
    pending.put("a" * 64, {"do": "approve"}, 60)
    assert pending.take("a" * 64) == {"do": "approve"}
    assert pending.take("a" * 64) is None
    pending.put("b" * 64, {}, -1)
    assert pending.take("b" * 64) is None
    monkeypatch.setattr(web_sessions, "_MOST_WAITING", 1)
    pending.put("c" * 64, {}, 60)
    with pytest.raises(Unavailable, match="Too many answers"):
        pending.put("d" * 64, {}, 60)


def test_a_stamp_changes_with_what_a_page_shows(store: Store, log: AuditLog) -> None:
    desk = ApprovalDesk(store, log)
    asked = ask(desk)
    live = Live(store, most=1, stopping=lambda: False)
    seen: list[dict[str, str]] = []

    def after(change: Callable[[], object]) -> tuple[bool, bool]:
        """Whether it is another for the request, and for the list."""
        seen.append(live._read([asked, ALL]))
        change()
        later = live._read([asked, ALL])
        return later[asked] != seen[-1][asked], later[ALL] != seen[-1][ALL]

    assert after(lambda: None) == (False, False)
    assert after(lambda: desk.foresee(asked, {"rows": 1})) == (True, False)
    assert after(lambda: desk.answer(asked, ANN, YES, "fine")) == (True, True)
    assert live._read(["apr_unknown"]) == {}
