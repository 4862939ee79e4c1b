"""A run that ends awaiting approval, and the sensor that goes on with exactly what was left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest

dg = pytest.importorskip("dagster")
pytest.importorskip("dagster_snowflake")

from dagster_snowflake import SnowflakeResource  # noqa: E402
from snowflake.connector.errors import ProgrammingError  # noqa: E402

from hoop_core.client.values import Approval, parse_approval  # noqa: E402
from hoop_core.errors import ApprovalPending, GatewayUnavailable, NotServed  # noqa: E402
from hoop_dagster import HoopSnowflakeResource, hoop_approval_check, hoop_approval_sensor  # noqa: E402
from hoop_dagster import held as held_module  # noqa: E402
from hoop_dagster import reexecution as reexecution_module  # noqa: E402
from hoop_dagster import resource as resource_module  # noqa: E402
from hoop_dagster import sensor as sensor_module  # noqa: E402
from hoop_dagster.held import approval_waited_for  # noqa: E402

pytestmark = pytest.mark.dagster

URL = "http://127.0.0.1:8750"
ID = "apr_" + "0" * 19 + "1"


class Desk:
    """Stands in for Hoop: what is held, what people said, and what was sent."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.status: dict[str, str] = {}
        self.no: dict[str, str] = {}
        self.ran: list[str] = []
        self.opened: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.down = self.unseen = False
        self.opens_at: datetime | None = None

    def execute(self, sql: str) -> None:
        identifier = self.held.get(sql)
        if identifier is not None and self.status.setdefault(identifier, "pending") != "approved":
            pending = ApprovalPending(identifier, ("data-owners",))
            raise ProgrammingError(msg=pending.text, errno=pending.errno, sqlstate="42501")
        self.ran.append(sql)

    def approval(self, identifier: str) -> Approval:
        if self.down:
            raise GatewayUnavailable("Hoop does not answer.")
        if self.unseen:
            raise NotServed(f"There is no approval {identifier!r} for you.")
        verdict = {"approved": "approve", "rejected": "reject"}.get(self.status[identifier])
        answer = {
            "approver": {"issuer": "i", "subject": "alice", "name": "Alice"},
            "verdict": verdict,
            "reason": self.no.get(identifier, "fine"),
            "at": datetime.now(UTC).isoformat(),
        }
        return parse_approval(
            {
                "id": identifier,
                "status": self.status[identifier],
                "requester": {"issuer": "i", "subject": "agent", "name": "agent"},
                "kind": "delete",
                "sql": next(sql for sql, i in self.held.items() if i == identifier),
                "reasons": [{"code": "APPROVAL_REQUIRED", "message": "deletes everything"}],
                "approvers": ["data-owners"],
                "quorum": 1,
                "answers": [answer] if verdict else [],
                "created_at": datetime.now(UTC).isoformat(),
                "opens_at": self.opens_at.isoformat() if self.opens_at else None,
            }
        )

    def request_approval(self, sql: str, **named: Any) -> Approval | None:
        self.asked.append({"sql": sql, **named})
        if sql not in self.held:
            return None
        self.status.setdefault(self.held[sql], "pending")
        return self.approval(self.held[sql])


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    found = Desk()

    class Connection:
        def execute(self, sql: str) -> None:
            found.execute(sql)

        def commit(self) -> None: ...

        def close(self) -> None: ...

    class Client:
        def __init__(self, *_: object) -> None:
            self.approval, self.request_approval = found.approval, found.request_approval

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type | None, error: BaseException | None, trace: TracebackType | None
        ) -> None: ...

    def open_connection(parameters: dict[str, Any]) -> Connection:
        found.opened.append(dict(parameters))
        return Connection()

    monkeypatch.setattr(resource_module, "open_connection", open_connection)
    for module in (resource_module, held_module, sensor_module):
        monkeypatch.setattr(module, "HoopClient", Client)
    return found


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    file = tmp_path / "token"
    file.write_text("first.a.b")
    return str(file)


@pytest.fixture
def resources(token_file: str) -> dict[str, HoopSnowflakeResource]:
    return {"snowflake": HoopSnowflakeResource(gateway_url=URL, token_file=token_file)}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def running(name: str, sql: str, **options: Any) -> dg.AssetsDefinition:
    """An asset that runs one statement."""

    @dg.asset(name=name, **options)
    def asset(snowflake: SnowflakeResource) -> None:
        with snowflake.get_connection() as connection:
            connection.execute(sql)

    return asset


def three() -> list[dg.AssetsDefinition]:
    return [
        running("staged", "INSERT 1"),
        running("purged", "DELETE ALL", deps=["staged"]),
        running("features", "INSERT 2", deps=["purged"]),
    ]


def ran(
    assets: list[Any],
    resources: dict[str, HoopSnowflakeResource],
    instance: dg.DagsterInstance,
    **options: Any,
) -> dg.DagsterRun:
    result = dg.materialize(
        assets, resources=resources, instance=instance, raise_on_error=False, **options
    )
    return current(instance, result.run_id)


def current(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    found = instance.get_run_by_id(run_id)
    assert found is not None
    return found


def tick(
    assets: list[Any],
    resources: dict[str, HoopSnowflakeResource],
    instance: dg.DagsterInstance,
    token_file: str,
    **options: Any,
) -> Any:
    sensor = hoop_approval_sensor(gateway_url=URL, token_file=token_file, **options)
    definitions = dg.Definitions(assets=assets, resources=resources, sensors=[sensor])
    context = dg.build_sensor_context(instance=instance, definitions=definitions)
    return sensor.evaluate_tick(context)


def started(
    request: dg.RunRequest,
    assets: list[Any],
    resources: dict[str, HoopSnowflakeResource],
    instance: dg.DagsterInstance,
) -> dg.DagsterRun:
    """What Dagster's daemon does with a run request."""
    definitions = dg.Definitions(assets=assets, resources=resources)
    job = definitions.resolve_job_def("__ASSET_JOB").get_subset(
        asset_selection=set(request.asset_selection),
        asset_check_selection=set(request.asset_check_keys),
    )
    result = job.execute_in_process(
        instance=instance,
        tags={**request.tags, "dagster/run_key": request.run_key},
        run_config=request.run_config,
        raise_on_error=False,
    )
    return current(instance, result.run_id)


def test_a_step_whose_statement_waits_ends_with_everything_a_person_wants_to_see(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    desk.held["DELETE ALL"] = ID
    run = ran(three(), resources, instance)
    assert run.status is dg.DagsterRunStatus.FAILURE
    assert run.tags["hoop/approval_id"] == ID
    assert run.tags["hoop/approval_status"] == "awaiting"
    assert desk.ran == ["INSERT 1"]
    (failure,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    data = failure.dagster_event.event_specific_data.user_failure_data
    assert data.metadata["hoop/approval_url"].url == f"{URL}/approvals/{ID}"
    assert data.metadata["sql"].text == "DELETE ALL"
    assert data.metadata["reason"].text == "deletes everything"
    assert "deletes everything" in data.description


def test_a_step_that_may_be_retried_is_not_for_it_would_only_ask_again(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    desk.held["DELETE ALL"] = ID
    run = ran(
        [running("purged", "DELETE ALL", retry_policy=dg.RetryPolicy(max_retries=3))],
        resources,
        instance,
    )
    assert len(desk.opened) == 1
    assert run.tags["dagster/retry_on_asset_or_op_failure"] == "false"


def test_only_a_step_asks_the_gateway_not_to_hold(desk: Desk, token_file: str) -> None:
    def asked(parameters: dict[str, Any]) -> str | None:
        found: str | None = parameters["session_parameters"].get("HOOP_WHEN_HELD")
        return found

    ends = HoopSnowflakeResource(gateway_url=URL, token_file=token_file)
    holds = HoopSnowflakeResource(gateway_url=URL, token_file=token_file, while_waiting="hold")
    with ends.get_connection():
        pass
    for resource in (ends, holds):
        dg.materialize([running("a", "SELECT 1")], resources={"snowflake": resource})
    assert [asked(p) for p in desk.opened] == [None, "refuse", None]


@contextmanager
def wrapped(kind: type[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        raise kind("the driver's own words") from e


@pytest.mark.parametrize("how", ["plain", "cause", "orig"])
def test_it_is_recognised_under_what_drivers_wrap_round_it(how: str) -> None:
    pending = ApprovalPending(ID, ("data-owners",))
    error: Exception = ProgrammingError(msg=pending.text, errno=pending.errno)
    if how == "cause":
        with pytest.raises(ValueError, match="own words") as caught, wrapped(ValueError):
            raise error
        error = caught.value
    elif how == "orig":
        import sqlalchemy.exc

        error = sqlalchemy.exc.ProgrammingError("DELETE", None, error)
    assert approval_waited_for(error) == ID


@pytest.mark.parametrize(
    "error",
    [
        ProgrammingError(msg=f"There is no approval {ID}", errno=2003),
        ValueError(f"{ID}"),
        ProgrammingError(msg="waits, says nobody", errno=99300),
    ],
)
def test_no_other_error_counts_as_waiting(error: Exception) -> None:
    assert approval_waited_for(error) is None


def test_an_approved_run_goes_on_with_exactly_what_was_left(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    desk.held["DELETE ALL"] = ID
    run = ran(three(), resources, instance, tags={"team": "growth"})
    waiting = tick(three(), resources, instance, token_file)
    assert not waiting.run_requests
    assert ID in waiting.skip_message
    desk.status[ID] = "approved"
    (request,) = tick(three(), resources, instance, token_file).run_requests
    assert request.run_key == f"hoop:{ID}:{run.run_id}"
    assert {k.to_user_string() for k in request.asset_selection} == {"purged", "features"}
    assert request.tags["hoop/approved_by"] == "Alice"
    assert request.tags["hoop/approval_id"] == ID
    assert request.tags["team"] == "growth"
    assert "hoop/approval_status" not in request.tags
    assert "dagster/retry_on_asset_or_op_failure" not in request.tags


def test_the_run_that_goes_on_asks_as_the_first_one_did(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    from hoop_core.approvals.binding import run_key
    from hoop_core.model import RunContext

    def bound_to(parameters: dict[str, Any]) -> dict[str, str]:
        context = json.loads(parameters["session_parameters"]["HOOP_CONTEXT"])
        return run_key(RunContext(context.pop("orchestrator"), context))

    desk.held["DELETE ALL"] = ID
    first = ran(three(), resources, instance)
    desk.status[ID] = "approved"
    (request,) = tick(three(), resources, instance, token_file).run_requests
    second = started(request, three(), resources, instance)
    assert second.status is dg.DagsterRunStatus.SUCCESS
    assert desk.ran == ["INSERT 1", "DELETE ALL", "INSERT 2"]
    refused, again = desk.opened[1], desk.opened[2]
    assert bound_to(refused) == bound_to(again)
    context = json.loads(again["session_parameters"]["HOOP_CONTEXT"])
    assert (context["run_id"], context["root_run_id"]) == (second.run_id, first.run_id)
    # and the first run is done with, however often the sensor looks
    assert not tick(three(), resources, instance, token_file).run_requests
    closed = current(instance, first.run_id)
    assert closed.tags["hoop/approval_status"] == "resumed"
    assert closed.tags["hoop/resumed_by"] == second.run_id
    assert not tick(three(), resources, instance, token_file).run_requests


def test_another_wait_in_the_run_that_goes_on_keeps_the_first_run_as_its_root(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    other = "apr_" + "0" * 19 + "2"
    desk.held |= {"DELETE ALL": ID, "INSERT 2": other}
    first = ran(three(), resources, instance)
    desk.status[ID] = "approved"
    (request,) = tick(three(), resources, instance, token_file).run_requests
    second = started(request, three(), resources, instance)
    assert second.tags["hoop/approval_status"] == "awaiting"
    desk.status[other] = "approved"
    (request,) = tick(three(), resources, instance, token_file).run_requests
    assert request.run_key == f"hoop:{other}:{second.run_id}"
    assert [k.to_user_string() for k in request.asset_selection] == ["features"]
    assert request.tags["hoop/root_run_id"] == first.run_id


@pytest.mark.parametrize(
    ("status", "state"), [("rejected", "refused"), ("expired", "expired"), ("consumed", "used")]
)
def test_a_run_that_may_not_go_on_says_so_and_is_not_looked_at_again(
    status: str,
    state: str,
    desk: Desk,
    resources: dict[str, Any],
    instance: dg.DagsterInstance,
    token_file: str,
) -> None:
    desk.held["DELETE ALL"] = ID
    run = ran(three(), resources, instance)
    desk.status[ID], desk.no[ID] = status, "not in the closing week"
    assert not tick(three(), resources, instance, token_file).run_requests
    assert current(instance, run.run_id).tags["hoop/approval_status"] == state
    (event,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)[-1:]
    assert ID in event.dagster_event.message
    if status == "rejected":
        assert "Alice: not in the closing week" in event.dagster_event.message
    desk.status[ID] = "approved"
    assert not tick(three(), resources, instance, token_file).run_requests


def test_nothing_is_lost_while_hoop_does_not_answer(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    desk.held["DELETE ALL"] = ID
    ran(three(), resources, instance)
    desk.down = True
    skipped = tick(three(), resources, instance, token_file)
    assert "does not answer" in skipped.skip_message
    desk.down, desk.status[ID] = False, "approved"
    assert len(tick(three(), resources, instance, token_file).run_requests) == 1


def test_of_many_runs_that_wait_each_gets_its_turn(
    desk: Desk,
    resources: dict[str, Any],
    instance: dg.DagsterInstance,
    token_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sensor_module, "_AT_ONCE", 1)
    other = "apr_" + "0" * 19 + "2"
    assets = [running("one", "DELETE 1"), running("two", "DELETE 2")]
    desk.held |= {"DELETE 1": ID, "DELETE 2": other}
    for asset in assets:
        ran([asset], resources, instance)
    desk.status[other] = "approved"
    sensor = hoop_approval_sensor(gateway_url=URL, token_file=token_file)
    definitions = dg.Definitions(assets=assets, resources=resources, sensors=[sensor])
    cursor, started_for = None, list[str]()
    for _ in range(4):
        context = dg.build_sensor_context(instance=instance, definitions=definitions, cursor=cursor)
        result = sensor.evaluate_tick(context)
        cursor = result.cursor
        started_for += [r.tags["hoop/approval_id"] for r in result.run_requests]
    assert started_for == [other, other]  # which Dagster starts once, by its run key


def test_a_request_that_the_sensor_may_not_see_leaves_the_run_waiting(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    desk.held["DELETE ALL"] = ID
    run = ran(three(), resources, instance)
    desk.unseen = True
    assert "for you" in tick(three(), resources, instance, token_file).skip_message
    assert current(instance, run.run_id).tags["hoop/approval_status"] == "awaiting"


def test_a_run_goes_on_only_when_all_that_it_waits_for_is_approved(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    other = "apr_" + "0" * 19 + "2"
    assets = [running("one", "DELETE 1"), running("two", "DELETE 2")]
    desk.held |= {"DELETE 1": ID, "DELETE 2": other}
    run = ran(assets, resources, instance)
    desk.status[ID] = "approved"
    assert not tick(assets, resources, instance, token_file).run_requests
    desk.status[other] = "approved"
    (request,) = tick(assets, resources, instance, token_file).run_requests
    assert request.run_key == f"hoop:{ID},{other}:{run.run_id}"


def test_what_may_run_at_certain_hours_only_goes_on_then(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    desk.held["DELETE ALL"] = ID
    ran(three(), resources, instance)
    desk.status[ID], desk.opens_at = "approved", datetime(2026, 3, 1, 22, 0, tzinfo=UTC)
    skipped = tick(three(), resources, instance, token_file)
    assert not skipped.run_requests
    assert "2026-03-01 22:00" in skipped.skip_message
    desk.opens_at = None
    assert len(tick(three(), resources, instance, token_file).run_requests) == 1


def test_a_run_that_somebody_re_executed_by_hand_is_left_to_them(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    desk.held["DELETE ALL"] = ID
    run = ran(three(), resources, instance)
    desk.status[ID] = "approved"
    # Dagster copies the parent's tags to a re-execution
    by_hand = ran(
        [running("other", "INSERT 9")],
        resources,
        instance,
        tags={**run.tags, "dagster/parent_run_id": run.run_id},
    )
    assert not tick(three(), resources, instance, token_file).run_requests
    assert current(instance, run.run_id).tags["hoop/approval_status"] == "superseded"
    assert current(instance, run.run_id).tags["hoop/resumed_by"] == by_hand.run_id


def test_partition_and_run_config_are_those_of_the_first_run(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    days = dg.StaticPartitionsDefinition(["2026-01-01", "2026-01-02"])

    seen: list[tuple[str, int]] = []

    @dg.asset(partitions_def=days, config_schema={"most": int})
    def staged(context) -> None:
        seen.append(("staged", context.op_execution_context.op_config["most"]))

    @dg.asset(
        partitions_def=days,
        deps=[staged],
        config_schema={"most": int},
        required_resource_keys={"snowflake"},
    )
    def purged(context) -> None:
        with context.resources.snowflake.get_connection() as connection:
            connection.execute(f"DELETE {context.partition_key}")
        seen.append((context.partition_key, context.op_execution_context.op_config["most"]))

    desk.held["DELETE 2026-01-02"] = ID
    config = {"ops": {"staged": {"config": {"most": 6}}, "purged": {"config": {"most": 7}}}}
    ran([staged, purged], resources, instance, partition_key="2026-01-02", run_config=config)
    desk.status[ID] = "approved"
    (request,) = tick([staged, purged], resources, instance, token_file).run_requests
    second = started(request, [staged, purged], resources, instance)
    assert second.status is dg.DagsterRunStatus.SUCCESS
    assert seen == [("staged", 6), ("2026-01-02", 7)]


def test_what_can_only_be_made_together_is_made_again_together(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    @dg.multi_asset(outs={"left": dg.AssetOut(), "right": dg.AssetOut()})
    def both(snowflake: SnowflakeResource) -> Any:
        yield dg.Output(1, "left")
        with snowflake.get_connection() as connection:
            connection.execute("DELETE ALL")
        yield dg.Output(2, "right")

    desk.held["DELETE ALL"] = ID
    ran([both], resources, instance)
    desk.status[ID] = "approved"
    (request,) = tick([both], resources, instance, token_file).run_requests
    assert {k.to_user_string() for k in request.asset_selection} == {"left", "right"}


def test_assets_of_another_code_location_are_left_to_it(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    desk.held["DELETE ALL"] = ID
    run = ran(three(), resources, instance)
    desk.status[ID] = "approved"
    elsewhere = [running("unrelated", "INSERT 5")]
    assert not tick(elsewhere, resources, instance, token_file).run_requests
    assert current(instance, run.run_id).tags["hoop/approval_status"] == "awaiting"


def test_a_job_of_ops_is_not_run_anew_where_only_a_part_was_left(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    @dg.op
    def purge(snowflake: SnowflakeResource) -> None:
        with snowflake.get_connection() as connection:
            connection.execute("DELETE ALL")

    @dg.job(resource_defs=resources)
    def nightly() -> None:
        purge()

    desk.held["DELETE ALL"] = ID
    result = nightly.execute_in_process(instance=instance, raise_on_error=False)
    desk.status[ID] = "approved"
    sensor = hoop_approval_sensor(gateway_url=URL, token_file=token_file)
    definitions = dg.Definitions(jobs=[nightly], sensors=[sensor])
    context = dg.build_sensor_context(instance=instance, definitions=definitions)
    assert not sensor.evaluate_tick(context).run_requests
    run = current(instance, result.run_id)
    assert run.tags["hoop/approval_status"] == "approved"
    (event,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)[-1:]
    assert "webserver_url" in event.dagster_event.message


def test_the_check_blocks_until_people_said_yes_and_asks_for_the_step_that_will_run_it(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    check = hoop_approval_check(asset="staged", runs_in="purged", sql="DELETE ALL")
    made = [*three(), check]
    desk.held["DELETE ALL"] = ID
    run = ran(made, resources, instance)
    assert desk.ran == ["INSERT 1"]
    asked = desk.asked[0]
    assert (asked["sql"], asked["run"].fields["step_key"]) == ("DELETE ALL", "purged")
    (event,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    evaluation = event.dagster_event.asset_check_evaluation_data
    assert not evaluation.passed
    assert f"{URL}/approvals/{ID}" in evaluation.description
    desk.status[ID] = "approved"
    (request,) = tick(made, resources, instance, token_file).run_requests
    second = started(request, made, resources, instance)
    assert second.status is dg.DagsterRunStatus.SUCCESS
    assert desk.ran == ["INSERT 1", "DELETE ALL", "INSERT 2"]
    (event,) = instance.all_logs(second.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    evaluation = event.dagster_event.asset_check_evaluation_data
    assert evaluation.passed
    assert evaluation.description == "Approved by Alice"


def test_a_check_of_what_needs_no_approval_passes(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    check = hoop_approval_check(asset="staged", runs_in="purged", sql="DELETE ALL")
    run = ran([*three(), check], resources, instance)
    assert run.status is dg.DagsterRunStatus.SUCCESS
    assert desk.ran == ["INSERT 1", "DELETE ALL", "INSERT 2"]


# ---------------------------------------------------------------------- one bad run and a good one

OTHER = "apr_" + "0" * 19 + "2"


def jobs(resources: dict[str, Any], *names: str) -> list[Any]:
    """Jobs of plain ops, which only Dagster's webserver can re-execute."""

    def job(name: str) -> Any:
        @dg.op(name=f"purge_{name}")
        def purge(snowflake: SnowflakeResource) -> None:
            with snowflake.get_connection() as connection:
                connection.execute(f"DELETE {name}")

        @dg.job(name=name, resource_defs=resources)
        def made() -> None:
            purge()

        return made

    return [job(name) for name in names]


@pytest.fixture
def webserver(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Dagster's webserver answers for each job."""
    answers: dict[str, Any] = {}

    def post(url: str, **given: Any) -> httpx.Response:
        run_id = given["json"]["variables"]["parameters"]["parentRunId"]
        answer = answers["by_run"][run_id]
        answers.setdefault("asked", []).append(run_id)
        if isinstance(answer, Exception):
            raise answer
        body = json.dumps({"data": {"launchRunReexecution": answer}})  # surrogates as they may come
        return httpx.Response(200, content=body, request=httpx.Request("POST", url))

    monkeypatch.setattr(reexecution_module.httpx, "post", post)
    return answers


def two_jobs(
    desk: Desk,
    resources: dict[str, Any],
    instance: dg.DagsterInstance,
    webserver: dict[str, Any],
    answer: Any,
) -> tuple[list[Any], dg.DagsterRun, dg.DagsterRun]:
    """Two approved runs; the webserver gives `answer` for the first, and starts the second."""
    made = jobs(resources, "bad", "good")
    desk.held |= {"DELETE bad": ID, "DELETE good": OTHER}
    bad, good = (
        current(instance, j.execute_in_process(instance=instance, raise_on_error=False).run_id)
        for j in made
    )
    desk.status |= {ID: "approved", OTHER: "approved"}
    started = {"__typename": "LaunchRunSuccess", "run": {"runId": "child"}}
    webserver["by_run"] = {bad.run_id: answer, good.run_id: started}
    return made, bad, good


def looked(made: list[Any], instance: dg.DagsterInstance, token_file: str) -> Any:
    sensor = hoop_approval_sensor(
        gateway_url=URL, token_file=token_file, webserver_url="http://127.0.0.1:1"
    )
    definitions = dg.Definitions(jobs=made, sensors=[sensor])
    context = dg.build_sensor_context(instance=instance, definitions=definitions)
    return sensor.evaluate_tick(context)


def test_a_run_that_the_webserver_refuses_stops_no_other_and_is_left_to_people(
    desk: Desk,
    resources: dict[str, Any],
    instance: dg.DagsterInstance,
    token_file: str,
    webserver: dict[str, Any],
) -> None:
    refused = {"__typename": "RunConfigValidationInvalid"}
    made, bad, good = two_jobs(desk, resources, instance, webserver, refused)
    assert "RunConfigValidationInvalid" in looked(made, instance, token_file).skip_message
    assert current(instance, good.run_id).tags["hoop/approval_status"] == "resumed"
    assert current(instance, bad.run_id).tags["hoop/approval_status"] == "approved"
    looked(made, instance, token_file)
    assert webserver["asked"].count(bad.run_id) == 1


@pytest.mark.parametrize("kind", ["PythonError", "UnauthorizedError"])
def test_a_refusal_that_may_pass_is_tried_again_and_stops_no_other(
    desk: Desk,
    resources: dict[str, Any],
    instance: dg.DagsterInstance,
    token_file: str,
    webserver: dict[str, Any],
    kind: str,
) -> None:
    refused = {"__typename": kind, "message": "the code location does not load \ud800"}
    made, bad, good = two_jobs(desk, resources, instance, webserver, refused)
    looked(made, instance, token_file)
    assert current(instance, good.run_id).tags["hoop/approval_status"] == "resumed"
    assert current(instance, bad.run_id).tags["hoop/approval_status"] == "awaiting"


def test_a_webserver_that_does_not_answer_is_asked_once_a_tick_for_any_of_the_runs(
    desk: Desk,
    resources: dict[str, Any],
    instance: dg.DagsterInstance,
    token_file: str,
    webserver: dict[str, Any],
) -> None:
    silent = httpx.ReadTimeout("too long")
    made, bad, good = two_jobs(desk, resources, instance, webserver, silent)
    for _ in range(30):  # in no order, so the good one is the first some time
        looked(made, instance, token_file)
    assert current(instance, good.run_id).tags["hoop/approval_status"] == "resumed"
    assert current(instance, bad.run_id).tags["hoop/approval_status"] == "awaiting"
    webserver["by_run"][good.run_id] = silent
    webserver["asked"].clear()
    looked(made, instance, token_file)
    assert len(webserver["asked"]) == 1


@pytest.mark.parametrize("bad", ["x" * 70_000, "\ud800", f"{ID}\n", "apr_0", "../sessions"])
def test_metadata_that_is_no_id_is_never_asked_for(
    bad: str,
) -> None:
    from hoop_dagster.left import identifiers_in

    told = [{"hoop/approval_id": dg.MetadataValue.text(text)} for text in (bad, OTHER)]
    assert list(identifiers_in([*told, None, {}])) == [OTHER]


def test_a_run_that_forges_an_id_is_closed_and_stops_no_other(
    desk: Desk, resources: dict[str, Any], instance: dg.DagsterInstance, token_file: str
) -> None:
    @dg.asset(name="evil")
    def evil() -> None:
        metadata = {"hoop/approval_id": dg.MetadataValue.text("x" * 70_000)}
        raise dg.Failure(metadata=metadata, allow_retries=False)

    good = running("two", "DELETE 2")
    desk.held["DELETE 2"] = OTHER
    tags = {"hoop/approval_status": "awaiting"}
    forged = ran([evil], resources, instance, tags=tags)
    ran([good], resources, instance)
    desk.status[OTHER] = "approved"
    (request,) = tick([evil, good], resources, instance, token_file).run_requests
    assert request.tags["hoop/approval_id"] == OTHER
    assert current(instance, forged.run_id).tags["hoop/approval_status"] == "superseded"


def test_a_run_that_cannot_be_looked_at_stops_no_other(
    desk: Desk,
    resources: dict[str, Any],
    instance: dg.DagsterInstance,
    token_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assets = [running("one", "DELETE 1"), running("two", "DELETE 2")]
    desk.held |= {"DELETE 1": ID, "DELETE 2": OTHER}
    bad, _ = (ran([a], resources, instance) for a in assets)
    desk.status |= {ID: "approved", OTHER: "approved"}
    real = sensor_module.left_of

    def left_of(where: dg.DagsterInstance, run: dg.DagsterRun) -> Any:
        if run.run_id == bad.run_id:
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return real(where, run)

    monkeypatch.setattr(sensor_module, "left_of", left_of)
    (request,) = tick(assets, resources, instance, token_file).run_requests
    assert request.tags["hoop/approval_id"] == OTHER


def test_what_was_found_before_hoop_went_away_is_started(
    desk: Desk,
    resources: dict[str, Any],
    instance: dg.DagsterInstance,
    token_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assets = [running("one", "DELETE 1"), running("two", "DELETE 2")]
    desk.held |= {"DELETE 1": ID, "DELETE 2": OTHER}
    for asset in assets:
        ran([asset], resources, instance)
    desk.status |= {ID: "approved", OTHER: "approved"}
    real = desk.approval

    def approval(identifier: str) -> Approval:
        found = real(identifier)
        desk.down = True
        return found

    monkeypatch.setattr(desk, "approval", approval)
    assert len(tick(assets, resources, instance, token_file).run_requests) == 1


def test_a_run_of_endless_requests_is_left_to_people(
    desk: Desk,
    resources: dict[str, Any],
    instance: dg.DagsterInstance,
    token_file: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sensor_module, "_MOST_REQUESTS", 1)
    assets = [running("one", "DELETE 1"), running("two", "DELETE 2")]
    desk.held |= {"DELETE 1": ID, "DELETE 2": OTHER}
    run = ran(assets, resources, instance)
    assert not tick(assets, resources, instance, token_file).run_requests
    assert current(instance, run.run_id).tags["hoop/approval_status"] == "approved"
