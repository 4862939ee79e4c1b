"""What the ordinary connector sends with our parameters, against a server that speaks its protocol."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import snowflake.connector

from hoop_core.client import (
    GatewayAddress,
    bind,
    connect,
    connection_parameters,
    open_connection,
    split_script,
    sqlalchemy_engine,
    sqlalchemy_url,
)
from hoop_core.errors import ConfigError, GatewayUnavailable
from hoop_core.model import RunContext

RUN = RunContext("airflow", {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": "-1"})
ROWS: dict[str, Any] = {
    "parameters": [{"name": "TIMEZONE", "value": "UTC"}],
    "rowtype": [
        {
            "name": "N",
            "type": "fixed",
            "nullable": True,
            "precision": 38,
            "scale": 0,
            "length": None,
            "byteLength": None,
        }
    ],
    "rowset": [["1"]],
    "total": 1,
    "returned": 1,
    "queryResultFormat": "json",
    "statementTypeId": 4096,
}


class Server:
    """A login, and queries that are held for `polls` long polls before they answer one row."""

    def __init__(self) -> None:
        self.logins: list[dict[str, Any]] = []
        self.texts: list[str] = []
        self.login_refusal: dict[str, Any] | None = None
        self.polls = 0
        self.polled = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def reply(self, data: Any, code: str | None = None, success: bool = True) -> None:
                body = {"success": success, "code": code, "message": None, "data": data}
                if not success:
                    body["message"] = data.get("message")
                raw = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def hold_or_answer(self) -> None:
                if server.polled < server.polls:
                    server.polled += 1
                    self.reply({"getResultUrl": "/queries/q1/result"}, "333333", False)
                else:
                    self.reply({**ROWS, "queryId": "q1"})

            def do_GET(self) -> None:
                self.hold_or_answer()

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    raw = gzip.decompress(raw)
                body = json.loads(raw or b"{}")
                if self.path.startswith("/session/v1/login-request"):
                    server.logins.append(body["data"])
                    if server.login_refusal:
                        refusal = server.login_refusal
                        self.reply(refusal, refusal["code"], False)
                        return
                    self.reply(
                        {
                            "token": "h1",
                            "masterToken": "h2",
                            "validityInSeconds": 3600,
                            "masterValidityInSeconds": 14400,
                            "parameters": [{"name": "CLIENT_TELEMETRY_ENABLED", "value": False}],
                            "sessionInfo": {},
                            "sessionId": 1,
                        }
                    )
                elif self.path.startswith("/queries/v1/query-request"):
                    server.texts.append(body["sqlText"])
                    if "CURRENT_" in body["sqlText"].upper():  # what snowflake-sqlalchemy asks
                        text = {**ROWS["rowtype"][0], "type": "text"}
                        self.reply({**ROWS, "rowtype": [text, text], "rowset": [["9.9", "9.9"]]})
                    else:
                        self.hold_or_answer()
                else:
                    self.reply({})

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = GatewayAddress("http", "127.0.0.1", self.http.server_address[1])
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_the_driver_logs_in_with_the_token_and_the_run(server: Server) -> None:
    parameters = connection_parameters(
        server.address,
        "a.b.c",
        database="PROD",
        run=RUN,
        purpose="churn",
        session_parameters={"QUERY_TAG": "x", "hoop_context": "forged"},
    )
    with open_connection(parameters) as connection:
        assert connection.cursor().execute("SELECT 1").fetchall() == [(1,)]
    login = server.logins[0]
    assert login["AUTHENTICATOR"] == "OAUTH"
    assert login["TOKEN"] == "a.b.c"
    assert login["SESSION_PARAMETERS"]["QUERY_TAG"] == "x"
    assert "hoop_context" not in login["SESSION_PARAMETERS"]
    assert json.loads(login["SESSION_PARAMETERS"]["HOOP_CONTEXT"]) == {
        "orchestrator": "airflow",
        **RUN.fields,
        "purpose": "churn",
    }


def test_the_driver_writes_no_token_into_its_log_even_when_debugging(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    token = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9.c2lnbmF0dXJl"
    parameters = connection_parameters(server.address, token)
    with caplog.at_level(logging.DEBUG), open_connection(parameters) as connection:
        connection.cursor().execute("SELECT 1")
    assert server.logins[0]["TOKEN"] == token
    assert [r for r in caplog.records if r.name.startswith("snowflake.connector")]
    assert token not in caplog.text


def test_a_held_statement_is_waited_for_and_never_taken_back(server: Server) -> None:
    server.polls = 5
    with connect(server.address.url, "a.b.c") as connection:
        # With a network timeout the connector would arm a timer that cancels the statement.
        assert connection.network_timeout is None
        cursor = connection.cursor()
        assert cursor.execute("DELETE FROM T").fetchall() == [(1,)]
        assert cursor._timebomb is None
    assert server.polled == 5


def test_a_refused_login_is_the_drivers_own_exception_with_hoops_text(server: Server) -> None:
    server.login_refusal = {"code": "390303", "message": "The token is for another audience."}
    with pytest.raises(snowflake.connector.errors.DatabaseError) as caught:
        connect(server.address.url, "a.b.c")
    assert caught.value.errno == 390303
    assert "another audience" in str(caught.value)
    assert "a.b.c" not in str(caught.value)


def test_an_unreachable_gateway_is_named(unused_port: int) -> None:
    with pytest.raises(GatewayUnavailable, match=f"http://127.0.0.1:{unused_port} does not answer"):
        connect(f"http://127.0.0.1:{unused_port}", "a.b.c")


@pytest.fixture
def unused_port() -> int:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as http:
        return int(http.server_address[1])


@pytest.mark.parametrize("option", ["password", "host", "private_key", "authenticator", "token"])
def test_an_option_that_leads_around_hoop_is_refused(option: str) -> None:
    with pytest.raises((ConfigError, TypeError)):
        connect("https://hoop.test", token="a.b.c", **{option: "x"})


def test_an_engine_asks_for_a_fresh_token_at_each_connect(server: Server) -> None:
    pytest.importorskip("snowflake.sqlalchemy")
    tokens = iter(["first.a.b", "second.a.b"])
    url = sqlalchemy_url(server.address, "PROD", "FEATURES")
    engine = sqlalchemy_engine(
        url,
        lambda: connection_parameters(
            server.address, next(tokens), database="PROD", schema="FEATURES", run=RUN
        ),
    )
    for _ in range(2):
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        engine.dispose()
    assert [login["TOKEN"] for login in server.logins] == ["first.a.b", "second.a.b"]
    assert "HOOP_CONTEXT" in server.logins[0]["SESSION_PARAMETERS"]
    assert "first" not in str(engine.url)


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT %s", ["it's"]),
        ("SELECT %s, %s", (1, None)),
        ("SELECT %(a)s, '%%'", {"a": "back\\slash\nline"}),
        ("SELECT * FROM T WHERE A IN (%s)", [[1, 2, 3]]),
        ("SELECT %s", [decimal.Decimal("1.50")]),
        ("SELECT %s", [datetime.datetime(2026, 1, 2, 3, 4, 5, 678, datetime.UTC)]),
        ("SELECT %s", [datetime.date(2026, 1, 2)]),
        ("SELECT %s, %s", [True, b"\x00\xff"]),
        ("SELECT '100%'", None),
        ("SELECT '100%'", []),
        ("SELECT %s", "just one"),
    ],
)
def test_the_text_that_is_asked_for_is_the_text_that_the_driver_sends(
    server: Server, sql: str, parameters: Any
) -> None:
    with connect(server.address.url, "a.b.c") as connection:
        connection.cursor().execute(sql, parameters)
    assert server.texts[0] == bind(sql, parameters)


def test_parameters_that_do_not_fit_are_an_error_with_advice() -> None:
    with pytest.raises(ConfigError, match="%%"):
        bind("SELECT %s", [1, 2])


def test_a_script_is_split_the_way_the_hook_splits_it() -> None:
    script = "DELETE FROM A; -- first; not a statement\nSELECT ';' ;\n"
    assert [s.strip() for s in split_script(script)] == [
        "DELETE FROM A; -- first; not a statement",
        "SELECT ';' ;",
    ]
