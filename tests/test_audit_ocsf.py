"""Exports for other tools: OCSF as its schema says, tables that are safe to open, lines that can be checked."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema
from sqlalchemy import delete, update
from typer.testing import CliRunner

from hoop_core.audit import merkle
from hoop_core.audit.checkpoint import LogKey, open_checkpoint, open_note
from hoop_core.audit.log import AuditLog
from hoop_core.cli.root import app
from hoop_core.errors import EvidenceError
from hoop_core.evidence.export import MANIFEST_HEADER, Exported, Format, Period, export
from hoop_core.model import Json
from hoop_core.store import Store
from hoop_core.store.tables import log_entries
from tests.lineage_world import AIRFLOW, WHO, World, intent, outcome

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

PERSON = {"issuer": "https://idp", "subject": "ann", "name": "Ann", "groups": [], "actors": []}
OPENED = {
    "account": "ACME-PROD",
    "client": {"address": "192.0.2.7", "application": "PythonConnector", "version": "4"},
    "identity": WHO,
    "run_asserted": AIRFLOW,
    "snowflake_role": "ML_READER",
    "vault_role": "ml-reader",
}
USER = {"snowflake_user": "V_1", "snowflake_role": "ML_READER", "lease_id": "database/creds/x/1"}
EACH: dict[str, Json] = {
    "log.begun": {},
    "policy.loaded": {"digest": "a" * 64, "text": "version: 1"},
    "policy.rejected": {"sha256": "a" * 64, "error": "no"},
    "config.loaded": {"sha256": "a" * 64, "settings": {}},
    "session.opened": OPENED,
    "signin.refused": {
        "reason": "IDENTITY",
        "message": "expired",
        "errno": 1,
        "identity": None,
        "client": {"address": "testclient"},
    },
    "signin.refusals_counted": {
        "count": 12,
        "since": "x",
        "reasons": {"IDENTITY": 12},
        "addresses": {},
    },
    "credential.minting": USER,
    "credential.minted": USER | {"public_key_fingerprint": "SHA256:x"},
    "credential.revoking": USER,
    "credential.pending": USER | {"why": "Vault is away"},
    "credential.gone": USER | {"confirmed_by": "show_users"},
    "credential.orphan": USER,
    "statement.refused": {
        "statement_id": "st-2",
        "identity": WHO,
        "run_asserted": AIRFLOW,
        "account": "ACME-PROD",
        "database": None,
        "sql": "SELECT 1",
        "reason": "POLICY_DENIED",
        "message": "nothing grants it",
        "errno": 3001,
    },
    "statement.answered": {"statement_id": "st-3", "identity": WHO, "sql": "SHOW PARAMETERS"},
    "catalog.described": {"name": "A.B.C", "sha256": "d" * 64, "object": {"columns": []}},
    "approval.requested": {
        "approval": "apr_1",
        "question": {"kind": "delete", "requester": PERSON, "reads": [], "writes": ["A.B.C"]},
    },
    "approval.answered": {
        "approval": "apr_1",
        "approver": PERSON,
        "verdict": "approve",
        "reason": "ok",
    },
    "approval.answer_refused": {"approval": "apr_1", "approver": PERSON, "why": "own request"},
    "approval.refusals_counted": {"count": 3},
    "approval.expired": {"approval": "apr_1"},
    "approval.broken_glass": {"approval": "apr_1", "by": PERSON, "reason": "night"},
    "read.session": {"person": PERSON, "about": "ses_1", "by": "pages"},
    "read.counted": {"person": PERSON, "count": 4, "looks": {"approval": 4}, "about": []},
    "reconcile.run": {"account": "ACME-PROD", "counts": {}},
    "reconcile.unexplained": {"what": "statement", "user": "EVE", "count": 1},
    "hold.placed": {"hold": "case-7", "reason": "lawsuit", "by": "root"},
    "hold.lifted": {"hold": "case-7", "reason": "over", "by": "root"},
    "log.pruned": {"entries": [[2, 4]], "count": 3, "reason": "over", "recordings": []},
    "log.verified": {"ok": True},
    "notification.failed": {"channel": "chat", "why": "away"},
    "lineage.failed": {"of_entry": 3, "why": "the receiver answered 422"},
    "evidence.exported": {"requester": "root", "format": "ocsf"},
    "upload.refused": {"reason": "TOO_LARGE", "message": "no"},
    "result.part": {"statement_id": "st-1", "part": 1},
    "a.kind.of.tomorrow": {"anything": [1, 2]},
    "session.closed": {"reason": "closed by the client"},
}


@pytest.fixture
def world(store: Store, log: AuditLog) -> World:
    return World(store, log)


def exported(world: World, form: Format, period: Period = Period()) -> tuple[str, Exported, Json]:  # noqa: B008
    out = io.StringIO()
    made, manifest = export(world.store, world.log, out, form, period, requester="auditor")
    return out.getvalue(), made, manifest


def events(world: World, period: Period = Period()) -> list[Json]:  # noqa: B008
    text, _, _ = exported(world, Format.OCSF, period)
    return [json.loads(line) for line in text.splitlines()]


def rows(world: World, period: Period = Period()) -> list[dict[str, str]]:  # noqa: B008
    text, _, _ = exported(world, Format.CSV, period)
    return list(csv.DictReader(io.StringIO(text)))


@cache
def validator(version: str, number: int) -> Any:
    schema = _schema(version)
    return Draft202012Validator(schema.get_class_schema(schema.lookup_class_name_from_uid(number)))


@cache
def _schema(version: str) -> Any:
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(version))


def faults(event: Json, version: str = "1.5.0") -> list[str]:
    kind = event["metadata"]["event_code"]
    found = validator(version, event["class_uid"]).iter_errors(event)
    return [f"{kind}: {list(e.path)}: {e.message[:200]}" for e in found]


# ---------------------------------------------------------------------- OCSF


@pytest.mark.parametrize("version", ["1.5.0", "1.8.0"])
def test_every_kind_of_entry_makes_an_event_as_the_schema_says(world: World, version: str) -> None:
    for kind, data in EACH.items():
        world.add(kind, data, "ses_1" if kind.startswith(("session", "statement")) else None)
    world.statement()
    world.statement("failed")
    world.add("statement.intent", intent(kind="merge"))
    made = events(world)
    assert [f for e in made for f in faults(e, version)] == []
    told = {e["metadata"]["event_code"] for e in made}
    assert told == {*EACH, "statement.outcome", "statement.intent"}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda e: e.pop("actor"),
        lambda e: e.update(activity_id=77),
        lambda e: e["metadata"].pop("version"),
        lambda e: e.update(surprise=1),
        lambda e: e["query_info"].pop("query_string"),
    ],
)
def test_the_check_of_events_finds_what_is_wrong(
    world: World, spoil: Callable[[Json], Any]
) -> None:
    world.statement()
    (event,) = [e for e in events(world) if e["class_uid"] == 6005]
    assert faults(event) == []
    spoil(event)
    assert faults(event)


@pytest.mark.parametrize(
    ("kind", "number", "activity"),
    [
        ("session.opened", 3002, "Logon"),
        ("session.closed", 3002, "Logoff"),
        ("signin.refused", 3002, "Logon"),
        ("credential.minted", 3001, "Create"),
        ("credential.gone", 3001, "Delete"),
        ("approval.answered", 3004, "Update"),
        ("reconcile.unexplained", 2004, "Create"),
        ("read.session", 6003, "Read"),
        ("statement.refused", 6005, "other"),
    ],
)
def test_entries_are_of_the_classes_that_a_siem_looks_for(
    world: World, kind: str, number: int, activity: str
) -> None:
    world.add(kind, EACH[kind])
    event = events(world)[0]
    assert (event["class_uid"], event["activity_name"]) == (number, activity)
    assert event["type_uid"] == number * 100 + event["activity_id"]


def test_a_statement_is_one_event_with_who_where_and_what(world: World) -> None:
    world.add("session.opened", OPENED)
    begun, ended = world.statement()
    (event,) = [e for e in events(world) if e["class_uid"] == 6005]
    assert event["activity_name"] == "Create"
    assert event["metadata"]["sequence"] == ended
    assert event["unmapped"]["intent"] == begun
    assert event["actor"]["user"]["uid"] == "https://idp#s-1"
    assert event["src_endpoint"] == {"ip": "192.0.2.7"}
    assert event["query_info"] == {"query_string": intent()["executed"], "uid": "q-1"}
    assert event["table"]["name"] == "PROD.FEATURES.CHURN"
    assert event["actor"]["authorizations"][0]["policy"] == {"name": "agents-read", "uid": "a" * 64}


def test_a_statement_without_an_end_is_of_unknown_status(world: World) -> None:
    world.add("statement.intent", intent())
    (event,) = [e for e in events(world) if e["class_uid"] == 6005]
    assert event["status"] == "Unknown"


def test_a_pruned_entry_is_still_told_of(world: World) -> None:
    seq = world.add("approval.expired", {"approval": "a"})
    with world.store.write() as connection:
        connection.execute(update(log_entries).where(log_entries.c.seq == seq).values(entry=""))
    event = events(world)[0]
    assert faults(event) == []
    assert (event["metadata"]["event_code"], event["unmapped"]) == (
        "approval.expired",
        {"pruned": True},
    )


# ---------------------------------------------------------------------- the table of accesses


@pytest.mark.parametrize(
    "sql", ['=HYPERLINK("http://x")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1"]
)
def test_no_cell_is_a_formula(world: World, sql: str) -> None:
    world.statement(sql=sql, identity=WHO | {"name": sql})
    (row,) = rows(world)
    assert row["sql"] == row["name"] == f"'{sql}"


def test_each_statement_is_a_row_when_it_has_ended(world: World) -> None:
    world.statement()
    world.statement("failed")
    world.add("statement.refused", EACH["statement.refused"])
    world.add("statement.intent", intent())
    found = [(r["status"], r["decision"]) for r in rows(world)]
    assert found == [
        ("succeeded", "require_approval"),
        ("failed", "require_approval"),
        ("refused", "deny"),
        ("unknown", "require_approval"),
    ]


def test_a_statement_that_began_before_the_period_is_in_the_one_that_it_ended_in(
    world: World,
) -> None:
    begun = world.add("statement.intent", intent())
    world.add("test.between", {})
    world.add("statement.outcome", outcome(begun, query_id="q-9"))
    at = {e.seq: e.at for e in world.log.entries()}
    (row,) = rows(world, Period(begin=at[begun + 1]))
    assert (row["seq"], row["query_id"], row["subject"]) == (str(begun), "q-9", "s-1")
    (unfinished,) = rows(world, Period(end=at[begun + 1]))
    assert unfinished["status"] == "unknown"


# ---------------------------------------------------------------------- lines of JSON, and the manifest


def test_each_line_of_json_is_what_its_leaf_is_the_hash_of(world: World) -> None:
    for kind, data in EACH.items():
        world.add(kind, data)
    text, made, _ = exported(world, Format.JSON)
    leaves = [e.leaf for e in world.log.entries()][: made.end]
    assert [merkle.leaf_hash(line.encode()) for line in text.splitlines()] == leaves


def test_the_manifest_says_what_is_in_the_export_and_fits_the_signed_tree(
    world: World, log_key: LogKey
) -> None:
    world.statement()
    text, made, manifest = exported(world, Format.JSON)
    assert manifest["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert (manifest["first_seq"], manifest["last_seq"], manifest["entries"]) == (0, 2, 3)
    checkpoint = open_checkpoint(manifest["checkpoint"], log_key.verifier_key)
    assert (checkpoint.size, checkpoint.root.hex()) == (made.end, manifest["root"])


def test_an_export_is_an_entry_of_the_log_before_anything_leaves(world: World) -> None:
    world.statement()
    text, _, _ = exported(world, Format.JSON)
    last = json.loads(text.splitlines()[-1])
    assert last["kind"] == "evidence.exported"
    assert last["data"] == {"requester": "auditor", "format": "json", "from": None, "to": None}


def test_an_entry_that_is_missing_stops_the_export(world: World) -> None:
    for _ in range(3):
        world.statement()
    with world.store.write() as connection:
        connection.execute(delete(log_entries).where(log_entries.c.seq == 2))
    with pytest.raises(EvidenceError, match="Entry 2"):
        exported(world, Format.CSV)


# ---------------------------------------------------------------------- the command


@pytest.fixture
def config(world: World, tmp_path: Path) -> Path:
    world.log.claim()
    world.statement()
    file = tmp_path / "hoop.toml"
    file.write_text(
        f'[store]\nurl = "{world.store.url}"\n'
        f'[audit]\norigin = "test.example/log"\nkey_file = "{tmp_path / "log.key"}"\n'
    )
    return file


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["audit", "export", *map(str, arguments)])


@pytest.mark.parametrize("form", list(Format))
def test_the_command_writes_the_export_and_its_signed_manifest(
    config: Path, tmp_path: Path, log_key: LogKey, form: Format
) -> None:
    out = tmp_path / f"out.{form}"
    done = run("--format", form, "--config", config, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    content = out.read_bytes()
    assert told["sha256"] == hashlib.sha256(content).hexdigest()
    manifest = Path(told["manifest"]).read_bytes()
    assert json.loads(manifest)["sha256"] == told["sha256"]
    note = Path(told["manifest"]).with_suffix(".note").read_text()
    signed = open_note(note, log_key.verifier_key)
    assert signed == f"{MANIFEST_HEADER}\n{hashlib.sha256(manifest).hexdigest()}\n"


def test_standard_output_holds_nothing_but_the_export(config: Path) -> None:
    done = run("--format", "json", "--config", config, "--out", "-")
    assert done.exit_code == 0
    assert [json.loads(line)["seq"] for line in done.stdout.splitlines()] == [0, 1, 2]


def test_a_period_that_is_no_time_is_refused(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run("--format", "csv", "--config", config, "--out", out, "--from", "yesterday")
    assert done.exit_code == 2
    assert not out.exists()


def test_the_bundle_of_a_period_is_another_command(config: Path) -> None:
    done = run("--config", config, "--from", "2026-01-01", "--json")
    assert done.exit_code == 2
    assert "hoop audit evidence" in done.output


# ---------------------------------------------------------------------- the real thing


@pytest.mark.e2e
def test_the_log_of_the_stack_is_as_the_schema_says(
    stack: DevStack, connect: Callable[..., SnowflakeConnection], tmp_path: Path
) -> None:
    with connect() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT CUSTOMER_ID, EMAIL FROM PROD.CRM.CUSTOMERS LIMIT 3").fetchall()
        with pytest.raises(Exception, match="denied"):
            cursor.execute("SELECT * FROM PROD.HR.SALARIES")
    out = tmp_path / "events.jsonl"
    done = run("--format", "ocsf", "--config", stack.config_file, "--out", out)
    assert done.exit_code == 0, done.output
    made = [json.loads(line) for line in out.read_text().splitlines()]
    assert {6005, 3002, 3001} <= {e["class_uid"] for e in made}
    assert [f for e in made for f in faults(e)] == []
