"""Who gets into the stand-in, and how sessions end."""

from __future__ import annotations

import hashlib
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
import snowflake.connector
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
)
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import DatabaseError, Error

from hoop_core.devstack.emulator.process import Running, key_pair, running

pytestmark = pytest.mark.e2e

Run = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("emulator"), "--slow-seconds", "0.5") as found:
        yield found


@pytest.fixture(scope="module")
def admin(emulator: Running) -> Iterator[Run]:
    connection = snowflake.connector.connect(**emulator.options())

    def run(sql: str) -> list[tuple[Any, ...]]:
        rows = connection.cursor().execute(sql)
        assert rows is not None
        return [tuple(r) for r in rows.fetchall()]

    yield run
    connection.close()


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, str]:
    return key_pair()


@pytest.fixture
def service(
    admin: Run, emulator: Running, keys: tuple[bytes, str]
) -> Iterator[Callable[..., SnowflakeConnection]]:
    """A minted-like user V_JOB with ML_READER; opens sessions with its key."""
    admin(
        f"CREATE OR REPLACE USER V_JOB TYPE = SERVICE RSA_PUBLIC_KEY = '{keys[1]}' "
        "DEFAULT_ROLE = ML_READER DEFAULT_WAREHOUSE = ML_WH DAYS_TO_EXPIRY = 1"
    )
    admin("GRANT ROLE ML_READER TO USER V_JOB")
    yield lambda **more: snowflake.connector.connect(
        **emulator.options(user="V_JOB", private_key=keys[0], **more)
    )
    admin("DROP USER IF EXISTS V_JOB")


def refused(emulator: Running, **options: Any) -> int:
    with pytest.raises(DatabaseError) as caught:
        snowflake.connector.connect(**emulator.options(**options))
    return caught.value.errno


def token_of(emulator: Running, keys: tuple[bytes, str], **claims: Any) -> str:
    """A key-pair JWT of V_JOB; claims replace the right ones."""
    private = load_der_private_key(keys[0], None)
    der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fingerprint = "SHA256:" + b64encode(hashlib.sha256(der).digest()).decode()
    now = int(time.time())
    right = {
        "iss": f"HOOPDEV.V_JOB.{fingerprint}",
        "sub": "HOOPDEV.V_JOB",
        "iat": now,
        "exp": now + 60,
    }
    return jwt.encode({**right, **claims}, private, algorithm="RS256")


def jwt_login(emulator: Running, token: str) -> dict[str, Any]:
    data = {"LOGIN_NAME": "V_JOB", "AUTHENTICATOR": "SNOWFLAKE_JWT", "TOKEN": token}
    return emulator.sign_in({**data, "PASSWORD": None})


def test_a_password_opens_a_session_of_its_owner(emulator: Running) -> None:
    with snowflake.connector.connect(**emulator.options(role="SYSADMIN")) as connection:
        row = connection.cursor().execute("SELECT CURRENT_USER(), CURRENT_ROLE()").fetchone()
    assert row == ("HOOP_ADMIN", "SYSADMIN")


@pytest.mark.parametrize(
    ("user", "password"),
    [("HOOP_ADMIN", "wrong"), ("NOBODY", "x"), ("VAULT_MINTER_SVC", "x"), ("HOOP_ADMIN", "")],
)
def test_a_wrong_password_or_user_gets_one_and_the_same_answer(
    emulator: Running, user: str, password: str
) -> None:
    answer = emulator.sign_in({"LOGIN_NAME": user, "PASSWORD": password})
    assert answer["success"] is False
    assert answer["code"] == "390100"
    assert answer["message"] == "Incorrect username or password was specified."
    assert "token" not in answer["data"]


def test_the_account_must_be_the_right_one(emulator: Running) -> None:
    assert emulator.sign_in({"ACCOUNT_NAME": "OTHER"})["code"] == "390100"


def test_a_key_pair_opens_a_session(service: Callable[..., SnowflakeConnection]) -> None:
    with service(database="PROD", schema="CRM") as connection:
        assert (connection.role, connection.database, connection.schema) == (
            "ML_READER",
            "PROD",
            "CRM",
        )


def test_the_key_pair_token_is_checked_in_every_part(
    emulator: Running, service: Callable[..., SnowflakeConnection], keys: tuple[bytes, str]
) -> None:
    now = int(time.time())
    right = token_of(emulator, keys)
    assert jwt_login(emulator, right)["success"] is True
    other_key = token_of(emulator, key_pair())
    claims = jwt.decode(right, options={"verify_signature": False})
    head, body, signature = right.split(".")
    for bad in (
        other_key,
        token_of(emulator, keys, iss="HOOPDEV.V_JOB.SHA256:AAAA"),
        token_of(emulator, keys, iss=claims["iss"].replace("V_JOB", "HOOP_ADMIN")),
        token_of(emulator, keys, sub="HOOPDEV.HOOP_ADMIN"),
        token_of(emulator, keys, sub="OTHER.V_JOB"),
        token_of(emulator, keys, exp=now - 120, iat=now - 180),
        token_of(emulator, keys, exp=now + 2 * 3600),
        token_of(emulator, keys, iat=now + 600, exp=now + 900),
        jwt.encode(claims, None, algorithm="none"),
        jwt.encode(claims, "a shared secret of thirty-two bytes!", algorithm="HS256"),
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        "garbage",
        "",
    ):
        answer = jwt_login(emulator, bad)
        assert (answer["success"], answer["code"]) == (False, "390144"), bad


def test_a_token_of_one_user_does_not_open_another_ones_session(
    emulator: Running, service: Callable[..., SnowflakeConnection], keys: tuple[bytes, str]
) -> None:
    data = {"AUTHENTICATOR": "SNOWFLAKE_JWT", "TOKEN": token_of(emulator, keys), "PASSWORD": None}
    assert emulator.sign_in({**data, "LOGIN_NAME": "HOOP_ADMIN"})["code"] == "390144"


def test_a_service_user_cannot_have_a_password(admin: Run, emulator: Running) -> None:
    with pytest.raises(Error, match="SERVICE") as caught:
        admin("CREATE USER S1 TYPE = SERVICE PASSWORD = 'open-sesame'")
    assert "open-sesame" not in str(caught.value)
    admin("CREATE USER S1 PASSWORD = 'open-sesame'")
    try:
        assert emulator.sign_in({"LOGIN_NAME": "S1", "PASSWORD": "open-sesame"})["success"]
        with pytest.raises(Error, match="SERVICE"):
            admin("ALTER USER S1 SET TYPE = SERVICE")
    finally:
        admin("DROP USER S1")


def test_oauth_and_other_authenticators_are_refused(emulator: Running) -> None:
    assert refused(emulator, user="x", authenticator="oauth", token="a.b.c") == 390303
    answer = emulator.sign_in({"AUTHENTICATOR": "EXTERNALBROWSER"})
    assert answer["success"] is False


def test_a_role_that_is_not_granted_is_refused(
    emulator: Running, service: Callable[..., SnowflakeConnection]
) -> None:
    with pytest.raises(DatabaseError) as caught:
        service(role="ACCOUNTADMIN")
    assert caught.value.errno == 390189
    with service(role="ml_reader") as connection:
        assert connection.role == "ML_READER"


def test_a_place_or_warehouse_that_is_not_granted_is_left_out(
    service: Callable[..., SnowflakeConnection],
) -> None:
    with service(database="PROD", schema="HR", warehouse="NOPE") as connection:
        assert (connection.database, connection.schema, connection.warehouse) == (
            "PROD",
            None,
            None,
        )
    with service(database="NOPE") as connection:
        assert connection.database is None


def test_unknown_session_parameters_are_refused_at_login(emulator: Running) -> None:
    answer = emulator.sign_in({"SESSION_PARAMETERS": {"HOOP_CONTEXT": "{}"}})
    assert (answer["success"], answer["code"]) == (False, "001006")


def test_login_names_differ_from_names_and_ignore_case(admin: Run, emulator: Running) -> None:
    admin("CREATE USER LONG_NAME LOGIN_NAME = 'short' PASSWORD = 'pw-1'")
    try:
        assert emulator.sign_in({"LOGIN_NAME": "ShOrT", "PASSWORD": "pw-1"})["success"]
        assert emulator.sign_in({"LOGIN_NAME": "LONG_NAME", "PASSWORD": "pw-1"})["code"] == "390100"
        with pytest.raises(Error, match="already exists"):
            admin("CREATE USER SHORT PASSWORD = 'x'")
    finally:
        admin("DROP USER LONG_NAME")


@pytest.mark.parametrize("how", ["SET DISABLED = TRUE", "SET DAYS_TO_EXPIRY = 0"])
def test_a_disabled_or_expired_user_is_out_at_once(
    admin: Run, emulator: Running, service: Callable[..., SnowflakeConnection], how: str
) -> None:
    with service() as connection:
        admin(f"ALTER USER V_JOB {how}")
        with pytest.raises(Error) as caught:
            connection.cursor().execute("SELECT 1")
        assert caught.value.errno == 390111
        with pytest.raises(DatabaseError) as again:
            service()
        assert again.value.errno == 390101


def test_dropping_a_user_stops_what_it_runs_and_nothing_leaves(
    admin: Run, emulator: Running, service: Callable[..., SnowflakeConnection]
) -> None:
    connection = service(database="PROD", schema="CRM")
    seen: list[int] = []

    def work() -> None:
        try:
            connection.cursor().execute(
                "SELECT COUNT(*) FROM ORDERS A JOIN ORDERS B ON A.AMOUNT < B.AMOUNT"
            )
            seen.append(0)
        except Error as e:
            seen.append(e.errno or 0)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and thread.is_alive():
        time.sleep(0.3)
        admin("DROP USER IF EXISTS V_JOB")
        thread.join(0.5)
    thread.join(20)
    assert seen == [390111]
    assert admin("SHOW USERS LIKE 'V\\\\_JOB'") == []
    with pytest.raises(DatabaseError) as caught:
        service()
    assert caught.value.errno == 390144


def test_a_user_made_again_is_another_user(
    admin: Run, service: Callable[..., SnowflakeConnection], keys: tuple[bytes, str]
) -> None:
    with service() as connection:
        admin("DROP USER V_JOB")
        admin(f"CREATE USER V_JOB TYPE = SERVICE RSA_PUBLIC_KEY = '{keys[1]}'")
        with pytest.raises(Error) as caught:
            connection.cursor().execute("SELECT 1")
        assert caught.value.errno == 390111


def test_logout_ends_the_session(emulator: Running) -> None:
    token = emulator.sign_in()["data"]["token"]
    assert emulator.call("POST", "/session/heartbeat", {}, token=token)["success"]
    assert emulator.call("POST", "/session?delete=true", {}, token=token)["success"]
    assert emulator.query(token, "SELECT 1")["code"] == "390111"
    assert emulator.call("POST", "/session/heartbeat", {}, token=token)["code"] == "390111"


def test_requests_without_a_good_token_are_refused(emulator: Running) -> None:
    assert emulator.query("garbage", "SELECT 1")["code"] == "390104"
    assert emulator.call("POST", "/session/heartbeat", {})["code"] == "390103"


def test_a_session_is_renewed_with_its_master_token(emulator: Running) -> None:
    data = emulator.sign_in()["data"]

    def renew(master: str, old: str) -> dict[str, Any]:
        body = {"oldSessionToken": old, "requestType": "RENEW"}
        return emulator.call("POST", "/session/token-request", body, token=master)

    assert renew(data["token"], data["token"])["code"] == "390115"
    other = emulator.sign_in()["data"]
    assert renew(data["masterToken"], other["token"])["success"] is False
    new = renew(data["masterToken"], data["token"])
    assert new["success"]
    assert emulator.query(data["token"], "SELECT 1")["code"] == "390112"
    answer = emulator.query(new["data"]["sessionToken"], "SELECT CURRENT_SESSION()", parameters={})
    assert answer["data"]["total"] == 1
    assert new["data"]["sessionId"] == data["sessionId"]


def test_tokens_age(tmp_path: Any) -> None:
    arguments = ("--no-demo-data", "--session-token-seconds", "1", "--master-token-seconds", "2")
    with running(tmp_path, *arguments) as emulator:
        with snowflake.connector.connect(**emulator.options()) as connection:
            time.sleep(1.2)
            # The driver renews by itself.
            assert connection.cursor().execute("SELECT 1").fetchall() == [(1,)]
        data = emulator.sign_in()["data"]
        time.sleep(1.2)
        assert emulator.query(data["token"], "SELECT 1")["code"] == "390112"
        time.sleep(1)
        body = {"oldSessionToken": data["token"], "requestType": "RENEW"}
        answer = emulator.call("POST", "/session/token-request", body, token=data["masterToken"])
        assert answer["code"] == "390114"


def test_secrets_do_not_reach_the_log(emulator: Running, admin: Run) -> None:
    admin("CREATE USER LOGGED PASSWORD = 'never-in-a-log'")
    admin("DROP USER LOGGED")
    emulator.sign_in({"PASSWORD": "never-in-a-log-either"})
    log = emulator.log.read_text()
    assert "never-in-a-log" not in log
    assert emulator.admin_password not in log
