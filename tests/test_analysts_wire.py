"""What a worker says is believed only in the form that it must have."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hoop_core.analysts import process, wire
from hoop_core.analysts.pool import Analysts
from hoop_core.analysts.wire import Answer, Says
from hoop_core.config import AnalysisSettings
from hoop_core.model import (
    ApprovalTerms,
    ColumnLineage,
    Decision,
    Kind,
    MaskedColumn,
    NameContext,
    Outcome,
    Reason,
    Statement,
    TableName,
    Verdict,
)
from tests.analysts_world import JOIN, POLICY, asked, code, known, runs

T = TableName("D", "S", 'odd "name"')
VERDICT = Verdict(
    Decision(
        Outcome.REQUIRE_APPROVAL,
        (Reason("A", "é"),),
        ("r",),
        (MaskedColumn(T, "C", "null"),),
        "digest",
        ApprovalTerms(("owners",), 2, timedelta(hours=24), timedelta(seconds=1.5)),
    ),
    Statement("", Kind.MERGE, NameContext("D", None), (T,), (), ("F",), {"x": True, "n": 1}, "f"),
    "SELECT 1",
    (ColumnLineage("o", ((T, "C"),), unknown=True),),
    ((T, ("C",)),),
    7,
)


def test_an_answer_arrives_as_it_was_sent() -> None:
    answer = Answer(Says.VERDICT, (T,), VERDICT, 99)
    back = wire.from_json(Answer, wire.to_json(answer))
    assert back == answer
    assert back.verdict is not None and back.verdict.statement is not None
    assert type(back.verdict.statement.facts["x"]) is bool
    assert type(back.verdict.decision.outcome) is Outcome


class _Evil:
    def __reduce__(self) -> Any:
        return os.system, ("false",)


@pytest.mark.parametrize(
    "frame",
    [
        pickle.dumps(_Evil()),
        pickle.dumps(Answer(Says.READY)),
        b"",
        b"null",
        b"[]",
        b'["ready"]',
        b'["other",[],null,0]',
        b'["ready",[],null,0,1]',
        b'["ready",{},null,0]',
        b'["ready",[],null,true]',
        b'["ready",[],null,1.0]',
        b'["ready",[["D","S"]],null,0]',
        b'["ready",[["D","S",["x"]]],null,0]',
        b'["verdict",[],{"decision":1},0]',
        b"[" * 100_000,
        b"1" * 10_000,
        b"\xff\xfe",
    ],
)
def test_a_frame_of_another_form_is_refused(frame: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.from_json(Answer, frame)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_value_changed_anywhere_is_refused_or_still_of_its_type(data: st.DataObject) -> None:
    plain = json.loads(wire.to_json(Answer(Says.VERDICT, (T,), VERDICT, 99)))
    spot: Any = plain
    while True:
        at = data.draw(st.integers(0, len(spot) - 1))
        if isinstance(spot, dict):
            at = list(spot)[at]
        if not isinstance(spot[at], list | dict) or not spot[at] or data.draw(st.booleans()):
            break
        spot = spot[at]
    spot[at] = data.draw(_JSON)
    try:
        answer = wire.from_json(Answer, json.dumps(plain).encode())
    except wire.WireError:
        return
    assert json.loads(wire.to_json(answer)) == plain
    again = wire.from_json(Answer, wire.to_json(answer))
    assert again == answer and repr(again) == repr(answer)


def test_what_has_no_form_on_the_wire_cannot_be_declared() -> None:
    with pytest.raises(TypeError):
        wire.decoder(dict[int, str])
    with pytest.raises(TypeError):
        wire.decoder(object)


_FALSE_WORKER = """
import pickle, os, socket, struct, sys
pipe = socket.socket(fileno=int(sys.argv[1]))

def say(payload):
    pipe.sendall(struct.pack("!I", len(payload)) + payload)

def hear():
    size = struct.unpack("!I", pipe.recv(4))[0]
    while size:
        size -= len(pipe.recv(size))

class Evil:
    def __reduce__(self):
        return os.mkdir, ({mark!r},)

say(b'["ready",[],null,0]')
hear()
say(b'["loaded",[],null,0]')
hear()
{then}
pipe.recv(1)
"""


def _says(
    outcome: Outcome = Outcome.ALLOW,
    *,
    digest: str = POLICY.digest,
    text: str | None = "DROP TABLE T",
    wanted: tuple[TableName, ...] = (),
) -> str:
    verdict = Verdict(Decision(outcome, (), (), (), digest), None, text)
    return f"say({wire.to_json(Answer(Says.VERDICT, wanted, verdict))!r})"


@pytest.mark.parametrize(
    "then",
    [
        "say(pickle.dumps(Evil()))",
        "say(b'[]')",
        f"say({wire.to_json(Answer(Says.VERDICT))!r})",
        f"say({wire.to_json(Answer(Says.LOADED))!r})",
        _says(digest="another"),
        _says(text=None),
        _says(Outcome.DENY),
        _says(wanted=(T,)),
        'pipe.sendall(struct.pack("!I", 2**32 - 1))',
        "pipe.sendall(b'xx'); pipe.close(); sys.exit()",
        "os.abort()",
    ],
)
def test_a_worker_that_was_taken_over_can_only_be_denied(
    then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, program = tmp_path / "mark", tmp_path / "false_worker.py"
    program.write_text(_FALSE_WORKER.format(mark=str(mark), then=then))
    monkeypatch.setattr(process, "_PROGRAM", program)

    async def go() -> None:
        analysts = Analysts(AnalysisSettings(workers=1, started=1))
        analysts.start(POLICY)
        try:
            judged = await analysts.judge(asked(JOIN), known)
        finally:
            await analysts.close()
        assert code(judged) == "ANALYSIS_FAILED" and judged.verdict.rewritten is None
        assert not mark.exists()
        assert len(analysts.cache) == 0

    runs(go)


def test_a_worker_that_wants_objects_forever_is_denied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    then = (
        "for i in range(1_000_000):\n"
        '    say(b\'["wanted",[["D","S","T%d"]],null,0]\' % i)\n'
        "    hear()\n"
    )
    program = tmp_path / "false_worker.py"
    program.write_text(_FALSE_WORKER.format(mark="", then=then))
    monkeypatch.setattr(process, "_PROGRAM", program)

    async def go() -> None:
        analysts = Analysts(AnalysisSettings(workers=1, started=1))
        analysts.start(POLICY)
        try:
            assert code(await analysts.judge(asked(JOIN), known)) == "TOO_MANY_READS"
        finally:
            await analysts.close()

    asyncio.run(go())
