"""The check at the end of a stack finds what it looks for."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hoop_core.audit.recording import rowset_to_arrow
from tests.stack_checked import leaks

VALUES = frozenset({b"901-02-0003", b"4242421234567890"})


def result(*values: str) -> bytes:
    return rowset_to_arrow([{"name": "A"}], [[v] for v in values])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("00001-part-00000.arrow", result("900-01-0002", "901-02-0003", "902-03-0004")),
        ("00001-part-00000.arrow", result("1234", "4242421234567890", "99")),
        ("st-part-00001-1.json.gz", gzip.compress(b'["901-02-0003"]', mtime=0)),
        ("00001-exchange.json", b'{"token": "eyJhbGciOiJSUzI1.eyJzdWIiOiJhbm5h.x"}'),
        ("00001-exchange.json", b"-----BEGIN PRIVATE KEY-----"),
        ("00001-exchange.json", b"https://b.s3.amazonaws.com/x?X-Amz-Signature=abc"),
        ("own.db", b"hvs.CAESIJ0123456789012345678901234567"),
    ],
)
def test_a_secret_or_a_protected_value_is_found_and_not_quoted(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    [found] = leaks(tmp_path, VALUES)
    assert found.startswith(name) and "901-02" not in found and "eyJ" not in found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("00001-part-00000.arrow", result("************1111", "***@example.com", "900-01-0002")),
        ("00001-exchange.json", b'{"sql": "SELECT 1 WHERE SSN = \'901-02-0003\'"}'),
    ],
)
def test_masked_values_and_what_a_caller_wrote_are_none(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    assert leaks(tmp_path, VALUES) == []
