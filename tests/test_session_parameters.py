"""Session parameters: one list says which may be set, and which of them an approver signs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from hoop_core.delivery import Delivery
from hoop_core.errors import StatementRefused
from hoop_core.loads.puts import request
from hoop_core.model import Identity, NameContext, RoleBinding, RunContext
from hoop_core.parameters import ALTERABLE, AT_SIGN_IN, MEANING
from hoop_core.session.guarded import GuardedSession, QueryRequest, allowed_parameters, meaning_of
from hoop_core.snowflake.session import SnowflakeSession
from hoop_core.sql.statement import analyse


def session() -> GuardedSession:
    async def nobody(_session: GuardedSession) -> Any:
        raise AssertionError

    return GuardedSession(
        id="s", identity=Identity("i", "s", "n", (), "oidc", ""), role=RoleBinding("v", "R"),
        names=NameContext(), run=RunContext(), client={}, parameters={}, opened_at=datetime.now(UTC),
        open_upstream=nobody,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(ALTERABLE))
def test_what_a_statement_set_is_signed_if_it_changes_what_texts_mean(name: str) -> None:
    sql = f"ALTER SESSION SET {name.lower()} = 1"
    assert analyse(sql, NameContext()).statement.kind == "session"
    altered = session()
    altered.altered(sql)
    assert meaning_of(altered.parameters) == ({name: "1"} if name in MEANING else {})
    altered.altered(f"ALTER SESSION UNSET {name}")
    assert meaning_of(altered.parameters) == {}


@pytest.mark.parametrize(
    "name", ["QUOTED_IDENTIFIERS_IGNORE_CASE", "SEARCH_PATH", "MULTI_STATEMENT_COUNT"]
)
def test_what_would_change_which_objects_are_meant_is_dropped_at_sign_in(name: str) -> None:
    assert name not in AT_SIGN_IN
    assert allowed_parameters({name: "x", "TIMEZONE": "UTC"}) == {"TIMEZONE": "UTC"}


def test_among_others_a_count_of_statements_may_be_set_that_has_no_effect() -> None:
    for value in ("0", "'0'", "1"):
        sql = f"ALTER SESSION SET MULTI_STATEMENT_COUNT = {value} TIMEZONE = 'UTC'"
        assert analyse(sql, NameContext()).statement.kind == "session"


@pytest.mark.parametrize("value", ["2", "'2'", "-1", "00", "TRUE", "''"])
def test_no_other_count_is_set(value: str) -> None:
    with pytest.raises(StatementRefused):
        analyse(
            f"ALTER SESSION SET TIMEZONE = 'UTC' MULTI_STATEMENT_COUNT = {value}", NameContext()
        )


@pytest.mark.parametrize("sql", ["SET MULTI_STATEMENT_COUNT = 0", "UNSET MULTI_STATEMENT_COUNT"])
def test_alone_it_is_refused(sql: str) -> None:
    with pytest.raises(StatementRefused):
        analyse(f"ALTER SESSION {sql}", NameContext())


def test_it_is_nothing_that_approvers_sign() -> None:
    altered = session()
    altered.altered("ALTER SESSION SET MULTI_STATEMENT_COUNT = 0 TIMEZONE = 'UTC'")
    assert meaning_of(altered.parameters) == {"TIMEZONE": "UTC"}


class Upstream:
    """Snowflake, as far as it is told what to run."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def query(self, body: Any, _request_id: Any) -> Any:
        self.told.append(body["parameters"])
        return {"success": True}


@pytest.mark.parametrize("parameters", [{}, {"MULTI_STATEMENT_COUNT": 0}])
def test_snowflake_is_told_of_one_statement_whatever_the_session_was_set_to(
    parameters: dict[str, Any],
) -> None:
    altered, upstream = session(), Upstream()
    altered.altered("ALTER SESSION SET MULTI_STATEMENT_COUNT = 0 TIMEZONE = 'UTC'")
    plan: Any = SimpleNamespace(text="SELECT 1", bindings=None)
    request = QueryRequest("q", "SELECT 1", None, parameters)
    delivery: Any = object.__new__(Delivery)
    asyncio.run(delivery._execute(altered, request, plan, upstream, 1))
    assert [told["MULTI_STATEMENT_COUNT"] for told in upstream.told] == [1]


def test_what_hoop_itself_asks_is_one_statement_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    async def query(_self: Any, body: Any, _request_id: Any) -> Any:
        sent.append(body)
        data = {"queryResultFormat": "json", "rowtype": [{"name": "A"}], "rowset": []}
        return {"success": True, "data": data}

    monkeypatch.setattr(SnowflakeSession, "query", query)
    asyncio.run(object.__new__(SnowflakeSession).rows("DESCRIBE TABLE T"))
    sent.append(request("PUT file://a @~", "tag", 1))
    assert [body["parameters"]["MULTI_STATEMENT_COUNT"] for body in sent] == [1, 1]
