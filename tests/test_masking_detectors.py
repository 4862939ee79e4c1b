"""Detectors: what they find, what looks alike and is not found, and what is left after redaction."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hoop_core.masking import checksums, detectors
from hoop_core.masking.detect import redact, scan
from hoop_core.model import Detector

EVERY = tuple(Detector)
FOUND = {
    Detector.EMAIL: [
        "jane@x.example", "mail JANE.DOE+tag@sub.x-y.example now", "jörg@müller.example", "<a@b.co>",
        "jane＠x.example", "jane@x.example.", "ja\u200bne@x.example",
    ],
    Detector.CARD: [
        "4242424242424242", "4242 4242 4242 4242", "4242-4242-4242-4242", "378282246310005",
        "3782 822463 10005", "card 5555555555554444 12/27", "6011111111111117", "30569309025904",
        "４２４２ ４２４２ ４２４２ ４２４２", "4242\u00a04242\u00a04242\u00a04242", "٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢",
        "4222222222222", "6304000000000000", "nr. 7 4242 4242 4242 4242 07", "卡号4242424242424242号",
    ],
    Detector.SSN: ["123-45-6789", "SSN: 078-05-1120.", "536 90 4399", "912-70-1234", "123\u201145\u20116789"],
    Detector.IBAN: [
        "DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB82 WEST 1234 5698 7654 32",
        "gb82west12345698765432", "to NO93 8601 1117 947 please", "FR14 2004 1010 0505 0001 3M02 606",
        "MT84MALT011000012345MTLCAST001S", "XX11 DE89 3704 0044 0532 0130 00",
    ],
    Detector.PHONE: [
        "+14155550112", "+1 415 555 0112", "+49 (0)30 123456", "(415) 555-0112", "415-555-0112",
        "1-415-555-0112", "01 42 68 53 00", "020 7946 0958", "0049 30 1234567", "call +44 20 7946 0958!",
    ],
    Detector.TOKEN: [
        "AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9, "github_pat_" + "x1" * 15, "xoxb-1234567890-abcdef",
        "sk_live_" + "4eC39HqLyjWD", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.s5Gf-_1",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\nMI",
        "password=hunter2hunter2", '"api_key": "a8f5f167f44f4964e6c998dee827110c"',
        "postgres://etl:s3cretpw@db.example/x",
    ],
}  # fmt: skip
NEAR = [
    "", "4242424242424241", "4242 4242 4242 4243", "1234567890123456", "0000000000000000", "x4242424242424242",
    "4242424242424242x", "0.4242424242424242", "42424242424242424242", "1700000000000000", "000-12-3456",
    "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "123-45-67890", "A123-45-6789", "123456789",
    "DE89370400440532013001", "DE8937040044053201300", "XX89370400440532013000", "@handle", "a@b", "a@b.c",
    "user at example", "2024-05-12 12:33:01", "2024-05-12T12:33:01.123456Z", "01-02-2024", "192.168.100.200",
    "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "+1", "+123", "9781234567", "12/27", "password: incorrect",
    "Password reset did not arrive", "AKIA", "sk_live_", "the token is gone", "https://example.com/a:b",
    "order 100200300400", "12,345,678.90", "v1.2.3-rc.4", "0x1234567890abcdef",
]  # fmt: skip
CASES = [(kind, text) for kind, texts in FOUND.items() for text in texts]


def kinds_in(text: str) -> set[Detector]:
    return set(detectors.find(pl.Series([text]), EVERY))


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_a_value_is_found_as_what_it_is(kind: Detector, text: str) -> None:
    assert kind in kinds_in(text)


@pytest.mark.parametrize("text", NEAR)
def test_what_only_looks_alike_is_left_alone(text: str) -> None:
    assert kinds_in(text) == set()


@pytest.mark.parametrize(("kind", "text"), CASES)
def test_nothing_is_found_in_what_was_redacted(kind: Detector, text: str) -> None:
    cut, _ = detectors.redact(pl.Series([text, text + " " + text, None]), EVERY)
    assert not detectors.find(cut, EVERY)
    assert cut[2] is None


def test_only_the_value_is_cut_out() -> None:
    texts = pl.Series(["to jane@x.example, now", "x 4242 4242 4242 4242 12/27", "no 123-45-6789!"])
    cut, _ = detectors.redact(texts, EVERY)
    assert cut.to_list() == ["to [email], now", "x [card] 12/27", "no [ssn]!"]


def test_a_text_without_a_find_keeps_its_look_alikes() -> None:
    texts = pl.Series(["０１２ – ok", None])
    assert detectors.redact(texts, EVERY)[0].to_list() == ["０１２ – ok", None]


def test_the_input_is_not_changed() -> None:
    texts = pl.Series(["jane＠x.example", "b"])
    detectors.redact(texts, EVERY)
    assert texts.to_list() == ["jane＠x.example", "b"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(
    st.text(max_size=30),
    st.lists(st.one_of(st.sampled_from([t for _, t in CASES]), st.text("0123456789 -@.+:", max_size=8)),
             max_size=5).map("".join),
), min_size=1, max_size=8))  # fmt: skip
def test_redacted_text_never_matches_again(texts: list[str]) -> None:
    cut, _ = detectors.redact(pl.Series(texts, dtype=pl.String), EVERY)
    assert len(cut) == len(texts)
    assert not detectors.find(cut, EVERY)


def luhn(number: str) -> bool:
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(number))]
    return sum(d // 10 + d % 10 for d in doubled) % 10 == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(4 * 10**15, 6 * 10**15 - 1), min_size=1, max_size=50))
def test_card_numbers_agree_with_a_plain_luhn(numbers: list[int]) -> None:
    import numpy as np

    right = checksums.card_numbers(np.array(numbers, np.uint64)).tolist()
    issued = [str(n)[0] == "4" or "51" <= str(n)[:2] <= "55" or str(n)[:2] in {"50", "56", "57", "58"}
              for n in numbers]  # fmt: skip
    assert right == [luhn(str(n)) and i for n, i in zip(numbers, issued, strict=True)]


@settings(max_examples=25, deadline=None)
@given(st.from_regex(r"[0-9]{18}", fullmatch=True), st.sampled_from([" ", "", "-"]))
def test_every_german_iban_is_found_in_any_grouping(body: str, mark: str) -> None:
    check = 98 - int(body + "131400") % 97
    iban = f"DE{check:02d}{body}"
    text = mark.join(iban[i : i + 4] for i in range(0, 22, 4))
    assert Detector.IBAN in kinds_in(f"x {text} y" if mark == "" else text)


# -- Arrow ------------------------------------------------------------------------------------------
MAIL = "jane@x.example"
CARD = 4242424242424242
TYPED: dict[str, Any] = {
    "string": pa.array([MAIL, None, "x"]),
    "large": pa.array([MAIL, None, "x"], pa.large_string()),
    "view": pa.array([MAIL, None, "x"], pa.string_view()),
    "dictionary": pa.array([MAIL, None, MAIL]).dictionary_encode(),
    "binary": pa.array([MAIL.encode(), None, b"\xff\x00"]),
    "integer": pa.array([CARD, None, 5]),
    "decimal": pa.array([Decimal(CARD), None, Decimal(-5)], pa.decimal128(38, 0)),
    "real": pa.array([float(CARD), None, float("inf")]),
    "list": pa.array([[MAIL, "k"], None, []]),
    "struct": pa.array([{"a": MAIL, "b": CARD}, None, {"a": None, "b": 1}]),
    "map": pa.array([[("k", MAIL)], None, []], pa.map_(pa.string(), pa.string())),
    "fixed_list": pa.array([[MAIL], None, ["q"]], pa.list_(pa.string(), 1)),
    "deep": pa.array([[{"a": [MAIL]}], None, [None]]),
    "plain": pa.array(["a", None, "b"]),
    "flag": pa.array([True, None, False]),
}


def batch_of(columns: dict[str, Any], **metadata: str) -> Any:
    fields = [pa.field(n, a.type, metadata={"k": "v", **metadata}) for n, a in columns.items()]
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=pa.schema(fields))


@pytest.mark.parametrize("name", TYPED)
@pytest.mark.parametrize("cut", [(0, 3), (0, 2), (1, 4), (2, 3)])
def test_every_type_keeps_its_type_nulls_and_length(name: str, cut: tuple[int, int]) -> None:
    column = TYPED[name]
    doubled = pa.concat_arrays([column, column])
    batch = batch_of({name: doubled.slice(cut[0], cut[1])})
    clean, found = redact(batch, EVERY)
    clean.validate(full=True)
    assert clean.schema.equals(batch.schema, check_metadata=True)
    for at, (old, new) in enumerate(zip(batch.column(0), clean.column(0), strict=True)):
        cut_number = name in {"integer", "decimal", "real"} and (at + cut[0]) % 3 == 0
        assert new.is_valid == (old.is_valid and not cut_number)
    assert MAIL not in str(clean.to_pylist()) and str(CARD) not in str(clean.to_pylist())
    assert scan(clean, EVERY) == ()
    assert found == scan(batch, EVERY)
    if name in {"plain", "flag"}:
        assert clean is batch


def test_chunked_columns_are_counted_together() -> None:
    batch = batch_of({"a": TYPED["string"]})
    table, found = redact(pa.Table.from_batches([batch, batch.slice(1), batch]), EVERY)
    assert table.column(0).to_pylist().count("[email]") == 2
    assert [(f.column, f.name, f.kind, f.values) for f in found] == [(0, "a", Detector.EMAIL, 2)]


def test_repeated_values_are_counted_by_row() -> None:
    batch = batch_of({"a": pa.array([MAIL, "x", None, "y"] * 2_000)})
    clean, [found] = redact(batch, EVERY)
    assert found.values == 2_000 and clean.column(0).to_pylist()[:4] == ["[email]", "x", None, "y"]


def test_a_dictionary_value_that_no_row_uses_is_not_counted() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, None]), pa.array(["x", MAIL]))
    assert scan(batch_of({"a": column}), EVERY) == ()


def test_the_declared_length_is_kept() -> None:
    clean, _ = redact(batch_of({"a": pa.array(["a@b.co"])}, charLength="6"), EVERY)
    assert clean.column(0).to_pylist() == ["[email"]


def test_a_column_without_nulls_shows_zero_for_a_card_number() -> None:
    schema = pa.schema([pa.field("n", pa.int64(), nullable=False)])
    batch = pa.RecordBatch.from_arrays([pa.array([CARD, 7])], schema=schema)
    assert redact(batch, EVERY)[0].column(0).to_pylist() == [0, 7]


def test_scaled_integers_and_moments_are_no_card_numbers() -> None:
    scaled = batch_of({"n": pa.array([CARD])}, logicalType="FIXED", scale="2")
    moment = pa.array([{"epoch": CARD, "fraction": 0}])
    timed = batch_of({"t": moment}, logicalType="TIMESTAMP_NTZ", scale="9")
    assert scan(scaled, EVERY) == () == scan(timed, EVERY)


def test_json_text_stays_json() -> None:
    told = {"m": f"hi\n{MAIL}", "n": [1.5, CARD, None, True], MAIL: {"k": "4242 4242 4242 4242"}}
    texts = pa.array([json.dumps(told, indent=2), None, "undefined " + MAIL, '{"a": 1}'])
    clean, _ = redact(batch_of({"v": texts}, logicalType="VARIANT"), EVERY)
    first, nothing, broken, same = clean.column(0).to_pylist()
    assert json.loads(first) == {
        "m": "hi\n[email]",
        "n": [1.5, "[card]", None, True],
        "[email]": {"k": "[card]"},
    }
    assert nothing is None and json.loads(broken) == "[hidden]" and same == '{"a": 1}'


def test_only_the_kinds_asked_for_are_cut() -> None:
    batch = batch_of({"a": pa.array([f"{MAIL} 4242424242424242"])})
    clean, found = redact(batch, [Detector.CARD], [Detector.EMAIL])
    assert clean.column(0).to_pylist() == [f"{MAIL} [card]"]
    assert {f.kind for f in found} == {Detector.CARD, Detector.EMAIL}


def test_a_long_column_is_the_sum_of_its_slices() -> None:
    texts = [f"note {i}" for i in range(300_000)]
    at = [0, 131_071, 131_072, 299_999]
    for i in at:
        texts[i] = f"to {MAIL}"
    cut, found = detectors.redact(pl.Series(texts), EVERY)
    assert found[Detector.EMAIL].arg_true().to_list() == at
    assert cut.gather(at).to_list() == ["to [email]"] * 4 and cut[1] == "note 1"


REPORTED = "-----BEGIN PRIVATE KEY----- "


@pytest.mark.parametrize("kind", [k for k in EVERY if k is not Detector.TOKEN])
def test_what_is_only_reported_hides_nothing_from_what_binds(kind: Detector) -> None:
    batch = batch_of({"a": pa.array([REPORTED + FOUND[kind][0]])})
    clean, found = redact(batch, [kind], EVERY)
    assert FOUND[kind][0] not in clean.column(0)[0].as_py()
    assert kind in {f.kind for f in found}
    blocked = redact(batch, [], EVERY, blocks=[kind])[1]
    assert kind in {f.kind for f in blocked}


def test_letters_of_other_scripts_do_not_upset_the_check_of_an_iban() -> None:
    texts = [f"\u212a{i} DE89370400440532013000" for i in range(3)] + [
        "K\u017f99 1234 5678 9012 3456"
    ]
    batch = batch_of({"a": pa.array(texts)})
    assert [f.kind for f in scan(batch, [Detector.IBAN])] == [Detector.IBAN]


# What a caller may repeat in one value of 400 kB: the time goes by its length, whatever it is.
REPEATED = (
    "DE12 ", "DE12", "DE12-", "XX11 ", "DE89 3704 0044 0532 0130 00 ", "DE89370400440532013000 ", "A1 ", "4111 ",
    "4", "4-", "4111 1111 1111 1111 ", "4111111111111111 ", "1 ", "a@", "a.", "a@a.aa", "a@a.", "+49 ", "+1", "01 ",
    "(", "00 1 ", "123-45-", "123-45-6789 ", "eyJ.", "eyJ", "eyJaaaaaaaa.", "-----BEGIN ",
    "-----BEGIN PRIVATE KEY-----", "password=", "password=a", "password='a1", "token: ", "://a:", "://a:bbb@", "AKIA",
    "sk-", "SG.", "\u00a0", "\u200b1", "\uff14", "\u00e9@", "1\u20111", "[card]4", '{"a":', '"a": "',
)  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", REPEATED)
def test_a_huge_value_takes_time_by_its_length(unit: str) -> None:
    text = unit * (400_000 // len(unit.encode())) + " jane@x.example"
    cut, _ = detectors.redact(pl.Series([text]), EVERY)
    assert "jane" not in cut[0]


def test_a_run_is_looked_at_in_blocks_and_nothing_is_lost_between_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    iban, card = "DE89 3704 0044 0532 0130 00", "4242 4242 4242 4242"
    for block in (64, 100, 333, 1 << 18):
        monkeypatch.setattr(checksums, "_BLOCK", block)
        ibans = pl.Series([f"XX11 {'AB12 ' * n}{iban} 7{' 12' * n}" for n in range(60)])
        assert not checksums.without_ibans(ibans).str.contains("0532").any()
        cards = pl.Series([f"{'7 ' * n}{card}{' 07' * n} 1" for n in range(60)])
        assert not checksums.without_cards(cards).str.contains("4242 4242").any()


_PIECES = st.sampled_from([t for kind in FOUND.values() for t in kind if t.isascii()] + NEAR)


@given(
    st.lists(
        st.none()
        | st.lists(_PIECES | st.text(st.characters(codec="ascii")), max_size=3).map(" ".join),
        max_size=4,
    )
)
def test_the_quick_look_at_a_few_texts_misses_nothing(texts: list[str | None]) -> None:
    possible = detectors.possible(texts, EVERY)
    found = detectors.find(pl.Series(texts, dtype=pl.String), EVERY)
    assert possible is None or possible.issuperset(found)
    if possible is not None:
        plain = detectors.find(pl.Series(texts, dtype=pl.String), possible, plain=True)
        assert {k: v.to_list() for k, v in plain.items()} == {
            k: v.to_list() for k, v in found.items()
        }


def test_numbers_alone_are_not_given_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "find", None)
    assert scan(pa.table({"n": ["12.5", None, "2026", "EU"]}), EVERY) == ()
