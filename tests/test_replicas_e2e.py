"""Two `hoop serve` on one PostgreSQL, and the plain driver that meets now the one, now the other."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import snowflake.connector
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import DatabaseError, Error, ProgrammingError

from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.client import HoopClient, token_source
from hoop_core.config import load_settings
from hoop_core.devstack.processes import free_port
from hoop_core.devstack.replica import Replica
from hoop_core.devstack.stack import DevStack
from hoop_core.errors import ConfigError
from hoop_core.gateway.forwarding import FORWARDED_TO
from hoop_core.server.app import build_gateway
from tests.postgres_server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.postgres]
SLOW = "SELECT COUNT(*) FROM ORDERS A, ORDERS B, ORDERS C WHERE A.AMOUNT * B.AMOUNT < C.AMOUNT"


@dataclass(frozen=True)
class World:
    stack: DevStack
    url: str
    a: Replica
    b: Replica

    def connect(self, at: Replica, **options: Any) -> SnowflakeConnection:
        return snowflake.connector.connect(
            host="127.0.0.1",
            port=at.port,
            protocol="http",
            account="hoopdev",
            user="whoever",
            authenticator="oauth",
            token=self.stack.token("churn-agent"),
            database="PROD",
            schema="CRM",
            login_timeout=20,
            **options,
        )

    def ask(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Straight at the store."""
        with psycopg.connect(self.url) as connection:
            return connection.execute(sql.encode(), values).fetchall()

    def session_of(self, connection: SnowflakeConnection) -> tuple[str, str]:
        """Its id, and its replica's name."""
        digest = hashlib.sha256(connection.rest.token.encode()).hexdigest()
        sql = (
            "SELECT s.id, r.name FROM sessions s JOIN replicas r ON r.id = s.owner "
            "WHERE token_digest = %s"
        )
        ((session, replica),) = self.ask(sql, digest)
        return session, replica

    def entries(self, session: str) -> list[tuple[str, dict[str, Any]]]:
        sql = "SELECT kind, entry FROM log_entries WHERE session_id = %s ORDER BY seq"
        return [(kind, json.loads(entry)["data"]) for kind, entry in self.ask(sql, session)]

    def users(self, session: str) -> set[str]:
        """Minted for a session, and still there."""
        minted = {
            u
            for (u,) in self.ask("SELECT snowflake_user FROM leases WHERE session_id = %s", session)
        }
        info = self.stack.info
        with snowflake.connector.connect(
            host=info.snowflake_host,
            port=info.snowflake_port,
            protocol="http",
            account=info.snowflake_account,
            user=info.admin_user,
            password=info.admin_password,
        ) as admin:
            listed = admin.cursor(snowflake.connector.DictCursor).execute("SHOW USERS").fetchall()
        return minted & {row["name"] for row in listed}


@pytest.fixture(scope="module")
def world(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    url = postgres.database()
    with DevStack(tmp_path_factory.mktemp("replicas"), gateway=False) as stack:
        shared = {"HOOP_STORE__URL": url, "HOOP_GATEWAY__REPLICA_BEAT_SECONDS": "1.25"}
        shared["HOOP_CREDENTIALS__SWEEP_SECONDS"] = "1"
        ports = free_port(), free_port()
        a, b = (
            # The address that clients are given is that of the other one.
            stack.replica(
                name, {**shared, "HOOP_GATEWAY__PUBLIC_URL": f"http://127.0.0.1:{other}"}, port=port
            )
            for name, port, other in (("a", *ports), ("b", *ports[::-1]))
        )
        for replica in (a, b):
            replica.part.start()  # at the same moment, on an empty database
        for replica in (a, b):
            replica.ready()
        yield World(stack, url, a, b)


def turn(connection: SnowflakeConnection, to: Replica) -> SnowflakeConnection:
    """From now on a load balancer sends this client's requests to another replica."""
    connection.rest._port = to.port
    connection._port = to.port
    return connection


def rows(connection: SnowflakeConnection, sql: str) -> list[Any]:
    return connection.cursor().execute(sql).fetchall()


def eventually(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_session_works_on_the_other_replica_to_its_end(world: World) -> None:
    connection = world.connect(world.a)
    session, replica = world.session_of(connection)
    assert replica == "a"
    assert rows(connection, "SELECT 1") == [(1,)]
    turn(connection, world.b)
    assert rows(connection, "SELECT COUNT(*) FROM CUSTOMERS") == [(50_000,)]
    old = connection.rest.token
    connection.rest._renew_session()
    assert connection.rest.token != old
    connection.rest._heartbeat()
    assert world.session_of(connection) == (session, "a")
    turn(connection, world.a)
    connection.cursor().execute("USE SCHEMA PROD.FEATURES")
    turn(connection, world.b)
    assert rows(connection, "SELECT CURRENT_SCHEMA()") == [("FEATURES",)]
    assert len(world.users(session)) == 1
    connection.close()
    assert world.users(session) == set()
    kinds = [kind for kind, _ in world.entries(session)]
    assert kinds[0] == "session.opened" and kinds[-1] == "session.closed"
    assert kinds.count("statement.intent") == kinds.count("statement.outcome") == 4
    assert world.ask("SELECT token_digest, master_digest FROM sessions WHERE id = %s", session) == [
        (None, None)
    ]


def test_parts_of_a_result_are_fetched_through_the_other_replica(world: World) -> None:
    for home, other in ((world.a, world.b), (world.b, world.a)):
        with world.connect(home) as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT CUSTOMER_ID, EMAIL, SIGNED_UP FROM CUSTOMERS")
            batches = cursor.get_result_batches() or []
            remote = [b for b in batches if getattr(b, "_remote_chunk_info", None)]
            assert remote
            for batch in remote:
                assert batch._remote_chunk_info.url.startswith(other.url)
            assert sorted(int(r[0]) for r in cursor) == list(range(1, 50_001))
            url = remote[0]._remote_chunk_info.url
            assert httpx.get(url, headers={"x-hoop-chunk": "guess"}).status_code == 403
            session, _ = world.session_of(connection)
        kinds = [kind for kind, _ in world.entries(session)]
        assert kinds.count("result.part") == len(remote)


def test_a_statement_is_cancelled_through_the_other_replica(world: World) -> None:
    with world.connect(world.a) as connection:
        rows(connection, "SELECT 1")
        turn(connection, world.b)
        with pytest.raises(ProgrammingError) as caught:
            connection.cursor().execute(SLOW, timeout=2)
        assert caught.value.errno == 604
        assert rows(connection, "SELECT 1") == [(1,)]


def test_a_denial_comes_through_as_it_is(world: World) -> None:
    with world.connect(world.a) as connection:
        turn(connection, world.b)
        with pytest.raises(ProgrammingError, match="SALARIES") as caught:
            rows(connection, "SELECT * FROM PROD.HR.SALARIES")
        assert caught.value.errno == 3001


def test_an_answer_on_one_replica_frees_a_statement_on_the_other(world: World) -> None:
    mark = uuid.uuid4().hex
    ended: list[Any] = []
    connection = world.connect(world.a)

    def run() -> None:
        try:
            ended.append(rows(connection, f"DELETE FROM PROD.FEATURES.CHURN_STAGING /* {mark} */"))
        except Error as e:
            ended.append(e)

    waiting = threading.Thread(target=run)
    waiting.start()
    found: list[str] = []

    def asked() -> bool:
        with HoopClient(world.b.url, token_source(world.stack.token("alice"))) as hoop:
            found[:] = [a.id for a in hoop.approvals("pending") if mark in a.sql]
        return bool(found)

    eventually(asked)
    for who in ("alice", "bob"):
        with HoopClient(world.b.url, token_source(world.stack.token(who))) as hoop:
            hoop.answer(found[0], "approve", "fine")
    waiting.join(30)
    assert ended and not isinstance(ended[0], Error)
    connection.close()


def test_a_retried_request_runs_once_wherever_it_lands(world: World) -> None:
    with world.connect(world.a) as connection:
        session, _ = world.session_of(connection)
        headers = {"Authorization": f'Snowflake Token="{connection.rest.token}"'}
        path = f"/queries/v1/query-request?requestId={uuid.uuid4()}"
        body = {"sqlText": "SELECT COUNT(*) FROM ORDERS", "sequenceId": 1}
        said = [
            httpx.post(at.url + path, json=body, headers=headers, timeout=30).json()
            for at in (world.b, world.a, world.b)
        ]
        assert all(s["success"] for s in said)
        kinds = [kind for kind, _ in world.entries(session)]
        assert kinds.count("statement.intent") == 1


def test_what_was_forwarded_goes_no_further(world: World) -> None:
    with world.connect(world.a) as connection:
        headers = {"Authorization": f'Snowflake Token="{connection.rest.token}"'}
        marked = {**headers, FORWARDED_TO: "rep_somebody"}
        said = httpx.post(f"{world.b.url}/session/heartbeat", headers=marked).json()
        assert (said["success"], said["code"]) == (False, "390111")
        assert httpx.post(f"{world.b.url}/session/heartbeat", headers=headers).json()["success"]


def test_an_unknown_handle_is_refused_by_both(world: World) -> None:
    headers = {"Authorization": f'Snowflake Token="{"x" * 43}"'}
    for at in (world.a, world.b):
        said = httpx.post(f"{at.url}/session/heartbeat", headers=headers).json()
        assert said["code"] == "390111"


def test_the_log_of_both_is_one(world: World) -> None:
    seqs = [s for (s,) in world.ask("SELECT seq FROM log_entries ORDER BY seq")]
    assert seqs == list(range(len(seqs)))
    owners = world.ask("SELECT count(DISTINCT owner) FROM sessions")
    assert owners == [(2,)]


def test_a_replica_with_another_log_key_does_not_start(world: World, tmp_path: Path) -> None:
    settings = load_settings(world.stack.config_file)
    other = settings.audit.model_copy(update={"key_file": tmp_path / "other.key"})
    load_or_create_key(tmp_path / "other.key", settings.audit.origin)
    store = settings.store.model_copy(update={"url": world.url})
    with pytest.raises(ConfigError, match=r"audit\.key_file"):
        build_gateway(settings.model_copy(update={"audit": other, "store": store}))


def test_a_statement_of_the_sql_api_is_known_at_every_replica_and_runs_once(world: World) -> None:
    headers = {"authorization": f"Bearer {world.stack.token('churn-agent')}"}
    path, params = "/api/v2/statements", {"requestId": str(uuid.uuid4())}
    body = {"statement": "SELECT CUSTOMER_ID FROM PROD.CRM.CUSTOMERS"}
    at_a, at_b = (f"http://127.0.0.1:{r.port}{path}" for r in (world.a, world.b))
    with httpx.Client(headers=headers, timeout=60) as client:
        first = client.post(at_a, params=params, json=body).json()
        again = client.post(at_b, params=params, json=body)
        assert again.json() == first
        handle = first["statementHandle"]
        assert client.get(f"{at_b}/{handle}").json()["data"] == first["data"]
        part = client.get(f"{at_b}/{handle}", params={"partition": "1"})
        assert part.headers["content-encoding"] == "gzip" and part.json()["data"]
        canceled = client.post(f"{at_b}/{handle}/cancel")
        assert (canceled.status_code, canceled.json()["code"]) == (422, "000605")
        other = client.post(at_b, params=params, json={"statement": "SELECT 2"})
        assert other.status_code == 400
    kinds = [kind for kind, _ in world.entries("ses_" + handle.replace("-", ""))]
    assert kinds.count("statement.intent") == kinds.count("session.opened") == 1


def test_what_a_killed_replica_held_is_ended_by_the_other(world: World) -> None:
    """The last test: afterwards there is one replica."""
    connection, other = world.connect(world.a), world.connect(world.b)
    session, _ = world.session_of(connection)
    assert rows(connection, "SELECT 1") == [(1,)]
    assert len(world.users(session)) == 1
    world.a.part.kill()
    turn(connection, world.b)

    def said() -> str:
        headers = {"Authorization": f'Snowflake Token="{connection.rest.token}"'}
        answer = httpx.post(f"{world.b.url}/session/heartbeat", headers=headers)
        assert answer.status_code == 503 or not answer.json()["success"]
        return str(answer.json()["code"])

    eventually(lambda: said() == "390111")
    with pytest.raises(DatabaseError) as caught:
        rows(connection, "SELECT 2")
    assert caught.value.errno in {390111, 390114, 390115}
    eventually(lambda: not world.users(session))
    eventually(lambda: "session.closed" in [kind for kind, _ in world.entries(session)])
    closed = [data for kind, data in world.entries(session) if kind == "session.closed"]
    assert [c["reason"] for c in closed] == ["its replica died"]
    assert rows(other, "SELECT 1") == [(1,)]
    with world.connect(world.b) as anew:
        assert rows(anew, "SELECT 2") == [(2,)]
    other.close()
