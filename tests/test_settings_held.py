"""No ALTER SESSION comes between a decision that rests on the session's settings and its statement."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime

import pytest

from hoop_core.errors import StatementRefused
from hoop_core.judge import judge_text
from hoop_core.model import Identity, Json, NameContext, RunContext, TableName, Verdict
from hoop_core.policy.file import parse_policy
from hoop_core.session.settings_held import SettingsHeld
from hoop_core.sql.catalog import Catalog

POLICY = parse_policy(
    """
version: 1
row_filters:
  - {table: "D.S.BY_FORMAT", where: "AT::VARCHAR < '2024'"}
  - {table: "D.S.BY_VALUE", where: "REGION = 'EU'"}
rules:
  - {name: all, reads: ["D.S.*"], then: allow}
""",
    "p.yaml",
)
CATALOG = Catalog.from_mapping(
    {
        TableName("D", "S", "BY_FORMAT"): {"AT": "TIMESTAMP_NTZ(9)"},
        TableName("D", "S", "BY_VALUE"): {"REGION": "VARCHAR"},
    }
)
ALTER = "ALTER SESSION SET TIMESTAMP_NTZ_OUTPUT_FORMAT = 'YYYY'"
READ = "SELECT COUNT(*) FROM by_format"


def judged(sql: str) -> Verdict:
    verdict = judge_text(
        sql,
        NameContext("D", "S"),
        identity=Identity("https://issuer", "sub", "agent", ("agents",), "oidc", "digest"),
        policy=POLICY,
        catalog=CATALOG,
        run=RunContext(),
        now=datetime(2026, 3, 2, 10, tzinfo=UTC),
    )
    assert verdict.rewritten is not None
    return verdict


def running(
    held: SettingsHeld, sql: str, *, granted: bool = False, now: Json | None = None
) -> AbstractContextManager[None]:
    return held.during(judged(sql), granted=granted, decided={}, now=now or {})


@pytest.mark.parametrize("sql", [ALTER, "alter session unset timezone"])
def test_a_filter_that_rests_on_settings_does_not_run_beside_their_change(sql: str) -> None:
    held = SettingsHeld()
    for first, second in ((sql, READ), (READ, sql)):
        with running(held, first), pytest.raises(StatementRefused) as e, running(held, second):
            pass
        assert e.value.reason == "SESSION_SETTING"
    with running(held, READ), running(held, READ):
        pass


def test_what_was_approved_under_settings_does_not_run_beside_their_change() -> None:
    held = SettingsHeld()
    with running(held, "SELECT 1", granted=True), pytest.raises(StatementRefused), running(held, ALTER):  # fmt: skip
        pass


def test_a_setting_that_changed_since_the_decision_is_noticed() -> None:
    with (
        pytest.raises(StatementRefused, match="was changed meanwhile"),
        running(SettingsHeld(), READ, now={"TIMEZONE": "Asia/Tokyo"}),
    ):
        pass


@pytest.mark.parametrize(
    "other", ["SELECT * FROM by_value", "ALTER SESSION SET QUERY_TAG = 'x'", "USE SCHEMA D.S"]
)
def test_what_does_not_rest_on_settings_or_change_them_runs_beside_all(other: str) -> None:
    held = SettingsHeld()
    for sql in (ALTER, READ):
        with ExitStack() as both:
            both.enter_context(running(held, sql))
            both.enter_context(running(held, other))


def test_after_a_change_without_a_known_end_nothing_rests_on_settings() -> None:
    held = SettingsHeld()
    held.lost(judged("ALTER SESSION SET QUERY_TAG = 'x'"))
    with running(held, READ):
        pass
    held.lost(judged(ALTER))
    with pytest.raises(StatementRefused), running(held, READ):
        pass
