"""Histories come from anywhere: whatever is in the file, reading it ends, with an error that says why."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from hoop_core.errors import ConfigError
from hoop_core.rehearsal import history
from hoop_core.rehearsal.history import read_history

LINE = json.dumps({"sql": "SELECT 1"}).encode() + b"\n"
MEMBER = "log/entries.jsonl"


def bundle(content: bytes, *, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as zipped:
        zipped.writestr(MEMBER, content)
    return made.getvalue()


def changed(raw: bytes, *, local: int, central: int, value: int) -> bytes:
    """The same bundle with a 16-bit field of its only member changed, in both of its headers."""
    found = bytearray(raw)
    for signature, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        at = found.index(signature) + offset
        found[at : at + 2] = value.to_bytes(2, "little")
    return bytes(found)


def cut_off(raw: bytes) -> bytes:
    """Garbage in the midst of the packed bytes."""
    found = bytearray(raw)
    start = found.index(MEMBER.encode()) + len(MEMBER)
    found[start : start + 12] = b"\xff" * 12
    return bytes(found)


PLAIN = bundle(LINE * 50)


@pytest.mark.parametrize(
    "raw",
    [
        changed(PLAIN, local=8, central=10, value=97),  # a method that nobody knows
        changed(PLAIN, local=6, central=8, value=1),  # encrypted
        changed(PLAIN, local=4, central=6, value=200),  # a version of the far future
        cut_off(PLAIN),
        cut_off(bundle(LINE * 50, method=zipfile.ZIP_BZIP2)),
        cut_off(bundle(LINE * 50, method=zipfile.ZIP_LZMA)),
        PLAIN.replace(MEMBER.encode(), b"log/entries.jsonX"),
        PLAIN[: len(PLAIN) // 3] + PLAIN[len(PLAIN) // 3 + 20 :],
    ],
    ids=["method", "encrypted", "version", "deflate", "bzip2", "lzma", "other-name", "shortened"],
)
def test_a_bundle_that_cannot_be_unpacked_is_a_config_error(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "h.zip"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"h\.zip"):
        list(read_history(path))


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_without_an_end_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr(history, "_MOST_IN_A_LINE", 1000)
    path = tmp_path / "h"
    path.write_bytes(bundle(LINE + b" " * 10**7) if packed else LINE + b" " * 10**7)
    found = read_history(path)
    assert next(found).sql == "SELECT 1"
    with pytest.raises(ConfigError, match="a line of more than 1,000 bytes"):
        next(found)


def test_a_device_that_never_ends_is_not_read_for_ever() -> None:
    with pytest.raises(ConfigError, match="a line of more than"):
        list(read_history(Path("/dev/zero")))


@pytest.mark.parametrize("packed", [False, True])
def test_a_small_bundle_does_not_stand_for_a_huge_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    most = 100
    monkeypatch.setattr(history, "_MOST_BYTES", most * len(LINE))
    path = tmp_path / "h"
    path.write_bytes(bundle(LINE * 100_000) if packed else LINE * 1_000)
    read = 0
    with pytest.raises(ConfigError, match="unpacked"):
        for _ in read_history(path):
            read += 1
    assert read == most


def test_a_history_within_bounds_is_read_from_a_file_and_from_a_bundle(tmp_path: Path) -> None:
    for name, raw in (("plain", LINE * 50), ("bundle", PLAIN)):
        (tmp_path / name).write_bytes(raw)
        assert len(list(read_history(tmp_path / name))) == 50
