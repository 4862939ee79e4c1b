"""A real Airflow (standalone: API server, scheduler, DAG processor, triggerer) beside a real Hoop."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from hoop_core.client import Approval, GivenToken, HoopClient
from hoop_core.devstack.processes import LOOPBACK, free_port, write_private
from hoop_core.devstack.stack import DevStack

HOOP_USER = "hoop"
PEOPLE = ("alice", "bob")
REQUESTER, STRANGER = "agent", "stranger"
"""Airflow users: one that is mapped to the identity that asks, and one that Hoop does not know."""
_START_SECONDS, _SECONDS = 150.0, 90.0
_LOOK_SECONDS = 0.25


def until(look: Callable[[], Any], what: str, seconds: float = _SECONDS) -> Any:
    """The first result that counts as true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(_LOOK_SECONDS)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


@dataclass
class AirflowWorld:
    stack: DevStack
    home: Path
    port: int
    passwords: dict[str, str]
    _process: subprocess.Popen[bytes] | None = None
    _tokens: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        return self.home / "standalone.log"

    # ------------------------------------------------------------------ its life

    def launch(self, dags: Path) -> None:
        """Begin to start it; `wait` for it then."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW")}
        people = [*PEOPLE, REQUESTER, STRANGER, HOOP_USER]
        write_private(
            self.home / "simple_auth_manager_passwords.json.generated", json.dumps(self.passwords)
        )
        token_file = self.home / "token"
        connection = {
            "conn_type": "hoop_snowflake",
            "host": f"http://{LOOPBACK}:{self.gateway_port}",
            "schema": "FEATURES",
            "extra": {"token_file": str(token_file), "database": "PROD", "airflow": "test"},
        }
        environment |= {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{self.port}/execution/",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{p}:op" for p in people),
            "AIRFLOW__API__HOST": LOOPBACK,
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": f"http://localhost:{self.port}",
            "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__TRIGGERER__TRIGGERER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW_CONN_HOOP_DEFAULT": json.dumps(connection),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).with_name("airflow")), "standalone"],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=self.home,
                start_new_session=True,  # its children outlive it; its group does not
            )

    @property
    def gateway_port(self) -> int:
        return self.stack._gateway_port

    def wait(self) -> None:
        write_private(self.home / "token", self.stack.token("churn-agent"))
        until(self._healthy, f"Airflow is healthy (see {self.log})", _START_SECONDS)

    def _healthy(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise AssertionError(f"Airflow ended:\n{self.log.read_text()[-4000:]}")
        with suppress(httpx.HTTPError):
            body = httpx.get(f"{self.url}/api/v2/monitor/health", timeout=5).json()
            parts = ("metadatabase", "scheduler", "dag_processor", "triggerer")
            return all((body.get(p) or {}).get("status") == "healthy" for p in parts)
        return False

    def stop(self) -> None:
        if self._process is None:
            return
        for number, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 10)):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    # ------------------------------------------------------------------ Airflow's REST API

    def token(self, user: str) -> str:
        if user not in self._tokens:
            given = {"username": user, "password": self.passwords[user]}
            answer = httpx.post(f"{self.url}/auth/token", json=given, timeout=30)
            answer.raise_for_status()
            self._tokens[user] = answer.json()["access_token"]
        return self._tokens[user]

    def call(
        self, method: str, path: str, body: Any = None, *, user: str = "alice"
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token(user)}"}
        return httpx.request(
            method, f"{self.url}/api/v2{path}", json=body, headers=headers, timeout=30
        )

    def trigger(self, dag_id: str, run_id: str) -> None:
        until(lambda: self.call("GET", f"/dags/{dag_id}").status_code == 200, f"{dag_id} is known")
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": False}).raise_for_status()
        body = {"dag_run_id": run_id, "logical_date": None}
        self.call("POST", f"/dags/{dag_id}/dagRuns", body).raise_for_status()

    def task(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        index = "" if map_index < 0 else f"/{map_index}"
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}{index}"
        found: dict[str, Any] = self.call("GET", path).json()
        return found

    def state(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> str:
        return str(self.task(dag_id, run_id, task_id, map_index).get("state"))

    def action(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> httpx.Response:
        """Its Required Action."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/{map_index}/hitlDetails"
        return self.call("GET", path)

    def answer(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        option: str,
        reason: str,
        *,
        user: str,
        index: int = -1,
    ) -> httpx.Response:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/{index}/hitlDetails"
        body = {"chosen_options": [option], "params_input": {"reason": reason}}
        return self.call("PATCH", path, body, user=user)

    def await_state(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        *states: str,
        seconds: float = _SECONDS,
        index: int = -1,
    ) -> str:
        def reached() -> str | None:
            state = self.state(dag_id, run_id, task_id, index)
            return state if state in states else None

        try:
            return str(until(reached, f"{task_id} is {' or '.join(states)}", seconds))
        except AssertionError as e:
            told = f"{e}; it is {self.state(dag_id, run_id, task_id, index)}"
            raise AssertionError(f"{told}\n{self.task_log(dag_id, run_id, task_id)}") from None

    def await_parked(self, dag_id: str, run_id: str, task_id: str, index: int = -1) -> None:
        """And not any more in the hands of the executor, which would take an answer amiss."""
        self.await_state(dag_id, run_id, task_id, "awaiting_input", index=index)
        time.sleep(8)

    def task_log(self, dag_id: str, run_id: str, task_id: str) -> str:
        files = sorted((self.home / "logs").rglob(f"*{run_id}*/task_id={task_id}/**/*.log"))
        return "\n".join(f.read_text(errors="replace")[-6000:] for f in files)

    # ------------------------------------------------------------------ Hoop

    def hoop(self, who: str) -> HoopClient:
        return HoopClient(self.stack.info.gateway_url, GivenToken(self.stack.token(who)))

    def requests(self, dag_id: str, run_id: str) -> tuple[Approval, ...]:
        with self.hoop("churn-agent") as client:
            return client.approvals(run={"dag_id": dag_id, "run_id": run_id})

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """The entries of this kind in Hoop's log."""
        from hoop_core.audit.stored import stored_entries
        from hoop_core.store import Store

        store = Store(self.stack.store_url)
        try:
            parsed = [json.loads(e.text) for e in stored_entries(store)]
        finally:
            store.close()
        return [e["data"] for e in parsed if e["kind"] == kind]


@contextmanager
def airflow_world(home: Path, dags: Path) -> Iterator[AirflowWorld]:
    """Hoop knows this Airflow, and whom its users are."""
    home.mkdir(parents=True)
    users = [*PEOPLE, REQUESTER, STRANGER, HOOP_USER]
    with ExitStack() as held:
        stack = DevStack(home / "stack")
        world = AirflowWorld(stack, home, free_port(), {u: f"{u}-secret-of-a-test" for u in users})
        held.callback(world.stop)
        world.launch(dags)
        held.enter_context(stack)
        _introduce(world)
        world.wait()
        yield world


def _introduce(world: AirflowWorld) -> None:
    """Hoop's settings about this Airflow."""
    password = world.home / "hoop-password"
    write_private(password, world.passwords[HOOP_USER])
    lines = [
        "[[airflow]]",
        'name = "test"',
        f"url = {json.dumps(world.url)}",
        f"username = {json.dumps(HOOP_USER)}",
        f"password_file = {json.dumps(str(password))}",
        "poll_seconds = 1.0",
    ]
    for user, identity in (*zip(PEOPLE, PEOPLE, strict=True), (REQUESTER, "churn-agent")):
        claims = _claims(world.stack.token(identity))
        lines += [
            f"[airflow.users.{user}]",
            f"issuer = {json.dumps(claims['iss'])}",
            f"subject = {json.dumps(claims['sub'])}",
            f"name = {json.dumps(user)}",
            'groups = ["data-owners"]',
        ]
    with world.stack.config_file.open("a") as file:
        file.write("\n" + "\n".join(lines) + "\n")
    world.stack.restart_gateway()


def _claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
