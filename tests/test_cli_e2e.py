"""The command line against a running stack: JSON keys and exit codes are a contract."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e


def hoop(stack: DevStack, *arguments: str, **env: str) -> tuple[int, Any]:
    """Run `hoop … --json` with the environment of `hoop dev up`; exit code and parsed output."""
    done = subprocess.run(
        [sys.executable, "-m", "hoop_core.cli", *arguments, "--json"],
        env={**os.environ, **stack.info.env(), **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


HELD = "DELETE FROM PROD.FEATURES.CHURN_STAGING WHERE 'cli' = 'cli'"
"""Of no other test: the stack is shared."""


@pytest.fixture
def held(
    stack: DevStack, connect: Callable[..., SnowflakeConnection]
) -> tuple[threading.Thread, str, list[Any]]:
    """A DELETE that waits for two approvers, and where its outcome will be."""
    outcome: list[Any] = []
    connection = connect()

    def run() -> None:
        try:
            outcome.append(connection.cursor().execute(HELD).fetchall())
        except Exception as e:
            outcome.append(str(e))

    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(100):
        _, listed = hoop(stack, "approvals", "list", "--status", "pending")
        found = [a["id"] for a in listed["approvals"] if a["sql"] == HELD]
        if found:
            return thread, found[0], outcome
        time.sleep(0.1)
    raise AssertionError("nothing waits")


def test_an_approver_lists_shows_and_answers(
    stack: DevStack, held: tuple[threading.Thread, str, list[Any]]
) -> None:
    thread, approval, outcome = held
    code, shown = hoop(stack, "approvals", "show", approval)
    assert code == 0
    assert {"id", "status", "requester", "sql", "rewritten", "reasons", "approvers", "quorum",
            "answers", "run", "fingerprint"} <= set(shown)  # fmt: skip
    code, first = hoop(stack, "approvals", "approve", approval, "--reason", "old rows")
    assert (code, first["status"]) == (0, "pending")
    code, again = hoop(stack, "approvals", "approve", approval, "--reason", "once more")
    assert code == 1 and "already" in again["error"]["message"]
    code, second = hoop(
        stack, "approvals", "reject", approval, "--reason", "not today",
        "--token-env", "HOOP_TOKEN_APPROVER2",
    )  # fmt: skip
    assert (code, second["status"]) == (0, "rejected")
    thread.join(30)
    assert "not today" in outcome[0]


def test_a_reader_sees_all_sessions_and_an_agent_its_own(
    stack: DevStack, connect: Callable[..., SnowflakeConnection]
) -> None:
    connect().cursor().execute("SELECT COUNT(*) FROM CUSTOMERS")
    connect("pia").cursor().execute("SELECT COUNT(*) FROM CUSTOMERS")
    _, everything = hoop(stack, "sessions", "list")
    names = {s["identity"]["name"] for s in everything["sessions"]}
    assert {"churn-agent", "pia"} <= names
    _, own = hoop(stack, "sessions", "list", "--token-env", "HOOP_TOKEN_AGENT")
    assert {s["identity"]["name"] for s in own["sessions"]} == {"churn-agent"}
    theirs = next(s["id"] for s in everything["sessions"] if s["identity"]["name"] == "pia")
    code, shown = hoop(stack, "sessions", "show", theirs)
    assert code == 0 and "statement.intent" in [e["kind"] for e in shown["entries"]]
    code, _ = hoop(stack, "sessions", "show", theirs, "--token-env", "HOOP_TOKEN_AGENT")
    assert code == 1


def test_an_unreachable_gateway_is_exit_code_3(stack: DevStack) -> None:
    code, error = hoop(stack, "approvals", "list", "--url", "http://127.0.0.1:9")
    assert code == 3 and error["error"]["reason"] == "GATEWAY_UNAVAILABLE"


def test_the_evidence_of_a_running_stack_verifies_and_a_changed_entry_is_named(
    stack: DevStack, connect: Callable[..., SnowflakeConnection], tmp_path: Path
) -> None:
    connect().cursor().execute("SELECT EMAIL, SSN FROM CUSTOMERS").fetchall()
    bundle = tmp_path / "evidence.zip"
    config = str(stack.info.config_file)
    code, exported = hoop(stack, "audit", "export", "--config", config, "--out", str(bundle))
    assert code == 0 and exported["entries"] > 0 and exported["recordings"] > 0
    code, report = hoop(stack, "audit", "verify", str(bundle), "--key", exported["verifier_key"])
    assert code == 0 and report["ok"] and report["root"] == exported["root"]
    code, report = hoop(stack, "audit", "verify", stack.store_url)
    assert code == 0 and report["ok"]
    changed = tmp_path / "changed.zip"
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "log/entries.jsonl":
                content = content.replace(b'"kind":"session.opened"', b'"kind":"session.opene_"', 1)
            new.writestr(name, content)
    code, report = hoop(stack, "audit", "verify", str(changed))
    assert code == 1 and report["faults"][0]["place"].startswith("entry ")


def test_the_bundle_holds_no_raw_value_no_token_and_no_key(
    stack: DevStack,
    connect: Callable[..., SnowflakeConnection],
    behind: Callable[[str], list[tuple[Any, ...]]],
    tmp_path: Path,
) -> None:
    connect().cursor().execute("SELECT * FROM CUSTOMERS").fetchall()
    connect().cursor().execute("SELECT * FROM SUPPORT_NOTES").fetchall()
    bundle = tmp_path / "evidence.zip"
    hoop(stack, "audit", "export", "--config", str(stack.info.config_file), "--out", str(bundle))
    protected = behind("SELECT EMAIL, SSN, CARD_NUMBER FROM PROD.CRM.CUSTOMERS LIMIT 200")
    canaries = {str(v).encode() for row in protected for v in row}
    canaries |= {b"PRIVATE KEY", stack.info.token_agent.encode(), b"eyJ", b"X-Amz"}
    with zipfile.ZipFile(bundle) as archive:
        assert len([n for n in archive.namelist() if n.endswith(".arrow")]) >= 2
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith(".gz"):  # a part of a large result, as Snowflake packed it
                content = gzip.decompress(content)
            assert not [c for c in canaries if c in content], name
