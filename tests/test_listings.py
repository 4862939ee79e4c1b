"""SHOW tells of what the policy lets the caller read, however much more the Snowflake role may see."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from snowflake.connector import DictCursor, SnowflakeConnection

from hoop_core.analysts.wire import from_json, to_json
from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import Recorder
from hoop_core.config import UploadSettings
from hoop_core.delivery import Delivery
from hoop_core.errors import SnowflakeUnavailable
from hoop_core.judge import judge_text
from hoop_core.loads.uploads import Uploads
from hoop_core.model import (
    Decision,
    Identity,
    Json,
    NameContext,
    Outcome,
    RoleBinding,
    RunContext,
    Verdict,
)
from hoop_core.plan import Plan
from hoop_core.policy.file import parse_policy
from hoop_core.results.listings import narrowed
from hoop_core.session.guarded import GuardedSession, QueryRequest
from hoop_core.sql.catalog import Catalog, CatalogObject
from hoop_core.sql.live_catalog import LiveCatalog
from hoop_core.sql.names import parse_table

POLICY = """
version: 1
row_filters:
  - {table: "PROD.CRM.ORDERS", where: "STATUS = 'open'", except_groups: [auditors]}
rules:
  - {name: read, reads: ["PROD.CRM.*", "PROD.HR.STAFF"], then: allow}
  - {name: limited, reads: ["PROD.ADHOC.*"], when: "statement.has_limit", then: allow}
  - {name: load, kinds: [insert], writes: ["PROD.STAGING.*"], then: allow}
  - {name: never, reads: ["PROD.CRM.SECRET"], when: "statement.has_where", then: deny}
"""
CRM, HR, OTHER = ("PROD", "CRM"), ("PROD", "HR"), ("OTHER", "CRM")
TABLES = ("name", "database_name", "schema_name", "kind", "rows", "bytes", "text")
KEYS = ("database_name", "schema_name", "table_name", "column_name")


def judged(sql: str, groups: tuple[str, ...] = ("agents",)) -> Verdict:
    names = [parse_table(f"PROD.CRM.{t}") for t in ("ORDERS", "NOTES")]
    objects = {n: CatalogObject({"STATUS": "VARCHAR"}) for n in names if n is not None}
    verdict = judge_text(
        sql,
        NameContext("PROD", "CRM"),
        identity=Identity("https://issuer", "sub", "agent", groups, "oidc", "digest"),
        policy=parse_policy(POLICY, "p.yaml"),
        catalog=Catalog.of(objects),
        run=RunContext(),
        now=datetime(2026, 3, 2, 10, tzinfo=UTC),
    )
    assert verdict.decision.outcome is Outcome.ALLOW
    return verdict


def answered(names: tuple[str, ...], *rows: tuple[Any, ...], form: str = "json") -> Json:
    data: Json = {"rowtype": [{"name": n} for n in names], "queryResultFormat": form}
    if form == "arrow":
        columns = [[row[i] for row in rows] for i in range(len(names))]
        table = pa.table(dict(zip(names, columns, strict=True)))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        data["rowsetBase64"] = base64.b64encode(sink.getvalue()).decode()
    else:
        data["rowset"] = [[None if v is None else str(v) for v in row] for row in rows]
    return {"data": {**data, "total": len(rows), "returned": len(rows)}, "success": True}


def told(answer: Json) -> list[list[Any]]:
    data = answer["data"]
    rows: list[list[Any]] = data.get("rowset") or []
    if data["queryResultFormat"] == "arrow":
        with pa.ipc.open_stream(base64.b64decode(data["rowsetBase64"])) as reader:
            rows = [list(r.values()) for r in reader.read_all().to_pylist()]
    assert data["total"] == data["returned"] == len(rows)
    return rows


def listed(what: str, *objects: tuple[str, str, str], form: str = "json") -> list[str]:
    rows = [(t, d, s, "TABLE", 7, 9, "SELECT") for d, s, t in objects]
    verdict = judged(f"SHOW {what}")
    return [row[0] for row in told(narrowed(answered(TABLES, *rows, form=form), verdict))]


@pytest.mark.parametrize("form", ["json", "arrow"])
@pytest.mark.parametrize("what", ["TABLES", "TERSE TABLES", "OBJECTS IN ACCOUNT", "views"])
def test_objects_that_no_rule_grants_are_not_listed(what: str, form: str) -> None:
    objects = ((*CRM, "NOTES"), (*HR, "STAFF"), (*HR, "SALARIES"), (*OTHER, "NOTES"))
    assert listed(what, *objects, form=form) == ["NOTES", "STAFF"]


def test_what_a_deny_rule_names_is_not_listed_whatever_its_condition_says() -> None:
    assert listed("TABLES", (*CRM, "SECRET"), (*CRM, "NOTES")) == ["NOTES"]


def test_a_rule_counts_when_its_condition_holds_for_the_list_itself() -> None:
    adhoc = ("PROD", "ADHOC", "T")
    assert listed("TABLES", adhoc) == []
    assert listed("TABLES LIMIT 5", adhoc) == ["T"]


@pytest.mark.parametrize("form", ["json", "arrow"])
def test_rows_that_a_filter_hides_are_not_counted_and_texts_of_views_not_told(form: str) -> None:
    rows = [(t, *CRM, "TABLE", 7, 9, "SELECT 1") for t in ("NOTES", "ORDERS")]
    verdict = judged("SHOW TABLES")
    notes, orders = told(narrowed(answered(TABLES, *rows, form=form), verdict))
    assert list(map(str, notes[4:])) == ["7", "9", ""]
    assert orders[4:] == [None, None, ""]
    auditor = judged("SHOW TABLES", ("auditors",))
    assert str(told(narrowed(answered(TABLES, *rows, form=form), auditor))[1][4]) == "7"


@pytest.mark.parametrize("what", ["PRIMARY KEYS", "UNIQUE KEYS IN ACCOUNT"])
def test_keys_of_tables_that_no_rule_grants_are_not_listed(what: str) -> None:
    answer = answered(KEYS, (*CRM, "NOTES", "ID"), (*HR, "SALARIES", "BADGE"))
    assert told(narrowed(answer, judged(f"SHOW {what}"))) == [[*CRM, "NOTES", "ID"]]


@pytest.mark.parametrize(
    "what", ["IMPORTED KEYS", "IMPORTED KEYS IN TABLE notes", "EXPORTED KEYS IN TABLE notes"]
)
def test_a_reference_is_listed_when_both_of_its_tables_are_granted(what: str) -> None:
    parts = ("database_name", "schema_name", "table_name", "column_name")
    names = tuple(f"{side}_{p}" for side in ("pk", "fk") for p in parts)
    granted = (*CRM, "NOTES", "ID", *HR, "STAFF", "ID")
    rows = (granted, (*HR, "SALARIES", "ID", *CRM, "NOTES", "ID"),
            (*CRM, "NOTES", "ID", *OTHER, "NOTES", "ID"))  # fmt: skip
    assert told(narrowed(answered(names, *rows), judged(f"SHOW {what}"))) == [list(granted)]


def test_schemas_databases_and_routines_without_any_grant_are_not_listed() -> None:
    schemas = answered(("name", "database_name"), ("CRM", "PROD"), ("SECRET", "PROD"), ("CRM", "O"))
    assert told(narrowed(schemas, judged("SHOW SCHEMAS"))) == [["CRM", "PROD"]]
    staging = answered(("name", "database_name"), ("STAGING", "PROD"), ("STAGING", "O"))
    assert told(narrowed(staging, judged("SHOW SCHEMAS"))) == [["STAGING", "PROD"]]
    assert listed("TABLES", ("PROD", "STAGING", "T")) == []
    databases = answered(("name",), ("PROD",), ("O",))
    assert told(narrowed(databases, judged("SHOW DATABASES"))) == [["PROD"]]
    routines = answered(("name", "catalog_name", "schema_name"),
                        ("F", *CRM), ("G", "PROD", "SECRET"), ("ABS", None, None), ("H", "PROD", None))  # fmt: skip
    assert [r[0] for r in told(narrowed(routines, judged("SHOW FUNCTIONS")))] == ["F", "ABS"]


def test_a_limit_counts_what_the_caller_sees() -> None:
    """Applied by Snowflake, it would tell by a missing row that a hidden table comes first."""
    verdict = judged("SHOW TABLES LIKE 'N%' LIMIT 1 FROM 'A'")
    assert verdict.rewritten == "SHOW TABLES LIKE 'N%' LIMIT 10000 FROM 'A'"
    rows = [(t, *where, "TABLE", 7, 9, "") for t, where in (("NA", HR), ("NB", CRM), ("NC", CRM))]
    assert [r[0] for r in told(narrowed(answered(TABLES, *rows), verdict))] == ["NB"]


@pytest.mark.parametrize(
    "answer",
    [
        answered(("name",), ("NOTES",)),
        answered((*TABLES, "name"), ("NOTES", *CRM, "TABLE", 7, 9, "", "NOTES")),
        {"data": {**answered(TABLES)["data"], "chunks": [{"url": "https://bucket.example/0"}]}},
        {"data": {"rowtype": [{"name": n} for n in TABLES], "queryResultFormat": "arrow",
                  "rowsetBase64": "bm90IGFycm93"}},
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_narrowed_is_withheld(answer: Json) -> None:
    with pytest.raises(SnowflakeUnavailable):
        narrowed(answer, judged("SHOW TABLES"))


def test_rows_that_come_with_a_description_are_narrowed_too(log: AuditLog, tmp_path: Path) -> None:
    """Whether a SHOW that is only described brings its rows is for Snowflake to say, not for us to believe."""

    class Answered(Delivery):
        async def _execute(self, *_given: Any, **_named: Any) -> Json:
            return answered(
                TABLES, ("STAFF", *HR, "TABLE", 1, 1, ""), ("PAY", *HR, "TABLE", 1, 1, "")
            )

    async def nobody(*_given: Any, **_named: Any) -> Any:
        raise AssertionError

    verdict = judged("SHOW TABLES")
    session = GuardedSession(
        id="s", identity=Identity("i", "s", "n", (), "oidc", ""), role=RoleBinding("v", "R"),
        names=NameContext(), run=RunContext(), client={}, parameters={}, opened_at=datetime.now(UTC),
        open_upstream=nobody,
    )  # fmt: skip
    delivery = Answered(
        log=log, recorder=Recorder(str(tmp_path / "rec")),
        catalog=LiveCatalog(nobody, account="a"), public_url="u",
        uploads=Uploads(UploadSettings(), log, public_url="u"),
    )  # fmt: skip
    binding: Any = SimpleNamespace(policy_digest="p")
    request = QueryRequest("q", "SHOW TABLES", None, {}, describe_only=True)

    async def run() -> Json:
        upstream: Any = None
        ran = await delivery.run(session, request, Plan(verdict, binding), upstream, 1)
        return ran.answer

    assert [row[0] for row in told(asyncio.run(run()))] == ["STAFF"]


def test_what_may_be_listed_comes_back_whole_from_an_analyst() -> None:
    decision = judged("SHOW TABLES").decision
    assert decision.listing is not None and decision.listing.uncounted
    assert from_json(Decision, to_json(decision)) == decision


@pytest.mark.e2e
def test_lists_are_narrowed_on_their_way_to_a_driver(
    connect: Callable[..., SnowflakeConnection], behind: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    for sql in (
        "CREATE TABLE IF NOT EXISTS PROD.HR.BADGES (ID INT PRIMARY KEY, BADGE TEXT UNIQUE)",
        "GRANT USAGE ON SCHEMA PROD.HR TO ROLE ML_READER",
        "GRANT SELECT ON TABLE PROD.HR.BADGES TO ROLE ML_READER",
    ):
        behind(sql)
    try:
        cursor = connect().cursor(DictCursor)
        shown: dict[str, list[Any]] = {}
        for what in ("TABLES IN ACCOUNT", "UNIQUE KEYS IN DATABASE PROD", "DATABASES"):
            cursor.execute(f"SHOW {what}")
            shown[what] = cursor.fetchall()
    finally:
        behind("DROP TABLE PROD.HR.BADGES")
        behind("REVOKE USAGE ON SCHEMA PROD.HR FROM ROLE ML_READER")
    assert "CUSTOMERS" in {r["name"] for r in shown["TABLES IN ACCOUNT"]}
    assert "HR" not in {r["schema_name"] for r in shown["TABLES IN ACCOUNT"]}
    assert shown["UNIQUE KEYS IN DATABASE PROD"] == []
    assert [r["name"] for r in shown["DATABASES"]] == ["PROD"]
