"""Hook, operator and sensor in one process, without the gateway: what they hand on, what they refuse."""

from __future__ import annotations

import datetime
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

_HOME = tempfile.TemporaryDirectory(prefix="hoop-test-airflow-")
os.environ["AIRFLOW_HOME"] = _HOME.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

pytest.importorskip("airflow")
pytest.importorskip("airflow.providers.snowflake")

from airflow.providers.common.compat.sdk import AirflowFailException  # noqa: E402
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator  # noqa: E402
from airflow.providers.standard.operators.empty import EmptyOperator  # noqa: E402
from airflow.sdk import DAG  # noqa: E402

from hoop_airflow.hooks import hoop_snowflake as hook_module  # noqa: E402
from hoop_airflow.hooks.hoop_snowflake import HoopSnowflakeHook  # noqa: E402
from hoop_airflow.operators.hoop_snowflake import HoopSnowflakeOperator  # noqa: E402
from hoop_airflow.sensors.hoop_approval import XCOM_KEY, HoopApprovalSensor  # noqa: E402
from hoop_core.client import HoopClient  # noqa: E402
from hoop_core.errors import ConfigError, GatewayUnavailable, IdentityError  # noqa: E402

pytestmark = pytest.mark.airflow

TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9.c2lnbmF0dXJl"
START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def connection(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    """Define `hoop_default` the way a deployment does."""
    body = {"conn_type": "hoop_snowflake", "host": "https://hoop.test", **fields}
    monkeypatch.setenv("AIRFLOW_CONN_HOOP_DEFAULT", json.dumps(body))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    return file


@pytest.fixture
def hoop(monkeypatch: pytest.MonkeyPatch, token_file: Path) -> None:
    connection(
        monkeypatch,
        schema="FEATURES",
        extra={"token_file": str(token_file), "database": "PROD", "warehouse": "ML_WH"},
    )


# ---------------------------------------------------------------------- provider and hook


def test_the_provider_information_is_light_and_complete() -> None:
    # Airflow loads it while it still reads its own configuration.
    code = (
        "import sys, hoop_airflow\n"
        "info = hoop_airflow.get_provider_info()\n"
        "assert not any(m.split('.')[0] == 'airflow' for m in sys.modules), 'imports airflow'\n"
        "assert info['connection-types'][0]['connection-type'] == 'hoop_snowflake'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_airflow_finds_the_connection_type_and_its_form() -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    fields = {f.split("__")[-1] for f in manager.connection_form_widgets if "hoop_snowflake" in f}
    assert fields == {"token_file", "token_env", "database", "role", "warehouse", "airflow"}
    assert "login" in manager.field_behaviours["hoop_snowflake"]["hidden_fields"]


@pytest.mark.usefixtures("hoop")
def test_the_hook_hands_the_driver_hoops_address_and_the_jobs_token() -> None:
    parameters = HoopSnowflakeHook(purpose="churn")._get_conn_params()
    assert parameters["host"] == "hoop.test"
    assert (parameters["authenticator"], parameters["token"]) == ("oauth", TOKEN)
    assert (parameters["database"], parameters["schema"]) == ("PROD", "FEATURES")
    assert parameters["warehouse"] == "ML_WH"
    assert "password" not in parameters
    context = json.loads(parameters["session_parameters"]["HOOP_CONTEXT"])
    assert context == {"orchestrator": "airflow", "purpose": "churn"}


@pytest.mark.usefixtures("hoop")
def test_no_url_that_the_hook_gives_out_holds_the_token() -> None:
    hook = HoopSnowflakeHook()
    assert TOKEN not in hook.get_uri()
    assert TOKEN not in hook.get_sqlalchemy_engine().url.render_as_string(hide_password=False)
    assert TOKEN not in str(hook._get_static_conn_params)
    assert hook.account_identifier == "https://hoop.test"


@pytest.mark.usefixtures("hoop")
def test_every_way_to_a_connection_leads_to_hoop(monkeypatch: pytest.MonkeyPatch) -> None:
    went: list[str] = []

    class Stop(Exception):
        pass

    def record(*_: Any, **parameters: Any) -> Any:
        went.append(parameters["host"])
        raise Stop

    monkeypatch.setattr("snowflake.connector.connect", record)
    monkeypatch.setattr("snowflake.connector.SnowflakeConnection.__init__", record)
    hook = HoopSnowflakeHook()
    ways = [
        hook.get_conn,
        lambda: hook.get_records("SELECT 1"),
        lambda: hook.get_first("SELECT 1"),
        lambda: hook.run("SELECT 1"),
        lambda: hook.get_df("SELECT 1", df_type="pandas"),
        lambda: hook.get_sqlalchemy_engine().connect(),
        lambda: hook.insert_rows("T", [(1,)]),
        hook.get_snowpark_session,
    ]
    for way in ways:
        with pytest.raises(Stop):
            way()
    assert went == ["hoop.test"] * len(ways)


def test_a_new_token_in_the_file_is_taken_for_the_next_connection(
    hoop: None, token_file: Path
) -> None:
    hook = HoopSnowflakeHook()
    assert hook._get_conn_params()["token"] == TOKEN
    token_file.write_text("second.a.b")
    assert hook._get_conn_params()["token"] == "second.a.b"


def test_a_snowflake_credential_in_the_connection_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection(monkeypatch, password=TOKEN, extra={"private_key_content": "s3cret"})
    with pytest.raises(ConfigError, match="private_key_content") as caught:
        HoopSnowflakeHook()._get_conn_params()
    assert "s3cret" not in str(caught.value)


def test_host_and_port_may_be_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    connection(monkeypatch, host="127.0.0.1", port=8750, password=TOKEN, extra={"protocol": "http"})
    assert HoopSnowflakeHook().gateway.url == "http://127.0.0.1:8750"


def test_the_token_is_masked_in_logs(monkeypatch: pytest.MonkeyPatch, hoop: None) -> None:
    masked: list[str] = []
    monkeypatch.setattr(hook_module, "mask_secret", masked.append)
    HoopSnowflakeHook()._get_conn_params()
    assert masked == [TOKEN]


@pytest.mark.usefixtures("hoop")
def test_a_plain_sql_operator_on_a_hoop_connection_goes_through_hoop() -> None:
    operator = SQLExecuteQueryOperator(task_id="t", sql="SELECT 1", conn_id="hoop_default")
    assert isinstance(operator.get_db_hook(), HoopSnowflakeHook)


@pytest.mark.usefixtures("hoop")
def test_the_operators_arguments_win_over_the_connections() -> None:
    operator = HoopSnowflakeOperator(
        task_id="t", sql="SELECT 1", purpose="why", database="DEV", schema="S", role="R"
    )
    hook = operator.get_db_hook()
    assert isinstance(hook, HoopSnowflakeHook)
    parameters = hook._get_conn_params()
    assert [parameters[k] for k in ("database", "schema", "role")] == ["DEV", "S", "R"]
    assert hook.purpose == "why"


@pytest.mark.usefixtures("hoop")
def test_a_database_in_default_args_is_not_taken_for_the_schema() -> None:
    defaults = {"conn_id": "hoop_default", "database": "PROD", "schema": "CRM"}
    with DAG(dag_id="d", schedule=None, start_date=START, default_args=defaults):
        operator = HoopSnowflakeOperator(task_id="t", sql="SELECT 1")
    parameters = operator.get_db_hook()._get_conn_params()
    assert (parameters["database"], parameters["schema"]) == ("PROD", "CRM")


def test_the_operator_refuses_a_connection_that_does_not_lead_to_hoop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    snowflake = {"conn_type": "snowflake", "login": "u", "password": "s3cret"}
    connection(monkeypatch, host="xy.snowflakecomputing.com", **snowflake)
    operator = HoopSnowflakeOperator(task_id="t", sql="SELECT 1")
    with pytest.raises(AirflowFailException, match="does not lead to Hoop"):
        operator.get_db_hook()


@pytest.mark.parametrize(
    "use",
    [
        lambda h: h.get_conn(),
        lambda h: h.client(),
        lambda h: h.get_uri(),
        lambda h: h.get_oauth_token(),
        lambda h: h.get_snowpark_session(),
    ],
    ids=["get_conn", "client", "get_uri", "get_oauth_token", "get_snowpark_session"],
)
def test_the_password_of_another_connection_is_not_taken_for_an_identity_token(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[HoopSnowflakeHook], Any]
) -> None:
    connection(monkeypatch, conn_type="snowflake", password="s3cret")
    with pytest.raises(ConfigError, match="type 'snowflake'") as caught:
        use(HoopSnowflakeHook())
    assert "s3cret" not in str(caught.value)


@pytest.mark.usefixtures("hoop")
def test_nothing_that_airflow_stores_of_a_task_holds_the_token() -> None:
    with DAG(dag_id="d", schedule=None, start_date=START):
        operator = HoopSnowflakeOperator(task_id="t", sql="DELETE FROM T", purpose="why")
        sensor = HoopApprovalSensor(task_id="s", for_task=operator)
    operator.get_db_hook()._get_conn_params()  # what a run has done before its fields are stored
    for task in (operator, sensor):
        fields = {name: getattr(task, name) for name in task.template_fields}
        assert TOKEN not in repr((fields, vars(task)))
    assert TOKEN not in repr(vars(operator.get_db_hook()))


# ---------------------------------------------------------------------- sensor

RUN_FIELDS = {"dag_id": "churn", "run_id": "run-1", "task_id": "build", "map_index": "-1"}
ALICE = {"issuer": "https://id", "subject": "alice", "name": "alice", "groups": ["data-owners"]}


def approval(status: str, sql: str = "DELETE FROM T", **more: Any) -> dict[str, Any]:
    return {
        "id": "apr_1",
        "status": status,
        "requester": {**ALICE, "subject": "agent", "name": "churn-agent"},
        "kind": "delete",
        "sql": sql,
        "approvers": ["data-owners"],
        "quorum": 1,
        "created_at": "2026-01-01T00:00:00+00:00",
        "run": {"orchestrator": "airflow", "fields": RUN_FIELDS},
        **more,
    }


class TaskInstance:
    """What the sensor asks of the running task instance."""

    dag_id, run_id, task_id, map_index, try_number = "churn", "run-1", "ask", -1, 1

    def __init__(self, rescheduled: bool = False) -> None:
        self.rescheduled = rescheduled
        self.pushed: dict[str, Any] = {}

    def get_first_reschedule_date(self, _context: Any) -> datetime.datetime | None:
        return START if self.rescheduled else None

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class Api:
    """Hoop's REST API with prepared answers; it keeps what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.posts: list[dict[str, Any]] = []
        self.post_answer: httpx.Response | Exception = httpx.Response(201, json=approval("pending"))
        self.listed: list[dict[str, Any]] | Exception = []
        self.alone: dict[str, Any] = {}
        monkeypatch.setattr(
            HoopSnowflakeHook,
            "client",
            lambda hook: HoopClient(
                hook.gateway, hook.identity_token, transport=httpx.MockTransport(self.handle)
            ),
        )

    def handle(self, request: httpx.Request) -> httpx.Response:
        answer: Any
        if request.method == "POST":
            self.posts.append(json.loads(request.content))
            answer = self.post_answer
        else:
            answer = self.listed
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        if not request.url.path.endswith("/approvals"):
            return httpx.Response(200, json=self.alone)
        return httpx.Response(200, json={"approvals": answer})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, hoop: None) -> Api:
    return Api(monkeypatch)


def sensor(sql: Any = "DELETE FROM T", **operator: Any) -> HoopApprovalSensor:
    with DAG("churn", schedule=None, start_date=START):
        task = HoopSnowflakeOperator(task_id="build", sql=sql, purpose="churn", **operator)
        asking = HoopApprovalSensor(task_id="ask", for_task=task)
        asking >> task
    return asking


def poke(asking: HoopApprovalSensor, ti: TaskInstance | None = None) -> Any:
    return asking.poke({"ti": ti or TaskInstance()})


def test_the_sensor_asks_for_the_other_tasks_statement_in_its_name(api: Api) -> None:
    ti = TaskInstance()
    assert not poke(sensor(), ti).is_done
    assert api.posts[0]["context"] == {
        "orchestrator": "airflow",
        **RUN_FIELDS,
        "purpose": "churn",
    }
    assert (api.posts[0]["database"], api.posts[0]["schema"]) == ("PROD", "FEATURES")
    assert ti.pushed == {XCOM_KEY: ["apr_1"]}


def test_the_sensor_renders_the_other_tasks_template_with_its_own_context(api: Api) -> None:
    asking = sensor("DELETE FROM {{ params.table }}", params={"table": "STAGING"})
    asking.render_template_fields({"params": {"table": "STAGING"}})
    poke(asking)
    assert asking.params["table"] == "STAGING"
    assert api.posts[0]["sql"] == "DELETE FROM STAGING"


def test_parameters_are_bound_as_the_driver_binds_them(api: Api) -> None:
    poke(sensor("DELETE FROM T WHERE A = %(a)s", parameters={"a": "it's"}))
    assert api.posts[0]["sql"] == "DELETE FROM T WHERE A = 'it\\'s'"
    assert api.posts[0]["parameters"] is None


def test_each_statement_of_a_script_is_asked_for(api: Api) -> None:
    poke(sensor("DELETE FROM A;\nDELETE FROM B;"))
    assert [p["sql"] for p in api.posts] == ["DELETE FROM A;", "DELETE FROM B;"]


def test_the_sensor_is_done_when_no_approval_is_needed(api: Api) -> None:
    api.post_answer = httpx.Response(200, json={"status": "not_required"})
    found = poke(sensor())
    assert found.is_done
    assert found.xcom_value == []


@pytest.mark.parametrize("status", ["approved", "consumed"])
def test_the_sensor_is_done_when_it_is_approved(api: Api, status: str) -> None:
    api.listed = [approval(status)]
    found = poke(sensor(), TaskInstance(rescheduled=True))
    assert found.is_done
    assert found.xcom_value == ["apr_1"]
    assert api.posts == []  # a later look asks nothing anew


def test_a_rejection_fails_the_task_for_good_with_reason_and_link(api: Api) -> None:
    answer = {"approver": ALICE, "verdict": "reject", "reason": "too broad", "at": "2026-01-01"}
    api.listed = [approval("rejected", answers=[answer])]
    with pytest.raises(AirflowFailException) as caught:
        poke(sensor(), TaskInstance(rescheduled=True))
    assert "by alice: too broad" in str(caught.value)
    assert "https://hoop.test/approvals/apr_1" in str(caught.value)


def test_an_expired_request_fails_the_task_for_good(api: Api) -> None:
    api.listed = [approval("expired")]
    with pytest.raises(AirflowFailException, match="expired"):
        poke(sensor(), TaskInstance(rescheduled=True))


def test_the_newest_request_of_the_run_counts(api: Api) -> None:
    old = approval("rejected", created_at="2025-12-31T00:00:00+00:00")
    api.listed = [approval("approved"), old]
    assert poke(sensor(), TaskInstance(rescheduled=True)).is_done


def test_an_approval_of_another_run_does_not_count(api: Api) -> None:
    other = {"orchestrator": "airflow", "fields": {**RUN_FIELDS, "run_id": "run-0"}}
    api.listed = [approval("approved", run=other)]
    assert not poke(sensor(), TaskInstance(rescheduled=True)).is_done
    assert len(api.posts) == 1


def test_a_long_statement_that_the_list_cuts_is_found_again(api: Api) -> None:
    sql = "DELETE FROM T WHERE A = '" + "x" * 3000 + "'"
    api.listed = [{**approval("approved", sql=sql[:2000]), "cut": True}]
    api.alone = approval("approved", sql=sql)
    found = poke(sensor(sql), TaskInstance(rescheduled=True))
    assert found.is_done
    assert api.posts == []


def test_an_approval_of_another_statement_does_not_count(api: Api) -> None:
    api.listed = [approval("approved", sql="DELETE FROM OTHER")]
    assert not poke(sensor(), TaskInstance(rescheduled=True)).is_done


def test_a_denial_by_policy_fails_the_task_for_good(api: Api) -> None:
    error = {"reason": "POLICY", "message": "Nobody may.", "hint": "Ask the owner."}
    api.post_answer = httpx.Response(403, json={"error": error})
    with pytest.raises(AirflowFailException, match=r"Nobody may\. Ask the owner\."):
        poke(sensor())


def test_a_refused_token_is_an_ordinary_failure_that_a_retry_may_cure(api: Api) -> None:
    error = {"reason": "IDENTITY", "message": "Expired.", "hint": ""}
    api.post_answer = httpx.Response(401, json={"error": error})
    with pytest.raises(IdentityError):
        poke(sensor())


def test_a_wrong_address_fails_at_once_but_a_restart_of_hoop_is_outlived(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    api.post_answer = httpx.ConnectError("refused")
    with pytest.raises(GatewayUnavailable):
        poke(sensor())
    api.listed = httpx.ConnectError("refused")
    with caplog.at_level(logging.WARNING):
        assert not poke(sensor(), TaskInstance(rescheduled=True)).is_done


def test_the_sensor_frees_its_slot_by_default() -> None:
    assert sensor().mode == "reschedule"


def test_the_sensor_refuses_a_task_without_a_statement() -> None:
    with pytest.raises(ConfigError, match="EmptyOperator"):
        HoopApprovalSensor(task_id="ask", for_task=EmptyOperator(task_id="e"))  # type: ignore[arg-type]


def test_the_sensor_refuses_a_connection_that_does_not_lead_to_hoop(
    monkeypatch: pytest.MonkeyPatch, api: Api
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_HOOP_DEFAULT", '{"conn_type": "snowflake"}')
    with pytest.raises(AirflowFailException, match="hoop_snowflake"):
        poke(sensor())
