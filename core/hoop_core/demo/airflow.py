"""Starts the Airflow process of the demo, tells how far it is, and reads what it leaves."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from hoop_core.demo.airflow_runner import CONNECTION, DATABASE, RESULT
from hoop_core.devstack.processes import Part, PartFailed, write_private
from hoop_core.errors import ConfigError

DAG_ID = "churn_features"
TOKEN = "token"  # noqa: S105  the file's name
TASKS = (
    "look_at_customers",
    "ask_for_build",
    "build_features",
    "refresh_big_spenders",
    "clear_staging",
)


# Looked up by name: importing Airflow here would take seconds, and its logging would take over ours.
_NEEDED = ("apache-airflow-core", "apache-airflow-providers-snowflake")


@dataclass(frozen=True, slots=True)
class AirflowResult:
    """How the DAG run ended; `returned` is what the tasks' XCom holds."""

    run_id: str
    state: str
    tasks: dict[str, str]
    returned: dict[str, Any]


def example_dag() -> Path:
    """The example DAG: beside the installed package, or in the repository it is developed in.

    Raises ConfigError when it is at neither place.
    """
    name = f"{DAG_ID}.py"
    installed = Path(str(resources.files("hoop_core.demo"))) / "example_dags" / name
    developed = Path(__file__).parents[3] / "example_dags" / name
    for path in (installed, developed):
        if path.is_file():
            return path
    raise ConfigError(f"The example DAG {name} is not there.", "Install hoop-guard again.")


class AirflowProcess:
    """One `dag.test()` of the example DAG in a process with its own AIRFLOW_HOME."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.part = Part(
            "Airflow",
            [sys.executable, "-P", "-m", "hoop_core.demo.airflow_runner", str(home), DAG_ID],
            log=home / "airflow.log",
            directory=home,
        )

    def start(self) -> None:
        """Start preparing. Raises ConfigError when Airflow is not installed, PartFailed."""
        if not all(map(_installed, _NEEDED)):
            raise ConfigError(
                "Apache Airflow with its Snowflake provider is not installed.",
                "Install it: pip install 'hoop-guard[airflow,demo]'.",
            )
        dags = self.home / "dags"
        dags.mkdir(mode=0o700, parents=True)
        shutil.copyfile(example_dag(), dags / f"{DAG_ID}.py")
        self.part.start()

    def give(self, gateway_url: str, token: str) -> None:
        """Let the DAG run: the connection, and the file with the agent's identity token."""
        token_file = self.home / TOKEN
        write_private(token_file, token)
        connection = {
            "conn_type": "hoop_snowflake",
            "host": gateway_url,
            "extra": {"token_file": str(token_file)},
        }
        write_private(self.home / CONNECTION, json.dumps(connection))

    @property
    def running(self) -> bool:
        return self.part.running

    def states(self) -> dict[str, str]:
        """The state of each task that has one, as Airflow's own database tells it."""
        try:
            address = f"file:{self.home / DATABASE}?mode=ro"
            with closing(sqlite3.connect(address, uri=True, timeout=0.2)) as database:
                rows = database.execute(
                    "SELECT task_id, state FROM task_instance WHERE dag_id = ? AND state IS NOT NULL",
                    (DAG_ID,),
                )
                found = dict(rows.fetchall())
                return {task: found[task] for task in TASKS if task in found}
        except sqlite3.Error:
            return {}  # not made yet, or busy: the next look will tell

    def result(self) -> AirflowResult:
        """Raises PartFailed, with the end of Airflow's log, when it left none."""
        try:
            body = json.loads((self.home / RESULT).read_text())
        except (OSError, ValueError):
            raise PartFailed("Airflow", "ended without a result", self.part.log) from None
        return AirflowResult(body["run_id"], body["state"], body["tasks"], body["returned"])

    def stop(self) -> None:
        self.part.stop()
        (self.home / TOKEN).unlink(missing_ok=True)


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
