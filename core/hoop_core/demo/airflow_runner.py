"""The Airflow side of `hoop demo`: a process of its own, with its own AIRFLOW_HOME.

    python -m hoop_core.demo.airflow_runner HOME DAG_ID

It prepares Airflow at once (slow: imports, migrations), while the stack is still starting. Then it
waits for HOME/connection.json, the connection `hoop_default`; runs the DAG of HOME/dags with
`dag.test()`; and writes what became of it to HOME/result.json. The connection names the file with the
agent's token, so no secret passes through here.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

CONNECTION, RESULT, DATABASE = "connection.json", "result.json", "airflow.db"

_POLL_SECONDS = 0.05


def main(arguments: list[str]) -> int:
    home, dag_id = Path(arguments[0]), arguments[1]
    _settle_in(home)
    _migrate()
    dag = _load(home / "dags", dag_id)
    connection = home / CONNECTION
    while not connection.is_file():  # the parent ends this process if the stack does not come up
        time.sleep(_POLL_SECONDS)
    os.environ["AIRFLOW_CONN_HOOP_DEFAULT"] = connection.read_text()
    run = dag.test()
    _write(home / RESULT, _result(run))
    return 0 if str(run.state) == "success" else 1


def _settle_in(home: Path) -> None:
    """Configure Airflow, before it is imported, by this home and by nothing that the user has set."""
    for name in [n for n in os.environ if n.startswith(("AIRFLOW_", "AIRFLOW__"))]:
        del os.environ[name]
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / DATABASE}",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def _migrate() -> None:
    from airflow.utils.db import initdb  # noqa: PLC0415  Airflow reads its environment at import

    initdb()


def _load(folder: Path, dag_id: str) -> Any:
    from airflow.dag_processing.dagbag import DagBag  # noqa: PLC0415

    bag = DagBag(dag_folder=folder)
    if bag.import_errors:
        raise SystemExit("\n".join(bag.import_errors.values()))
    _import_ahead()
    return bag.dags[dag_id]


def _import_ahead() -> None:
    """Import and make what the first task would wait for, while the stack is still starting."""
    for name in (
        "airflow.providers.snowflake.hooks.snowflake",
        "snowflake.connector",
    ):
        with suppress(ImportError):  # another version of Airflow: the task will import it then
            import_module(name)
    with suppress(Exception):  # the same: it is Airflow's own, and is made at first use otherwise
        supervisor = import_module("airflow.sdk.execution_time.supervisor")
        _ = supervisor.in_process_api_server().transport


def _result(run: Any) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "state": str(run.state),
        "tasks": {ti.task_id: str(ti.state) for ti in run.get_task_instances()},
        "returned": _returned(run),
    }


def _returned(run: Any) -> dict[str, Any]:
    """What each task returned, as Airflow keeps it: exactly what the agent got to see."""
    from airflow.models.xcom import XComModel  # noqa: PLC0415
    from airflow.sdk.serde import deserialize  # noqa: PLC0415
    from airflow.settings import Session  # noqa: PLC0415
    from sqlalchemy import select  # noqa: PLC0415

    query = select(XComModel.task_id, XComModel.value).where(
        XComModel.run_id == run.run_id, XComModel.key == "return_value"
    )
    if Session is None:
        raise RuntimeError("Airflow's database is not open.")
    with Session() as session:
        rows = session.execute(query).all()
    return {
        r.task_id: deserialize(json.loads(r.value) if isinstance(r.value, str) else r.value)
        for r in rows
    }


def _write(path: Path, result: dict[str, Any]) -> None:
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(result, default=str))
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
