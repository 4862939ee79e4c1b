"""OpenLineage events are made from the log alone, and are as the specification has them."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update

from hoop_core.audit.log import AuditLog
from hoop_core.config.records import LineageParents
from hoop_core.lineage.events import Events
from hoop_core.lineage.naming import parents, source_column
from hoop_core.model import ColumnLineage, Decision, Outcome, TableName, Verdict
from hoop_core.records import lineage_json
from hoop_core.store import Store
from hoop_core.store.tables import log_entries
from tests.lineage_world import AIRFLOW, DESCRIBED, PLACE, READS, World, faults, intent, outcome


def verdict(*lineage: ColumnLineage) -> Verdict:
    return Verdict(Decision(Outcome.ALLOW, (), (), (), ""), None, None, lineage)


def test_an_intent_names_the_sources_of_each_output_and_quotes_what_must_be() -> None:
    table = TableName("DB", "S", "t.x")
    found = lineage_json(
        verdict(
            ColumnLineage("A", ((table, "C"), (table, "d"))), ColumnLineage("B", (), unknown=True)
        )
    )
    assert found == [
        {"output": "A", "sources": ['DB.S."t.x".C', 'DB.S."t.x"."d"'], "unknown": False},
        {"output": "B", "sources": None, "unknown": True},
    ]
    assert source_column('DB.S."t.x"."d"') == (table, "d")
    assert lineage_json(verdict()) is None


def test_very_many_sources_become_unknown_so_that_no_statement_fills_the_log() -> None:
    table = TableName("DB", "S", "T")
    sources = tuple((table, f"C{n}") for n in range(500))
    found = lineage_json(verdict(*(ColumnLineage(f"O{n}", sources) for n in range(1_000))))
    assert found is not None
    assert found[-1] == {"output": "*", "sources": None, "unknown": True}
    assert sum(len(column["sources"] or ()) for column in found) <= 2_000


@pytest.fixture
def world(store: Store, log: AuditLog) -> World:
    return World(store, log)


def test_a_statement_has_a_start_and_an_end_of_one_run(world: World) -> None:
    begun, ended = world.statement()
    start, complete = world.events()
    assert [start["eventType"], complete["eventType"]] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert uuid.UUID(start["run"]["runId"]).version == 7
    position = complete["run"]["facets"]["hoop_logPosition"]
    assert (position["intent"], position["outcome"]) == (begun, ended)
    assert "outcome" not in start["run"]["facets"]["hoop_logPosition"]


def test_events_are_as_openlineage_and_the_published_schemas_say(world: World) -> None:
    world.add("catalog.described", DESCRIBED, None)
    world.statement()
    world.statement("failed")
    world.statement(
        kind="select", writes=[], approval=None, run_asserted={"orchestrator": "", "fields": {}}
    )
    unknown = [{"output": "*", "sources": None, "unknown": True}]
    world.statement(lineage=unknown, standing={"approval": "apr_1", "uses": 1})
    events = world.events()
    assert len(events) == 8
    assert [f for e in events for f in faults(e)] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: e["run"]["facets"]["hoop_identity"].pop("issuer"),
        lambda e: e["run"]["facets"]["hoop_logPosition"].update(intent="3"),
        lambda e: e["run"]["facets"]["parent"]["run"].pop("runId"),
        lambda e: e["job"]["facets"]["sql"].update(query=None, text="x"),
        lambda e: e["outputs"][0]["facets"]["columnLineage"].update(fields=[]),
        lambda e: e["run"].pop("runId"),
    ],
)
def test_the_check_of_events_finds_what_is_wrong(world: World, spoil: Any) -> None:
    world.statement()
    event = world.events()[1]
    spoil(event)
    assert faults(event)


@pytest.mark.parametrize(
    ("status", "reason", "state"),
    [
        ("withheld", "RESULT_BLOCKED", "COMPLETE"),
        ("failed", "SYNTAX", "FAIL"),
        ("failed", "CANCELLED", "ABORT"),
        ("unknown", "SNOWFLAKE_UNAVAILABLE", "ABORT"),
    ],
)
def test_how_a_run_ends_is_how_the_statement_ended(
    world: World, status: str, reason: str, state: str
) -> None:
    begun = world.add("statement.intent", intent())
    world.add("statement.outcome", outcome(begun, status, reason=reason, errno=604))
    assert world.events()[-1]["eventType"] == state


def test_an_error_of_snowflake_is_told_by_its_code_alone(world: World) -> None:
    begun = world.add("statement.intent", intent())
    world.add("statement.outcome", outcome(begun, "failed", reason="SNOWFLAKE_ERROR", errno=904))
    told = world.events()[-1]["run"]["facets"]["errorMessage"]["message"]
    assert told == "SNOWFLAKE_ERROR (904)"


@pytest.mark.parametrize(
    "changed", [{"describe_only": True}, {"reads": [], "writes": [], "kind": "session"}]
)
def test_what_touches_no_table_is_no_run(world: World, changed: dict[str, Any]) -> None:
    world.statement(**changed)
    assert world.events() == []


def test_a_second_try_of_a_statement_is_another_run(world: World) -> None:
    world.statement("failed")
    world.statement()
    runs = [e["run"]["runId"] for e in world.events()]
    assert runs[0] == runs[1] != runs[2] == runs[3]


def test_a_statement_whose_gateway_died_is_aborted_when_its_session_is_closed(world: World) -> None:
    world.statement()
    world.add("statement.intent", intent())
    world.add("session.closed", {"reason": "its replica is gone"})
    events = world.events()
    assert [e["eventType"] for e in events] == ["START", "COMPLETE", "START", "ABORT"]
    assert events[2]["run"]["runId"] == events[3]["run"]["runId"]
    assert "not known" in events[3]["run"]["facets"]["errorMessage"]["message"]


def test_the_text_that_ran_stands_in_the_event_and_the_callers_own_does_not(world: World) -> None:
    world.statement()
    (query,) = {e["job"]["facets"]["sql"]["query"] for e in world.events()}
    assert query == intent()["executed"]


def test_masked_sources_say_so_and_others_do_not(world: World) -> None:
    world.statement()
    fields = world.events()[0]["outputs"][0]["facets"]["columnLineage"]["fields"]
    found = {
        output: [(s["field"], s["transformations"][0]["masking"]) for s in f["inputFields"]]
        for output, f in fields.items()
    }
    assert found == {"ID": [("ID", False)], "MAIL": [("EMAIL", True)]}


def test_an_output_of_unknown_sources_depends_on_every_column_that_is_read(world: World) -> None:
    world.add("catalog.described", DESCRIBED, None)
    world.statement(lineage=[{"output": "*", "sources": None, "unknown": True}])
    facet = world.events()[0]["outputs"][0]["facets"]["columnLineage"]
    assert [f["field"] for f in facet["dataset"]] == ["ID", "EMAIL"]
    assert facet["fields"] == {}


def test_columns_of_inputs_come_from_the_description_that_the_intent_names(world: World) -> None:
    world.add("catalog.described", DESCRIBED, None)
    begun, _ = world.statement()
    # A follower that starts in the middle has not seen the description pass.
    (event,) = Events(world.store, PLACE).of(
        begun, "statement.intent", [e.text for e in world.log.entries()][begun]
    )
    (fields,) = [i.facets["schema"].fields for i in event.inputs]
    assert [(f.name, f.type) for f in fields] == [("ID", "NUMBER(38,0)"), ("EMAIL", "VARCHAR(200)")]


def test_datasets_are_named_as_the_specification_names_snowflakes(world: World) -> None:
    world.statement()
    dataset = world.events()[0]["inputs"][0]
    assert (dataset["namespace"], dataset["name"]) == ("snowflake://acme-prod", READS[0])


def test_an_intent_whose_time_is_over_makes_no_event(world: World) -> None:
    begun, _ = world.statement()
    with world.store.write() as connection:
        connection.execute(update(log_entries).where(log_entries.c.seq == begun).values(entry=""))
    assert world.events() == []


# ---------------------------------------------------------------------- parents

# What `build_task_instance_ol_run_id` and `build_dag_run_ol_run_id` of apache-airflow-providers-openlineage 2.20.3
# answer for dag d, task t, try 3, map index 7, and the run cleared twice.
_AS_AIRFLOW = [
    (
        "2026-11-23T19:51:43.251819+00:00",
        "01a209f6-dd93-7dd0-aaab-d458d5e1a561",
        "01a209f6-dd93-7800-89db-78c459f14d80",
    ),
    (
        "2026-01-02T03:04:05+02:00",
        "019b7c3b-af88-7972-85c0-2118f76ae639",
        "019b7c3b-af88-7891-add9-c6f6f7cb69b1",
    ),
]


@pytest.mark.parametrize(("moment", "task", "dag"), _AS_AIRFLOW)
def test_a_task_of_airflow_has_the_run_id_that_airflow_gives_it(
    moment: str, task: str, dag: str
) -> None:
    fields = {"dag_id": "d", "task_id": "t", "try_number": "3", "map_index": "7"}
    fields |= {"logical_date": moment, "clear_number": "2"}
    found = parents({"orchestrator": "airflow", "fields": fields}, LineageParents())
    assert found is not None
    assert (found.parent.run_id, found.parent.job) == (task, "d.t")
    assert (found.root.run_id, found.root.job) == (dag, "d")


def test_a_step_of_dagster_stands_below_its_run_and_that_below_the_first_one() -> None:
    first, run = str(uuid.uuid4()), str(uuid.uuid4())
    fields = {"job_name": "churn", "run_id": run, "step_key": "s", "root_run_id": first}
    found = parents(
        {"orchestrator": "dagster", "fields": fields | {"root_job_name": "all"}},
        LineageParents(dagster="repo"),
    )
    assert found is not None
    assert (found.parent.run_id, found.parent.namespace, found.parent.job) == (run, "repo", "churn")
    assert (found.root.run_id, found.root.job) == (first, "all")


@pytest.mark.parametrize(
    "changed",
    [
        {"logical_date": ""},
        {"logical_date": "2026-11-23T19:51:43"},
        {"logical_date": "yesterday"},
        {"try_number": "one"},
        {"map_index": ""},
        {"clear_number": "x"},
    ],
)
def test_no_parent_is_made_up(changed: dict[str, str]) -> None:
    run = {"orchestrator": "airflow", "fields": AIRFLOW["fields"] | changed}  # type: ignore[operator]
    assert parents(run, LineageParents()) is None


@given(
    st.sampled_from(["airflow", "dagster", ""]),
    st.dictionaries(
        st.sampled_from(
            [*AIRFLOW["fields"], "job_name", "root_run_id", "root_job_name", "step_key"]
        ),  # type: ignore[misc]
        st.one_of(
            st.text(), st.integers().map(str), st.datetimes().map(lambda d: d.isoformat() + "Z")
        ),
    ),
)
def test_whatever_a_caller_says_of_its_run_makes_a_parent_or_none(
    orchestrator: str, fields: dict[str, str]
) -> None:
    found = parents({"orchestrator": orchestrator, "fields": fields}, LineageParents())
    if found is not None:
        uuid.UUID(found.parent.run_id), uuid.UUID(found.root.run_id)


def test_a_name_that_must_be_quoted_is_quoted_in_lineage(world: World) -> None:
    sources = ['PROD.CRM."a.b"."c""d"']
    world.statement(lineage=[{"output": "X", "sources": sources, "unknown": False}])
    fields = world.events()[0]["outputs"][0]["facets"]["columnLineage"]["fields"]
    (source,) = fields["X"]["inputFields"]
    assert (source["name"], source["field"]) == ('PROD.CRM."a.b"', 'c"d')


def test_the_same_entry_makes_the_same_event(world: World) -> None:
    world.statement()
    assert json.dumps(world.events()) == json.dumps(world.events())
