"""Reconciling with the real stack: everything through Hoop is explained, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest
import snowflake.connector
from snowflake.connector.errors import ProgrammingError
from typer.testing import CliRunner

from hoop_core.audit.log import stored_entries, utc_now
from hoop_core.audit.reconcile import Compared
from hoop_core.cli.root import app
from hoop_core.config import AllowedUser, ReconcileSettings, Settings, load_settings
from hoop_core.credentials.attended import attending
from hoop_core.credentials.reconciling import reconciler_of
from hoop_core.devstack.stack import DevStack
from hoop_core.errors import ConfigError
from hoop_core.store import Store

pytestmark = pytest.mark.e2e
Rows = list[tuple[Any, ...]]


@pytest.fixture
def settings(stack: DevStack) -> Settings:
    """The gateway's own, for an emulator without delay."""
    found = load_settings(stack.info.config_file)
    own = found.reconcile.model_copy(update={"delay_seconds": 0.0})
    return found.model_copy(update={"reconcile": own})


@pytest.fixture
def since(settings: Settings) -> datetime:
    """Once nobody is at work any more for whom an earlier test is to blame."""
    return utc_now()


def reconciled(settings: Settings, begin: datetime) -> Compared:
    async def work() -> Compared:
        async with attending(settings, "reconcile") as here:
            made = reconciler_of(settings, here.accounts, here.store, here.log, owner=here.owner)
            return await made.reconcile(here.accounts.default, begin)

    return asyncio.run(work())


def with_rules(settings: Settings, **changed: Any) -> Settings:
    own: ReconcileSettings = settings.reconcile.model_copy(update=changed)
    return settings.model_copy(update={"reconcile": own})


def logged(settings: Settings, kind: str, begin: datetime) -> list[str]:
    store = Store.of(settings.store)
    store.attach()
    with closing(store):
        wanted = begin.isoformat().replace("+00:00", "Z")
        return [e.text for e in stored_entries(store) if e.kind == kind and e.at >= wanted]


def test_all_that_came_through_hoop_is_explained(
    settings: Settings,
    since: datetime,
    connect: Callable[..., snowflake.connector.SnowflakeConnection],
) -> None:
    with connect() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT COUNT(*) FROM CUSTOMERS")
        cursor.execute("SELECT * FROM CUSTOMERS LIMIT 10")
        cursor.execute("SHOW TABLES")
        cursor.execute("DESCRIBE TABLE CUSTOMERS")
        cursor.execute("ALTER SESSION SET QUERY_TAG = 'hoop:ses_1:st:1'")
        with pytest.raises(ProgrammingError):
            cursor.execute("SELECT NOT_THERE FROM CUSTOMERS")
    compared = reconciled(settings, since)
    assert compared.findings == ()
    assert compared.counts["explained"] >= 4
    assert compared.counts["own"] >= 1
    (entry,) = logged(settings, "reconcile.run", since)
    assert '"unexplained":0' in entry


def test_what_an_administrator_runs_beside_hoop_is_an_alert(
    settings: Settings, since: datetime, behind: Callable[[str], Rows]
) -> None:
    behind("SELECT 'a secret literal'")
    compared = reconciled(settings, since)
    found = {(f.kind, f.user) for f in compared.findings}
    assert found >= {("statement.unmediated", "HOOP_ADMIN")}
    assert found <= {("statement.unmediated", "HOOP_ADMIN"), ("login.unmediated", "HOOP_ADMIN")}
    alerts = logged(settings, "reconcile.unexplained", since)
    assert len(alerts) == len(compared.findings)
    assert "secret literal" not in "".join(alerts)


def test_the_same_is_no_alert_once_it_is_allowed(
    settings: Settings, since: datetime, behind: Callable[[str], Rows]
) -> None:
    behind("SELECT 2")
    allowed = (*settings.reconcile.allowed, AllowedUser(user="HOOP_ADMIN", reason="the tests"))
    compared = reconciled(with_rules(settings, allowed=allowed), since)
    assert compared.findings == ()
    assert [a["statements"] for a in compared.allowed if a["reason"] == "the tests"] == [1]


def test_a_minted_user_that_signs_in_from_elsewhere_is_found(
    settings: Settings,
    since: datetime,
    connect: Callable[..., snowflake.connector.SnowflakeConnection],
) -> None:
    with connect() as connection:
        connection.cursor().execute("SELECT 1")
    compared = reconciled(with_rules(settings, addresses=("203.0.113.0/24",)), since)
    assert {f.kind for f in compared.findings} == {"login.elsewhere"}


def test_the_command_says_it_by_its_exit_code(
    stack: DevStack, since: datetime, behind: Callable[[str], Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    behind("SELECT 3")
    monkeypatch.setenv("HOOP_RECONCILE__DELAY_SECONDS", "0")
    asked = ["audit", "reconcile", "--config", str(stack.info.config_file)]
    found = CliRunner().invoke(app, [*asked, "--from", since.isoformat()])
    assert found.exit_code == 1, found.output
    assert "statement.unmediated" in found.output
    future = (utc_now() + timedelta(days=1)).isoformat()
    nothing = CliRunner().invoke(app, [*asked, "--from", future])
    assert nothing.exit_code == 2, nothing.output


def test_an_observer_without_the_database_roles_is_told_what_to_grant(
    settings: Settings, since: datetime, behind: Callable[[str], Rows]
) -> None:
    roles = ("GOVERNANCE_VIEWER", "SECURITY_VIEWER")
    for role in roles:
        behind(f"REVOKE DATABASE ROLE SNOWFLAKE.{role} FROM ROLE HOOP_OBSERVER")
    try:
        with pytest.raises(ConfigError, match="may not read Snowflake's histories"):
            reconciled(settings, since)
    finally:
        for role in roles:
            behind(f"GRANT DATABASE ROLE SNOWFLAKE.{role} TO ROLE HOOP_OBSERVER")


def test_only_whose_role_has_it_may_read_a_history(behind: Callable[[str], Rows]) -> None:
    behind("CREATE ROLE IF NOT EXISTS R_HISTORY")
    behind("GRANT USAGE ON WAREHOUSE ML_WH TO ROLE R_HISTORY")
    behind("GRANT ROLE R_HISTORY TO ROLE ACCOUNTADMIN")
    behind("USE SECONDARY ROLES NONE")
    behind("GRANT DATABASE ROLE SNOWFLAKE.SECURITY_VIEWER TO ROLE R_HISTORY")
    behind("USE ROLE R_HISTORY")
    behind("USE WAREHOUSE ML_WH")
    assert behind("SELECT COUNT(*) > 0 FROM SNOWFLAKE.ACCOUNT_USAGE.LOGIN_HISTORY") == [(True,)]
    with pytest.raises(ProgrammingError, match="does not exist or not authorized"):
        behind("SELECT COUNT(*) FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY")
    with pytest.raises(ProgrammingError, match=r"authorized|privileges"):
        behind("GRANT DATABASE ROLE SNOWFLAKE.GOVERNANCE_VIEWER TO ROLE R_HISTORY")
    behind("USE ROLE ACCOUNTADMIN")
    with pytest.raises(ProgrammingError, match="does not exist"):
        behind("GRANT DATABASE ROLE SNOWFLAKE.NO_SUCH_VIEWER TO ROLE R_HISTORY")
