"""dbt-snowflake, unmodified, in an environment of its own, on a small project."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.clients_venv import environment, run
from tests.clients_world import MASKED_NOTE, ClientsWorld
from tests.native_world import CLIENTS

pytestmark = pytest.mark.e2e
Steps = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dbt") / "shop"
    shutil.copytree(CLIENTS / "dbt", folder)
    return folder


@pytest.fixture(scope="module")
def steps(clients: ClientsWorld, project: Path) -> Steps:
    """All of dbt's commands in one process: they take a second each, importing dbt takes ten."""
    python = environment("dbt") / "python"
    names = ["build", "first", "again", "denied", "held", "docs"]
    with clients.approving("dbt_mark"):
        done = run(clients, [str(python), "steps.py", *names], project, DBT_PROFILES_DIR=".")
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {s["step"]: s for s in found}


def test_a_project_is_built_and_tested(steps: Steps) -> None:
    results = steps["build"]["results"]
    assert steps["build"]["success"], results
    statuses = {name: status for name, (status, _) in results.items()}
    assert {statuses[n] for n in ("spend", "named", "regions")} == {"success"}
    assert statuses["unique_spend_customer_id"] == statuses["not_null_spend_email"] == "pass"


def test_what_models_write_is_masked(clients: ClientsWorld, steps: Steps) -> None:
    assert steps["build"]["success"]
    seen = clients.behind(
        "SELECT COUNT(*), COUNT_IF(SSN IS NULL AND EMAIL LIKE '***@%') FROM PROD.FEATURES.SPEND"
    )
    assert seen == [(100, 100)]


def test_an_incremental_model_takes_up_what_is_new(clients: ClientsWorld, steps: Steps) -> None:
    assert steps["first"]["success"] and steps["again"]["success"], steps["again"]["results"]
    assert clients.behind("SELECT COUNT(*) FROM PROD.FEATURES.DAILY") == [(60,)]


def test_the_catalog_lists_what_the_policy_grants(project: Path, steps: Steps) -> None:
    assert steps["docs"]["success"]
    catalog = json.loads((project / "target" / "catalog.json").read_text())
    assert {n["metadata"]["name"] for n in catalog["nodes"].values()} >= {"SPEND", "REGIONS"}
    assert "EMAIL" in catalog["nodes"]["model.shop.spend"]["columns"]
    assert {s["metadata"]["schema"] for s in catalog["sources"].values()} == {"CRM"}


def test_a_denial_fails_the_model_with_hoops_words(steps: Steps) -> None:
    [(status, message)] = steps["denied"]["results"].values()
    assert not steps["denied"]["success"] and status == "error"
    assert "003001 (42501)" in message and "PROD.HR.SALARIES, which no rule grants" in message


def test_a_held_model_waits_and_is_built(clients: ClientsWorld, steps: Steps) -> None:
    assert steps["held"]["success"]
    assert clients.behind("SELECT DISTINCT BODY FROM PROD.FEATURES.HELD") == [(MASKED_NOTE,)]
