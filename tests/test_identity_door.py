"""The door: every form of sign-in, what counts once, who has to wait, and what the log keeps of refusals."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import snowflake.connector
from snowflake.connector.errors import DatabaseError, ProgrammingError

from hoop_core.audit.log import AuditLog
from hoop_core.errors import IdentityError
from hoop_core.identity.throttle import Throttle, neighbourhood
from hoop_core.server.app import Gateway
from hoop_core.signin.refusals import Refusals
from hoop_core.store import Store
from hoop_core.store.sign_ins import Journeys, SeenTokens
from hoop_core.web import visibility
from tests.identity_world import OTHER, token
from tests.saml_world import ACS, HOOP, IDP, SIGNER, encoded, response, sign
from tests.sign_in_world import Idp, gateway, new_ports, served, settings


class World:
    def __init__(self, idp: Idp, made: Gateway, port: int) -> None:
        self.idp, self.gateway, self.port = idp, made, port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def token(self, **changes: Any) -> str:
        given = {"iss": self.idp.url, "groups": ["ml-agents"], **changes}
        return token(**given)

    def login(self, request: str = "", **data: Any) -> Any:
        body = {"data": {"ACCOUNT_NAME": "acme", **data}}
        params = {"request_id": request} if request else {}
        url = f"{self.url}/session/v1/login-request"
        return httpx.post(url, json=body, params=params).json()

    def kinds(self, kind: str) -> list[Any]:
        """Data of the entries of this kind, oldest first."""
        entries = [json.loads(e.text) for e in self.gateway.log.entries()]
        return [e["data"] for e in entries if e["kind"] == kind]


def _world(folder: Path, **changes: Any) -> Any:
    at_idp, at_hoop = new_ports(2)
    idp = Idp(at_idp)
    issuer = {"issuer": idp.url, "audience": "hoop", **changes.pop("issuer", {})}
    saml = {"entity_id": IDP, "certificates": [SIGNER.file(folder)], "audience": HOOP, "acs_url": ACS,
            "allow_unsolicited": True, "native_sso_url": "https://corp.okta.example/app/hoop/sso"}  # fmt: skip
    chosen = settings(folder, at_hoop, identity=[issuer], saml=[saml], **changes)
    return idp, at_idp, at_hoop, chosen


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    idp, at_idp, at_hoop, chosen = _world(
        tmp_path_factory.mktemp("door"),
        issuer={"single_use": True},
        sign_in={"failures_per_minute": 0, "logged_per_minute": 1000},
    )
    with served(idp.app(), at_idp), gateway(chosen) as made:
        yield World(idp, made, at_hoop)


@pytest.mark.parametrize(
    "form",
    [
        {"AUTHENTICATOR": "OAUTH", "field": "TOKEN"},
        {"AUTHENTICATOR": "oauth", "field": "TOKEN"},
        {"AUTHENTICATOR": "PROGRAMMATIC_ACCESS_TOKEN", "field": "TOKEN"},
        {"AUTHENTICATOR": "WORKLOAD_IDENTITY", "PROVIDER": "OIDC", "field": "TOKEN"},
        {"AUTHENTICATOR": "SNOWFLAKE", "field": "PASSWORD"},
        {"field": "PASSWORD"},
    ],
)
def test_a_token_is_taken_wherever_a_tool_can_put_it(world: World, form: dict[str, str]) -> None:
    data = {k: v for k, v in form.items() if k != "field"}
    answer = world.login(**data, **{form["field"]: world.token(jti=json.dumps(form))})
    assert answer["success"], answer["message"]


@pytest.mark.parametrize(
    "data",
    [
        {"AUTHENTICATOR": "SNOWFLAKE_JWT", "TOKEN": "a.b.c"},
        {"AUTHENTICATOR": "ID_TOKEN", "TOKEN": "a.b.c"},
        {"AUTHENTICATOR": "SNOWFLAKE", "PASSWORD": "secret-password"},
        {"AUTHENTICATOR": "OAUTH"},
        {"AUTHENTICATOR": "EXTERNALBROWSER"},
        {"AUTHENTICATOR": "EXTERNALBROWSER", "TOKEN": "secret-token", "PROOF_KEY": "x"},
        {"AUTHENTICATOR": "OAUTH", "TOKEN": "a.b.c", "RAW_SAML_RESPONSE": "x"},
        {"RAW_SAML_RESPONSE": "x"},
        {},
    ],
)
def test_other_forms_are_refused_and_on_record_without_what_was_sent(
    world: World, data: dict[str, str]
) -> None:
    answer = world.login(**data)
    assert not answer["success"]
    (*_, refused) = world.kinds("signin.refused")
    assert "secret" not in json.dumps([refused, answer])


def test_a_saml_response_signs_in_once(world: World) -> None:
    signed = encoded(sign(response(answers=None, assertion_id="_once")))
    assert world.login("q1", RAW_SAML_RESPONSE=signed)["success"]
    assert world.login("q1", RAW_SAML_RESPONSE=signed)["success"]  # the same request again
    again = world.login("q2", RAW_SAML_RESPONSE=signed)
    assert "used before" in again["message"]
    assert world.kinds("signin.refused")[-1]["reason"] == "REPLAYED"


def test_the_same_assertion_under_another_envelope_is_no_new_one(world: World) -> None:
    root = sign(response(answers=None, assertion_id="_twice"))
    assert world.login("q1", RAW_SAML_RESPONSE=encoded(root))["success"]
    root.set("ID", "_other")
    assert "used before" in world.login("q2", RAW_SAML_RESPONSE=encoded(root))["message"]


def test_a_driver_that_speaks_with_okta_is_told_where(world: World) -> None:
    ask = {"data": {"AUTHENTICATOR": "https://corp.okta.example"}}
    answer = httpx.post(f"{world.url}/session/authenticator-request", json=ask).json()["data"]
    assert answer["ssoUrl"] == "https://corp.okta.example/app/hoop/sso"
    assert answer["tokenUrl"] == "https://corp.okta.example/api/v1/authn"


@pytest.mark.parametrize(
    "authenticator", ["http://corp.okta.example", "https://corp.okta.example.evil.example",
                      "https://corp.okta.example:444", "https://[", ""]
)  # fmt: skip
def test_passwords_are_not_sent_to_strangers(world: World, authenticator: str) -> None:
    ask = {"data": {"AUTHENTICATOR": authenticator}}
    answer = httpx.post(f"{world.url}/session/authenticator-request", json=ask).json()
    assert not answer["success"]


def test_a_token_that_counts_once_opens_one_session(world: World) -> None:
    given = {"AUTHENTICATOR": "OAUTH", "TOKEN": world.token(jti="one")}
    first = world.login("q1", **given)
    retried = world.login("q1", **given)
    assert first["success"]
    assert retried["success"]
    assert "used before" in world.login("q2", **given)["message"]
    assert "used before" in world.login(**given)["message"]


@pytest.mark.parametrize("used", ["/session/heartbeat", "/session?delete=true"])
def test_who_has_listened_to_a_sign_in_cannot_send_it_again(world: World, used: str) -> None:
    given = {"AUTHENTICATOR": "OAUTH", "TOKEN": world.token(jti=f"heard {used}")}
    handle = world.login("q1", **given)["data"]["token"]
    bearer = {"authorization": f'Snowflake Token="{handle}"'}
    assert httpx.post(world.url + used, headers=bearer).json()["success"]
    assert "used before" in world.login("q1", **given)["message"]


def test_another_replica_does_not_take_it_either_once_its_session_was_used(world: World) -> None:
    given = {"AUTHENTICATOR": "OAUTH", "TOKEN": world.token(jti="heard elsewhere")}
    handle = world.login("q1", **given)["data"]["token"]
    bearer = {"authorization": f'Snowflake Token="{handle}"'}
    httpx.post(f"{world.url}/session/heartbeat", headers=bearer)
    for _ in range(100):  # written beside the answer
        if not world.gateway.book._closing:
            break
        time.sleep(0.05)
    world.gateway.book._sign_ins.clear()  # as on a replica that did not open it
    assert "used before" in world.login("q1", **given)["message"]


def test_a_token_that_sent_a_statement_opens_no_session_under_the_same_id(world: World) -> None:
    once = world.token(jti="both doors")
    sent = httpx.post(
        f"{world.url}/api/v2/statements",
        params={"requestId": "q1"},
        json={"statement": "SELECT CURRENT_SESSION()"},
        headers={"authorization": f"Bearer {once}"},
    )
    assert sent.status_code == 200
    answer = world.login("q1", AUTHENTICATOR="OAUTH", TOKEN=once)
    assert "used before" in answer["message"]


def test_a_refusal_for_another_reason_does_not_use_the_token_up(world: World) -> None:
    given = {"AUTHENTICATOR": "OAUTH", "TOKEN": world.token(jti="two")}
    url = f"{world.url}/session/v1/login-request"
    body = {"data": {**given, "ACCOUNT_NAME": "acme"}}
    refused = httpx.post(url, json=body, params={"roleName": "OTHER", "request_id": "q1"}).json()
    assert "not mapped" in refused["message"]
    assert world.login("q2", **given)["success"]


def test_a_token_that_counts_once_makes_one_change_over_rest(world: World) -> None:
    bearer = {"authorization": f"Bearer {world.token(jti='three')}"}
    rest = f"{world.url}/hoop/v1"
    asked = {"sql": "SELECT 1", "role": "OTHER"}
    for _ in range(2):
        assert httpx.get(f"{rest}/sessions", headers=bearer).status_code == 200
    first, second = (httpx.post(f"{rest}/approvals", json=asked, headers=bearer) for _ in range(2))
    assert first.json()["error"]["reason"] == "ROLE_NOT_MAPPED"
    assert second.json()["error"]["reason"] == "REPLAYED"
    data = {"AUTHENTICATOR": "OAUTH", "TOKEN": bearer["authorization"][7:]}
    assert "used before" in world.login("q", **data)["message"]


def test_who_acts_for_somebody_sees_of_their_sessions_only_what_came_the_same_way(
    world: World,
) -> None:
    ways: dict[str, dict[str, Any]] = {
        "herself": {}, "bot": {"act": {"sub": "bot"}}, "other": {"act": {"sub": "other"}},
    }  # fmt: skip
    opened: dict[str, str] = {}
    for way, claims in ways.items():
        given = world.token(sub="una", jti=f"opens {way}", **claims)
        assert world.login(AUTHENTICATOR="OAUTH", TOKEN=given)["success"]
        newest = json.loads([e.text for e in world.gateway.log.entries()][-1])
        opened[way] = newest["session"]
    rest = f"{world.url}/hoop/v1/sessions"
    seen: dict[str, set[str]] = {}
    for way, claims in ways.items():
        asks = world.token(sub="una", jti=f"asks {way}", **claims)
        bearer = {"authorization": f"Bearer {asks}"}
        listed = {s["id"] for s in httpx.get(rest, headers=bearer).json()["sessions"]}
        single = {i for i in opened.values()
                  if httpx.get(f"{rest}/{i}", headers=bearer).status_code == 200}  # fmt: skip
        assert single == listed & set(opened.values())
        seen[way] = single
    assert seen["herself"] == set(opened.values())
    assert seen["bot"] == {opened["bot"]}
    assert seen["other"] == {opened["other"]}


def test_a_session_is_shown_from_its_beginning_and_not_without_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = world.token(sub="una", jti="long session")
    assert world.login(AUTHENTICATOR="OAUTH", TOKEN=given)["success"]
    session = json.loads([e.text for e in world.gateway.log.entries()][-1])["session"]
    for _ in range(20):
        world.gateway.log.append("test", {"text": "x" * 1000}, session_id=session)
    bearer = {"authorization": f"Bearer {world.token(sub='una', jti='looks')}"}
    rest = f"{world.url}/hoop/v1/sessions/{session}"
    shown = httpx.get(rest, headers=bearer).json()
    assert (len(shown["entries"]), shown["whole"]) == (21, True)
    monkeypatch.setattr(visibility, "_MOST_SHOWN", 10_000)
    shown = httpx.get(rest, headers=bearer).json()
    assert not shown["whole"]
    assert [e["kind"] for e in shown["entries"][:2]] == ["session.opened", "test"]
    assert len(shown["entries"]) < 10


def test_the_driver_has_snowflakes_code_for_an_expired_token(world: World) -> None:
    with pytest.raises(DatabaseError) as caught:
        snowflake.connector.connect(
            host="127.0.0.1", port=world.port, protocol="http", account="acme", user="x",
            authenticator="oauth", token=world.token(exp=int(time.time()) - 300, jti="old"),
            login_timeout=5,
        )  # fmt: skip
    assert caught.value.errno == 390318 or "expired" in str(caught.value)


# ------------------------------------------------------------------ after the token's end


@pytest.mark.parametrize("outlives", [True, False])
def test_what_begins_after_the_tokens_end_is_for_the_settings_to_say(
    tmp_path: Path, outlives: bool
) -> None:
    idp, at_idp, at_hoop, chosen = _world(tmp_path, issuer={"leeway_seconds": 7})
    here = {"port": at_hoop, "replica": "r", "session_outlives_token": outlives}
    chosen = chosen.model_copy(update={"gateway": chosen.gateway.model_copy(update=here)})
    with served(idp.app(), at_idp), gateway(chosen) as made:
        world = World(idp, made, at_hoop)
        answer = world.login(AUTHENTICATOR="OAUTH", TOKEN=world.token(exp=int(time.time()) + 300))
        handle, book = answer["data"]["token"], made.book
        live = book.find(handle, to_begin=True)
        if outlives:
            assert live.proof_until == float("inf")
            return
        assert 200 < live.proof_until - time.monotonic() <= 307
        live.proof_until = time.monotonic() - 1
        assert book.find(handle) is live  # what runs is answered still
        _begins_nothing(world, handle)


def _begins_nothing(world: World, handle: str) -> None:
    answer = httpx.post(
        f"{world.url}/queries/v1/query-request",
        json={"sqlText": "SELECT 1"},
        headers={"authorization": f'Snowflake Token="{handle}"'},
    ).json()
    assert answer["code"] == "390114"
    assert "expired" in answer["message"]


# ------------------------------------------------------------------ too many failures


def test_who_fails_too_often_has_to_wait_and_others_need_not(tmp_path: Path) -> None:
    idp, at_idp, at_hoop, chosen = _world(
        tmp_path, sign_in={"failures_per_minute": 5, "logged_per_minute": 3}
    )
    with served(idp.app(), at_idp), gateway(chosen) as made:
        world = World(idp, made, at_hoop)
        now = time.monotonic()  # and so it stays: no failure is forgotten, no minute is over
        for part in (made.sign_in._addresses, made.sign_in._issuers, made.sign_in.refusals):
            part._clock = lambda: now
        codes = []
        for n in range(8):
            bad = token(OTHER, iss=idp.url, jti=str(n))
            codes.append(world.login(AUTHENTICATOR="OAUTH", TOKEN=bad)["code"])
        assert codes == ["390303"] * 5 + ["099429"] * 3
        good = world.token()
        assert world.login(AUTHENTICATOR="OAUTH", TOKEN=good)["code"] == "099429"
        bearer = {"authorization": f"Bearer {good}"}
        assert httpx.get(f"{world.url}/hoop/v1/sessions", headers=bearer).status_code == 429
        assert httpx.get(f"{world.url}/hoop/sso/start?login=x").status_code == 429
        elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
        with httpx.Client(transport=elsewhere) as client:
            assert client.get(f"{world.url}/hoop/v1/sessions", headers=bearer).status_code == 200
        assert len(world.kinds("signin.refused")) == 3
    # stopping the gateway writes down how many more there were
    store = Store(chosen.store.url)
    entries = [json.loads(e.text) for e in AuditLog(store, made.log.key).entries()]
    store.close()
    (counted,) = [e["data"] for e in entries if e["kind"] == "signin.refusals_counted"]
    assert counted["count"] == 8
    assert counted["reasons"] == {"IDENTITY": 2, "TOO_MANY_FAILURES": 6}
    assert counted["addresses"] == {"127.0.0.1": 8}


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_empties_with_time() -> None:
    clock = Clock()
    throttle = Throttle(6, clock=clock)
    for _ in range(100):
        throttle.failed("a")
    assert throttle.full("a")
    assert not throttle.full("b")
    clock.now += 0.001
    assert throttle.full("a")  # what leaked since is less than one
    clock.now += 10
    assert not throttle.full("a")
    throttle.failed("a")
    assert throttle.full("a")
    clock.now += 60
    assert throttle.level("a") == 0


def test_a_limit_holds_while_time_goes_by() -> None:
    clock = Clock()
    throttle = Throttle(60, clock=clock)
    passed = 0
    for _ in range(60_000):  # one try a millisecond, for a minute
        if not throttle.full("a"):
            throttle.failed("a")
            passed += 1
        clock.now += 0.001
    assert 60 <= passed <= 120


def test_memory_for_failures_is_bounded() -> None:
    throttle = Throttle(5, most=100)
    for n in range(1000):
        throttle.failed(str(n))
    assert len(throttle._levels) == 100


def test_no_limit_remembers_nothing() -> None:
    throttle = Throttle(0)
    throttle.failed("a")
    assert not throttle.full("a")
    assert not throttle._levels


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        (None, "?"),
        ("unix", "?"),
    ],
)
def test_a_customers_whole_network_counts_as_one(address: str | None, counted: str) -> None:
    assert neighbourhood(address) == counted


def test_a_flood_of_refusals_is_counted_each_minute(log: AuditLog) -> None:
    clock = Clock()
    refusals = Refusals(log, per_minute=2, clock=clock)

    async def flood() -> None:
        for _ in range(3):
            for n in range(100):
                client = {"address": f"10.0.0.{n}"}
                await refusals.add(None, client, IdentityError("The token is not a signed JWT."))
            clock.now += 61
        await refusals.flush()
        await refusals.flush(now=True)

    asyncio.run(flood())
    kinds = [json.loads(e.text) for e in log.entries()]
    counted = [e["data"] for e in kinds if e["kind"] == "signin.refusals_counted"]
    assert [e["kind"] for e in kinds].count("signin.refused") == 6
    assert [c["count"] for c in counted] == [98, 98, 98]
    assert all(len(c["addresses"]) == 20 for c in counted)


# ------------------------------------------------------------------ what replicas share


def test_of_two_replicas_one_sees_a_first_use(store: Store) -> None:
    seen = SeenTokens(store)
    until = datetime.now(UTC) + timedelta(minutes=5)
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(seen.first_use("d", until, f"by{n}")))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == [False] * 7 + [True]


def test_what_cannot_be_brought_any_more_is_forgotten(store: Store) -> None:
    seen = SeenTokens(store)
    assert seen.first_use("old", datetime.now(UTC) - timedelta(seconds=1), "by")
    seen._tidied = float("-inf")
    assert seen.first_use("new", datetime.now(UTC) + timedelta(minutes=1), "by2")
    assert seen.first_use("old", datetime.now(UTC) + timedelta(minutes=1), "by3")


def test_a_browsers_journey_ends_once_and_in_time(store: Store) -> None:
    journeys = Journeys(store)
    journeys.begin("h", "k", 5000, 60)
    journeys.begin("late", "k", 5000, -1)
    assert journeys.by_handle("late") is None
    assert not journeys.choose("late", "p", {})
    assert journeys.choose("h", "p", {"id": "1"})
    assert journeys.by_ticket("t") is None
    assert journeys.arrive("h", {"who": 1}, "t")
    assert not journeys.arrive("h", {"who": 2}, "t2")
    assert not journeys.choose("h", "p", {})
    assert journeys.by_handle("h") is None
    found = journeys.by_ticket("t")
    assert found is not None
    assert (found.identity, found.port, found.proof_key) == ({"who": 1}, 5000, "k")


def test_programming_errors_are_the_drivers_own(world: World) -> None:
    """A driver shows a refusal as its ordinary error."""
    with pytest.raises((DatabaseError, ProgrammingError), match="not a signed JWT"):
        snowflake.connector.connect(
            host="127.0.0.1", port=world.port, protocol="http", account="acme", user="x",
            authenticator="oauth", token="nonsense", login_timeout=5,
        )  # fmt: skip


def test_who_asks_ahead_in_a_role_that_is_not_theirs_is_refused_on_record(world: World) -> None:
    for path, body in (
        ("approvals", {"sql": "SELECT 1"}),
        ("standing-approvals", {"template": "DELETE FROM T WHERE N = {n}", "bounds": {}}),
    ):
        before = len(world.kinds("signin.refused"))
        bearer = {"authorization": f"Bearer {world.token(sub='una', jti=path)}"}
        asked = {**body, "role": "NOT_MINE"}
        answer = httpx.post(f"{world.url}/hoop/v1/{path}", json=asked, headers=bearer)
        assert answer.status_code == 403
        assert len(world.kinds("signin.refused")) == before + 1
