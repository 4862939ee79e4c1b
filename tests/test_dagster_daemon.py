"""A real Dagster daemon and webserver: a run ends awaiting approval, and goes on with what was left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

dg = pytest.importorskip("dagster")
pytest.importorskip("dagster_snowflake")
pytest.importorskip("dagster_webserver")

from hoop_core.client import GivenToken, HoopClient  # noqa: E402
from hoop_core.devstack.processes import free_port  # noqa: E402

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = [pytest.mark.e2e, pytest.mark.dagster, pytest.mark.nightly, pytest.mark.timeout(600)]

EXAMPLE = Path(__file__).parents[1] / "example_dags" / "dagster_approvals.py"
PATIENCE = 240.0
JOB = """
import os
import dagster as dg
import dagster_approvals
from hoop_dagster import HoopSnowflakeResource, hoop_approval_sensor


@dg.op(required_resource_keys={"snowflake"}, out=dg.Out(int))
def counted(context):
    with context.resources.snowflake.get_connection() as c, c.cursor() as cursor:
        return cursor.execute("SELECT COUNT(*) FROM PROD.FEATURES.CHURN_STAGING").fetchone()[0]


@dg.op(required_resource_keys={"snowflake"})
def rebuilt(context, rows: int):
    with context.resources.snowflake.get_connection() as c, c.cursor() as cursor:
        cursor.execute("CREATE TABLE PROD.FEATURES.FROM_OPS AS SELECT 1 AS ONE")
    context.log.info("%d rows", rows)


@dg.job(resource_defs={"snowflake": HoopSnowflakeResource(database="PROD", schema="FEATURES")})
def nightly():
    rebuilt(counted())


sensor = hoop_approval_sensor(
    webserver_url=os.environ["DAGSTER_URL"],
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
)
defs = dg.Definitions(
    assets=list(dagster_approvals.defs.assets),
    resources=dagster_approvals.defs.resources,
    sensors=[sensor],
    jobs=[nightly],
)
"""


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    """A process in a group of its own, which ends with the block and all its children."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                continue


@pytest.fixture
def dagster(
    stack: DevStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dg.DagsterInstance, str]]:
    """A daemon and a webserver that know the example and a job; the instance, and the webserver's address."""
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    shutil.copy(EXAMPLE, home / EXAMPLE.name)
    definitions = home / "definitions.py"
    definitions.write_text(JOB)
    token = tmp_path / "token"
    token.write_text(stack.token("churn-agent"))
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    given = {
        "DAGSTER_HOME": str(home),
        "DAGSTER_URL": url,
        "HOOP_GATEWAY_URL": stack.info.gateway_url,
        "HOOP_TOKEN_FILE": str(token),
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    environment = {**os.environ, "PYTHONPATH": str(home)}
    where = ["-f", str(definitions)]
    server = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), *where]
    daemon = [sys.executable, "-m", "dagster._daemon", "run", *where]
    with (
        running(server, home / "webserver.log", environment),
        running(daemon, home / "daemon.log", environment),
        dg.DagsterInstance.from_config(str(home)) as instance,
    ):
        yield instance, url


def eventually(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"{what} did not happen")


def graphql(url: str, query: str, variables: dict[str, Any] | None = None) -> Any:
    try:
        answer = httpx.post(
            f"{url}/graphql", json={"query": query, "variables": variables or {}}, timeout=60
        )
        return answer.json()["data"]
    except (httpx.HTTPError, ValueError):
        return None


LAUNCH = """
mutation Launch($p: ExecutionParams!) {
  launchRun(executionParams: $p) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""


def repositories(url: str) -> list[dict[str, Any]]:
    query = "{repositoriesOrError{...on RepositoryConnection{nodes{name location{name}}}}}"
    found = graphql(url, query)
    return found["repositoriesOrError"]["nodes"] if found else []


def launched(url: str, job: str, assets: list[str] | None = None) -> str:
    """As somebody who presses Materialize, or Launch run, in Dagster's UI."""
    (repository,) = eventually(lambda: repositories(url), "the webserver's answer")
    selector = {
        "repositoryName": repository["name"],
        "repositoryLocationName": repository["location"]["name"],
        "jobName": job,
    }
    if assets is not None:
        selector["assetSelection"] = [{"path": [a]} for a in assets]
    parameters = {"selector": selector, "runConfigData": {}, "mode": "default"}
    told = graphql(url, LAUNCH, {"p": parameters})["launchRun"]
    assert told["__typename"] == "LaunchRunSuccess", told
    return str(told["run"]["runId"])


def awaiting(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun:
    def ended() -> dg.DagsterRun | None:
        run = instance.get_run_by_id(run_id)
        return run if run is not None and run.is_finished else None

    run = eventually(ended, "the end of the run")
    assert run.tags["hoop/approval_status"] == "awaiting"
    return run


def goes_on(instance: dg.DagsterInstance, first: dg.DagsterRun, tag: str) -> dg.DagsterRun:
    """The run that the sensor starts, when it has ended."""

    def ended() -> dg.DagsterRun | None:
        found = instance.get_runs(dg.RunsFilter(tags={tag: first.run_id}))
        return found[0] if found and found[0].is_finished else None

    return eventually(ended, "the run that goes on")


def approve(stack: DevStack, run: dg.DagsterRun) -> None:
    with HoopClient(stack.info.gateway_url, GivenToken(stack.token("alice"))) as hoop:
        hoop.answer(run.tags["hoop/approval_id"], "approve", "as agreed")


def made_by(instance: dg.DagsterInstance, run: dg.DagsterRun) -> set[str]:
    events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    return {e.dagster_event.asset_key.to_user_string() for e in events}


def test_the_sensors_run_materializes_only_what_was_left(
    stack: DevStack, dagster: tuple[dg.DagsterInstance, str]
) -> None:
    instance, url = dagster
    assets = ["signals", "feature_table", "summary"]
    first = awaiting(instance, launched(url, "__ASSET_JOB", assets))
    assert first.status is dg.DagsterRunStatus.FAILURE
    assert made_by(instance, first) == {"signals"}
    # No process waits: its worker has ended, and the daemon has nothing in progress.
    assert not instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    approve(stack, first)
    second = goes_on(instance, first, "hoop/resumes_run")
    assert second.status is dg.DagsterRunStatus.SUCCESS
    assert made_by(instance, second) == {"feature_table", "summary"}
    assert second.tags["hoop/approved_by"]

    def closed() -> bool:
        run = instance.get_run_by_id(first.run_id)
        return run is not None and run.tags["hoop/approval_status"] == "resumed"

    eventually(closed, "the end of waiting")
    assert len(instance.get_runs(dg.RunsFilter(tags={"hoop/resumes_run": first.run_id}))) == 1


def test_a_job_of_ops_is_re_executed_from_failure(
    stack: DevStack, dagster: tuple[dg.DagsterInstance, str]
) -> None:
    instance, url = dagster
    first = awaiting(instance, launched(url, "nightly"))
    approve(stack, first)
    second = goes_on(instance, first, "dagster/parent_run_id")
    assert second.status is dg.DagsterRunStatus.SUCCESS
    events = instance.all_logs(second.run_id, of_type=dg.DagsterEventType.STEP_START)
    assert [e.dagster_event.step_key for e in events] == ["rebuilt"]
    assert second.tags["hoop/approval_status"] == "resumed"
