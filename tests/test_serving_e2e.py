"""`hoop serve` as a process: what its probes and metrics say, what it tells nobody, and how it ends."""

from __future__ import annotations

import asyncio
import re
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from snowflake.connector.errors import Error

from hoop_core.config import Settings, load_settings
from hoop_core.errors import Unavailable, VaultUnavailable
from hoop_core.server.app import build_gateway
from hoop_core.server.checks import checks, probe
from hoop_core.server.health import Check
from tests.serving_gateway import Serving, serving, until

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def gateway(stack: DevStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    few = {"LIMITS__SESSIONS_AT_ONCE": "3", "LIMITS__STATEMENTS_PER_MINUTE": "40"}
    with serving(stack, tmp_path_factory.mktemp("gateway"), **few) as made:
        yield made
        made.signal(signal.SIGINT)  # without clients it ends at once, whatever it could have waited
        assert made.ended() == 0
        assert "ended in order" in made.said
        assert "Traceback" not in made.said


def sample(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    found = 0.0
    for line in text.splitlines():
        match = re.match(rf"{name}(\{{.*\}})? (\S+)\Z", line)
        if match and all(f'{k}="{v}"' in (match[1] or "") for k, v in labels.items()):
            found += float(match[2])
    return found


# ---------------------------------------------------------------------- probes and metrics


def test_readyz_names_every_part_and_nothing_else(gateway: Serving) -> None:
    told = gateway.ready().json()
    assert told["status"] == "ok"
    assert set(told["parts"]) == {
        "store", "vault", "snowflake", "identity", "policy", "analysts", "tasks",
    }  # fmt: skip
    assert set(told["parts"].values()) == {"ok"}


def test_metrics_are_on_the_other_port_only(gateway: Serving) -> None:
    assert httpx.get(f"{gateway.url}/metrics").status_code == 404
    assert httpx.get(f"{gateway.admin}/metrics").status_code == 200
    assert httpx.get(f"{gateway.admin}/hoop/v1/sessions").status_code == 404


def test_a_statement_is_counted_on_its_whole_way(gateway: Serving) -> None:
    before = gateway.metrics()
    with gateway.connect() as connection:
        connection.cursor().execute("SELECT EMAIL FROM CUSTOMERS LIMIT 3").fetchall()
        with pytest.raises(Error):
            connection.cursor().execute("SELECT * FROM PROD.NOWHERE.NOTHING")
        during = gateway.metrics()
        assert sample(during, "hoop_sessions") == sample(before, "hoop_sessions") + 1
    after = gateway.metrics()

    def more(name: str, **labels: str) -> float:
        return sample(after, name, **labels) - sample(before, name, **labels)

    assert more("hoop_statements_total", kind="select", decision="allow", outcome="succeeded") == 1
    assert more("hoop_statements_total", outcome="refused") == 1
    assert more("hoop_refusals_total") == 1
    for gate in ("decide", "approval", "credential", "intent", "snowflake", "results", "outcome"):
        assert more("hoop_gate_seconds_count", gate=gate) >= 1, gate
    assert more("hoop_log_entries_total", kind="statement.intent") == 1
    assert more("hoop_log_append_seconds_count") > 3
    assert more("hoop_http_response_bytes_total", route="/queries/v1/query-request") > 0
    assert more("hoop_users_minted_total") >= 1
    for step in ("mint", "end"):
        assert more("hoop_credential_seconds_count", step=step, outcome="done") >= 1, step
    assert sample(after, "hoop_build_info") == 1
    assert sample(after, "hoop_sessions") == sample(before, "hoop_sessions")


def test_a_vault_that_is_away_is_a_part_that_fails(stack: DevStack, tmp_path: Path) -> None:
    settings = load_settings(stack.info.config_file)
    away = settings.vault.model_copy(update={"address": "http://127.0.0.1:9"})

    async def look() -> None:
        async with parts(settings.model_copy(update={"vault": away}), tmp_path) as (looks, probed):
            await looks["snowflake"]()
            await looks["identity"]()
            with pytest.raises(VaultUnavailable):
                await looks["vault"]()
            await probed()  # it may come back by itself

    asyncio.run(look())


WRONG: dict[str, tuple[dict[str, dict[str, str]], str]] = {
    "a role that Vault does not know": ({"vault": {"auth_role": "no-such-role"}}, "Vault"),
    "a mount that Vault does not have": ({"vault": {"auth_mount": "no-such-mount"}}, "Vault"),
    "a Vault whose name does not resolve": (
        {"vault": {"address": "https://no-such-vault.invalid"}}, "Vault",
    ),
    "an account whose name does not resolve": (
        {"snowflake": {"url": "https://no-such-account.invalid"}}, "Snowflake",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_setting_shows_before_anybody_is_served(
    stack: DevStack, tmp_path: Path, what: str
) -> None:
    changes, named = WRONG[what]
    settings = load_settings(stack.info.config_file)
    for section, values in changes.items():
        changed = getattr(settings, section).model_copy(update=values)
        settings = settings.model_copy(update={section: changed})

    async def look() -> None:
        async with parts(settings, tmp_path) as (_, probed):
            await probed()

    with pytest.raises(Unavailable, match=named) as refused:
        asyncio.run(look())
    assert refused.value.exit_code == 3


@asynccontextmanager
async def parts(
    settings: Settings, home: Path
) -> AsyncIterator[tuple[Mapping[str, Check], Callable[[], Awaitable[None]]]]:
    """What is looked at all the time, and what is looked at once at the start."""
    own = {"url": f"sqlite:///{home / 'own.db'}", "recordings": str(home / "recordings")}
    audit = settings.audit.model_copy(update={"key_file": home / "log.key"})
    store = settings.store.model_copy(update=own)
    gateway = build_gateway(settings.model_copy(update={"store": store, "audit": audit}))
    verifier = gateway.sign_in.verifier
    looks = checks(
        gateway.settings,
        store=gateway.store,
        replicas=gateway.replicas,
        accounts=gateway.accounts,
        verifier=verifier,
        guard=gateway.guard,
        tasks=[],
    )
    try:
        yield looks, lambda: probe(gateway.settings, gateway.accounts, verifier)
    finally:
        for account in gateway.accounts:
            await account.http.aclose()
        gateway.store.close()


# ---------------------------------------------------------------------- nothing is told that is secret


def test_no_door_tells_logs_metrics_or_probes_what_it_was_given(gateway: Serving) -> None:
    mark = "mk" + uuid.uuid4().hex
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        _every_door(http, gateway.stack.token("churn-agent"), mark)
    with gateway.connect() as connection:
        cursor = connection.cursor()
        for sql in (
            f"SELECT '{mark}'",
            f"SELECT EMAIL FROM CUSTOMERS WHERE EMAIL = '{mark}'",
            f"SELECT CAST('{mark}' AS INTEGER)",
            f"SELECT NO_SUCH_{mark} FROM CUSTOMERS",
            f"SELECT {mark}(EMAIL) FROM CUSTOMERS",
            f"DELETE FROM {mark}",
            f"NONSENSE {mark}",
        ):
            try:
                cursor.execute(sql).fetchall()
            except Error:
                continue
    everything = gateway.said + gateway.metrics() + gateway.ready().text
    assert "hoop_statements_total" in everything  # what is searched is really there
    assert '"route": "/queries/v1/query-request"' in everything
    assert mark.lower() not in everything.lower()
    assert gateway.stack.token("churn-agent") not in everything


def _every_door(http: httpx.Client, token: str, mark: str) -> None:
    """Sign-ins, statements and REST calls with `mark` wherever a secret may stand."""
    forged = ".".join([*token.split(".")[:2], mark])
    for form in ("OAUTH", "SNOWFLAKE", "PROGRAMMATIC_ACCESS_TOKEN", "EXTERNALBROWSER", "ID_TOKEN"):
        for given in (mark, forged, token + mark):
            http.post(
                "/session/v1/login-request",
                json={"data": {
                    "AUTHENTICATOR": form, "TOKEN": given, "PASSWORD": given, "LOGIN_NAME": mark,
                    "RAW_SAML_RESPONSE": mark, "SESSION_PARAMETERS": {"HOOP_CONTEXT": mark},
                }},
            )  # fmt: skip
    handle = {"authorization": f'Snowflake Token="{mark}"'}
    for path in (
        "/queries/v1/query-request", "/session/token-request", "/session/heartbeat",
        "/session?delete=true", "/queries/v1/abort-request", "/telemetry/send",
        "/session/authenticator-request", "/api/v2/statements",
    ):  # fmt: skip
        http.post(
            path, headers=handle, json={"sqlText": mark, "requestId": mark, "statement": mark}
        )
        http.post(path, headers={"authorization": f"Bearer {mark}"}, content=mark)
        http.post(path, headers=handle, content=b'{"' + mark.encode())
    for path in ("/hoop/v1/approvals", "/hoop/v1/sessions", "/hoop/v1/masking-exceptions"):
        for bearer in (mark, forged, token):
            headers = {"authorization": f"Bearer {bearer}"}
            http.get(path, headers=headers, params={"status": mark})
            http.post(path, headers=headers, json={"sql": mark, "reason": mark, "role": mark})
    http.get("/", headers={"cookie": mark, "x-forwarded-for": mark, "traceparent": mark})


# ---------------------------------------------------------------------- the end


def held(made: Serving, mark: str) -> str:
    """The id of the request for approval of the statement with this mark."""

    def looked() -> str | None:
        with made.client("alice") as hoop:
            return next((a.id for a in hoop.approvals("pending") if mark in a.sql), None)

    return str(until(looked))


def run_in(pool: ThreadPoolExecutor, connection: Any, sql: str) -> Future[Any]:
    return pool.submit(lambda: connection.cursor().execute(sql).fetchall())


def outcomes(made: Serving) -> list[str]:
    return [k for k, _ in made.logged()]


def test_asked_to_stop_it_lets_a_statement_finish_and_takes_no_new_session(
    stack: DevStack, tmp_path: Path
) -> None:
    mark = uuid.uuid4().hex
    with serving(stack, tmp_path / "g") as made, ThreadPoolExecutor() as pool:
        connection = made.connect()
        running = run_in(pool, connection, _needs_approval(mark))
        approval = held(made, mark)
        made.signal()
        until(lambda: made.ready().status_code == 503)
        with pytest.raises(Error, match="about to stop"):
            made.connect(login_timeout=5)
        for who in ("alice", "bob"):  # what is needed to finish goes on
            with made.client(who) as hoop:
                hoop.answer(approval, "approve", "in time")
        assert running.result(60)
        assert made.ended() == 0
        log = outcomes(made)
    assert log.count("statement.outcome") == log.count("statement.intent") >= 1
    assert log.count("session.closed") == log.count("session.opened") == 1
    assert log.count("credential.gone") == log.count("credential.minted") >= 1


@pytest.mark.nightly
def test_a_second_signal_does_not_wait_and_still_ends_users(
    stack: DevStack, tmp_path: Path
) -> None:
    mark = uuid.uuid4().hex
    long = {"GATEWAY__DRAIN_SECONDS": "3600"}
    with serving(stack, tmp_path / "g", **long) as made, ThreadPoolExecutor() as pool:
        connection = made.connect()
        connection.cursor().execute("SELECT EMAIL FROM CUSTOMERS LIMIT 1").fetchall()
        running = run_in(pool, connection, _needs_approval(mark))
        held(made, mark)
        made.signal(signal.SIGTERM)
        until(lambda: made.ready().status_code == 503)
        made.signal(signal.SIGTERM)
        with pytest.raises(Error):
            running.result(60)
        assert made.ended() == 0
        log, refused = outcomes(made), [d for k, d in made.logged() if k == "statement.refused"]
    assert log.count("credential.gone") == log.count("credential.minted") >= 1
    assert [d["reason"] for d in refused] == ["CANCELLED"]  # what did not finish is on record
    assert log.count("session.closed") == 1


# ---------------------------------------------------------------------- limits


def test_a_caller_over_its_limits_gets_its_drivers_ordinary_error_with_a_hint(
    gateway: Serving,
) -> None:
    opened = [gateway.connect("pia") for _ in range(3)]
    with pytest.raises(Error, match="Close some of them") as refused:
        gateway.connect("pia")
    assert refused.value.errno == 99429
    gateway.connect("churn-agent").close()  # another caller's are counted apart
    opened.pop().close()
    gateway.connect("pia").close()  # and what was closed counts no longer
    with pytest.raises(Error, match="in a minute") as refused:
        for _ in range(100):
            opened[0].cursor().execute("SELECT 1").fetchall()
    assert refused.value.errno == 99429
    for connection in opened:
        connection.close()


def test_guessed_handles_open_nothing_and_tell_nothing_apart(gateway: Serving) -> None:
    with httpx.Client(base_url=gateway.url, timeout=30) as http:
        answers = set()
        for n in range(200):
            guess = f"{n:043d}"
            answer = http.post(
                "/queries/v1/query-request",
                headers={"authorization": f'Snowflake Token="{guess}"'},
                json={"sqlText": "SELECT 1"},
            )
            answers.add((answer.status_code, answer.json()["code"], answer.json()["message"]))
    assert len(answers) == 1
    assert next(iter(answers))[1] == "390111"


def _needs_approval(mark: str) -> str:
    return f"DELETE FROM PROD.FEATURES.CHURN_STAGING /* {mark} */"
