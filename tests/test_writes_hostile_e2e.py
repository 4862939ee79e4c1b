"""Writers who try more than they may, and answers that must not say more than they should."""

from __future__ import annotations

import base64
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import Error, ProgrammingError
from snowflake.connector.pandas_tools import write_pandas
from snowflake.connector.vendored.requests import Response, Session

from hoop_core.client import HoopClient, token_source
from tests.clients_world import POLICY, ClientsWorld

pytestmark = pytest.mark.e2e
ASKED = "PROD.FEATURES.ASKED"
WITH_APPROVAL = f"""{POLICY}
  - name: loads-are-asked-for
    kinds: [copy_into_table, insert]
    writes: ["{ASKED}"]
    then: require_approval
    approval: {{approvers: [data-owners], quorum: 1, pending_for: 1h, valid_for: 1h}}
"""


@pytest.fixture
def connection(clients: ClientsWorld) -> Iterator[SnowflakeConnection]:
    with clients.connect(schema="FEATURES") as made:
        yield made


@pytest.fixture
def asked(clients: ClientsWorld) -> Iterator[str]:
    """A table that is loaded only with somebody's approval."""
    clients.behind(f"CREATE OR REPLACE TABLE {ASKED} (ID NUMBER, LABEL VARCHAR)")
    clients.behind(f"GRANT ALL ON TABLE {ASKED} TO ROLE ML_READER")
    clients.stack.policy_file.write_text(WITH_APPROVAL)
    time.sleep(1)  # the gateway looks every quarter of a second
    yield ASKED
    clients.stack.policy_file.write_text(POLICY)
    time.sleep(1)


def put(connection: SnowflakeConnection, sql: str) -> dict[str, Any]:
    """The answer to a PUT, as the driver gets it, before it uploads anything."""
    with connection.cursor() as cursor:
        answer: dict[str, Any] = cursor._execute_helper(sql)
        return answer


def address(answer: dict[str, Any]) -> str:
    return str(answer["data"]["stageInfo"]["presignedUrl"])


def test_no_answer_to_a_writer_holds_anything_of_snowflakes_storage(
    clients: ClientsWorld, connection: SnowflakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients.behind("CREATE OR REPLACE TABLE PROD.FEATURES.SCANNED (ID NUMBER)")
    clients.behind("GRANT ALL ON TABLE PROD.FEATURES.SCANNED TO ROLE ML_READER")
    heard: list[str] = []
    send: Callable[..., Response] = Session.send

    def listening(self: Session, request: Any, **options: Any) -> Response:
        response = send(self, request, **options)
        heard.append(f"{request.method} {request.url} {response.headers} {response.text}")
        return response

    monkeypatch.setattr(Session, "send", listening)
    assert write_pandas(connection, pd.DataFrame({"ID": range(10)}), "SCANNED", chunk_size=5)[0]
    said = "\n".join(heard)
    uploads = [h for h in heard if h.startswith("PUT ")]
    assert len(uploads) == 2 and all(clients.url in h for h in uploads)
    port = str(clients.stack.info.snowflake_port)
    for secret in ("queryStageMasterKey", "smkId", "stand-in", f":{port}", "Signature=", "matdesc"):
        assert secret not in said
    assert '"encryptionMaterial":null' in said.replace(" ", "") and '"creds":{}' in said.replace(" ", "")  # fmt: skip


def test_who_may_not_put_is_denied_as_by_snowflake(clients: ClientsWorld) -> None:
    with clients.connect(token=clients.stack.token("pia"), schema="FEATURES") as pia:
        with pytest.raises(ProgrammingError, match="create_temp_stage is granted by no rule") as e:
            write_pandas(pia, pd.DataFrame({"ID": [1]}), "ANY")
        assert (e.value.errno, e.value.sqlstate) == (3001, "42501")
        with pytest.raises(ProgrammingError, match="put is granted by no rule"):
            pia.cursor().execute("PUT file:///tmp/x @~")
        with pytest.raises(ProgrammingError, match="no rule grants"):
            pia.cursor().execute("COPY INTO PROD.FEATURES.CHURN_STAGING FROM @~")
        threshold = pia._session_parameters["CLIENT_STAGE_ARRAY_BINDING_THRESHOLD"]
        assert threshold == 0 or threshold > 10**9  # never


def test_a_table_that_is_not_granted_is_not_loaded(connection: SnowflakeConnection) -> None:
    with pytest.raises(ProgrammingError, match="no rule grants"):
        write_pandas(connection, pd.DataFrame({"CUSTOMER_ID": [1]}), "CUSTOMERS", schema="CRM")


def test_stages_of_others_are_neither_written_nor_read(
    clients: ClientsWorld, connection: SnowflakeConnection, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text("1\n")
    clients.behind("CREATE STAGE PROD.FEATURES.SHARED")
    connection.cursor().execute("CREATE TEMP STAGE mine")
    with clients.connect(schema="FEATURES") as other:
        for stage in ("mine", "SHARED", "PROD.FEATURES.SHARED"):
            for sql in (f"PUT file://{tmp_path}/a.csv @{stage}", f"COPY INTO CHURN_STAGING FROM @{stage}"):  # fmt: skip
                with pytest.raises(ProgrammingError, match="not created in this session"):
                    other.cursor().execute(sql)
        # what is there already is hidden by one's own, and not taken in
        other.cursor().execute("CREATE TEMP STAGE IF NOT EXISTS SHARED FILE_FORMAT = (TYPE = CSV)")
        [intent] = clients.entries("statement.intent", "STAGE IF NOT EXISTS SHARED")
        assert "IF NOT EXISTS" not in intent["data"]["executed"]
        with pytest.raises(ProgrammingError, match="not created in this session"):
            connection.cursor().execute("DROP STAGE SHARED")


@pytest.mark.parametrize(
    "sql",
    ["GET @~ file:///tmp", "LIST @~", "REMOVE @~/x", "COPY INTO @~/out FROM PROD.CRM.CUSTOMERS",
     "SELECT $1 FROM @~", "COPY INTO CHURN_STAGING FROM (SELECT c.SSN, 1, 1 FROM PROD.CRM.CUSTOMERS c)"],
)  # fmt: skip
def test_nothing_comes_out_of_a_stage(connection: SnowflakeConnection, sql: str) -> None:
    with pytest.raises(Error):
        connection.cursor().execute(sql)


def test_an_address_takes_one_file_by_put_and_nothing_else(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    url = address(put(connection, "PUT file:///tmp/one.csv @~/x AUTO_COMPRESS = FALSE"))
    assert url.startswith(f"{clients.url}/hoop/uploads/ses_")
    session, token = url.rsplit("/", 2)[1:]
    with httpx.Client() as http:
        for method in ("GET", "POST", "DELETE", "HEAD", "PATCH"):
            assert http.request(method, url).status_code in (404, 405)
        wrong = {"x-goog-meta-sfc-digest": base64.b64encode(b"x" * 32).decode()}
        assert http.put(url, content=b"1\n", headers=wrong).status_code == 422
        right = {"x-goog-meta-sfc-digest": base64.b64encode(hashlib.sha256(b"1\n").digest()).decode()}  # fmt: skip
        assert http.put(url, content=b"1\n", headers=right).status_code == 200
        assert http.put(url, content=b"1\n", headers=right).status_code == 200
        assert http.put(url, content=b"2\n").status_code == 409
        for bad in (f"{session}/{token}x", f"ses_{'0' * 24}/{token}", f"{session}/../{token}"):
            answer = http.put(f"{clients.url}/hoop/uploads/{bad}", content=b"1\n")
            assert answer.status_code in (403, 404) and token not in answer.text
    connection.close()
    assert httpx.put(url, content=b"1\n", headers=right).status_code == 403


def test_bound_values_in_a_stage_that_nobody_filled_are_refused(
    clients: ClientsWorld, connection: SnowflakeConnection
) -> None:
    cursor = connection.cursor()
    cursor.execute("CREATE OR REPLACE TEMPORARY STAGE SYSTEMBIND")
    for place in (
        "@SYSTEMBIND/x",
        "@OTHER/x",
        "@~/x",
        "@SYSTEMBIND",
        "@%CHURN_STAGING/x",
        "x",
        "@SYSTEMBIND/../x",
    ):
        body = {"sqlText": "INSERT INTO CHURN_STAGING VALUES (?, ?, ?)", "bindStage": place}
        path = f"/queries/v1/query-request?requestId={uuid.uuid4()}"
        answer = httpx.post(
            clients.url + path,
            json=body,
            headers={"Authorization": f'Snowflake Token="{connection.rest.token}"'},  # type: ignore[union-attr]
        ).json()
        assert answer["success"] is False and answer["code"] in ("003001", "001003", "099404"), (
            place
        )


def test_a_grant_for_a_load_is_void_once_the_file_is_another(
    clients: ClientsWorld, asked: str
) -> None:
    with clients.connect(schema="FEATURES") as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE TEMP STAGE held FILE_FORMAT = (TYPE = CSV)")
        sql = "PUT file:///tmp/a.csv @held AUTO_COMPRESS = FALSE OVERWRITE = TRUE"
        assert httpx.put(address(put(connection, sql)), content=b"1,good\n").status_code == 200
        cursor.execute_async(f"COPY INTO {asked} FROM @held")
        query = cursor.sfqid
        assert query is not None
        with HoopClient(clients.url, token_source(clients.stack.token("alice"))) as hoop:
            first = pending(hoop, asked)
            assert httpx.put(address(put(connection, sql)), content=b"6,evil\n").status_code == 200
            hoop.answer(first.id, "approve", "saw the good file")
            second = pending(hoop, asked, but=first.id)
            assert clients.behind(f"SELECT * FROM {asked}") == []
            digests = [hashlib.sha256(c).hexdigest() for c in (b"1,good\n", b"6,evil\n")]
            questions = [e["data"]["question"] for e in entries(clients, "approval.requested")][-2:]
            assert [q["staged"][0]["sha256"] for q in questions] == digests
            hoop.answer(second.id, "approve", "saw the other one")
        cursor.get_results_from_sfqid(query)
        assert cursor.fetchall()[0][1] == "LOADED"
        assert clients.behind(f"SELECT * FROM {asked}") == [(6, "evil")]
    [outcome] = [
        e["data"]
        for e in entries(clients, "statement.outcome")
        if (e["data"].get("loaded") or {}).get("rows_loaded") == 1 and e["data"].get("rows") == 1
    ][-1:]
    assert outcome["loaded"] == {"files": 1, "rows_parsed": 1, "rows_loaded": 1, "errors_seen": 0}


def pending(hoop: HoopClient, mark: str, but: str = "") -> Any:
    for _ in range(200):
        found = [a for a in hoop.approvals("pending") if mark in a.sql and a.id != but]
        if found:
            return found[0]
        time.sleep(0.05)
    raise AssertionError("nothing was asked")


def entries(clients: ClientsWorld, kind: str) -> list[dict[str, Any]]:
    """In the order in which they were written."""
    with HoopClient(clients.url, token_source(clients.stack.token("alice"))) as hoop:
        found = [e for s in hoop.sessions() for e in hoop.session(s["id"])["entries"]]
    return sorted((e for e in found if e["kind"] == kind), key=lambda e: int(e["seq"]))
