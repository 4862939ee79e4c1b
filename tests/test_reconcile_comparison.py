"""Snowflake's histories against the log: what is explained, and each way of not being it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert

from hoop_core.audit.explaining import LogSide, minted_users
from hoop_core.audit.histories import (
    OBSERVED,
    RanQuery,
    SignedIn,
    logins_between,
    queries_ended,
    queries_named,
    text_digest,
)
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.reconcile import Compared, Comparison
from hoop_core.config import AllowedUser, ReconcileSettings
from hoop_core.store import Store
from hoop_core.store.tables import leases

USER, OBSERVER, SESSION = "V_TOKEN_HOOP_ABCDEF_1_READER", "V_TOKEN_HOOP_ABCDEF_2_OBS", "ses_1"
TEXT = 'SELECT "A" FROM "DB"."S"."T"'


class World:
    """A log with one session of one minted user, and what Snowflake says of it."""

    def __init__(self, store: Store, log: AuditLog) -> None:
        self.store, self.log = store, log
        self.began = utc_now() - timedelta(minutes=1)
        self.queries: list[RanQuery] = []
        self.logins: list[SignedIn] = []
        self.late: set[str] = set()
        self.lease(USER, SESSION)
        self.lease(OBSERVER, "observer")
        self.sign_in(USER)

    def lease(self, user: str, session: str, *, logged: bool = True) -> None:
        now = utc_now()
        row = {
            "lease_id": f"lease/{user}",
            "snowflake_user": user,
            "session_id": session,
            "vault_role": "v",
            "snowflake_role": "R",
            "public_key_fingerprint": "SHA256:x",
            "state": "active",
            "created_at": now,
            "expires_at": now + timedelta(hours=1),
            "account": "ACME",
        }
        with self.store.write() as connection:
            connection.execute(insert(leases).values(**row))
        if logged:
            said = {"account": "ACME", "snowflake_user": user, "lease_id": row["lease_id"]}
            self.log.append("credential.minted", said, session_id=session)

    def end(self, user: str) -> None:
        with self.store.write() as connection:
            connection.execute(
                leases.update()
                .where(leases.c.snowflake_user == user)
                .values(state="gone", confirmed_at=utc_now())
            )

    def intent(self, text: str = TEXT, **more: Any) -> int:
        entry = {
            "account": "ACME",
            "statement_id": "st1",
            "snowflake_user": USER,
            "executed": text,
            **more,
        }
        return self.log.append("statement.intent", entry, session_id=SESSION)

    def outcome(self, intent: int, query_id: str = "q1", status: str = "succeeded") -> int:
        entry = {"statement_id": "st1", "intent": intent, "status": status, "query_id": query_id}
        return self.log.append("statement.outcome", entry, session_id=SESSION)

    def ran(self, intent: int | None, text: str = TEXT, **other: Any) -> None:
        tag = "" if intent is None else f"hoop:{SESSION}:st1:{intent} theirs"
        known: dict[str, Any] = {
            "query_id": "q1",
            "text_sha256": text_digest(text),
            "beginning": text[:2000],
            "user": USER,
            "kind": "SELECT",
            "tag": tag,
            "status": "SUCCESS",
            "ended": utc_now(),
        }
        self.queries.append(RanQuery(**(known | other)))

    def sign_in(self, user: str, **other: Any) -> None:
        known: dict[str, Any] = {
            "event": str(len(self.logins)),
            "at": utc_now(),
            "user": user,
            "address": "203.0.113.5",
            "success": True,
        }
        self.logins.append(SignedIn(**(known | other)))

    def compared(self, *, settled: bool = True, **settings: Any) -> Compared:
        end = utc_now() + timedelta(seconds=1)
        side = LogSide(self.store, ("ACME",), self.began, end)
        side.read()
        comparison = Comparison(
            "ACME",
            self.began,
            end,
            log=side,
            minted=minted_users(self.store, ("ACME",), self.began, end),
            settings=ReconcileSettings(**settings),
            prefix="V_TOKEN_HOOP_ABCDEF_",
        )
        return comparison.run(self.queries, self.logins, self.late, settled=settled)

    def found(self, **settings: Any) -> list[tuple[str, str]]:
        return [(f.kind, f.why) for f in self.compared(**settings).findings]


@pytest.fixture
def world(store: Store, log: AuditLog) -> World:
    return World(store, log)


def test_a_statement_with_its_intent_and_its_outcome_is_explained(world: World) -> None:
    intent = world.intent()
    world.ran(intent)
    world.outcome(intent)
    compared = world.compared()
    assert compared.findings == ()
    assert compared.counts == {"queries": 1, "explained": 1, "entries": 1, "logins": 1}


def test_a_statement_whose_outcome_was_never_written_is_explained_by_its_intent(
    world: World,
) -> None:
    world.ran(world.intent())
    assert world.found() == []


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"text": "SELECT 1"}, "its text is not the one of its entry"),
        ({"text": TEXT + " "}, "its text is not the one of its entry"),
        ({"tag": ""}, "has no tag of Hoop's"),
        ({"tag": "hoop:ses_1:st1:1x"}, "has no tag of Hoop's"),
        ({"tag": "hoop:ses_1:st1:999999"}, "its tag names no entry"),
        ({"tag": "hoop:ses_1:st1:0"}, "its tag names no entry"),  # an entry of another kind
        ({"tag": "hoop:ses_2:st1:{}"}, "its tag names an entry of another session"),
        ({"tag": "hoop:ses_1:st2:{}"}, "its tag names an entry of another statement"),
    ],
)
def test_a_tag_explains_the_one_statement_that_its_entry_is_about(
    world: World, other: dict[str, str], why: str
) -> None:
    intent = world.intent()
    other = {k: v.format(intent) for k, v in other.items()}
    world.ran(intent, **other)
    assert world.found() == [("statement.unlogged", why)]


def test_another_minted_user_cannot_borrow_a_tag(world: World) -> None:
    other = "V_TOKEN_HOOP_ABCDEF_3_READER"
    world.lease(other, "ses_3")
    world.ran(world.intent(), user=other)
    assert world.found() == [("statement.unlogged", "its tag names an entry of another session")]


def test_a_user_of_the_same_session_cannot_borrow_a_tag_either(world: World) -> None:
    other = "V_TOKEN_HOOP_ABCDEF_3_READER"
    world.lease(other, SESSION)
    world.ran(world.intent(), user=other)
    assert world.found() == [("statement.unlogged", "its tag names an entry of another user")]


def test_an_entry_of_another_account_explains_nothing(world: World) -> None:
    world.ran(world.intent(account="OTHER"))
    assert world.found() == [("statement.unlogged", "its tag names no entry")]


def test_a_second_run_of_the_same_text_under_the_same_tag_is_found(world: World) -> None:
    intent = world.intent()
    world.outcome(intent)
    world.ran(intent)
    world.ran(intent, query_id="q2")
    assert world.found() == [("statement.repeated", "ran beside the query that its entry is about")]


def test_a_repetition_is_found_in_a_later_span_too(world: World) -> None:
    intent = world.intent()
    world.outcome(intent)
    world.began = utc_now()
    world.ran(intent, query_id="q2")
    assert [kind for kind, _ in world.found()] == ["statement.repeated"]


def test_a_text_longer_than_the_history_keeps_is_compared_as_far_as_it_goes(world: World) -> None:
    text = "SELECT '" + "x" * 150_000 + "'"
    world.ran(world.intent(text), text[:100_000])
    assert world.found() == []


def test_what_others_run_did_not_come_through_hoop(world: World) -> None:
    users = ["", "BOB", "HOOP_ABCDEF_1", "V_TOKEN_HOOP_123456_1_READER"]
    for user in users:
        world.ran(world.intent(), user=user)
    found = world.compared().findings
    assert {f.why for f in found} == {"did not come through Hoop"}
    assert sorted(f.user for f in found) == users


def test_a_statement_that_a_client_calls_its_own_counts_like_any_other() -> None:
    begin, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)
    assert "CLIENT_GENERATED" not in queries_ended(begin, end)


def test_a_name_of_ours_without_a_lease_is_found(world: World) -> None:
    world.ran(None, user="V_TOKEN_HOOP_ABCDEF_9_X")
    world.sign_in("V_TOKEN_HOOP_ABCDEF_9_X")
    assert [kind for kind, _ in world.found()] == ["user.without_lease"]


def test_allowed_users_are_counted_beside_their_reason(world: World) -> None:
    world.ran(None, user="ETL_1")
    world.sign_in("ETL_1")
    rule = AllowedUser(user="ETL_*", reason="loads the lake")
    compared = world.compared(allowed=(rule,))
    assert compared.findings == ()
    assert compared.allowed == (
        {"user": "ETL_*", "reason": "loads the lake", "statements": 1},
        {"user": "ETL_*", "reason": "loads the lake", "logins": 1},
    )


def test_an_allowed_user_may_run_the_named_types_only(world: World) -> None:
    world.ran(None, user="MINTER", kind="CREATE_USER")
    world.ran(None, user="MINTER", kind="SELECT")
    rule = AllowedUser(user="MINTER", reason="mints", types=("CREATE_USER", "DROP_USER"))
    assert world.found(allowed=(rule,)) == [
        ("statement.unmediated", "is allowed other statements only, not SELECT")
    ]


@pytest.mark.parametrize("pattern", ["?TL", "[E]TL", "etl", "ETL?"])
def test_only_a_star_is_a_pattern(world: World, pattern: str) -> None:
    world.ran(None, user="ETL")
    rule = AllowedUser(user=pattern, reason="r")
    assert world.found(allowed=(rule,)) == [("statement.unmediated", "did not come through Hoop")]


def test_a_rule_of_another_account_allows_nothing_here(world: World) -> None:
    world.ran(None, user="ETL")
    rule = AllowedUser(user="ETL", reason="r", account="OTHER")
    assert [kind for kind, _ in world.found(allowed=(rule,))] == ["statement.unmediated"]


def test_a_minted_user_cannot_be_allowed(world: World) -> None:
    world.ran(None)
    rule = AllowedUser(user="*", reason="everybody")
    assert [kind for kind, _ in world.found(allowed=(rule,))] == ["statement.unlogged"]


@pytest.mark.parametrize(
    "text",
    [
        "SHOW TERSE USERS LIKE 'V_TOKEN_HOOP_ABCDEF_%'",
        'SHOW TABLES LIKE \'T\' IN SCHEMA "DB"."S"',
        'DESCRIBE TABLE "DB"."S"."T"',
        'SELECT GET_DDL(\'VIEW\', \'"DB"."S"."V"\')',
        "CALL GOVERNANCE.HOOP.END_MINTED_USER('V_TOKEN_HOOP_ABCDEF_9')",
        'ALTER USER IF EXISTS "V_TOKEN_HOOP_ABCDEF_9" SET DISABLED = TRUE',
        'DROP USER IF EXISTS "V_TOKEN_HOOP_ABCDEF_9"',
        queries_ended(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
        queries_named(["01b2", "it's"]),
        logins_between(
            datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), ["A", "B"]
        ),
    ],
)
def test_what_the_observer_says_is_its_own(text: str) -> None:
    assert any(form.fullmatch(text) for form in OBSERVED)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        'SELECT * FROM "DB"."S"."T"',
        "SELECT GET_DDL('VIEW', 'V'), A FROM T",
        "SELECT GET_DDL('VIEW', 'a') FROM T WHERE B = ('x')",
        "SHOW TERSE USERS LIKE 'a' STARTS WITH 'b'",
        queries_named(["a"]) + " OR 1 = 1",
        queries_named(["a') OR (1 = 1"]).replace("''", "'"),
        'DESCRIBE TABLE "DB"."S"."T"; SELECT 1',
        "SHOW TERSE USERS LIKE 'a'\n",
        "DROP USER IF EXISTS HOOP_ADMIN",
        'ALTER USER IF EXISTS "V_X" SET DISABLED = FALSE',
    ],
)
def test_the_observer_can_say_nothing_else(text: str) -> None:
    assert not any(form.fullmatch(text) for form in OBSERVED)


def test_own_forms_are_the_observers_alone(world: World) -> None:
    listing = "SHOW TERSE USERS LIKE 'a'"
    world.ran(None, listing, user=OBSERVER)
    world.ran(None, listing)
    world.ran(None, "SELECT 1", user=OBSERVER)
    assert world.compared().counts["own"] == 1
    assert [(f.kind, f.user) for f in world.compared().findings] == [
        ("statement.unlogged", USER),
        ("statement.unlogged", OBSERVER),
    ]


def test_a_text_that_only_begins_like_hoops_own_is_not(world: World) -> None:
    own = "SHOW TERSE USERS LIKE 'a'"
    world.ran(None, own, user=OBSERVER, text_sha256=text_digest(own + " and more"))
    assert [kind for kind, _ in world.found()] == ["statement.unlogged"]


def test_a_session_may_describe_a_table_and_explain_what_it_logged(world: World) -> None:
    plan = "EXPLAIN USING JSON DELETE FROM T"
    said = {"executed": plan, "executed_sha256": text_digest(plan)}
    world.log.append("approval.explaining", said, session_id=SESSION)
    world.ran(None, plan)
    world.ran(None, 'DESCRIBE TABLE "DB"."S"."T"')
    world.ran(None, "EXPLAIN USING JSON DELETE FROM U")
    assert [kind for kind, _ in world.found()] == ["statement.unlogged"]


@given(st.text(min_size=1).filter(lambda t: not any(f.fullmatch(t) for f in OBSERVED)))
def test_no_quoted_text_gets_out_of_the_observers_forms(value: str) -> None:
    """A name in a literal stays one literal: what would end it is no form of ours."""
    statement = queries_named([value])
    assert any(f.fullmatch(statement) for f in OBSERVED)
    assert not any(f.fullmatch(statement + "x") for f in OBSERVED)


def test_a_statement_that_ran_by_the_log_and_not_by_snowflake_is_found(world: World) -> None:
    seq = world.outcome(world.intent(), "q9")
    (finding,) = world.compared().findings
    assert (finding.kind, finding.examples) == ("entry.without_query", (f"entry {seq}",))


def test_what_snowflake_knows_by_id_is_there(world: World) -> None:
    world.outcome(world.intent(), "q9")
    world.late.add("q9")
    assert world.found() == []


def test_what_is_too_recent_to_be_there_is_not_judged(world: World) -> None:
    world.outcome(world.intent(), "q9")
    compared = world.compared(settled=False)
    assert (compared.findings, compared.counts["too_recent"]) == ((), 1)


@pytest.mark.parametrize("status", ["failed", "unknown"])
def test_a_statement_that_may_not_have_run_needs_no_query(world: World, status: str) -> None:
    world.outcome(world.intent(), "", status)
    assert world.found() == []


def test_a_description_needs_no_query(world: World) -> None:
    world.outcome(world.intent(describe_only=True), "q9")
    assert world.found() == []


def test_logins_of_others_are_found_and_failed_ones_counted(world: World) -> None:
    world.sign_in("BOB")
    world.sign_in("EVE", success=False)
    compared = world.compared()
    assert [(f.kind, f.user) for f in compared.findings] == [("login.unmediated", "BOB")]
    assert compared.counts["failed_logins"] == 1


def test_a_second_login_with_one_lease_is_found(world: World) -> None:
    world.sign_in(USER)
    assert world.found() == [("login.repeated", "signed in more than once with one lease")]


def test_a_login_after_the_lease_is_found(world: World) -> None:
    world.logins.clear()
    world.end(USER)
    world.began -= timedelta(hours=1)
    world.sign_in(USER, at=utc_now() - timedelta(minutes=30))
    assert world.found() == [("login.outside_lease", "signed in when its lease was over")]


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("198.51.100.7", ["signed in from 198.51.100.7"]),
        ("@everyone", ["signed in from an address that is none"]),
        ("203.0.113.9", []),
    ],
)
def test_a_minted_user_signs_in_from_hoops_networks(
    world: World, address: str, found: list[str]
) -> None:
    world.logins.clear()
    world.sign_in(USER, address=address)
    assert [why for _, why in world.found(addresses=("203.0.113.0/24",))] == found


def test_a_lease_that_ran_statements_has_signed_in(world: World) -> None:
    world.logins.clear()
    world.intent()
    world.end(USER)
    assert [kind for kind, _ in world.found()] == ["lease.without_login"]


def test_a_lease_that_nothing_ran_with_may_never_have_signed_in(world: World) -> None:
    world.logins.clear()
    world.end(USER)
    compared = world.compared()
    assert (compared.findings, compared.counts["unused_leases"]) == ((), 1)


def test_a_lease_in_the_store_that_the_log_knows_nothing_of_is_found(world: World) -> None:
    world.lease("V_TOKEN_HOOP_ABCDEF_7_R", "ses_7", logged=False)
    world.end("V_TOKEN_HOOP_ABCDEF_7_R")
    assert [kind for kind, _ in world.found()] == ["lease.unlogged"]


def test_a_user_that_the_sweeper_found_without_a_lease_is_told(world: World) -> None:
    world.log.append("credential.orphan", {"account": "ACME", "snowflake_user": "X"})
    world.log.append("credential.orphan", {"account": "OTHER", "snowflake_user": "Y"})
    assert [(f.kind, f.user) for f in world.compared().findings] == [("user.without_lease", "X")]


def test_equal_findings_are_told_once_with_their_number(world: World) -> None:
    for number in range(40):
        world.ran(None, user="BOB", query_id=f"q{number}")
    (finding,) = world.compared().findings
    assert (finding.count, len(finding.examples)) == (40, 20)
