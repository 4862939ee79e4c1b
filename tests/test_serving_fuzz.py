"""Nothing that a client sends makes the gateway answer with an error of its own.

`HOOP_FUZZ_SECONDS` sets for how long it is tried, `HOOP_FUZZ_SEED` with what.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from hoop_core.config import load_settings
from hoop_core.server.app import build_gateway, routes_of
from tests.http_fuzzer import ADMIN, Fuzzer, Route
from tests.serving_gateway import serving

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
_OUR_FAULT = {
    "a request failed inside Hoop",
    "a statement failed inside Hoop",
    "a page failed inside Hoop",
    "an error that nobody waited for",
    "an error ended a thread",
}
# The fuzzer is one address that fails often: limits would leave little of it to look at.
_UNLIMITED = {
    "SIGN_IN__FAILURES_PER_MINUTE": "0",
    "SIGN_IN__ISSUER_FAILURES_PER_MINUTE": "0",
    "LIMITS__SIGN_INS_PER_MINUTE": "0",
    "LIMITS__SESSIONS_AT_ONCE": "0",
    "GATEWAY__POLL_SECONDS": "0.5",
    "GATEWAY__DRAIN_SECONDS": "0",
}


def every_route(stack: DevStack, home: Path) -> list[Route]:
    """From the gateway's own table: what is added to it is tried too."""
    settings = load_settings(stack.info.config_file)
    store = settings.store.model_copy(update={"url": f"sqlite:///{home / 'routes.db'}"})
    audit = settings.audit.model_copy(update={"key_file": home / "routes.key"})
    gateway = build_gateway(settings.model_copy(update={"store": store, "audit": audit}))
    found = [(m, r.path) for r in routes_of(gateway) for m in sorted(r.methods or ())]
    gateway.store.close()
    return [(m, p) for m, p in found if "{path:path}" not in p]


def fuzz(stack: DevStack, home: Path, seconds: float) -> None:
    seed = int(os.environ.get("HOOP_FUZZ_SEED") or secrets.randbits(32))
    with serving(stack, home / "g", **_UNLIMITED) as made:
        routes = every_route(stack, home)
        tokens = [stack.token("churn-agent"), stack.token("alice")]
        fuzzer = Fuzzer(made.url, made.admin, routes, lambda: tokens, seed)
        fuzzer.run(seconds)
        alive = httpx.get(f"{made.url}/healthz").status_code
        events = [json.loads(x) for x in made.said.splitlines() if x.startswith("{")]
    print(f"seed {seed}: {fuzzer.requests} requests, {dict(fuzzer.statuses)}")
    print(f"routes reached: {len(fuzzer.reached)} of {len({p for _, p in (*routes, *ADMIN)})}")
    ours = [e for e in events if e.get("event") in _OUR_FAULT]
    told = "\n".join(map(str, fuzzer.findings[:20])) + "\n" + "\n".join(map(str, ours[:20]))
    assert not fuzzer.findings and not ours, f"seed {seed}:\n{told}"
    assert alive == 200
    assert fuzzer.requests > 20
    assert fuzzer.statuses["200"]  # some of it was right, and went all the way


def test_requests_that_are_nearly_right_are_answered_without_an_error_of_our_own(
    stack: DevStack, tmp_path: Path
) -> None:
    fuzz(stack, tmp_path, float(os.environ.get("HOOP_FUZZ_SECONDS", "5")))


@pytest.mark.nightly
def test_the_same_for_ten_minutes(stack: DevStack, tmp_path: Path) -> None:
    fuzz(stack, tmp_path, float(os.environ.get("HOOP_FUZZ_SECONDS", "600")))
