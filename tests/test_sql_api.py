"""The SQL API's forms alone: requests read, partitions rewritten, the clock of a statement."""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast
from unittest.mock import AsyncMock, MagicMock
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from hoop_core.config import LimitSettings
from hoop_core.errors import (
    HoopError,
    IdentityError,
    NotServed,
    PolicyDenied,
    SnowflakeUnavailable,
)
from hoop_core.gateway.sessions import Live
from hoop_core.gateway.shelves import Running
from hoop_core.gateway.sql_api import Caller, Kept, SqlApi, _time_out
from hoop_core.gateway.sql_api_answers import NoSuchStatement, result_set, shown
from hoop_core.gateway.sql_api_parts import as_partition
from hoop_core.gateway.sql_api_requests import (
    handle_for,
    read_handle,
    read_submission,
    session_of,
    token_of,
)
from hoop_core.gateway.wire import failure, takes_gzip
from hoop_core.http import BadRequest
from hoop_core.model import Identity, Json, NameContext, RoleBinding, RunContext
from hoop_core.session.guarded import GuardedSession, Progress, Stage

ANN = Identity("https://idp", "ann", "Ann", ("eng",), "oidc", "d1")
COLUMNS: tuple[Json, ...] = ({"name": "A", "type": "text"}, {"name": "B", "type": "boolean"})


def request(query: str = "", **headers: str) -> Request:
    given = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    return Request(
        {"type": "http", "method": "POST", "headers": given, "query_string": query.encode()}
    )


# ------------------------------------------------------------------ requests


def test_a_handle_is_the_callers_and_the_requests_own() -> None:
    others = [
        handle_for(replace(ANN, subject="bob"), "r"),
        handle_for(replace(ANN, issuer="https://other"), "r"),
        handle_for(replace(ANN, actors=("https://idp#bot",)), "r"),
        handle_for(ANN, "r2"),
    ]
    mine = handle_for(replace(ANN, groups=("more",), token_digest="d2"), "r")
    assert mine == handle_for(ANN, "r") and mine not in others and len(set(others)) == 4
    assert read_handle(mine.upper()) == mine
    assert session_of(mine) == "ses_" + mine.replace("-", "")


@pytest.mark.parametrize("text", ["", "x", "{" + handle_for(ANN, "r") + "}", "0" * 32])
def test_only_a_uuid_in_its_own_form_is_a_handle(text: str) -> None:
    assert read_handle(text) is None


def test_two_authorizations_are_none() -> None:
    twice = Request(
        {"type": "http", "headers": [(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")]}
    )  # fmt: skip
    with pytest.raises(IdentityError, match="no token"):
        token_of(twice)


def test_what_is_said_makes_the_difference_for_a_retry() -> None:
    body: Json = {"statement": "SELECT 1", "database": "PROD"}
    said = [
        read_submission(request(), body).said,
        read_submission(request("async=true"), body).said,
        read_submission(request("nullable=false"), body).said,
        read_submission(request(snowflake_account="other"), body).said,
        read_submission(request(), body | {"role": "R"}).said,
    ]
    assert len(set(said)) == 5
    assert read_submission(request("retry=true&requestId=r"), dict(body)).said == said[0]


def test_names_are_taken_as_they_are_stored() -> None:
    body: Json = {"statement": "SELECT 1", "database": "prod", "schema": 'a"b', "role": None}
    assert read_submission(request(), body).options == {
        "databaseName": '"prod"',
        "schemaName": '"a""b"',
    }


@pytest.mark.parametrize(
    "parameters",
    [{"SEARCH_PATH": "x"}, {"QUERY_TAG": ["x"]}, {"QUERY_TAG": "x" * 5000}, {"QUERY_TAG": None}],
)
def test_a_parameter_is_set_or_refused(parameters: Json) -> None:
    with pytest.raises(BadRequest):
        read_submission(request(), {"statement": "SELECT 1", "parameters": parameters})


def test_no_timeout_is_the_longest() -> None:
    read = read_submission(request(), {"statement": "SELECT 1", "timeout": 0})
    assert read.timeout == read.parameters["STATEMENT_TIMEOUT_IN_SECONDS"] == 604_800


@pytest.mark.parametrize(
    ("header", "taken"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("*", True), ("gzip;q=0", False), ("br", False)],
)
def test_gzip_is_for_those_who_ask_for_it(header: str, taken: bool) -> None:
    assert takes_gzip(request(accept_encoding=header)) is taken


# ------------------------------------------------------------------ partitions

ROWS = st.lists(
    st.tuples(st.none() | st.text(), st.sampled_from([None, "0", "1", "true", "FALSE"])), max_size=8
)


def read_back(
    content: bytes, cuts: list[int], *, nullable: bool = True, gzipped: bool = False
) -> bytes:
    async def pieces() -> AsyncIterator[bytes]:
        at = 0
        for cut in sorted({c % (len(content) + 1) for c in cuts}):
            yield content[at:cut]
            at = cut
        yield content[at:]

    async def whole() -> bytes:
        made = as_partition(
            StreamingResponse(pieces()), COLUMNS, nullable=nullable, gzipped=gzipped
        )
        assert isinstance(made, StreamingResponse)
        return b"".join([cast(bytes, p) async for p in made.body_iterator])

    read = asyncio.run(whole())
    return zlib.decompress(read, wbits=31) if gzipped else read


@given(ROWS, st.lists(st.integers(0, 10_000), max_size=6), st.booleans(), st.booleans())
@example([('"],["\\', "1"), ("]", None)], [3, 5, 9], True, True)
def test_a_partition_holds_the_parts_rows_wherever_it_is_cut(
    rows: list[tuple[str | None, str | None]], cuts: list[int], nullable: bool, gzipped: bool
) -> None:
    given_rows = [list(r) for r in rows]
    content = json.dumps(given_rows, ensure_ascii=False, separators=(",", ":"))[1:-1].encode(
        "utf-8", "surrogatepass"
    )
    read = read_back(content, cuts, nullable=nullable, gzipped=gzipped)
    wanted = shown(given_rows, COLUMNS, nullable=nullable)
    assert json.loads(read.decode("utf-8", "surrogatepass")) == {"data": wanted}


@pytest.mark.parametrize(
    "content", [b'["a","1"', b'["a"]', b'["a","1"]x', b'["a","1"],{}', b'["a",[1]]']
)
def test_what_are_no_rows_is_cut_off(content: bytes) -> None:
    with pytest.raises(SnowflakeUnavailable):
        read_back(content, [])


@pytest.mark.parametrize(("status", "told"), [(503, 503), (410, 422)])
def test_an_error_in_the_place_of_a_part_is_one_of_the_api(status: int, told: int) -> None:
    error = JSONResponse(failure(NotServed("withheld")), status)
    made = as_partition(error, COLUMNS, nullable=True, gzipped=False)
    assert made.status_code == told and json.loads(bytes(made.body))["message"] == "withheld"


def test_a_result_in_another_form_is_not_taken_for_rows() -> None:
    answer = {"data": {"queryResultFormat": "arrow", "rowsetBase64": "AAAA"}}
    with pytest.raises(SnowflakeUnavailable):
        result_set(cast(Running, None), "r", answer, nullable=True)


def stats(names: list[str], row: list[str]) -> Any:
    rowtype = [{"name": n, "type": "fixed"} for n in names]
    running = Running(cast(Any, None), handle_for(ANN, "r"), "", False, asyncio.Event(), Progress())
    data = {"rowtype": rowtype, "rowset": [row], "total": 1}
    made: Response = result_set(running, "r", {"data": data}, nullable=True)
    return json.loads(bytes(made.body)).get("stats")


@pytest.mark.parametrize("given", ['a" , <https://evil.example>; rel="next', "é€", "a&partition=9"])
def test_a_request_id_ends_no_address_and_no_header(given: str) -> None:
    running = cast(Running, MagicMock(statement_id="h", begun_at=1.0))
    made = result_set(running, given, {"data": {"rowset": []}}, nullable=True)
    first, last = made.headers["link"].split(", ")
    assert first.endswith('&partition=0>; rel="first"')
    assert last.endswith('&partition=0>; rel="last"')
    assert parse_qs(urlsplit(first[1:].partition(">")[0]).query)["requestId"] == [given]
    assert json.loads(bytes(made.body))["requestId"] == given


def test_a_merge_is_counted_and_a_query_is_not() -> None:
    told = stats(["number of rows inserted", "number of rows updated"], ["3", "4"])
    assert (told["numRowsInserted"], told["numRowsUpdated"], told["numRowsDeleted"]) == (3, 4, 0)
    assert stats(["A"], ["3"]) is None


# ------------------------------------------------------------------ the clock


@pytest.mark.parametrize(
    ("stage", "out"), [(Stage.RUNNING, True), (Stage.HELD, False), (Stage.DECIDED, False)]
)
def test_only_time_at_snowflake_counts(stage: Stage, out: bool) -> None:
    async def body() -> bool:
        running = Running(cast(Any, None), "id", "", False, asyncio.Event(), Progress(stage))
        running.task = asyncio.create_task(asyncio.sleep(0.6))
        kept = Kept(cast(Any, None), running, "", "r", True)
        await _time_out(kept, 0.05)
        return kept.timed_out and running.abandoned.is_set()

    assert asyncio.run(body()) is out


# ------------------------------------------------------------------ whose


def an_api(kept: int = 0) -> tuple[SqlApi, list[Kept], MagicMock]:
    """The API with so many finished statements of Ann's, all told."""
    book = MagicMock()
    api = SqlApi(
        MagicMock(limits=LimitSettings()), AsyncMock(), book, MagicMock(), MagicMock(),
        forwarding=MagicMock(), guard=MagicMock(),
    )  # fmt: skip
    made = []
    for number in range(kept):
        session = GuardedSession(
            id=f"ses_{number}", identity=ANN, role=RoleBinding("v", "R"), names=NameContext(),
            run=RunContext(), client={}, parameters={}, opened_at=datetime.now(UTC),
            open_upstream=cast(Any, None), single=True,
        )  # fmt: skip
        live = Live(session, "m", "t", 1e12, 1e12)
        running = Running(live, str(number), "", False, asyncio.Event(), Progress())
        running.ended_at = 1.0
        one = Kept(live, running, "", "r", True, told=True)
        api._kept[str(number)] = api._of_caller[ANN.key][session.id] = one
        made.append(one)
    return api, made, book


@pytest.mark.parametrize(
    ("caller", "error"),
    [
        (replace(ANN, subject="bob"), NoSuchStatement),
        (replace(ANN, actors=("https://idp#bot",)), NoSuchStatement),
        (replace(ANN, groups=("eng", "more")), PolicyDenied),
        (replace(ANN, claims={"region": "EU"}), PolicyDenied),
    ],
)
def test_only_the_caller_as_it_was_hears_of_a_statement(
    caller: Identity, error: type[HoopError]
) -> None:
    api, (kept,), _ = an_api(1)
    asyncio.run(api._check(kept, Caller(ANN, "t", {})))
    with pytest.raises(error):
        asyncio.run(api._check(kept, Caller(caller, "t", {})))
    cast(AsyncMock, api._sign_in).refused.assert_awaited_once()


def test_the_oldest_fetched_results_make_room_and_no_other() -> None:
    api, made, book = an_api(201)
    made[1].running.ended_at = None  # under way
    made[2].told = False  # ended just now, and nobody knows
    made[2].live.last_used = time.monotonic()
    api._make_room(ANN)
    closed = [call.args[0] for call in book.close_soon.call_args_list]
    assert closed == [made[0].live, made[3].live]
    api._make_room(replace(ANN, subject="bob"))
    assert len(book.close_soon.call_args_list) == 2
    for kept in made:
        api.forget(kept.live)
    assert not api._kept and not api._of_caller
