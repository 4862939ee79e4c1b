"""A column's name may be a value: it is screened as one, and not told in messages and in the log."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import pyarrow as pa
import pytest

from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import Recorder
from hoop_core.config import UploadSettings
from hoop_core.delivery import Delivery
from hoop_core.errors import ResultBlocked
from hoop_core.loads.uploads import Uploads
from hoop_core.masking.screen import screen_part
from hoop_core.model import (
    ColumnLineage,
    Decision,
    Detector,
    Identity,
    NameContext,
    Outcome,
    RoleBinding,
    RunContext,
    Screen,
    Verdict,
)
from hoop_core.plan import Plan
from hoop_core.results.answers import TakenOver, take_over
from hoop_core.results.taint import labels_of
from hoop_core.session.guarded import GuardedSession, QueryRequest
from hoop_core.sql.live_catalog import LiveCatalog

MAIL, CARD = "jane@x.example", "4111 1111 1111 1111"
MASK = Screen(masks=frozenset({Detector.EMAIL, Detector.CARD}))
BLOCK = Screen(blocks=frozenset({Detector.EMAIL, Detector.CARD}))
REPORT = Screen(reports=frozenset({Detector.EMAIL, Detector.CARD}))


def verdict(*outputs: str) -> Verdict:
    lineage = tuple(ColumnLineage(o, ()) for o in outputs)
    return Verdict(Decision(Outcome.ALLOW, (), (), (), ""), None, None, lineage)


def rowtype(*names: str) -> list[dict[str, Any]]:
    return [{"name": n, "type": "text", "length": 100, "nullable": True} for n in names]


def stream(*names: str, value: str = "x") -> bytes:
    batch = pa.record_batch([pa.array([value])] * len(names), names=list(names))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def taken(names: list[str], labels: tuple[str, ...], screen: Screen, **data: Any) -> TakenOver:
    answer = {"success": True, "data": {"rowtype": rowtype(*names), "total": 1, **data}}
    return take_over(
        answer, session_id="s", statement_id="q", public_url="u", screen=screen, labels=labels
    )


def test_a_column_is_called_by_its_name_only_when_it_is_the_statements_own() -> None:
    names = ["REGION", f"'{MAIL}'", "COUNT( * )", "'4111 1111 1111 1111'", ""]
    labels = labels_of(verdict("REGION"), names, [f"SELECT region, count(*), '{CARD}' FROM t"])
    assert labels == ("REGION", "number 2", "COUNT( * )", "'4111 1111 1111 1111'", "number 5")


def test_names_are_looked_for_a_bounded_number_of_times() -> None:
    labels = labels_of(verdict(), ["A"] * 1000, ["A"])
    assert labels.count("A") < 1000 and labels[-1] == "number 1000"


@pytest.mark.parametrize("screen", [MASK, BLOCK])
@pytest.mark.parametrize("data", [
    {"queryResultFormat": "json", "rowset": []},
    {"queryResultFormat": "json", "rowset": [["x", "y"]]},
    {"queryResultFormat": "arrow", "rowsetBase64": base64.b64encode(stream("REGION", MAIL)).decode()},
    {"queryResultFormat": "arrow"},
])  # fmt: skip
def test_a_result_with_a_column_named_after_a_value_is_withheld(
    screen: Screen, data: dict[str, Any]
) -> None:
    with pytest.raises(ResultBlocked) as blocked:
        taken(["REGION", MAIL], ("REGION", "number 2"), screen, **data)
    assert MAIL not in str(blocked.value) and "number 2" in str(blocked.value)
    assert [(f.column, f.name) for f in blocked.value.findings] == [(1, "number 2")]


def test_the_name_that_the_caller_wrote_is_no_value() -> None:
    result = taken([MAIL], (MAIL,), MASK, queryResultFormat="json", rowset=[["x"]])
    assert result.answer["data"]["rowset"] == [["x"]]


def test_what_is_only_reported_passes_and_is_told_by_its_place() -> None:
    result = taken([MAIL], ("number 1",), REPORT, queryResultFormat="json", rowset=[[MAIL]])
    assert [f.name for f in result.findings] == ["number 1"]


@pytest.mark.parametrize("screen", [MASK, BLOCK])
def test_the_fields_of_a_remote_part_are_screened_whatever_was_announced(screen: Screen) -> None:
    with pytest.raises(ResultBlocked) as blocked:
        screen_part(stream("A", MAIL), "arrow", rowtype("A", "B"), screen, ("A", "B"))
    assert MAIL not in str(blocked.value)
    with pytest.raises(ResultBlocked):
        screen_part(stream("A", CARD), "arrow", rowtype("A"), screen, ("A",))


def test_the_names_within_a_nested_column_are_screened() -> None:
    column = pa.array([{"k": [{MAIL: 1}]}])
    batch = pa.record_batch([column], names=["A"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pytest.raises(ResultBlocked, match="column A"):
        screen_part(bytes(sink.getvalue()), "arrow", rowtype("A"), MASK, ("A",))


def test_findings_of_a_part_name_the_label() -> None:
    part = stream("'Jane Doe'", value=MAIL)
    found = screen_part(part, "arrow", rowtype("'Jane Doe'"), MASK, ("number 1",)).findings
    assert [f.name for f in found] == ["number 1"]


@pytest.mark.parametrize("keep", [True, False])
def test_a_recording_that_holds_no_rows_holds_no_foreign_names(
    log: AuditLog, tmp_path: Any, keep: bool
) -> None:
    result = taken([MAIL, "B"], ("number 1", "B"), REPORT, queryResultFormat="json", rowset=[])
    session = GuardedSession(
        id="s", identity=Identity("i", "s", "n", (), "oidc", ""), role=RoleBinding("v", "R"),
        names=NameContext(), run=RunContext(), client={}, parameters={}, opened_at=datetime.now(UTC),
        open_upstream=nobody,
    )  # fmt: skip
    delivery = Delivery(
        log=log, recorder=Recorder(str(tmp_path)),
        catalog=LiveCatalog(nobody, account="a"), public_url="u",
        uploads=Uploads(UploadSettings(), log, public_url="u"),
    )  # fmt: skip
    request = QueryRequest("q", "SELECT 1", None, {})
    files = delivery.recorder.open_exchange("s", 1)
    decision = Decision(Outcome.ALLOW, (), (), (), "")
    plan = Plan(Verdict(decision, None, "SELECT 1"), cast(Any, None))
    delivery._record(files, session, request, plan, taken=replace(result, keep=keep), timing={})
    [exchange] = (tmp_path / "s").glob("*-exchange.json")
    named = [c["name"] for c in json.loads(exchange.read_text())["answer"]["rowtype"]]
    assert named == ([MAIL, "B"] if keep else ["number 1", "B"])


async def nobody(*_given: Any, **_named: Any) -> Any:
    raise AssertionError
