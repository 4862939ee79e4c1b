"""Values behind the escapes of JSON are found and cut out, whatever type the column has."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hoop_core.errors import ResultBlocked
from hoop_core.masking import escapes
from hoop_core.masking.screen import screen_arrow, screen_rows
from hoop_core.model import Detector, Screen

VALUES = {
    Detector.SSN: "123-45-6789",
    Detector.CARD: "4111 1111 1111 1111",
    Detector.IBAN: "DE89370400440532013000",
    Detector.PHONE: "(212) 555-0187",
    Detector.TOKEN: "AKIAIOSFODNN7EXAMPLE",
    Detector.EMAIL: "jane@example.org",
}
ESCAPES = [
    r"\n",
    r"\t",
    r"\r",
    r"\b",
    r"\f",
    r"\/",
    r"\"",
    r"\\",
    r"\u0020",
    r"\u000a",
    r"\u00A0",
    r"\u200b ",
]
ALL = Screen(masks=frozenset(Detector))


def arrow(texts: list[str], kind: str) -> bytes:
    field = pa.field("V", pa.string(), metadata={"logicalType": kind, "charLength": "16777216"})
    batch = pa.record_batch([pa.array(texts)], schema=pa.schema([field]))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def column(
    texts: list[str], form: str, kind: str, screen: Screen = ALL
) -> tuple[list[str], dict[Detector, int]]:
    """A column of `texts` as the client sees it, and how many of them hold what."""
    if form == "json":
        told = [{"name": "V", "type": kind.lower(), "length": 16777216}]
        rows, found = screen_rows([[t] for t in texts], told, screen)
        return [str(r[0]) for r in rows], {f.kind: f.values for f in found}
    part = screen_arrow(arrow(texts, kind), screen)
    shown = pa.ipc.open_stream(part.content).read_all().column(0).to_pylist()
    return shown, {f.kind: f.values for f in part.findings}


def screened(
    text: str, form: str, kind: str, screen: Screen = ALL
) -> tuple[str, dict[Detector, int]]:
    shown, found = column([text], form, kind, screen)
    return shown[0], found


@pytest.mark.parametrize("form", ["json", "arrow"])
@pytest.mark.parametrize("logical", ["VARIANT", "OBJECT", "ARRAY", "TEXT"])
@pytest.mark.parametrize("kind", VALUES)
def test_a_value_behind_any_escape_is_cut_out(kind: Detector, logical: str, form: str) -> None:
    value = VALUES[kind]
    texts = ['{"note":"see' + escape + value + escape + 'ok"}' for escape in ESCAPES]
    texts.append('{"k\\n' + value + '": 1}')
    assert all(value in str(json.loads(text)) for text in texts)
    shown, found = column(texts, form, logical)
    assert found[kind] == len(texts)
    assert not any(value in text for text in shown)
    if logical != "TEXT":  # a text stays a text, JSON stays JSON
        assert not any(value in str(json.loads(text)) for text in shown)


@pytest.mark.parametrize("kind", VALUES)
def test_only_the_leaf_with_the_value_changes(kind: Detector) -> None:
    text = json.dumps({"a": f"see\n{VALUES[kind]}\nok", "b": "x\ty", "n": [1.5, None]})
    shown, _ = screened(text, "json", "VARIANT")
    assert json.loads(shown) == {"a": f"see\n[{kind}]\nok", "b": "x\ty", "n": [1.5, None]}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6])
def test_json_within_json_is_seen_too(kind: Detector, depth: int) -> None:
    text = "see\n" + VALUES[kind] + "\nok"
    for _ in range(depth):
        text = json.dumps({"v": text})
    shown, found = screened(text, "arrow", "VARIANT")
    assert kind in found and VALUES[kind] not in shown


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("text", [r"undefined\n{}\n", r'{{"a":"\n{}\n"', r"\x\n{}\q", "\\n{}\\"])
def test_what_is_no_json_is_read_all_the_same(kind: Detector, text: str) -> None:
    for logical in ("VARIANT", "TEXT"):
        shown, found = screened(text.format(VALUES[kind]), "json", logical)
        assert kind in found and VALUES[kind] not in shown


def test_a_blocked_value_behind_an_escape_is_blocked() -> None:
    with pytest.raises(ResultBlocked):
        screened(r'{"n":"key\nAKIAIOSFODNN7EXAMPLE"}', "json", "OBJECT",
                 Screen(blocks=frozenset({Detector.TOKEN})))  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [r'"\ud83d"', r'{"a":"\udc00\n4111 1111 1111 1111"}', '"\\ud83d\\ude00\\n4111111111111111"'],
)
def test_halves_of_characters_stop_nothing(text: str) -> None:
    shown, _ = screened(text, "arrow", "VARIANT")
    assert "4111" not in shown


def test_deep_json_is_hidden_and_not_refused() -> None:
    deep = '{"a":' * 5000 + '"4111 1111 1111 1111"' + "}" * 5000
    assert json.loads(screened(deep, "arrow", "VARIANT")[0]) == "[hidden]"
    digits = "9" * 6000
    shown = screened('{"n": ' + digits + ', "c": "4111 1111 1111 1111"}', "arrow", "VARIANT")[0]
    assert "4111 1111" not in shown


@settings(max_examples=60, deadline=None)
@given(st.recursive(
    st.text(max_size=12), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
), st.sampled_from(list(VALUES)), st.text("\n\t\r\b\f \"/,;\u00a0", min_size=1, max_size=3), st.booleans())  # fmt: skip
def test_no_value_survives_in_any_json(
    value: Any, kind: Detector, before: str, ascii_only: bool
) -> None:
    text = json.dumps([value, f"see{before}{VALUES[kind]}{before}ok"], ensure_ascii=ascii_only)
    shown, found = screened(text, "arrow", "ARRAY")
    assert kind in found
    assert VALUES[kind] not in str(json.loads(shown))


def test_text_without_a_backslash_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    find = escapes.detectors.find

    def counted(texts: pl.Series, *rest: Any, **named: Any) -> Any:
        looked.append(len(texts))
        return find(texts, *rest, **named)

    monkeypatch.setattr(escapes.detectors, "find", counted)
    escapes.find(pl.Series(['{"a": "b"}'] * 2000), tuple(Detector))
    assert looked == [2000]
    escapes.find(pl.Series([*['{"a": "b"}'] * 1999, r'{"a": "\n"}']), tuple(Detector))
    assert looked[1:] == [2000, 1]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", ["\\", "\\n", "\\u0041", "\\\\n", '{"a":', '["', '\\"', "\\ud800"])
def test_a_megabyte_of_escapes_takes_its_length(unit: str) -> None:
    text = unit * ((1 << 20) // len(unit)) + " 4111 1111 1111 1111"
    assert "4111 1111" not in screened(text, "json", "VARIANT")[0]
