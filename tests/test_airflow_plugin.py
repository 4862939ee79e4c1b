"""The plugin's pages: who sees what, and that foreign text stays text."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

if "AIRFLOW_HOME" not in os.environ:
    _HOME = tempfile.TemporaryDirectory(prefix="hoop-test-airflow-")
    os.environ["AIRFLOW_HOME"] = _HOME.name
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

pytest.importorskip("airflow")

from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient
from lxml import html

from hoop_airflow import pages, plugin
from hoop_core.client import HoopClient

pytestmark = pytest.mark.airflow

HOSTILE = "</code></pre><script>alert(1)</script>\u202e"


def approval(number: int, dag_id: str = "churn", status: str = "pending", **more: Any) -> Any:
    fields = {"dag_id": dag_id, "run_id": "r", "task_id": "build", "map_index": "-1"}
    person = {"issuer": "https://id", "subject": "a", "name": f"agent {HOSTILE}", "groups": []}
    return {
        "id": f"apr_{number}",
        "status": status,
        "requester": person,
        "kind": "delete",
        "sql": f"DELETE FROM T{number} {HOSTILE}",
        "writes": [f"A.B.T{number}"],
        "approvers": ["data-owners"],
        "quorum": 1,
        "created_at": f"2026-01-01T00:00:0{number}+00:00",
        "run": {"orchestrator": "airflow", "fields": {**fields, **more}},
        "reasons": [{"code": "APPROVAL_REQUIRED", "message": f"why {HOSTILE}"}],
    }


class Hoop:
    def __init__(self) -> None:
        self.approvals: list[Any] = []
        self.asked: list[dict[str, str]] = []
        self.down = False

    def handle(self, request: httpx.Request) -> httpx.Response:
        assert request.method == "GET"  # the plugin changes nothing
        if self.down:
            raise httpx.ConnectError("refused")
        query = dict(request.url.params)
        self.asked.append(query)
        status = query.get("status")
        found = [a for a in self.approvals if status in {None, a["status"]}]
        return httpx.Response(200, json={"approvals": found})


@pytest.fixture
def hoop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hoop:
    token = tmp_path / "token"
    token.write_text("secret.of.job")
    connection = {
        "conn_type": "hoop_snowflake",
        "host": "https://hoop.test",
        "extra": {"token_file": str(token)},
    }
    monkeypatch.setenv("AIRFLOW_CONN_HOOP_DEFAULT", json.dumps(connection))
    made = Hoop()
    monkeypatch.setattr(
        pages,
        "HoopClient",
        lambda gateway, source, **_: HoopClient(
            gateway, source, transport=httpx.MockTransport(made.handle)
        ),
    )
    manager = SimpleNamespace(get_authorized_dag_ids=lambda user: {"churn"})
    monkeypatch.setattr(pages, "get_auth_manager", lambda: manager)
    return made


@pytest.fixture
def client(hoop: Hoop) -> Iterator[TestClient]:
    app = pages.application()
    app.dependency_overrides[get_user] = lambda: SimpleNamespace(name="alice")
    yield TestClient(app)


def test_the_inbox_shows_the_requests_of_dags_that_the_user_may_read(
    hoop: Hoop, client: TestClient
) -> None:
    hoop.approvals = [
        approval(1),
        approval(2, dag_id="payroll"),
        approval(3, status="consumed"),
    ]
    text = client.get("/inbox").text
    assert "DELETE FROM T1" in text
    assert "A.B.T3" in text
    assert "T2" not in text


def test_a_request_that_is_no_airflows_is_not_shown(hoop: Hoop, client: TestClient) -> None:
    other = approval(1)
    other["run"]["orchestrator"] = "dagster"
    hoop.approvals = [other]
    assert "T1" not in client.get("/inbox").text


@pytest.mark.parametrize("index", ["-1", "%7BMAP_INDEX%7D"])
def test_the_tab_shows_what_the_task_and_its_run_asked_for(
    hoop: Hoop, client: TestClient, index: str
) -> None:
    hoop.approvals = [approval(1), approval(2, task_id="other")]
    text = client.get(f"/task/churn/r/build/{index}").text
    assert text.index("DELETE FROM T1") < text.index("Other tasks of this run")
    assert text.index("Other tasks of this run") < text.index("DELETE FROM T2")
    assert hoop.asked == [{"dag_id": "churn", "run_id": "r"}]


def test_the_tab_of_a_dag_that_the_user_may_not_read_says_nothing(
    hoop: Hoop, client: TestClient
) -> None:
    hoop.approvals = [approval(1, dag_id="payroll")]
    answer = client.get("/task/payroll/r/build/-1")
    assert answer.status_code == 403
    assert hoop.asked == []
    assert "T1" not in answer.text


@pytest.mark.parametrize("path", ["/inbox", "/task/churn/r/build/-1"])
def test_foreign_text_stays_text(hoop: Hoop, client: TestClient, path: str) -> None:
    hoop.approvals = [approval(1)]
    answer = client.get(path)
    page = html.fromstring(answer.text)
    assert len(page.findall(".//script")) == 1
    [code] = page.findall(".//pre/code")
    assert code.text == "DELETE FROM T1 </code></pre><script>alert(1)</script>⟦U+202E⟧"
    assert [a.get("href") for a in page.findall(".//a")] == ["https://hoop.test/approvals/apr_1"]


def test_what_may_pass_for_another_letter_is_named_above_the_statement(
    hoop: Hoop, client: TestClient
) -> None:
    hoop.approvals = [{**approval(1), "sql": "DELETE FROM T WHERE N = 'p\u0430y\u05d0\ufe0f'"}]
    text = client.get("/task/churn/r/build/-1").text
    named = "Not ASCII in it: \u0430 U+0430 CYRILLIC SMALL LETTER A (1×)"
    assert text.index(named) < text.index("p\u0430y⟦U+05D0⟧⟦U+FE0F⟧")


def test_a_page_may_stand_in_airflows_frames_only_and_load_nothing(client: TestClient) -> None:
    headers = client.get("/inbox").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert "unsafe" not in policy
    assert headers["cache-control"] == "no-store"


def test_when_hoop_is_down_the_page_says_so(hoop: Hoop, client: TestClient) -> None:
    hoop.down = True
    answer = client.get("/inbox")
    assert answer.status_code == 502
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "connection", ['{"conn_type": "snowflake", "password": "s3cret"}', None], ids=["other", "none"]
)
def test_a_connection_that_does_not_lead_to_hoop_is_not_used(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, connection: str | None
) -> None:
    if connection is None:
        monkeypatch.delenv("AIRFLOW_CONN_HOOP_DEFAULT")
    else:
        monkeypatch.setenv("AIRFLOW_CONN_HOOP_DEFAULT", connection)
    answer = client.get("/inbox")
    assert answer.status_code == 502
    assert "s3cret" not in answer.text


def test_who_is_not_signed_in_sees_nothing(hoop: Hoop) -> None:
    from fastapi import HTTPException

    def nobody() -> None:
        raise HTTPException(401, "Not authenticated")

    app = pages.application()
    app.dependency_overrides[get_user] = nobody
    hoop.approvals = [approval(1)]
    answer = TestClient(app).get("/inbox")
    assert answer.status_code == 401
    assert "T1" not in answer.text


def test_airflow_takes_the_plugin() -> None:
    from airflow.api_fastapi.core_api.datamodels.plugins import ExternalViewResponse
    from airflow.plugins_manager import is_valid_plugin

    assert is_valid_plugin(plugin.HoopPlugin)
    views = [ExternalViewResponse(**v) for v in plugin.HoopPlugin.external_views]
    assert [v.destination for v in views] == ["nav", "task_instance"]
    assert views[1].href == "/hoop/task/{DAG_ID}/{RUN_ID}/{TASK_ID}/{MAP_INDEX}"
