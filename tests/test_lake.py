"""The log as Parquet files: each entry once, whatever happens meanwhile, and SQL that sees nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update
from typer.testing import CliRunner

from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.audit.prune import Pruning
from hoop_core.audit.recording import Recorder, rowset_to_arrow
from hoop_core.audit.stored import Entry
from hoop_core.cli.root import app
from hoop_core.config import LakeSettings
from hoop_core.errors import StoreUnavailable
from hoop_core.lake import writer as writing
from hoop_core.lake.files import Lake
from hoop_core.lake.query import VIEWS, LakeQuery, QueryRefused
from hoop_core.lake.rows import entry_row
from hoop_core.lake.writer import LakeWriter
from hoop_core.model import Json
from hoop_core.policy.file import parse_policy
from hoop_core.store import Store
from hoop_core.store.tables import lake_progress, log_entries

SESSION = "ses_1"
WHO = {"issuer": "https://idp", "subject": "s1", "name": "Ann", "groups": ["etl"]}


class World:
    def __init__(self, store: Store, log: AuditLog, folder: Path) -> None:
        self.store, self.log = store, log
        self.root, self.recordings = folder / "lake", folder / "recordings"
        self.recorder = Recorder(str(self.recordings))

    def writer(self, owner: str = "one", **options: Any) -> LakeWriter:
        chosen = LakeSettings(root=str(self.root), **options)
        return LakeWriter(chosen, self.store, self.recorder, owner=owner)

    def write(self, **options: Any) -> None:
        writer = self.writer(**options)
        while writer.step():
            pass

    def append(self, kind: str, data: Json, session: str | None = SESSION) -> int:
        return self.log.append(kind, data, session_id=session)

    def statement(self, sql: str = "SELECT 1", rows: list[list[Any]] | None = None) -> int:
        intent = self.append(
            "statement.intent",
            {
                "statement_id": "st1",
                "identity": WHO,
                "sql": sql,
                "executed": sql,
                "kind": "select",
                "reads": ["D.S.T"],
                "decision": {
                    "decision": "allow",
                    "rules": ["r"],
                    "masked": [{"table": "D.S.T", "column": "C"}],
                    "policy_digest": "p1",
                },
            },
        )
        outcome = {"intent": intent, "statement_id": "st1", "status": "succeeded", "query_id": "q1"}
        self.append("statement.outcome", outcome | {"recording": self.recorded(intent, rows or [])})
        return intent

    def recorded(self, number: int, rows: list[list[Any]]) -> list[Json]:
        rowtype = [
            {"name": "ID", "type": "fixed"},
            {"name": "DAY", "type": "date"},
            {"name": "ID", "type": "text"},
        ]
        answer = {"rowtype": rowtype, "queryResultFormat": "json"}
        files = self.recorder.open_exchange(SESSION, number)
        part = rowset_to_arrow(rowtype, rows) if rows else b""
        kept, _ = files.write({"answer": answer}, part)
        return [f.as_json() for f in kept]

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        lake = LakeQuery(str(self.root))
        try:
            return list(lake.ask(sql).rows)
        finally:
            lake.close()

    def seqs(self) -> list[int]:
        return [s for (s,) in self.ask("SELECT seq FROM entries ORDER BY seq")]

    def names(self) -> list[str]:
        return sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*.parquet"))


@pytest.fixture
def world(store: Store, log: AuditLog, tmp_path: Path) -> Iterator[World]:
    log.append("log.begun", {})
    yield World(store, log, tmp_path)


# ---------------------------------------------------------------------- what is written


def test_each_entry_is_a_row_with_what_people_ask_for_in_columns(world: World) -> None:
    world.statement("SELECT 'x'")
    world.write()
    assert world.seqs() == [0, 1, 2]
    row = entry_row_of(world, "SELECT * FROM entries WHERE kind = 'statement.intent'")
    assert row["name"] == "Ann"
    assert row["groups"] == ["etl"]
    assert (row["decision"], row["masked"], row["reads"]) == ("allow", ["D.S.T.C"], ["D.S.T"])
    assert (row["sql"], row["statement_kind"], row["policy_digest"]) == (
        "SELECT 'x'",
        "select",
        "p1",
    )
    assert json.loads(row["data"])["executed"] == "SELECT 'x'"
    assert row["day"] == utc_now().date()


def entry_row_of(world: World, sql: str) -> dict[str, Any]:
    lake = LakeQuery(str(world.root))
    answer = lake.ask(sql)
    (row,) = answer.rows
    lake.close()
    return dict(zip(answer.columns, row, strict=True))


def test_a_day_has_a_folder_of_its_own(world: World) -> None:
    world.append("a.b", {})
    tomorrow = (utc_now() + timedelta(days=1)).isoformat(timespec="microseconds")
    with world.store.write() as connection:
        connection.execute(
            update(log_entries)
            .where(log_entries.c.seq == 1)
            .values(at=tomorrow.replace("+00:00", "Z"))
        )
    world.write()
    today = utc_now().date()
    first, last = "0000000000000000", "0000000000000001"
    assert world.names() == [
        f"entries/day={day}/{first}-{last}.parquet" for day in (today, today + timedelta(days=1))
    ]
    assert world.seqs() == [0, 1]


def test_results_are_rows_of_texts_by_the_names_of_their_columns(world: World) -> None:
    world.statement(rows=[["1", "20000", "a"], ["2", None, None]])
    world.write()
    assert world.ask("SELECT statement_id, part, row, values FROM results ORDER BY row") == [
        ("st1", 0, 0, {"ID": "1", "DAY": "2024-10-04", "ID #2": "a"}),
        ("st1", 0, 1, {"ID": "2", "DAY": None, "ID #2": None}),
    ]


def test_a_further_part_is_read_by_what_the_statement_announced(world: World) -> None:
    world.statement(rows=[["1", "0", "a"]])
    with_part = world.recorder.open_part(SESSION, "st1-part-00001-1.json")
    with_part.write(b'["7", "1", "late"]')
    world.append(
        "result.part",
        {"statement_id": "st1", "part": 1, "recording": with_part.close().as_json()},
    )
    world.write()
    found = world.ask("SELECT values['ID #2'] FROM results WHERE part = 1")
    assert found == [("late",)]


def test_encrypted_recordings_do_not_come_to_lie_here_in_clear(world: World) -> None:
    (exchange, part) = world.recorded(1, [["1", "0", "a"]])
    world.append("statement.outcome", {"recording": [exchange, part | {"key": {"id": "k"}}]})
    world.write()
    assert world.ask("SELECT count(*) FROM results") == [(0,)]


def test_results_can_be_left_out(world: World) -> None:
    world.statement(rows=[["1", "0", "a"]])
    world.write(results=False)
    assert not (world.root / "results").exists()


@settings(max_examples=60)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: (
            st.lists(x)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "identity",
                        "question",
                        "decision",
                        "groups",
                        "reads",
                        "masked",
                        "rows",
                        "sql",
                        "intent",
                        "run_asserted",
                        "fields",
                        "client",
                        "approval",
                    ]
                ),
                x,
            )
        ),
        max_leaves=20,
    )
)
def test_an_entry_of_any_shape_is_a_row(data: Any) -> None:
    shaped = data if isinstance(data, dict) else {"data": data}
    text = json.dumps({"data": shaped})
    row = entry_row(Entry(1, "a.b", None, text, b"", "2026-01-01T00:00:00.000000Z"))
    assert json.loads(row["data"]) == shaped


# ---------------------------------------------------------------------- exactly once


def test_batches_follow_each_other_without_gap_or_overlap(world: World) -> None:
    for number in range(10):
        world.append("a.b", {"number": number})
    world.write(entries=3)
    for number in range(2):
        world.append("a.b", {"number": number})
    world.write(entries=3)
    assert world.seqs() == list(range(13))
    files = Lake(str(world.root)).files("entries")
    assert [(f.first, f.last) for f in files] == [(0, 2), (3, 5), (6, 8), (9, 10), (11, 12)]


@pytest.mark.parametrize("at", ["before", "in between", "after"])
def test_a_batch_that_broke_off_is_written_again_to_the_same_names(
    world: World, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    world.statement(rows=[["1", "0", "a"]])

    class Killed(BaseException):
        pass

    real = LakeWriter._write_day

    def killed(self: LakeWriter, *args: Any) -> None:
        if at != "before":
            real(self, *args)
        raise Killed

    if at == "in between":
        monkeypatch.setattr(writing, "result_rows", lambda *_: (_ for _ in ()).throw(Killed()))
    else:
        monkeypatch.setattr(LakeWriter, "_write_day", killed)
    with pytest.raises(Killed):
        world.writer().step()
    monkeypatch.undo()
    for _ in range(5):
        world.append("a.b", {})  # the batch does not grow by what came since
    world.write()
    assert world.seqs() == list(range(8))
    assert world.ask("SELECT count(*) FROM results") == [(1,)]


def test_one_that_was_held_up_gives_way_to_its_successor(world: World) -> None:
    world.append("a.b", {})
    slow, quick = world.writer("slow"), world.writer("quick")
    claimed = slow._claim()
    assert claimed is not None
    assert not quick.step()  # it is another's
    with world.store.write() as connection:
        past = datetime(2020, 1, 1, tzinfo=UTC)
        connection.execute(update(lake_progress).values(claimed_until=past))
    world.append("a.b", {})
    assert quick.step()
    names = world.names()
    with pytest.raises(writing._Lost):
        slow._write(Lake(str(world.root)), *claimed)
    assert world.names() == names
    world.write()
    assert world.seqs() == [0, 1, 2]


def test_a_recording_that_cannot_be_read_holds_the_batch_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.statement(rows=[["1", "0", "a"]])

    def broken(*_: object) -> bytes:
        raise StoreUnavailable("The recording cannot be read: TimeoutError.")

    monkeypatch.setattr(Recorder, "read", broken)
    with pytest.raises(StoreUnavailable):
        world.writer().step()
    monkeypatch.undo()
    world.write()
    assert world.ask("SELECT count(*) FROM results") == [(1,)]


# ---------------------------------------------------------------------- retention


def test_what_is_pruned_goes_from_the_files_too(world: World) -> None:
    policy = parse_policy("version: 1\nretention: [{name: all, keep: 1d}]\n", "p.yaml")
    world.append("policy.loaded", {"digest": policy.digest, "text": ""}, None)
    world.statement("SELECT 'UNMISTAKABLE'", rows=[["1", "0", "PERSONAL"]])
    world.write()
    pruning = Pruning(world.store, world.log, policy, str(world.recordings))
    pruning.run(by="ann", reason="over", now=utc_now() + timedelta(days=2))
    world.write()
    assert world.ask("SELECT seq, sql, data FROM entries WHERE pruned ORDER BY seq") == [
        (2, None, None),
        (3, None, None),
    ]
    assert world.ask("SELECT count(*) FROM results") == [(0,)]
    assert world.ask("SELECT kind, leaf IS NULL FROM entries WHERE seq = 2") == [
        ("statement.intent", False)
    ]
    texts = [str(pq.read_table(p).to_pylist()) for p in world.root.rglob("*.parquet")]
    assert not any("UNMISTAKABLE" in t or "PERSONAL" in t for t in texts)


# ---------------------------------------------------------------------- questions


def test_every_view_answers_also_when_there_is_nothing(world: World) -> None:
    for view in VIEWS:
        assert world.ask(f"SELECT * FROM {view}") == []


def test_a_statement_is_one_row_with_its_end(world: World) -> None:
    world.statement()
    world.append("statement.refused", {"statement_id": "st2", "identity": WHO, "reason": "DENIED"})
    world.write()
    asked = (
        "SELECT statement_id, name, verdict, status, reason, query_id FROM statements ORDER BY seq"
    )
    assert world.ask(asked) == [
        ("st1", "Ann", "allowed", "succeeded", None, "q1"),
        ("st2", "Ann", "refused", "refused", "DENIED", None),
    ]


def test_an_approval_and_a_credential_are_one_row_each(world: World) -> None:
    question = {"requester": WHO, "kind": "delete", "sql": "DELETE FROM T"}
    world.append("approval.requested", {"approval": "apr_1", "question": question}, None)
    bob = {"name": "Bob", "groups": []}
    world.append(
        "approval.answered", {"approval": "apr_1", "approver": bob, "status": "approved"}, None
    )
    user = {"snowflake_user": "U1", "account": "A", "snowflake_role": "R"}
    minted = user | {"expires_at": "2026-01-01T00:00:00.000Z", "public_key_fingerprint": "f"}
    world.append("credential.minted", minted)
    world.append("credential.revoking", user)
    world.append("credential.gone", user)
    world.write()
    asked = "SELECT approval, requester, statement_kind, sql, approvers, outcome FROM approvals"
    assert world.ask(asked) == [("apr_1", "Ann", "delete", "DELETE FROM T", ["Bob"], "approved")]
    asked = "SELECT snowflake_user, session_id, seconds_to_revoke >= 0, orphan FROM credentials"
    assert world.ask(asked) == [("U1", SESSION, True, False)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{secret}')",
        "SELECT * FROM read_csv('{secret}')",
        "SELECT * FROM '{secret}'",
        "SELECT * FROM glob('{folder}/*')",
        "COPY (SELECT 1) TO '{folder}/out.csv'",
        "COPY entries TO '{folder}/out.parquet' (FORMAT parquet)",
        "EXPORT DATABASE '{folder}/out'",
        "ATTACH '{folder}/other.db' AS other",
        "INSTALL httpfs",
        "LOAD '{folder}/evil.duckdb_extension'",
        "SET enable_external_access = true",
        "SET python_enable_replacements = true",
        "RESET lock_configuration",
        "PRAGMA enable_logging",
        "SELECT * FROM secret_frame",
        "SELECT getenv('HOME')",
        "SELECT 1; SELECT 2",
        "SELECT nonsense FROM entries",
        "",
    ],
)
def test_a_question_reaches_nothing_but_the_views(tmp_path: Path, sql: str) -> None:
    import polars

    secret = tmp_path / "secret.csv"
    secret.write_text("a\nTHE SECRET\n")
    secret_frame = polars.DataFrame({"a": ["THE SECRET"]})
    before = sorted(tmp_path.iterdir())
    lake = LakeQuery(str(tmp_path / "lake"))
    with pytest.raises(QueryRefused) as refused:
        list(lake.ask(sql.format(secret=secret, folder=tmp_path)).rows)
    lake.close()
    assert "THE SECRET" not in refused.value.text
    assert sorted(tmp_path.iterdir()) == before
    assert len(secret_frame) == 1


def test_the_command_speaks_json_and_csv_that_is_no_formula(world: World) -> None:
    world.statement("=HYPERLINK(1)", rows=[["1", "0", "a"]])
    world.write()
    run = CliRunner()
    asked = ["audit", "query", "--root", str(world.root)]
    sql = "SELECT sql, -1 AS n, groups, logged_at FROM entries WHERE sql IS NOT NULL"
    found = run.invoke(app, [*asked, "--json", sql])
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    assert answer["columns"] == ["sql", "n", "groups", "logged_at"]
    assert answer["rows"][0][:3] == ["=HYPERLINK(1)", -1, ["etl"]]
    lines = run.invoke(app, [*asked, "--csv", sql]).stdout.splitlines()
    assert lines[1].startswith("'=HYPERLINK(1),-1,")
    assert "HYPERLINK" in run.invoke(app, [*asked, sql]).stdout
    wrong = run.invoke(app, [*asked, "SELECT nope FROM entries"])
    assert wrong.exit_code == 1
    assert run.invoke(app, [*asked, "--csv", "--json", sql]).exit_code == 2


def test_the_questions_of_the_documentation_are_answered(world: World) -> None:
    world.statement(rows=[["1", "0", "a"]])
    world.write()
    text = (Path(__file__).parents[1] / "docs" / "queries.md").read_text()
    questions = text.partition("## Useful questions")[2].partition("\n## ")[0]
    blocks = [b.partition("```")[0] for b in questions.split("```sql")[1:]]
    assert len(blocks) > 8
    for block in blocks:
        world.ask(block)
