"""Airflow through the real gateway: every way of the hook, and a rejection."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if "AIRFLOW_HOME" not in os.environ:
    _HOME = tempfile.TemporaryDirectory(prefix="hoop-test-airflow-")
    os.environ["AIRFLOW_HOME"] = _HOME.name
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

pytest.importorskip("airflow")
pytest.importorskip("airflow.providers.snowflake")

from hoop_airflow.hooks.hoop_snowflake import HoopSnowflakeHook
from hoop_core.client import AnswerVerdict, Approval, GivenToken, HoopClient
from hoop_core.demo.airflow import AirflowProcess
from hoop_core.demo.answers import Decision, Desk

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = [pytest.mark.e2e, pytest.mark.airflow]

QUERY = "SELECT SSN, REGION FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID = 1"


@pytest.fixture
def hook(stack: DevStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HoopSnowflakeHook:
    token = tmp_path / "token"
    token.write_text(stack.token("churn-agent"))
    connection = {
        "conn_type": "hoop_snowflake",
        "host": stack.info.gateway_url,
        "schema": "CRM",
        "extra": {"token_file": str(token), "database": "PROD"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_HOOP_DEFAULT", json.dumps(connection))
    return HoopSnowflakeHook()


def through_an_engine(hook: HoopSnowflakeHook) -> Any:
    engine = hook.get_sqlalchemy_engine()
    try:
        with engine.connect() as connection:
            return connection.exec_driver_sql(QUERY).one()
    finally:
        engine.dispose()


def through_snowpark(hook: HoopSnowflakeHook) -> Any:
    with hook.get_snowpark_session() as session:
        return session.sql(QUERY).collect()[0]


WAYS: dict[str, Callable[[HoopSnowflakeHook], Any]] = {
    "get_records": lambda h: h.get_records(QUERY)[0],
    "get_first": lambda h: h.get_first(QUERY),
    "get_df": lambda h: tuple(h.get_df(QUERY, df_type="pandas").iloc[0]),
    "engine": through_an_engine,
    "snowpark": through_snowpark,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_every_way_of_the_hook_gives_masked_rows(
    hook: HoopSnowflakeHook, way: Callable[[HoopSnowflakeHook], Any]
) -> None:
    ssn, region = way(hook)
    assert ssn is None
    assert region in {"EU", "US", "APAC", "LATAM"}


def test_the_connection_test_of_airflows_ui_succeeds(hook: HoopSnowflakeHook) -> None:
    assert hook.test_connection()[0]


@pytest.mark.nightly
def test_a_rejection_fails_the_sensor_and_nothing_is_written(
    stack: DevStack, tmp_path: Path, behind: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    def no(person: str, approval: Approval) -> Decision:
        return Decision(AnswerVerdict.REJECT, "not tonight")

    airflow = AirflowProcess(tmp_path / "airflow")
    airflow.start()
    tables = behind("SHOW TABLES IN SCHEMA PROD.FEATURES")
    staged = behind("SELECT COUNT(*) FROM PROD.FEATURES.CHURN_STAGING")
    with (
        HoopClient(stack.info.gateway_url, GivenToken(stack.token("alice"))) as alice,
        HoopClient(stack.info.gateway_url, GivenToken(stack.token("churn-agent"))) as agent,
    ):
        desk = Desk({"alice": alice}, agent, no, heard=lambda _: None)
        try:
            airflow.give(stack.info.gateway_url, stack.token("churn-agent"))
            while airflow.running:
                desk.look()
                time.sleep(0.2)
            result = airflow.result()
        finally:
            airflow.stop()
    assert result.tasks["look_at_customers"] == "success"
    assert result.tasks["ask_for_build"] == "failed"
    assert result.tasks["build_features"] == "upstream_failed"
    log = airflow.part.log.read_text()
    assert "rejected by alice: not tonight" in log
    assert "eyJ" not in log, "a token is in the task's log"
    assert len(behind("SHOW TABLES IN SCHEMA PROD.FEATURES")) == len(tables)
    assert behind("SELECT COUNT(*) FROM PROD.FEATURES.CHURN_STAGING") == staged
