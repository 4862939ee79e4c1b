"""The Dagster resource: what it hands to the driver, and what it refuses to hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

dg = pytest.importorskip("dagster")
pytest.importorskip("dagster_snowflake")

from dagster_snowflake import SnowflakeResource  # noqa: E402

from hoop_core.errors import ConfigError, GatewayUnavailable  # noqa: E402
from hoop_dagster import HoopSnowflakeResource  # noqa: E402
from hoop_dagster import resource as module  # noqa: E402

pytestmark = pytest.mark.dagster

URL = "http://127.0.0.1:8750"


class Connection:
    """Stands in for the driver's connection: only whether it is committed and closed matters."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def commit(self) -> None:
        self.events.append("commit")

    def close(self) -> None:
        self.events.append("close")


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    file = tmp_path / "token"
    file.write_text("first.a.b")
    return str(file)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], Connection]]:
    """Every connection that was opened, with the parameters that the driver got."""
    found: list[tuple[dict[str, Any], Connection]] = []

    def open_connection(parameters: dict[str, Any]) -> Connection:
        found.append((dict(parameters), Connection()))
        return found[-1][1]

    monkeypatch.setattr(module, "open_connection", open_connection)
    return found


def context_of(parameters: dict[str, Any]) -> dict[str, str]:
    context: dict[str, str] = json.loads(parameters["session_parameters"]["HOOP_CONTEXT"])
    return context


def test_an_asset_written_for_the_parent_runs_unchanged_and_is_named_to_hoop(
    token_file: str, opened: list[tuple[dict[str, Any], Connection]]
) -> None:
    @dg.asset(partitions_def=dg.StaticPartitionsDefinition(["eu"]))
    def churn(snowflake: SnowflakeResource) -> None:
        with snowflake.get_connection():
            pass

    result = dg.materialize(
        [churn],
        partition_key="eu",
        instance=dg.DagsterInstance.ephemeral(),
        resources={
            "snowflake": HoopSnowflakeResource(
                gateway_url=URL, token_file=token_file, database="PROD", purpose="churn"
            )
        },
    )
    parameters, connection = opened[0]
    assert (parameters["host"], parameters["port"]) == ("127.0.0.1", 8750)
    assert (parameters["authenticator"], parameters["token"]) == ("oauth", "first.a.b")
    assert parameters["database"] == "PROD"
    assert "password" not in parameters
    assert context_of(parameters) == {
        "orchestrator": "dagster",
        "job_name": "__ephemeral_asset_job__",
        "run_id": result.run_id,
        "step_key": "churn",
        "asset_key": "churn",
        "partition_key": "eu",
        "purpose": "churn",
    }
    assert connection.events == ["commit", "close"]


def test_an_op_is_named_by_its_step(
    token_file: str, opened: list[tuple[dict[str, Any], Connection]]
) -> None:
    @dg.op
    def read(snowflake: HoopSnowflakeResource) -> None:
        with snowflake.get_connection():
            pass

    @dg.job(
        resource_defs={"snowflake": HoopSnowflakeResource(gateway_url=URL, token_file=token_file)}
    )
    def nightly() -> None:
        read()

    nightly.execute_in_process(instance=dg.DagsterInstance.ephemeral())
    context = context_of(opened[0][0])
    assert (context["job_name"], context["step_key"]) == ("nightly", "read")
    assert "asset_key" not in context


def test_a_connection_is_closed_and_not_committed_when_the_body_raises(
    token_file: str, opened: list[tuple[dict[str, Any], Connection]]
) -> None:
    resource = HoopSnowflakeResource(gateway_url=URL, token_file=token_file)
    with pytest.raises(RuntimeError), resource.get_connection():
        raise RuntimeError
    assert opened[0][1].events == ["close"]


def test_the_token_is_read_anew_for_each_connection(
    token_file: str, opened: list[tuple[dict[str, Any], Connection]]
) -> None:
    resource = HoopSnowflakeResource(gateway_url=URL, token_file=token_file)
    with resource.get_connection():
        Path(token_file).write_text("second.a.b")
    with resource.get_connection():
        pass
    assert [p["token"] for p, _ in opened] == ["first.a.b", "second.a.b"]


def test_options_of_the_connector_pass_but_none_that_leads_around_hoop(token_file: str) -> None:
    good = HoopSnowflakeResource(
        gateway_url=URL,
        token_file=token_file,
        autocommit=True,
        additional_snowflake_connection_args={"session_parameters": {"QUERY_TAG": "x"}},
    )
    assert good._connection_args["autocommit"] is True
    assert good._connection_args["session_parameters"]["QUERY_TAG"] == "x"
    bad = HoopSnowflakeResource(
        gateway_url=URL,
        token_file=token_file,
        additional_snowflake_connection_args={"host": "acme.snowflakecomputing.com"},
    )
    with pytest.raises(ConfigError, match="host"):
        _ = bad._connection_args


@pytest.mark.parametrize("field", ["password", "private_key", "private_key_path", "authenticator"])
def test_a_snowflake_credential_is_refused(field: str) -> None:
    with pytest.raises(ConfigError, match=field) as caught:
        HoopSnowflakeResource(gateway_url=URL, **{field: "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_the_configuration_that_dagster_shows_holds_no_token(token_file: str) -> None:
    resource = HoopSnowflakeResource(gateway_url=URL, token_file=token_file)
    assert "first.a.b" not in repr(resource)
    assert "first.a.b" not in str(resource._resolved_config_dict)


def test_other_drivers_are_led_to_hoop_too(token_file: str) -> None:
    resource = HoopSnowflakeResource(gateway_url=URL, token_file=token_file, connector="adbc")
    arguments = resource._adbc_connection_args
    assert arguments["adbc.snowflake.sql.uri.host"] == "127.0.0.1"
    assert arguments["adbc.snowflake.sql.auth_type"] == "auth_oauth"
    assert arguments["adbc.snowflake.sql.client_option.auth_token"] == "first.a.b"


def test_an_unreachable_hoop_does_not_look_like_a_missing_table(token_file: str) -> None:
    resource = HoopSnowflakeResource(gateway_url="http://127.0.0.1:1", token_file=token_file)
    with pytest.raises(GatewayUnavailable) as caught, resource.get_connection():
        pass
    # dagster-snowflake takes errors with this phrase for "nothing to delete" and goes on.
    assert "does not exist or not authorized" not in str(caught.value)
