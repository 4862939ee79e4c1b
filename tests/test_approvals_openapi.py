"""The description of REST says what is served, and what is served is as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import jsonschema
import pytest

from hoop_core.web.openapi import document

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


def test_every_address_of_the_api_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    web = Path(__file__).parents[1] / "core/hoop_core/web"
    api, airflow = ((web / name).read_text() for name in ("api.py", "airflow.py"))
    served = {(p, v.lower()) for v, p in re.findall(r'\("(GET|POST)", "([^"]+)"', api)}
    served |= {(f"/airflow{p}", "post") for p in re.findall(r'f"\{base\}(/\w+)"', airflow)}
    described = {(p.removeprefix(BASE), m) for p, ways in DOCUMENT["paths"].items() for m in ways}
    assert served == described


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
