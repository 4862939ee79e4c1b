"""What Airflow's tasks say of their run, so that lineage finds them."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from hoop_airflow.context import run_of
from hoop_core.approvals.binding import run_key
from hoop_core.config.records import LineageParents
from hoop_core.lineage.naming import parents
from hoop_core.records import run_json

pytestmark = pytest.mark.airflow

TI = SimpleNamespace(dag_id="d", run_id="manual__1", task_id="t", map_index=7, try_number=3)
WHEN = datetime(2026, 11, 23, 19, 51, 43, 251819, tzinfo=UTC)


def test_a_task_says_when_its_run_is_for_and_lineage_finds_it() -> None:
    run = run_of(TI, SimpleNamespace(logical_date=WHEN, run_after=None, clear_number=2))
    found = parents(run_json(run), LineageParents())
    assert found is not None
    assert found.parent.run_id == "01a209f6-dd93-7dd0-aaab-d458d5e1a561"


def test_a_run_without_a_logical_date_is_known_by_when_it_may_run() -> None:
    run = run_of(TI, SimpleNamespace(logical_date=None, run_after=WHEN, clear_number=None))
    assert run.fields["logical_date"] == WHEN.isoformat()


def test_no_grant_depends_on_what_is_said_for_lineage() -> None:
    told = run_of(TI, SimpleNamespace(logical_date=WHEN, run_after=WHEN, clear_number=2))
    assert run_key(told) == run_key(run_of(TI))
