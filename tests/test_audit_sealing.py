"""Encrypted recordings: what was written comes back, and nothing else does."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hoop_core.audit.sealing import PIECE, Sealer, opened
from hoop_core.errors import EvidenceError

KEY, PATH = bytes(range(32)), "ses_1/00001-part-00000.arrow"
HEADER, TAG = 47, 16


def sealed(*pieces: bytes, key: bytes = KEY, path: str = PATH) -> bytes:
    sealer = Sealer(key, path)
    return b"".join([*map(sealer.seal, pieces), sealer.end()])


SIZES = st.sampled_from([0, 1, 15, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 7])


@given(st.lists(SIZES, max_size=4))
def test_what_was_sealed_in_pieces_of_any_size_comes_back(sizes: list[int]) -> None:
    pieces = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    stored = sealed(*pieces)
    assert opened(KEY, PATH, stored) == b"".join(pieces)
    total = sum(sizes)
    assert len(stored) == HEADER + total + TAG * max(1, -(-total // PIECE))


def test_nothing_of_the_content_stands_in_what_is_stored() -> None:
    canary = b"anna@example.com " * 10_000
    stored = sealed(canary)
    assert not any(canary[:n] in stored for n in (8, 17))


def test_the_same_content_is_stored_in_other_bytes_each_time() -> None:
    assert sealed(b"same") != sealed(b"same")


CONTENT = os.urandom(3 * PIECE + 100)
STORED = sealed(CONTENT)
STEP = PIECE + TAG
PIECES = [STORED[HEADER:][at : at + STEP] for at in range(0, len(STORED) - HEADER, STEP)]
HEAD = STORED[:HEADER]
OTHER = sealed(CONTENT)


@pytest.mark.parametrize(
    "stored",
    [
        STORED[:-1],
        STORED + b"x",
        HEAD + b"".join(PIECES[:-1]),
        HEAD + b"".join(PIECES[:1]),
        HEAD + b"".join(PIECES[1:]),
        HEAD + b"".join([PIECES[1], PIECES[0], *PIECES[2:]]),
        HEAD + b"".join([PIECES[0], PIECES[0], *PIECES[2:]]),
        HEAD + b"".join([*PIECES, PIECES[-1]]),
        HEAD + b"".join([PIECES[0], OTHER[HEADER:][STEP : 2 * STEP], *PIECES[2:]]),
        OTHER[:HEADER] + b"".join(PIECES),
        HEAD,
        b"",
        CONTENT,
    ],
    ids=[
        *("cut by a byte", "a byte more", "without the last piece", "the first piece alone"),
        *("without the first piece", "two exchanged", "one repeated", "the last one twice"),
        *("a piece of another file", "the head of another file", "no piece", "empty", "plain"),
    ],
)
def test_a_changed_file_does_not_open(stored: bytes) -> None:
    with pytest.raises(EvidenceError):
        opened(KEY, PATH, stored)


@given(st.integers(0, len(STORED) * 8 - 1))
def test_one_changed_bit_anywhere_is_found(bit: int) -> None:
    changed = bytearray(STORED)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(EvidenceError):
        opened(KEY, PATH, bytes(changed))


def test_a_file_under_another_name_or_with_another_key_does_not_open() -> None:
    for key, path in ((KEY, "ses_2/00001-part-00000.arrow"), (bytes(32), PATH)):
        with pytest.raises(EvidenceError) as told:
            opened(key, path, STORED)
        assert path in told.value.message


def test_an_error_names_neither_key_nor_content() -> None:
    with pytest.raises(EvidenceError) as told:
        opened(KEY, PATH, sealed(b"anna@example.com", key=bytes(32)))
    assert "anna" not in told.value.text and KEY.hex() not in told.value.text
