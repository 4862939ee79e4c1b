"""One part of a result under the detectors: what passes, what changes, what is refused."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy import Connection

from hoop_core.audit.log import AuditLog
from hoop_core.audit.recording import Recorder
from hoop_core.errors import ApprovalRefused, ResultBlocked, SnowflakeUnavailable
from hoop_core.gateway.chunks import PartStreamer
from hoop_core.gateway.sessions import Live
from hoop_core.masking.screen import screen_part
from hoop_core.model import (
    ColumnLineage,
    Decision,
    Detector,
    Identity,
    MaskedColumn,
    NameContext,
    Outcome,
    RoleBinding,
    RunContext,
    Screen,
    TableName,
    Verdict,
)
from hoop_core.results.answers import ChunkSet, take_over
from hoop_core.results.screeners import Room, Screeners, ScreeningBusy
from hoop_core.results.taint import opened, taints_of
from hoop_core.session.guarded import GuardedSession

MAIL = "jane@x.example"
MASK = Screen(masks=frozenset({Detector.EMAIL, Detector.CARD}))
BLOCK = Screen(blocks=frozenset({Detector.EMAIL}))
REPORT = Screen(reports=frozenset({Detector.EMAIL}))
TEXT = [{"name": "A", "type": "text", "length": 100, "nullable": True}]


def stream(values: list[Any], batches: int = 1) -> bytes:
    field = pa.field("A", pa.array(values).type, metadata={"logicalType": "TEXT"})
    batch = pa.RecordBatch.from_arrays([pa.array(values)], schema=pa.schema([field]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def read(content: bytes) -> list[Any]:
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return list(pa.ipc.open_stream(plain).read_all().column(0).to_pylist())


@pytest.mark.parametrize("wrap", [bytes, gzip.compress])
def test_arrow_is_masked_batch_by_batch(wrap: Any) -> None:
    screened = screen_part(wrap(stream([MAIL, None, "x"], 3)), "arrow", TEXT, MASK)
    assert read(screened.content) == ["[email]", None, "x"] * 3
    assert [(f.name, f.kind, f.values) for f in screened.findings] == [("A", Detector.EMAIL, 3)]


@pytest.mark.parametrize("screen", [MASK, BLOCK, REPORT])
def test_a_clean_part_passes_byte_for_byte(screen: Screen) -> None:
    part = stream(["x", None])
    assert screen_part(part, "arrow", TEXT, screen).content is part


def test_a_report_changes_no_byte() -> None:
    part = stream([MAIL])
    screened = screen_part(part, "arrow", TEXT, REPORT)
    assert screened.content is part and len(screened.findings) == 1


def test_a_blocked_part_raises_with_counts_only() -> None:
    with pytest.raises(ResultBlocked) as blocked:
        screen_part(stream([MAIL]), "arrow", TEXT, BLOCK)
    assert MAIL not in str(blocked.value) and blocked.value.findings[0].values == 1


@pytest.mark.parametrize("part", [b"x", stream([MAIL])[:-40], stream([MAIL]) + b"more", b"\x1f\x8bx",
                                  gzip.compress(stream([MAIL]))[:-9]])  # fmt: skip
@pytest.mark.parametrize("screen", [MASK, BLOCK])
def test_what_must_be_screened_and_cannot_be_read_is_refused(part: bytes, screen: Screen) -> None:
    with pytest.raises((SnowflakeUnavailable, ResultBlocked)):
        screen_part(part, "arrow", TEXT, screen)


def test_what_is_only_reported_on_passes_unread() -> None:
    screened = screen_part(b"x", "arrow", TEXT, REPORT)
    assert screened.content == b"x" and not screened.readable


@pytest.mark.parametrize("form", ["parquet", ""])
def test_an_unknown_form_is_refused_where_a_mask_binds(form: str) -> None:
    with pytest.raises(SnowflakeUnavailable):
        screen_part(stream(["x"]), form, TEXT, MASK)


def test_json_rows_keep_their_types() -> None:
    rowtype = [
        {"name": "T", "type": "text"},
        {"name": "N", "type": "fixed", "scale": 0},
        {"name": "D", "type": "fixed", "scale": 2},
        {"name": "V", "type": "variant"},
        {"name": "B", "type": "binary"},
        {"name": "S", "type": "timestamp_ntz", "scale": 9},
    ]
    card = "4242424242424242"
    rows = [
        [MAIL, card, card, json.dumps({"m": MAIL}), MAIL.encode().hex(), card + ".000000000"],
        [None, "7", "1.50", None, None, None],
    ]
    part = json.dumps(rows)[1:-1].encode()
    cut = json.loads(b"[" + screen_part(part, "json", rowtype, MASK).content + b"]")
    assert cut[0][:3] == ["[email]", None, card] and json.loads(cut[0][3]) == {"m": "[email]"}
    assert cut[0][4:] == ["", card + ".000000000"] and cut[1] == rows[1]


@pytest.mark.parametrize("part", [b"[1", b"1,2", b'["a","b"]', b'[{"a":1}]'])
def test_json_that_is_not_the_announced_rows_is_refused(part: bytes) -> None:
    with pytest.raises(SnowflakeUnavailable):
        screen_part(part, "json", TEXT, MASK)


def taken(screen: Screen, **data: Any) -> Any:
    answer = {"success": True, "data": {"rowtype": TEXT, "total": 1, **data}}
    return take_over(
        answer, session_id="s", statement_id="q", public_url="http://hoop", screen=screen
    )


def test_the_inline_part_and_its_recording_are_masked() -> None:
    encoded = base64.b64encode(stream([MAIL])).decode()
    result = taken(MASK, queryResultFormat="arrow", rowsetBase64=encoded)
    assert read(base64.b64decode(result.answer["data"]["rowsetBase64"])) == ["[email]"]
    assert read(result.inline) == ["[email]"]
    result = taken(MASK, queryResultFormat="json", rowset=[[MAIL]])
    assert result.answer["data"]["rowset"] == [["[email]"]] and read(result.inline) == ["[email]"]


@pytest.mark.parametrize("data", [{"queryResultFormat": "csv", "rowset": [["x"]]},
                                  {"queryResultFormat": "json", "rowset": [["x", "y"]]},
                                  {"queryResultFormat": "arrow", "rowsetBase64": "AAAA"}])  # fmt: skip
def test_an_inline_part_that_cannot_be_read_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(SnowflakeUnavailable):
        taken(MASK, **data)


# -- taint ------------------------------------------------------------------------------------------
T = TableName("D", "S", "T")


def verdict(*lineage: ColumnLineage) -> Verdict:
    masked = (MaskedColumn(T, "EMAIL", "null"),)
    decision = Decision(
        Outcome.ALLOW, (), (), masked, "", exposed=(MaskedColumn(T, "SSN", "null"),)
    )
    return Verdict(decision, None, None, lineage)


def test_an_output_is_tainted_by_the_protected_columns_it_depends_on() -> None:
    taints = taints_of(
        verdict(ColumnLineage("A", ((T, "EMAIL"), (T, "ID"))), ColumnLineage("B", ((T, "ID"),))),
        ["A", "B"],
    )
    assert taints.of(0, "A").sources == ("D.S.T.EMAIL",) and taints.of(1, "B").sources == ()


@pytest.mark.parametrize("outputs", [["A"], ["B", "A"], ["A", "B", "C"]])
def test_lineage_that_does_not_fit_taints_by_everything_protected(outputs: list[str]) -> None:
    taints = taints_of(verdict(ColumnLineage("A", ()), ColumnLineage("B", ())), outputs)
    for at, name in enumerate(outputs):
        assert taints.of(at, name).sources == ("D.S.T.EMAIL", "D.S.T.SSN")
        assert taints.of(at, name).unknown


def excepted(*sources: tuple[TableName, str], unknown: bool = False) -> frozenset[int]:
    shown = (MaskedColumn(T, "CARD", "null", "exception-1"), MaskedColumn(T, "SSN", "null"))
    decision = Decision(Outcome.ALLOW, (), (), (), "", exposed=shown)
    line = ColumnLineage("A", sources, unknown=unknown)
    return opened(Verdict(decision, None, None, (line,)), ["A"])


def test_only_what_is_certainly_an_excepted_column_is_open() -> None:
    assert excepted((T, "CARD")) == {0}
    assert excepted((T, "CARD"), (T, "NOTE")) == frozenset()
    assert excepted((T, "CARD"), unknown=True) == frozenset()
    assert excepted((T, "SSN")) == frozenset()  # shown by group, not by an approval
    assert excepted() == frozenset()


@pytest.mark.parametrize("screen", [MASK, BLOCK])
@pytest.mark.parametrize("form", ["arrow", "json"])
def test_an_open_column_is_reported_and_not_changed(screen: Screen, form: str) -> None:
    part = stream([MAIL, "x"]) if form == "arrow" else json.dumps([[MAIL], ["x"]])[1:-1].encode()
    shown = screen_part(part, form, TEXT, replace(screen, open=frozenset({0})))
    assert shown.content == part
    assert [(f.kind, f.values) for f in shown.findings] == [(Detector.EMAIL, 1)]


# -- the part's way to the client -------------------------------------------------------------------
class Upstream:
    """A part at its storage, which notes whether its connection was given back."""

    def __init__(self, content: bytes) -> None:
        self.content, self.closed = content, False
        self.packed, self.size = content[:2] == b"\x1f\x8b", len(content)

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self.content

    async def aclose(self) -> None:
        self.closed = True


class Storage:
    """Where the parts are; `opened` are those that were asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.opened: list[Upstream] = []

    async def part(self, _url: str, _headers: Mapping[str, str]) -> Any:
        self.opened.append(Upstream(self.content))
        return self.opened[-1]


def live() -> Live:
    async def nobody(_session: GuardedSession) -> Any:
        raise AssertionError

    guarded = GuardedSession(
        id="s", identity=Identity("i", "s", "n", (), "oidc", ""), role=RoleBinding("v", "R"),
        names=NameContext(), run=RunContext(), client={}, parameters={}, opened_at=datetime.now(UTC),
        open_upstream=nobody,
    )  # fmt: skip
    return Live(guarded, "m", "t", 1e12, 1e12)


def never_asked(_connection: Connection, exceptions: Collection[str]) -> None:
    raise AssertionError(f"the parts rest on no exception, and {exceptions} is asked about")


def deliver(log: AuditLog, tmp_path: Any, screen: Screen, part: bytes, *, gone: bool) -> Any:
    """Fetch one part as a client that stays, or that is gone before the first byte."""
    storage: Any = Storage(part)
    sent: list[Any] = []

    async def run() -> tuple[Any, Live]:
        chunks = ChunkSet("s", "q", "arrow", ("https://bucket.example/0",), {},
                          rowtype=tuple(TEXT), screen=screen)  # fmt: skip
        streamer = PartStreamer(
            lambda _account: storage,
            Recorder(str(tmp_path / "rec")),
            log,
            Screeners(),
            check_standing=never_asked,
        )
        client = live()
        response = await streamer.respond(chunks, 0, client, takes_gzip=True)

        async def send(message: Any) -> None:
            if gone:
                raise OSError("the client is gone")
            sent.append(message)

        async def receive() -> Any:
            await asyncio.sleep(0 if gone else 60)
            return {"type": "http.disconnect"}

        try:
            await response({"type": "http", "asgi": {"spec_version": "2.0"}}, receive, send)
        except BaseException as e:
            if not gone:
                raise
            assert "gone" in repr(e) or "Disconnect" in repr(e)
        return response, client

    response, client = asyncio.run(run())
    body = b"".join(m.get("body", b"") for m in sent)
    return response.status_code, body, storage.opened[0], client


@pytest.mark.parametrize("screen", [Screen(), REPORT, MASK])
def test_a_client_that_is_gone_before_the_first_byte_leaves_nothing_open(
    log: AuditLog, tmp_path: Any, screen: Screen
) -> None:
    _, _, upstream, client = deliver(log, tmp_path, screen, stream([MAIL]), gone=True)
    assert upstream.closed and client.busy == 0


def test_a_part_is_masked_on_its_way_and_in_its_recording(log: AuditLog, tmp_path: Any) -> None:
    status, body, upstream, _ = deliver(log, tmp_path, MASK, stream([MAIL]), gone=False)
    [recorded] = (tmp_path / "rec" / "s").iterdir()
    assert status == 200 and read(body) == ["[email]"] and recorded.read_bytes() == body
    assert upstream.closed


def test_a_client_that_leaves_at_the_last_byte_does_not_keep_it_from_the_log(
    log: AuditLog, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = PartStreamer.finish
    ends: list[bool] = []

    async def slowly(self: PartStreamer, *given: Any, complete: bool) -> None:
        reading.set()
        await asyncio.sleep(0.05)
        await finish(self, *given, complete=complete)
        ends.append(complete)

    monkeypatch.setattr(PartStreamer, "finish", slowly)
    reading = asyncio.Event()

    async def run() -> None:
        storage: Any = Storage(stream([MAIL]))
        chunks = ChunkSet("s", "q", "arrow", ("https://bucket.example/0",), {})
        streamer = PartStreamer(
            lambda _account: storage,
            Recorder(str(tmp_path / "rec")),
            log,
            Screeners(),
            check_standing=never_asked,
        )
        response = await streamer.respond(chunks, 0, live(), takes_gzip=True)

        async def send(_message: Any) -> None:
            return

        async def receive() -> Any:
            await reading.wait()  # all bytes are out, and their record is being written
            return {"type": "http.disconnect"}

        scope = {"type": "http", "asgi": {"spec_version": "2.0"}}
        await response(scope, receive, send)

    asyncio.run(run())
    assert ends == [True]


@pytest.mark.parametrize(("screen", "part"), [(BLOCK, stream([MAIL])), (MASK, b"broken")])
def test_a_withheld_part_sends_no_byte_of_itself(
    log: AuditLog, tmp_path: Any, screen: Screen, part: bytes
) -> None:
    status, body, upstream, _ = deliver(log, tmp_path, screen, part, gone=False)
    assert status == 410 and not json.loads(body)["success"]
    assert upstream.closed and MAIL.encode() not in body


# -- clients that do not read ------------------------------------------------------------------------
BIG = stream(["x" * 1000] * 2000)


class Reader:
    """A client that takes what is sent once it is let, or never."""

    def __init__(self) -> None:
        self.reads, self.waits = asyncio.Event(), asyncio.Event()

    async def send(self, _message: Any) -> None:
        self.waits.set()
        await self.reads.wait()


async def begin(
    streamer: PartStreamer, screen: Screen, client: Live, reader: Reader, part: bytes = BIG
) -> asyncio.Task[Any]:
    chunks = ChunkSet("s", "q", "arrow", ("https://bucket.example/0",), {}, keep=False,
                      rowtype=tuple(TEXT), screen=screen)  # fmt: skip
    response = await streamer.respond(chunks, 0, client, takes_gzip=True)

    async def receive() -> Any:
        await asyncio.sleep(600)

    task = asyncio.create_task(
        response({"type": "http", "asgi": {"spec_version": "2.0"}}, receive, reader.send)
    )
    if response.status_code == 200:
        await reader.waits.wait()
    return task


def streaming(
    log: AuditLog, tmp_path: Any, run: Any, room: Room, stalled: float = 60
) -> list[Upstream]:
    """`run` with a streamer whose upstreams are noted."""
    storage: Any = Storage(BIG)

    async def main() -> None:
        streamer = PartStreamer(
            lambda _account: storage,
            Recorder(str(tmp_path / "rec")),
            log,
            Screeners(room=room),
            stalled_seconds=stalled,
            check_standing=never_asked,
        )
        await run(streamer)

    asyncio.run(main())
    opened: list[Upstream] = storage.opened
    return opened


def test_a_screened_part_holds_its_room_until_it_was_read(log: AuditLog, tmp_path: Any) -> None:
    room = Room(3 * len(BIG), 2 * len(BIG) + 100, seconds=0.05)

    async def run(streamer: PartStreamer) -> None:
        client, slow = live(), Reader()
        parts = [await begin(streamer, MASK, client, slow) for _ in range(2)]
        assert room.taken == 2 * len(BIG)
        refused = await begin(streamer, MASK, client, Reader())
        refused.cancel()
        other = live()
        other.guarded.identity = replace(other.guarded.identity, subject="somebody else")
        parts.append(await begin(streamer, MASK, other, slow))
        assert room.taken == 3 * len(BIG)
        slow.reads.set()
        await asyncio.gather(*parts)
        assert room.taken == 0 and client.busy == other.busy == 0

    upstreams = streaming(log, tmp_path, run, room)
    assert len(upstreams) == 4 and all(u.closed for u in upstreams)


@pytest.mark.parametrize("screen", [Screen(), MASK])
def test_a_client_that_reads_nothing_is_dropped(
    log: AuditLog, tmp_path: Any, screen: Screen
) -> None:
    room = Room(3 * len(BIG), 2 * len(BIG), seconds=5)

    async def run(streamer: PartStreamer) -> None:
        client = live()
        await asyncio.wait_for(await begin(streamer, screen, client, Reader()), 30)
        assert room.taken == 0 and client.busy == 0

    [upstream] = streaming(log, tmp_path, run, room, stalled=0.05)
    assert upstream.closed


def test_a_part_that_waits_too_long_is_withheld_where_a_mask_binds_and_unread_where_none_does(
    log: AuditLog, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(*_given: Any) -> Any:
        raise ScreeningBusy("busy")

    monkeypatch.setattr(Screeners, "run", busy)
    for screen, status in [(MASK, 503), (BLOCK, 503), (REPORT, 200)]:
        got, body, upstream, _ = deliver(log, tmp_path, screen, stream([MAIL]), gone=False)
        assert got == status and (body == stream([MAIL])) == (status == 200) and upstream.closed


def test_a_part_that_rests_on_a_revoked_exception_is_withheld_and_on_record(
    log: AuditLog, tmp_path: Any
) -> None:
    def revoked(_connection: Connection, exceptions: Collection[str]) -> None:
        assert exceptions == ("apr_1",)
        raise ApprovalRefused("The masking exception apr_1 has ended.")

    async def run() -> Any:
        storage: Any = Storage(stream([MAIL]))
        streamer = PartStreamer(
            lambda _account: storage,
            Recorder(str(tmp_path / "rec")),
            log,
            Screeners(),
            check_standing=revoked,
        )
        chunks = ChunkSet("s", "q", "arrow", ("https://bucket.example/0",), {},
                          rowtype=tuple(TEXT), exceptions=("apr_1",))  # fmt: skip
        return await streamer.respond(chunks, 0, live(), takes_gzip=True)

    response = asyncio.run(run())
    assert response.status_code == 410 and MAIL.encode() not in response.body
    kinds = [e.kind for e in log.entries()]
    assert "result.part.withheld" in kinds and "result.part.begun" not in kinds
