"""Operator and sensor that park in Required Actions: on Airflow 3.3 and on those before it; Hoop decides."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest

if "AIRFLOW_HOME" not in os.environ:
    _HOME = tempfile.TemporaryDirectory(prefix="hoop-test-airflow-")
    os.environ["AIRFLOW_HOME"] = _HOME.name
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

pytest.importorskip("airflow")
pytest.importorskip("airflow.providers.snowflake")

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.sdk import DAG, BaseSensorOperator
from airflow.sdk.exceptions import TaskAwaitingInput, TaskDeferred

from hoop_airflow import parking
from hoop_airflow.hooks.hoop_snowflake import HoopSnowflakeHook
from hoop_airflow.operators.hoop_snowflake import HoopSnowflakeOperator
from hoop_airflow.sensors.hoop_approval import HoopApprovalSensor
from hoop_core.client import HoopClient
from hoop_core.errors import Refused, Unavailable

pytestmark = pytest.mark.airflow

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ALICE = {"issuer": "https://id", "subject": "alice", "name": "alice", "groups": ["data-owners"]}
ACTION = {
    "subject": "Hoop: may agent run DELETE on T?",
    "body": "```sql\nDELETE FROM T\n```",
    "options": ["Approve", "Reject"],
    "params": {"reason": {"value": "", "description": "Why.", "schema": {"type": "string"}}},
}


class TaskInstance:
    id, dag_id, run_id, task_id, map_index, try_number = "ti-1", "churn", "run-1", "build", 2, 1

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def get_first_reschedule_date(self, _context: Any) -> None:
        return None

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


class Hoop:
    """Hoop's REST API: what policy says of each statement, and how the requests stand."""

    def __init__(self) -> None:
        self.needed: dict[str, str] = {}
        """Statements that need an approval, with the status of their request."""
        self.refused: set[str] = set()
        self.action: httpx.Response = httpx.Response(200, json={"action": ACTION, "approvals": []})
        self.looks: list[httpx.Response] = []
        self.calls: list[tuple[str, Any]] = []

    def request(self, sql: str) -> dict[str, Any]:
        status = self.needed[sql]
        answers = (
            [{"approver": ALICE, "verdict": "reject", "reason": "too broad", "at": "2026-01-01"}]
            if status == "rejected"
            else []
        )
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
        return {
            "id": f"apr_{list(self.needed).index(sql)}",
            "status": status,
            "requester": {**ALICE, "subject": "agent", "name": "agent"},
            "kind": "delete",
            "sql": sql,
            "approvers": ["data-owners"],
            "quorum": 1,
            "created_at": "2026-01-01T00:00:00+00:00",
            "pending_until": until.isoformat(),
            "answers": answers,
            "run": {"orchestrator": "airflow", "fields": {"task_id": "build"}},
        }

    def handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/hoop/v1/")
        body = json.loads(request.content) if request.content else None
        self.calls.append((path, body))
        if path == "airflow/actions":
            return self.action
        if path == "airflow/looks":
            return self.looks.pop(0) if self.looks else httpx.Response(200, json={"said": "seen"})
        if path == "approvals":
            if body["sql"] in self.refused:
                error = {"reason": "UNKNOWN_TABLE", "message": "No such table.", "hint": ""}
                return httpx.Response(403, json={"error": error})
            if body["sql"] not in self.needed:
                return httpx.Response(200, json={"status": "not_required"})
            return httpx.Response(201, json=self.request(body["sql"]))
        number = int(path.removeprefix("approvals/apr_"))
        return httpx.Response(200, json=self.request(list(self.needed)[number]))

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.calls]


@pytest.fixture
def hoop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hoop:
    token = tmp_path / "token"
    token.write_text("a.b.c")
    connection = {
        "conn_type": "hoop_snowflake",
        "host": "https://hoop.test",
        "extra": {"token_file": str(token), "airflow": "prod"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_HOOP_DEFAULT", json.dumps(connection))
    made = Hoop()
    monkeypatch.setattr(
        HoopSnowflakeHook,
        "client",
        lambda hook: HoopClient(
            hook.gateway, hook.identity_token, transport=httpx.MockTransport(made.handle)
        ),
    )
    return made


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was put into Required Actions."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(parking, "upsert_hitl_detail", lambda **kwargs: found.append(kwargs))
    monkeypatch.setattr(parking.time, "sleep", lambda _: None)
    return found


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What went on to run."""
    found: list[Any] = []
    monkeypatch.setattr(
        SQLExecuteQueryOperator, "execute", lambda self, _context: found.append(self.sql)
    )
    return found


def operator(sql: Any = "DELETE FROM T", **options: Any) -> HoopSnowflakeOperator:
    with DAG("churn", schedule=None, start_date=START):
        return HoopSnowflakeOperator(task_id="build", sql=sql, purpose="churn", **options)


def execute(task: Any) -> Any:
    return task.execute({"ti": TaskInstance()})


def resume(task: Any, *identifiers: str, event: Any = None) -> Any:
    return task.execute_complete({"ti": TaskInstance()}, approvals=list(identifiers), event=event)


ANSWERED = {"chosen_options": ["Approve"], "responded_by_user": {"id": "x", "name": "x"}}
TIMED_OUT = {"error": "over", "error_type": "timeout"}

# ---------------------------------------------------------------------- parking


def test_the_task_shows_what_hoop_wrote_and_gives_its_slot_back(
    hoop: Hoop, shown: list[dict[str, Any]], ran: list[Any]
) -> None:
    hoop.needed = {"DELETE FROM T": "pending"}
    task = operator()
    with pytest.raises(TaskAwaitingInput) as parked:
        execute(task)
    assert shown == [{"ti_id": "ti-1", "defaults": None, "multiple": False, **ACTION}]
    assert parked.value.method_name == "execute_complete"
    assert parked.value.kwargs == {"approvals": ["apr_0"]}
    assert parked.value.timeout > datetime.timedelta(hours=1)  # Hoop's time limit comes first
    assert hoop.calls[-1] == (
        "airflow/actions",
        {
            "approvals": ["apr_0"],
            "airflow": "prod",
            "dag_id": "churn",
            "run_id": "run-1",
            "task_id": "build",
            "map_index": 2,
        },
    )
    assert task.hoop_page == "https://hoop.test/approvals/apr_0"
    assert ran == []


def test_before_airflow_3_3_a_trigger_waits_for_the_answer(
    hoop: Hoop, shown: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "TaskAwaitingInput", None)
    hoop.needed = {"DELETE FROM T": "pending"}
    with pytest.raises(TaskDeferred) as deferred:
        execute(operator())
    path, arguments = deferred.value.trigger.serialize()
    assert path == "airflow.providers.standard.triggers.hitl.HITLTrigger"
    assert arguments["options"] == ["Approve", "Reject"]
    assert arguments["defaults"] is None
    assert arguments["params"]["reason"]["value"] == ""
    assert arguments["timeout_datetime"] is not None
    assert deferred.value.method_name == "execute_complete"
    assert deferred.value.kwargs == {"approvals": ["apr_0"]}
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("version", "value"),
    [("3.1.2", ""), ("3.1.3", ACTION["params"]["reason"]), ("3.3.2", ACTION["params"]["reason"])],
)
def test_a_form_is_given_as_this_airflow_keeps_it(
    hoop: Hoop,
    shown: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    value: Any,
) -> None:
    monkeypatch.setattr("airflow.version.version", version)
    hoop.needed = {"DELETE FROM T": "pending"}
    with pytest.raises(TaskAwaitingInput):
        execute(operator())
    assert shown[0]["params"] == {"reason": value}


def test_all_statements_are_asked_for_before_one_runs_and_wait_together(hoop: Hoop) -> None:
    hoop.needed = {"DELETE FROM A": "pending", "DELETE FROM B": "pending"}
    with pytest.raises(TaskAwaitingInput):
        execute(operator(["DELETE FROM A", "SELECT 1", "DELETE FROM B"]))
    asked = [b["sql"] for p, b in hoop.calls if p == "approvals"]
    assert asked == ["DELETE FROM A", "SELECT 1", "DELETE FROM B"]
    assert hoop.calls[-1][1]["approvals"] == ["apr_0", "apr_1"]


def test_a_retry_that_finds_its_request_approved_runs_at_once(
    hoop: Hoop, shown: list[dict[str, Any]], ran: list[Any]
) -> None:
    hoop.needed = {"DELETE FROM T": "approved"}
    execute(operator())
    assert (shown, ran) == ([], ["DELETE FROM T"])


def test_a_statement_that_needs_nobody_runs_at_once(hoop: Hoop, ran: list[Any]) -> None:
    execute(operator("SELECT 1"))
    assert ran == ["SELECT 1"]


def test_where_hoop_knows_no_airflow_the_gateway_holds_the_statement(
    hoop: Hoop, shown: list[dict[str, Any]], ran: list[Any]
) -> None:
    hoop.needed = {"DELETE FROM T": "pending"}
    error = {"reason": "NOT_SERVED", "message": "Hoop knows no Airflow.", "hint": ""}
    hoop.action = httpx.Response(404, json={"error": error})
    execute(operator())
    assert (shown, ran) == ([], ["DELETE FROM T"])


def test_an_airflow_that_hoop_does_not_know_fails_the_task(hoop: Hoop, ran: list[Any]) -> None:
    hoop.needed = {"DELETE FROM T": "pending"}
    error = {"reason": "BAD_REQUEST", "message": "Hoop knows no Airflow 'prod'.", "hint": "Fix it."}
    hoop.action = httpx.Response(400, json={"error": error})
    with pytest.raises(AirflowFailException, match=r"Hoop knows no Airflow 'prod'\. Fix it\."):
        execute(operator())
    assert ran == []


def test_who_does_not_want_to_wait_in_airflow_asks_nothing(hoop: Hoop, ran: list[Any]) -> None:
    execute(operator(wait_in_airflow=False))
    assert (hoop.calls, ran) == ([], ["DELETE FROM T"])


def test_what_cannot_be_judged_ahead_is_left_to_the_gateway(hoop: Hoop, ran: list[Any]) -> None:
    hoop.refused = {"INSERT INTO NEW VALUES (1)"}
    script = ["CREATE TABLE NEW (A INT)", "INSERT INTO NEW VALUES (1)"]
    execute(operator(script))
    assert ran == [script]


# ---------------------------------------------------------------------- going on


@pytest.mark.parametrize("event", [ANSWERED, TIMED_OUT, None])
def test_hoop_decides_that_it_runs_whatever_airflow_says(
    hoop: Hoop, ran: list[Any], event: Any
) -> None:
    hoop.needed = {"DELETE FROM T": "approved"}
    resume(operator(), "apr_0", event=event)
    assert hoop.paths == ["airflow/looks", "approvals/apr_0"]  # Hoop has read the answer first
    assert ran == ["DELETE FROM T"]


def test_the_button_leads_to_the_request_also_after_the_task_went_on(hoop: Hoop) -> None:
    hoop.needed = {"DELETE FROM T": "approved"}
    task = operator()
    resume(task, "apr_0")
    [link] = task.operator_extra_links
    assert link.get_link(task, ti_key=None) == "https://hoop.test/approvals/apr_0"


@pytest.mark.parametrize("event", [ANSWERED, TIMED_OUT])
def test_hoop_decides_that_it_waits_whatever_airflow_says(
    hoop: Hoop, shown: list[dict[str, Any]], ran: list[Any], event: Any
) -> None:
    hoop.needed = {"DELETE FROM T": "pending"}
    with pytest.raises(TaskAwaitingInput) as parked:
        resume(operator(), "apr_0", event=event)
    assert parked.value.kwargs == {"approvals": ["apr_0"]}
    assert len(shown) == 1
    assert ran == []


def test_all_that_was_shown_is_shown_again_while_one_waits(hoop: Hoop) -> None:
    # Airflow keeps the text of the first time.
    hoop.needed = {"DELETE FROM A": "approved", "DELETE FROM B": "pending"}
    with pytest.raises(TaskAwaitingInput):
        resume(operator(), "apr_0", "apr_1")
    assert hoop.calls[-1][1]["approvals"] == ["apr_0", "apr_1"]


@pytest.mark.parametrize("status", ["rejected", "expired", "withdrawn"])
def test_any_other_end_fails_the_task_for_good(hoop: Hoop, ran: list[Any], status: str) -> None:
    hoop.needed = {"DELETE FROM A": "approved", "DELETE FROM B": status}
    with pytest.raises(AirflowFailException, match=status) as caught:
        resume(operator(), "apr_0", "apr_1", event=ANSWERED)
    assert "https://hoop.test/approvals/apr_1" in str(caught.value)
    if status == "rejected":
        assert "by alice: too broad" in str(caught.value)
    assert ran == []


def unavailable() -> httpx.Response:
    error = {"reason": "AIRFLOW_UNAVAILABLE", "message": "Airflow is down.", "hint": ""}
    return httpx.Response(503, json={"error": error})


def test_an_answer_that_hoop_cannot_read_yet_is_waited_for(hoop: Hoop, ran: list[Any]) -> None:
    hoop.needed = {"DELETE FROM T": "approved"}
    hoop.looks = [unavailable(), unavailable()]
    resume(operator(), "apr_0")
    assert hoop.paths.count("airflow/looks") == 3
    assert ran == ["DELETE FROM T"]


def too_much(reason: str) -> httpx.Response:
    error = {"reason": reason, "message": "You have sent too much.", "hint": ""}
    return httpx.Response(429, json={"error": error})


@pytest.mark.parametrize("reason", ["TOO_FAST", "TOO_MANY_STATEMENTS"])
def test_a_hoop_that_is_asked_too_much_at_once_is_asked_again(
    hoop: Hoop, ran: list[Any], reason: str
) -> None:
    hoop.needed = {"DELETE FROM T": "approved"}
    hoop.looks = [too_much(reason), too_much(reason)]
    resume(operator(), "apr_0")
    assert hoop.paths.count("airflow/looks") == 3
    assert ran == ["DELETE FROM T"]


@pytest.mark.parametrize("reason", ["TOO_FAST", "TOO_MANY_ACTIONS"])
def test_a_task_that_cannot_be_shown_for_that_may_be_retried(
    hoop: Hoop, ran: list[Any], reason: str
) -> None:
    hoop.needed = {"DELETE FROM T": "pending"}
    hoop.action = too_much(reason)
    with pytest.raises(Refused) as caught:
        execute(operator())
    assert caught.value.reason == reason
    assert ran == []


def test_an_answer_that_hoop_cannot_read_is_not_wiped_by_parking_again(
    hoop: Hoop, shown: list[dict[str, Any]], ran: list[Any]
) -> None:
    hoop.needed = {"DELETE FROM T": "pending"}
    hoop.looks = [unavailable() for _ in range(50)]
    with pytest.raises(Unavailable, match="Airflow is down"):
        resume(operator(), "apr_0")
    assert (shown, ran) == ([], [])


# ---------------------------------------------------------------------- sensor


def sensor(**options: Any) -> HoopApprovalSensor:
    with DAG("churn", schedule=None, start_date=START):
        task = HoopSnowflakeOperator(task_id="build", sql="DELETE FROM T")
        return HoopApprovalSensor(task_id="ask", for_task=task, **options)


def test_the_sensor_parks_for_the_other_task(hoop: Hoop, shown: list[dict[str, Any]]) -> None:
    hoop.needed = {"DELETE FROM T": "pending"}
    with pytest.raises(TaskAwaitingInput):
        execute(sensor())
    assert len(shown) == 1
    assert hoop.calls[0][1]["context"]["task_id"] == "build"
    assert hoop.calls[0][1]["context"]["map_index"] == "-1"


def test_the_sensor_ends_when_hoop_says_so(hoop: Hoop) -> None:
    hoop.needed = {"DELETE FROM T": "approved"}
    assert resume(sensor(), "apr_0", event=TIMED_OUT) == ["apr_0"]
    assert execute(sensor()) == ["apr_0"]
    hoop.needed = {"DELETE FROM T": "rejected"}
    with pytest.raises(AirflowFailException, match="too broad"):
        resume(sensor(), "apr_0", event=ANSWERED)


@pytest.mark.parametrize("options", [{}, {"wait_in_airflow": False}])
def test_where_it_cannot_park_the_sensor_looks_now_and_then(
    hoop: Hoop,
    shown: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
) -> None:
    looked: list[Any] = []
    monkeypatch.setattr(BaseSensorOperator, "execute", lambda self, _context: looked.append(self))
    hoop.needed = {"DELETE FROM T": "pending"}
    error = {"reason": "NOT_SERVED", "message": "Hoop knows no Airflow.", "hint": ""}
    hoop.action = httpx.Response(404, json={"error": error})
    execute(sensor(**options))
    assert (len(looked), shown) == (1, [])
