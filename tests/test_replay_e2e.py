"""What a real gateway records: everything of an exchange, encrypted and within caps, and replayed from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from snowflake.connector.errors import DatabaseError
from typer.testing import CliRunner

from hoop_core.cli.sessions import app
from hoop_core.config import load_settings
from tests.serving_gateway import Serving, serving
from tests.stack_checked import SECRETS, leaks, protected
from tests.stack_people import as_person, log_entries

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Connect = Callable[..., "SnowflakeConnection"]
Behind = Callable[[str], list[tuple[Any, ...]]]

MASKED = "SELECT CUSTOMER_ID, FULL_NAME, EMAIL, SSN FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID <= 20"
REGIONS = "SELECT REGION FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID <= 3"
LARGE = "SELECT * FROM PROD.CRM.CUSTOMERS"
FAILING = "SELECT TO_NUMBER(CARD_NUMBER) FROM PROD.CRM.CUSTOMERS"
DENIED = "SELECT * FROM PROD.HR.SALARIES"
CAP = 20_000


@pytest.fixture(scope="module")
def recorded(stack: DevStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A gateway that encrypts and cuts its recordings; it has ended when tests look at what it left."""
    home = tmp_path_factory.mktemp("recorded") / "home"
    settings = {
        "STORE__RECORDINGS_KEY": "hoop-recordings",
        "STORE__RECORDED_PART_BYTES": str(CAP),
    }
    with serving(stack, home, **settings) as running:
        with running.connect() as connection:
            cursor = connection.cursor()
            for sql in (MASKED, REGIONS, LARGE):
                cursor.execute(sql).fetchall()
            for sql in (FAILING, DENIED):
                with pytest.raises(DatabaseError):
                    cursor.execute(sql).fetchall()
        running.signal()
        running.ended()
        yield running


def hoop(running: Serving, *arguments: str) -> tuple[int, Any]:
    """`hoop sessions replay --json` over the store that the gateway left."""
    store = f"sqlite:///{running.home / 'own.db'}"
    places = ["--store", store, "--recordings", str(running.home / "recordings")]
    done = CliRunner().invoke(app, ["replay", *arguments, *places, "--json"])
    return done.exit_code, json.loads(done.output)


def by_sql(told: Any) -> dict[str, Any]:
    return {s["sql"]: s for of in told["sessions"] for s in of["statements"]}


def test_every_session_of_the_gateway_matches_and_the_rest_is_said(recorded: Serving) -> None:
    code, told = hoop(recorded, "--all")
    assert (code, told["ok"], told["faults"]) == (0, True, [])
    found = by_sql(told)
    assert {found[s]["result"] for s in (MASKED, REGIONS, LARGE, FAILING, DENIED)} == {"matches"}
    assert any("encrypted" in why for why in found[MASKED]["not_checked"])
    assert found[DENIED]["kind"] == "statement.refused"


def test_with_one_column_masked_more_exactly_the_statements_that_read_it_are_listed(
    recorded: Serving, stack: DevStack, tmp_path: Path
) -> None:
    text = load_settings(stack.config_file).policy.file.read_text()
    other = tmp_path / "other.yaml"
    more = 'masks:\n  - {columns: ["PROD.CRM.CUSTOMERS.REGION"], mask: constant}\n'
    other.write_text(text.replace("masks:\n", more, 1))
    code, told = hoop(recorded, "--all", "--policy", str(other))
    assert code == 0
    assert [d["sql"] for d in told["differences"]] == [REGIONS, LARGE]
    assert {tuple(d["changes"]) for d in told["differences"]} == {("newly_masked",)}
    same = tmp_path / "same.yaml"
    same.write_text(text)
    assert hoop(recorded, "--all", "--policy", str(same))[1]["differences"] == []


def test_a_log_that_says_something_else_than_what_was_decided_is_found(
    recorded: Serving, tmp_path: Path
) -> None:
    import shutil
    import sqlite3

    changed = Serving(recorded.stack, recorded.process, tmp_path, 0, 0)
    shutil.copy(recorded.home / "own.db", tmp_path / "own.db")
    with sqlite3.connect(tmp_path / "own.db") as store:
        store.execute(
            'UPDATE log_entries SET entry = replace(entry, \'"mask":"null"\', \'"mask":"hash"\') '
            "WHERE kind = 'statement.intent'"
        )
    store.close()
    code, told = hoop(changed, "--all")
    found = by_sql(told)[MASKED]
    assert (code, found["result"]) == (1, "differs")
    whats = {d["what"] for d in found["differences"]}
    assert whats == {"decision.masked", "recording"}  # and there are no recordings in that place


def test_nothing_that_was_shown_lies_on_disk_as_it_was_and_no_secret_does(
    recorded: Serving, behind: Behind
) -> None:
    people = behind("SELECT FULL_NAME, REGION FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID <= 20")
    files = [f for f in (recorded.home / "recordings").rglob("*") if f.is_file()]
    assert len(files) >= 6
    for file in files:
        content = file.read_bytes()
        assert not [name for name, _ in people if str(name).encode() in content], file.name
    raw = behind("SELECT SSN, CARD_NUMBER FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID <= 3000")
    assert leaks(recorded.home / "recordings", protected(raw)) == []


def test_store_and_output_hold_no_secret_and_no_protected_value(
    recorded: Serving, behind: Behind
) -> None:
    raw = behind("SELECT EMAIL, SSN FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID <= 200")
    cards = behind("SELECT CARD_NUMBER, SSN FROM PROD.CRM.CUSTOMERS WHERE CUSTOMER_ID <= 200")
    values = protected([*raw, *cards])
    for name in ("own.db", "stderr"):
        content = (recorded.home / name).read_bytes()
        assert not SECRETS.search(content), name
        assert sum(v in content for v in values) == 0, name


def test_what_a_cap_cut_is_in_the_log_with_its_digest(recorded: Serving) -> None:
    logged = recorded.logged()
    outcomes = [d for kind, d in logged if kind in {"statement.outcome", "result.part"}]
    cut = [d["digest"] for d in outcomes if d.get("digest", {}).get("cut")]
    assert cut and {c["cut"] for c in cut} == {"part_bytes"}
    assert min(c["size"] for c in cut) > CAP
    kept = [f for _, d in logged for f in d.get("recording") or () if isinstance(f, dict)]
    assert max(f["size"] for f in kept) < 2 * CAP


def test_the_key_is_vouched_for_before_the_first_statement_runs(recorded: Serving) -> None:
    kinds = [kind for kind, _ in recorded.logged()]
    assert kinds.index("recording.key") < kinds.index("statement.intent")


def test_the_log_begins_with_policy_and_configuration_without_secrets(recorded: Serving) -> None:
    [configured] = [d for kind, d in recorded.logged() if kind == "config.loaded"]
    store = configured["settings"]["store"]
    assert store["recordings_key"] == "hoop-recordings"
    assert store["url"] == "(withheld)"


def test_a_table_is_described_once_before_the_first_intent_that_rests_on_it(
    recorded: Serving,
) -> None:
    logged = recorded.logged()
    described = [d for kind, d in logged if kind == "catalog.described"]
    names = [d["name"] for d in described]
    assert names.count("PROD.CRM.CUSTOMERS") == 1
    digest = next(d["sha256"] for d in described if d["name"] == "PROD.CRM.CUSTOMERS")
    intents = [d for kind, d in logged if kind == "statement.intent" and d["sql"] == MASKED]
    assert [i["catalog"] for i in intents] == [{"PROD.CRM.CUSTOMERS": digest}]


def test_an_exchange_holds_decision_grant_lease_and_timing(
    stack: DevStack, connect: Connect
) -> None:
    import threading

    sql = (
        "CREATE OR REPLACE TABLE PROD.FEATURES.REPLAYED AS SELECT CUSTOMER_ID FROM PROD.CRM.ORDERS"
    )
    connection = connect()
    running = threading.Thread(target=lambda: connection.cursor().execute(sql))
    running.start()
    with as_person(stack, "alice") as hoop:
        while not (mine := [a for a in hoop.approvals("pending") if a.sql == sql]):
            threading.Event().wait(0.05)
        hoop.answer(mine[0].id, "approve", "for the recording")
    running.join()
    intent = next(e for e in reversed(log_entries(stack, "statement.intent")) if e["sql"] == sql)
    outcome = next(
        e for e in log_entries(stack, "statement.outcome") if e["intent"] == intent["seq"]
    )
    folder = Path(load_settings(stack.config_file).store.recordings)
    exchange = json.loads((folder / outcome["recording"][0]["path"]).read_bytes())
    assert exchange["decision"]["decision"] == "require_approval"
    assert exchange["executed"] == intent["executed"]
    grant = exchange["grant"]
    assert grant["id"] == intent["approval"] and grant["status"] == "approved"
    assert [a["approver"]["name"] for a in grant["answers"]] == ["alice"]
    lease = exchange["lease"]
    assert lease["snowflake_user"] == intent["snowflake_user"]
    assert lease["public_key_fingerprint"].startswith("SHA256:")
    timing = exchange["timing"]
    assert timing["asked_at"] < timing["ran_at"] < timing["answered_at"]


def test_a_session_is_played_back_at_the_terminal(recorded: Serving) -> None:
    store = f"sqlite:///{recorded.home / 'own.db'}"
    session = hoop(recorded, "--all")[1]["sessions"][0]["id"]
    done = CliRunner().invoke(
        app,
        ["replay", session, "--show", "--speed", "100000", "--store", store, "--recordings",
         str(recorded.home / "recordings")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "session.opened" in done.output and "CUSTOMER_ID <= 20" in " ".join(done.output.split())
    assert "NOT_GRANTED" in done.output and "session.closed" in done.output
