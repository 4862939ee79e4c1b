"""Session parameters: one list says which may be set, and which of them an approver signs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from hoop_core.model import Identity, NameContext, RoleBinding, RunContext
from hoop_core.parameters import ALTERABLE, AT_SIGN_IN, MEANING
from hoop_core.session import GuardedSession, allowed_parameters, meaning_of
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
