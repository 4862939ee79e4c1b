"""The REST client: what it sends, what it makes of answers, and of errors."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from hoop_core.client import Approval, ApprovalStatus, GatewayAddress, GivenToken, HoopClient
from hoop_core.client.rest import MOST_LISTED
from hoop_core.errors import (
    ApprovalRefused,
    ConfigError,
    GatewayUnavailable,
    HoopError,
    IdentityError,
    NotServed,
    PolicyDenied,
    Refused,
    StatementRefused,
    StoreUnavailable,
    Unavailable,
)
from hoop_core.model import RunContext

RUN = RunContext("airflow", {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": "-1"})
PERSON = {"issuer": "https://id", "subject": "1", "name": "churn-agent", "groups": ["ml-agents"]}
APPROVAL: dict[str, Any] = {
    "id": "apr_1",
    "status": "pending",
    "requester": PERSON,
    "kind": "delete",
    "sql": "DELETE FROM T",
    "rewritten": "DELETE FROM T",
    "parameters": None,
    "reasons": [{"code": "UNBOUNDED", "message": "no WHERE"}],
    "rules": ["unbounded-change"],
    "reads": [],
    "writes": ["PROD.FEATURES.T"],
    "masked": [{"table": "PROD.CRM.CUSTOMERS", "column": "SSN", "mask": "null"}],
    "approvers": ["data-owners"],
    "quorum": 2,
    "answers": [],
    "created_at": "2026-01-01T00:00:00+00:00",
    "pending_until": "2026-01-02T00:00:00Z",
    "valid_until": None,
    "consumed_at": None,
    "run": {"orchestrator": "airflow", "fields": dict(RUN.fields)},
    "session_id": None,
    "fingerprint": "ab",
}


def yes(subject: str) -> dict[str, Any]:
    return {
        "approver": {**PERSON, "subject": subject},
        "verdict": "approve",
        "reason": "",
        "at": "2026-01-01T00:01:00+00:00",
    }


def client(answer: Callable[[httpx.Request], httpx.Response]) -> HoopClient:
    return HoopClient(
        "https://hoop.test", GivenToken("a.b.c"), transport=httpx.MockTransport(answer)
    )


def test_a_request_carries_the_token_the_statement_and_the_run() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(201, json=APPROVAL)

    with client(answer) as hoop:
        approval = hoop.request_approval(
            "DELETE FROM T", database="PROD", schema="FEATURES", run=RUN, purpose="churn"
        )
    assert approval is not None
    assert approval.status is ApprovalStatus.PENDING
    assert approval.run == RUN
    assert str(seen[0].url) == "https://hoop.test/hoop/v1/approvals"
    assert seen[0].headers["Authorization"] == "Bearer a.b.c"
    assert json.loads(seen[0].content) == {
        "sql": "DELETE FROM T",
        "parameters": None,
        "database": "PROD",
        "schema": "FEATURES",
        "role": None,
        "context": {"orchestrator": "airflow", **RUN.fields, "purpose": "churn"},
        "session_parameters": {},
    }


def test_a_statement_that_needs_no_approval_gives_none() -> None:
    with client(lambda _: httpx.Response(200, json={"status": "not_required"})) as hoop:
        assert hoop.request_approval("SELECT 1") is None


def test_missing_answers_count_distinct_persons() -> None:
    body = {**APPROVAL, "answers": [yes("alice"), yes("alice")]}
    with client(lambda _: httpx.Response(200, json=body)) as hoop:
        assert hoop.approval("apr_1").missing == 1


def test_the_list_is_filtered_by_run_even_if_the_gateway_does_not() -> None:
    other = {**APPROVAL, "id": "apr_2", "run": {"orchestrator": "airflow", "fields": {}}}
    with client(lambda _: httpx.Response(200, json={"approvals": [other, APPROVAL]})) as hoop:
        assert [a.id for a in hoop.approvals(run={"dag_id": "d", "run_id": "r"})] == ["apr_1"]
        assert len(hoop.approvals("pending")) == 2


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("approvals", HoopClient.approvals),
        ("standing_approvals", HoopClient.standing_approvals),
        ("masking_exceptions", HoopClient.masking_exceptions),
    ],
)
def test_a_list_is_read_page_after_page(
    name: str, listed: Callable[..., tuple[Approval, ...]]
) -> None:
    asked: list[dict[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        number = len(asked)
        entries = [{**APPROVAL, "id": f"apr_{number}", "cut": True}] if number != 2 else []
        following = f"c{number}" if number < 3 else None
        return httpx.Response(200, json={name: entries, "next": following})

    with client(answer) as hoop:
        found = listed(hoop, "pending")
    assert [(a.id, a.cut) for a in found] == [("apr_1", True), ("apr_3", True)]
    pending = {"status": "pending"}
    assert asked == [pending, {**pending, "before": "c1"}, {**pending, "before": "c2"}]


def test_a_list_without_an_end_is_read_to_a_bound() -> None:
    sent = 0

    def endless(_: httpx.Request) -> httpx.Response:
        nonlocal sent
        sent += 1
        return httpx.Response(200, json={"approvals": [APPROVAL] * 150, "next": "again"})

    with client(endless) as hoop:
        assert len(hoop.approvals()) == MOST_LISTED == 2000
    assert sent == 14


def test_an_id_cannot_lead_to_another_path() -> None:
    paths: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.raw_path)
        return httpx.Response(200, json=APPROVAL)

    with client(answer) as hoop:
        hoop.approval("../sessions/x?y")
    assert paths == [b"/hoop/v1/approvals/..%2Fsessions%2Fx%3Fy"]


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (401, "IDENTITY", IdentityError),
        (401, "TOKEN_EXPIRED", IdentityError),
        (403, "POLICY", PolicyDenied),
        (403, "APPROVAL", ApprovalRefused),
        (404, "NOT_SERVED", NotServed),
        (409, "ALREADY_ANSWERED", ApprovalRefused),
        (400, "MULTIPLE_STATEMENTS", StatementRefused),
        (400, "CONFIG", ConfigError),
        (503, "STORE_UNAVAILABLE", StoreUnavailable),
        (503, "SOMETHING", Unavailable),
        (418, "TEAPOT", Refused),
        (500, "ERROR", Unavailable),
    ],
)
def test_an_error_answer_becomes_the_exception_of_its_kind(
    status: int, reason: str, kind: type[HoopError]
) -> None:
    body = {"error": {"reason": reason, "message": "What happened.", "hint": "What to do."}}
    with (
        client(lambda _: httpx.Response(status, json=body)) as hoop,
        pytest.raises(HoopError) as caught,
    ):
        hoop.approval("apr_1")
    assert type(caught.value) is kind
    assert caught.value.reason == reason
    assert str(caught.value) == "What happened. What to do."


@pytest.mark.parametrize("status", [500, 502, 504])
def test_an_answer_of_a_proxy_is_an_unavailable_gateway(status: int) -> None:
    with (
        client(lambda _: httpx.Response(status, text="<html>")) as hoop,
        pytest.raises(GatewayUnavailable, match=str(status)),
    ):
        hoop.sessions()


def test_a_redirect_is_not_followed_with_the_token() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(302, headers={"Location": "https://evil.test/"})

    with client(answer) as hoop, pytest.raises(Refused, match="302"):
        hoop.sessions()
    assert asked == ["hoop.test"]


@pytest.mark.parametrize("body", ["[]", '{"id": "x"}', '"text"', "not json", "{}"])
def test_an_answer_of_another_server_is_no_approval(body: str) -> None:
    with (
        client(lambda _: httpx.Response(200, text=body)) as hoop,
        pytest.raises(GatewayUnavailable),
    ):
        hoop.approval("apr_1")


def test_a_proxy_of_the_environment_is_not_used_for_this_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"sessions": []}')

    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            with HoopClient(url, GivenToken("a.b.c")) as client:
                assert client.sessions() == ()
        finally:
            server.shutdown()
            thread.join()


def test_no_connection_says_where_and_what_to_do() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with (
        client(answer) as hoop,
        pytest.raises(GatewayUnavailable, match=r"https://hoop\.test.*hoop serve"),
    ):
        hoop.approvals()
    assert "a.b.c" not in repr(hoop)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://hoop.example.com", "https://hoop.example.com"),
        ("hoop.example.com:8443/", "https://hoop.example.com:8443"),
        ("http://127.0.0.1:8750", "http://127.0.0.1:8750"),
        ("http://[::1]:80", "http://[::1]"),
    ],
)
def test_an_address_is_read(text: str, url: str) -> None:
    assert GatewayAddress.parse(text).url == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://x",
        "https://",
        "https://u:p@x",
        "https://x/path",
        "https://x?q",
        "https://x:99999",
        "https://xy12345.eu-central-1.snowflakecomputing.com",
        "SNOWFLAKECOMPUTING.COM",
    ],
)
def test_an_address_with_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GatewayAddress.parse(text)
    assert "u:p" not in str(caught.value)


def test_a_token_is_not_sent_in_clear_to_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="in clear"):
        GatewayAddress.parse("http://hoop.example.com")
    monkeypatch.setenv("HOOP_UNSAFE_PLAINTEXT", "1")
    assert GatewayAddress.parse("http://hoop.example.com").protocol == "http"
