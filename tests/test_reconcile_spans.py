"""Which span a comparison is about: nothing falls between two, and nothing is asked for that Snowflake cannot know."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from hoop_core.audit.histories import iso, text_digest
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.config import ReconcileSettings
from hoop_core.credentials.reconciling import Reconciler, Span, _pieces
from hoop_core.errors import ConfigError
from hoop_core.store import Store
from hoop_core.store.tables import leases, reconciled

ACCOUNT = cast(Any, SimpleNamespace(key="ACME"))
HOUR = timedelta(hours=1)


class Turns(Reconciler):
    """What the schedule would compare."""

    def __init__(self, store: Store, log: AuditLog, owner: str = "me") -> None:
        settings = ReconcileSettings(every_seconds=3600)
        super().__init__(
            cast(Any, None), store, log, settings, observer_role=cast(Any, None), owner=owner
        )
        self.asked: list[tuple[datetime | None, datetime | None]] = []

    async def reconcile(
        self, account: Any, begin: datetime | None = None, end: datetime | None = None
    ) -> Any:
        self.asked.append((begin, end))

    def next(self) -> int:
        asyncio.run(self._next(ACCOUNT))
        return len(self.asked)


def compared_until(store: Store, until: datetime | None) -> None:
    with store.write() as connection:
        connection.execute(insert(reconciled).values(account="ACME", until=until))


def read_back(at: datetime) -> datetime:
    """What Snowflake makes of the time in a statement."""
    return datetime.fromisoformat(iso(at))


@given(st.integers(0, 999_999), st.integers(0, 999_999))
def test_what_snowflake_is_asked_and_what_is_looked_at_is_one_span(one: int, other: int) -> None:
    """Else a query of the same millisecond is in neither of two spans."""
    day = utc_now() - timedelta(days=2)
    turns = Turns(cast(Any, None), cast(Any, None))
    span = turns._span(day.replace(microsecond=one), (day + HOUR).replace(microsecond=other))
    pieces = list(_pieces(span))
    assert all((read_back(p.begin), read_back(p.end)) == (p.begin, p.end) for p in pieces)
    following = turns._span(span.end, span.end + HOUR)
    assert following.begin == span.end


def test_pieces_leave_nothing_out() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    pieces = list(_pieces(Span(begin, begin + timedelta(hours=20), settled=True)))
    assert [p.begin for p in pieces[1:]] == [p.end for p in pieces[:-1]]
    assert (pieces[0].begin, pieces[-1].end) == (begin, begin + timedelta(hours=20))


def test_more_than_snowflake_keeps_is_refused_and_never_begun_by_itself(
    store: Store, log: AuditLog
) -> None:
    turns = Turns(store, log)
    with pytest.raises(ConfigError, match="365 days"):
        turns._span(utc_now() - timedelta(days=366), None)
    compared_until(store, utc_now() - timedelta(days=500))
    assert not turns._span(turns._known("ACME"), None).begin < utc_now() - timedelta(days=365)


def test_a_log_that_is_younger_than_the_delay_is_not_compared_yet(
    store: Store, log: AuditLog
) -> None:
    log.append("log.begun", {})
    assert Turns(store, log).next() == 0


def test_a_turn_is_a_day_at_most_and_ends_where_snowflake_surely_knows(
    store: Store, log: AuditLog
) -> None:
    long_ago = utc_now() - timedelta(days=10)
    compared_until(store, long_ago)
    turns = Turns(store, log)
    assert turns.next() == 1
    assert turns.asked == [(None, long_ago + timedelta(days=1))]


def test_what_is_not_due_is_left_to_the_next_turn(store: Store, log: AuditLog) -> None:
    compared_until(store, utc_now() - 3.5 * HOUR)  # of which half an hour is settled
    assert Turns(store, log).next() == 0


def test_an_account_that_another_replica_has_claimed_is_its_own(
    store: Store, log: AuditLog
) -> None:
    compared_until(store, utc_now() - timedelta(days=3))
    assert Turns(store, log, "other")._claim("ACME")
    assert Turns(store, log).next() == 0


def test_a_user_that_was_gone_within_the_clocks_difference_is_known(
    store: Store, log: AuditLog
) -> None:
    """Its last statement may have ended, by Snowflake's clock, when by Hoop's the user was gone already."""
    border = (utc_now() - 5 * HOUR).replace(microsecond=0)
    user, text = "V_HOOP_1", 'DESCRIBE TABLE "D"."S"."T"'
    row = {
        "lease_id": "l/1", "snowflake_user": user, "session_id": "ses_1", "vault_role": "v",
        "snowflake_role": "R", "public_key_fingerprint": "SHA256:x", "state": "gone",
        "created_at": border - HOUR, "expires_at": border, "account": "ACME",
        "confirmed_at": border - timedelta(seconds=5),
    }  # fmt: skip
    with store.write() as connection:
        connection.execute(insert(leases).values(**row))
    ran = {
        "query_id": "q1", "text_sha256": text_digest(text), "beginning": text, "user_name": user,
        "query_type": "DESCRIBE", "query_tag": "", "execution_status": "SUCCESS",
        "end_time": str(border.timestamp() + 1),
    }  # fmt: skip

    async def ask(sql: str) -> list[dict[str, Any]]:
        return [ran] if "QUERY_HISTORY WHERE END_TIME" in sql else []

    account = SimpleNamespace(
        key="ACME", keeper=SimpleNamespace(minter=SimpleNamespace(prefix="V_HOOP_"))
    )
    span = Span(border, border + HOUR, settled=True)
    work = Turns(store, log)._compare(cast(Any, account), ("ACME",), span, ask)
    compared = asyncio.run(work)
    assert (compared.findings, compared.counts) == ((), {"queries": 1, "own": 1})
