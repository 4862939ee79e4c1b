"""The description of REST says what is served, and what is served is as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jsonschema
import pytest

from hoop_core.server.app import routes_of
from hoop_core.web.openapi import document
from tests.sign_in_world import gateway, new_ports, settings

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

BASE = "/hoop/v1"
DOCUMENT = document(BASE)


def schema_of(path: str, method: str, code: int) -> dict[str, Any]:
    found = DOCUMENT["paths"][path][method]["responses"][str(code)]["content"]["application/json"]
    return {**found["schema"], "components": DOCUMENT["components"]}


def test_every_reference_of_the_description_leads_somewhere() -> None:
    wanted = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)))
    assert wanted <= set(DOCUMENT["components"]["schemas"])


def test_every_address_of_the_api_is_described(tmp_path: Path) -> None:
    provider = {"issuer": "http://127.0.0.1:9", "audience": "hoop"}
    with gateway(settings(tmp_path, new_ports(1)[0], identity=[provider])) as made:
        routes = [r for r in routes_of(made) if r.path.startswith(BASE)]
    served = {(r.path, m.lower()) for r in routes for m in (r.methods or ()) if m != "HEAD"}
    described = {(p, m) for p, ways in DOCUMENT["paths"].items() for m in ways}
    assert served == described | {(f"{BASE}/openapi.json", "get")}


@pytest.mark.e2e
def test_answers_are_as_described(stack: DevStack) -> None:
    with httpx.Client(base_url=stack.info.gateway_url) as http:
        assert http.get(f"{BASE}/openapi.json").json() == DOCUMENT
        agent = {"Authorization": f"Bearer {stack.token('churn-agent')}"}
        owner = {"Authorization": f"Bearer {stack.token('alice')}"}
        sql = "DELETE FROM PROD.FEATURES.CHURN_STAGING WHERE 3 = 3"
        asked = http.post(f"{BASE}/approvals", json={"sql": sql}, headers=agent)
        identifier = asked.json()["id"]
        no = {"verdict": "reject", "reason": "no"}
        calls = [
            ("/approvals", "post", asked),
            ("/approvals", "get", http.get(f"{BASE}/approvals", headers=owner)),
            ("/approvals/{id}", "get", http.get(f"{BASE}/approvals/{identifier}", headers=owner)),
            (
                "/approvals/{id}/answers",
                "post",
                http.post(f"{BASE}/approvals/{identifier}/answers", json=no, headers=owner),
            ),
            (
                "/approvals/{id}/answers",
                "post",
                http.post(f"{BASE}/approvals/{identifier}/answers", json=no, headers=owner),
            ),
            ("/standing-approvals", "get", http.get(f"{BASE}/standing-approvals", headers=owner)),
            ("/masking-exceptions", "get", http.get(f"{BASE}/masking-exceptions", headers=owner)),
            ("/sessions", "get", http.get(f"{BASE}/sessions", headers=owner)),
            ("/approvals", "get", http.get(f"{BASE}/approvals")),
        ]
    assert [c[2].status_code for c in calls] == [201, 200, 200, 200, 409, 200, 200, 200, 401]
    for path, method, answer in calls:
        jsonschema.validate(answer.json(), schema_of(BASE + path, method, answer.status_code))
