"""Results: what Snowflake answers is taken over, and only the harmless part of it goes on."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pyarrow as pa
import pytest

from hoop_core.errors import NotServed
from hoop_core.results.answers import CHUNK_HEADER, TakenOver, take_over

URL = "https://bucket.example/part?signature=SECRET"


def taken(**data: Any) -> TakenOver:
    answer = {"success": True, "data": {"rowtype": [{"name": "A"}], "total": 3, **data}}
    return take_over(answer, session_id="s", statement_id="q", public_url="http://hoop")


def test_presigned_addresses_and_their_keys_stay_behind() -> None:
    result = taken(
        queryResultFormat="arrow",
        chunks=[{"url": URL, "rowCount": 3, "uncompressedSize": 9}],
        chunkHeaders={"x-key": "KEY"},
        qrmk="QRMK",
    )
    shown = json.dumps(result.answer)
    assert not any(secret in shown for secret in ("SECRET", "bucket", "KEY", "QRMK"))
    assert result.answer["data"]["chunks"] == [
        {"rowCount": 3, "uncompressedSize": 9, "url": "http://hoop/hoop/chunks/s/q/0"}
    ]
    assert result.chunks is not None
    assert result.chunks.urls == (URL,) and result.chunks.headers == {"x-key": "KEY"}
    assert "SECRET" not in repr(result.chunks) and "KEY" not in repr(result.chunks)


def test_a_part_is_given_only_for_its_secret() -> None:
    result = taken(queryResultFormat="arrow", chunks=[{"url": URL}])
    assert result.chunks is not None
    assert result.chunks.admits(result.answer["data"]["chunkHeaders"][CHUNK_HEADER])
    assert not result.chunks.admits("") and not result.chunks.admits("é")


def test_an_encryption_key_goes_upstream_as_headers() -> None:
    result = taken(queryResultFormat="json", rowset=[], chunks=[{"url": URL}], qrmk="K")
    assert result.chunks is not None
    assert set(result.chunks.headers.values()) == {"AES256", "K"}


@pytest.mark.parametrize("field", ["stageInfo", "src_locations", "presignedUrl"])
def test_addresses_of_stages_are_refused(field: str) -> None:
    with pytest.raises(NotServed):
        taken(**{field: {"creds": {"AWS_SECRET_KEY": "x"}}})


def test_unknown_fields_do_not_pass() -> None:
    assert "somethingNew" not in taken(somethingNew=URL).answer["data"]


def test_a_json_result_is_recorded_as_arrow() -> None:
    result = taken(queryResultFormat="json", rowset=[["1"], [None], ["ü"]])
    table = pa.ipc.open_stream(result.inline).read_all()
    assert table.to_pydict() == {"A": ["1", None, "ü"]}


def test_an_arrow_result_is_recorded_as_it_came() -> None:
    stream = b"arrow bytes"
    encoded = base64.b64encode(stream).decode()
    assert taken(queryResultFormat="arrow", rowsetBase64=encoded).inline == stream


# -- how much of it is kept ------------------------------------------------------------------------
ROWS = [["1"], ["2"], ["3"], ["4"]]
PARTS = [{"url": URL, "rowCount": n} for n in (10, 20, 40)]


def recorded(rows: int | None, *, keep: bool = True) -> TakenOver:
    data = {"rowtype": [{"name": "A"}], "total": 74, "rowset": ROWS, "chunks": PARTS}
    return take_over(
        {"success": True, "data": data}, session_id="s", statement_id="q", public_url="http://hoop",
        keep=keep, rows_recorded=rows,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "first", "parts"),
    [
        (None, 4, None),
        (0, 0, 0),
        (3, 3, 0),
        (4, 4, 0),
        (5, 4, 1),
        (14, 4, 1),
        (15, 4, 2),
        (999, 4, 3),
    ],
)
def test_the_first_rows_are_kept_and_behind_the_first_part_whole_parts(
    rows: int | None, first: int, parts: int | None
) -> None:
    taken_over = recorded(rows)
    kept = pa.ipc.open_stream(taken_over.inline).read_all().num_rows if taken_over.inline else 0
    assert taken_over.chunks is not None
    assert (kept, taken_over.chunks.kept_parts) == (first, parts)
    assert taken_over.answer["data"]["rowset"] == ROWS


@pytest.mark.parametrize("rows", [0, 3])
def test_what_is_not_kept_whole_has_the_digest_of_what_was_shown(rows: int) -> None:
    whole = recorded(None)
    assert whole.digest is None
    told = {"size": len(whole.inline), "sha256": hashlib.sha256(whole.inline).hexdigest()}
    assert recorded(rows).digest == told


def test_of_rows_that_must_not_be_kept_there_is_no_digest_either() -> None:
    """A digest of few possible values would tell which one it was."""
    assert recorded(0, keep=False).digest is None


def test_a_result_that_cannot_be_read_is_not_kept_where_rows_are_counted() -> None:
    broken = base64.b64encode(b"no arrow").decode()
    data = {"rowtype": [{"name": "A"}], "queryResultFormat": "arrow", "rowsetBase64": broken}
    found = take_over(
        {"success": True, "data": data}, session_id="s", statement_id="q", public_url="http://hoop",
        rows_recorded=3,
    )  # fmt: skip
    assert found.inline == b"" and found.digest is not None


def test_parameters_that_did_not_change_are_worked_out_once() -> None:
    def of(zone: str) -> object:
        data = {"rowtype": [], "rowset": [], "parameters": [{"name": "TIMEZONE", "value": zone}]}
        taken = take_over(
            {"success": True, "data": data}, session_id="s", statement_id="i", public_url="u"
        )
        return taken.answer["data"]["parameters"]

    utc, berlin = of("UTC"), of("Europe/Berlin")
    assert {"name": "TIMEZONE", "value": "Europe/Berlin"} in berlin  # type: ignore[operator]
    assert {"name": "TIMEZONE", "value": "UTC"} in utc  # type: ignore[operator]
    assert of("UTC") is utc and of("Europe/Berlin") is berlin
