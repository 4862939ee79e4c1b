"""A gateway tells a receiver of what was asked at another one."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from hoop_core.client import GivenToken, HoopClient

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e

KEY = "whsec_" + base64.b64encode(b"e" * 32).decode()
SQL = "CREATE TABLE PROD.FEATURES.NOTIFIED AS SELECT 'a literal' AS ONE"


@pytest.fixture
def came() -> Iterator[tuple[int, list[tuple[dict[str, str], bytes]]]]:
    found: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            found.append((dict(self.headers.items()), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server.server_port, found
        server.shutdown()
        thread.join()


def test_people_hear_of_a_request_and_of_its_answer(
    stack: DevStack, came: tuple[int, list[tuple[dict[str, str], bytes]]]
) -> None:
    from standardwebhooks.webhooks import Webhook

    port, found = came
    channel = {
        "name": "hook",
        "kind": "webhook",
        "url": f"http://127.0.0.1:{port}/",
        "secrets_env": "HOOK_SECRETS",
        "approvers": ["data-owners"],
    }
    told = stack.replica(
        "teller", {"HOOP_NOTIFICATIONS": json.dumps([channel]), "HOOK_SECRETS": KEY}
    )
    told.start()
    try:
        with HoopClient(stack.info.gateway_url, GivenToken(stack.token("churn-agent"))) as agent:
            asked = agent.request_approval(SQL)
        assert asked is not None
        with HoopClient(stack.info.gateway_url, GivenToken(stack.token("alice"))) as alice:
            alice.answer(asked.id, "reject", "not this quarter")
        wanted = ["approval.requested", "approval.decided"]
        contents = _until(found, asked.id, wanted)
        scraped = httpx.get(f"{told.url}/metrics").text
    finally:
        told.part.stop()
    for headers, body in found:
        Webhook(KEY).verify(body, headers)
        assert b"a literal" not in body
    request, decision = contents
    assert request["data"]["writes"] == ["PROD.FEATURES.NOTIFIED"]
    assert request["data"]["url"].endswith(f"/approvals/{asked.id}")
    assert decision["data"]["outcome"] == "rejected"
    assert decision["data"]["answers"][0]["reason"] == "not this quarter"
    assert 'hoop_notifications_total{channel="hook",outcome="sent"}' in scraped


def _until(
    found: list[tuple[dict[str, str], bytes]], approval: str, types: list[str]
) -> list[dict[str, Any]]:
    """What came about one approval, once all of it is there."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        contents = [json.loads(body) for _, body in list(found)]
        mine = [c for c in contents if c["data"]["approval"] == approval]
        if [c["type"] for c in mine] == types:
            return mine
        time.sleep(0.05)
    raise AssertionError(f"only {[c['type'] for c in mine]} came")
