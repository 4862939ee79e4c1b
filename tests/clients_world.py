"""What the tests of unmodified clients share: one stack whose policy has something for each of them.

Clients are configured by host, port, protocol, `authenticator=oauth` and a token, and by nothing else of Hoop's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import snowflake.connector
from snowflake.connector import SnowflakeConnection

from hoop_core.client import HoopClient, token_source
from hoop_core.devstack.stack import AGENT, DevStack

MASKED_NOTE = "[free text withheld]"
DENIED = "PROD.HR.SALARIES"
HELD = "PROD.CRM.SUPPORT_NOTES"
"""A table that a person has to answer for."""

POLICY = f"""
version: 1
roles:
  - {{groups: [ml-agents], vault_role: ml-reader, snowflake_role: ML_READER, warehouse: ML_WH}}
  - {{groups: [pii-readers], vault_role: pii-reader, snowflake_role: PII_READER, warehouse: ML_WH}}
masks:
  - {{columns: ["PROD.CRM.CUSTOMERS.EMAIL"], mask: email_domain}}
  - {{columns: ["PROD.CRM.CUSTOMERS.SSN"], mask: "null"}}
  - {{columns: ["PROD.CRM.CUSTOMERS.CARD_NUMBER"], mask: partial, keep_last: 4}}
  - {{columns: ["{HELD}.BODY"], mask: constant, value: "{MASKED_NOTE}"}}
  - columns: [PROD.CRM.TYPED.SECRET_NUMBER, PROD.CRM.TYPED.SECRET_DAY, PROD.CRM.TYPED.SECRET_AT,
              PROD.CRM.TYPED.SECRET_RAW, PROD.CRM.TYPED.SECRET_TEXT]
    mask: "null"
rules:
  - {{name: read, groups: [ml-agents], reads: ["PROD.CRM.*", "PROD.FEATURES.*"], then: allow}}
  - name: write
    groups: [ml-agents]
    kinds: [insert, insert_overwrite, merge, update, delete, truncate, create_table, create_table_as, alter_table,
            drop_table, create_temp_stage, put, copy_into_table]
    writes: ["PROD.FEATURES.*"]
    then: allow
  - name: notes-are-asked-for
    kinds: [select, create_table_as]
    reads: ["{HELD}"]
    then: require_approval
    approval: {{approvers: [data-owners], quorum: 1, pending_for: 1h, valid_for: 1h}}
"""

_TYPED = (
    """CREATE TABLE PROD.CRM.TYPED (
        ID NUMBER(38,0), PRICE NUMBER(12,2), RATIO FLOAT, ACTIVE BOOLEAN, DAY DATE, AT_TIME TIME,
        AT_NTZ TIMESTAMP_NTZ, AT_LTZ TIMESTAMP_LTZ, DOC VARIANT, RAW BINARY, LABEL VARCHAR,
        SECRET_NUMBER NUMBER(12,2), SECRET_DAY DATE, SECRET_AT TIMESTAMP_NTZ, SECRET_RAW BINARY, SECRET_TEXT VARCHAR
    )""",
    """INSERT INTO PROD.CRM.TYPED SELECT 1, 12.34, 0.5, TRUE, '2024-02-29'::DATE, '12:34:56'::TIME,
        '2024-02-29 12:34:56.789'::TIMESTAMP_NTZ, '2024-02-29 12:34:56.789'::TIMESTAMP_LTZ,
        PARSE_JSON('{"a": [1, "x"]}'), TO_BINARY('AB', 'UTF-8'), 'öé',
        99.99, '1999-12-31'::DATE, '1999-12-31 23:59:59'::TIMESTAMP_NTZ, TO_BINARY('CD', 'UTF-8'), 'secret'""",
)


@dataclass(frozen=True, slots=True)
class ClientsWorld:
    stack: DevStack

    @classmethod
    @contextmanager
    def started(cls, home: Path, policy_text: str = POLICY) -> Iterator[ClientsWorld]:
        policy = home.with_suffix(".yaml")
        policy.write_text(policy_text)
        with DevStack(home, policy=policy) as stack:
            world = cls(stack)
            for statement in _TYPED:
                world.behind(statement)
            yield world

    @property
    def host(self) -> str:
        return self.stack.info.gateway_host

    @property
    def port(self) -> int:
        return self.stack.info.gateway_port

    @property
    def url(self) -> str:
        return self.stack.info.gateway_url

    @property
    def agent_token(self) -> str:
        return self.stack.token(AGENT)

    def options(self, **more: Any) -> dict[str, Any]:
        """Arguments of `snowflake.connector.connect` and of whatever is built on it."""
        return {
            "account": "hoopdev",
            "user": "whoever",
            "host": self.host,
            "port": self.port,
            "protocol": "http",
            "authenticator": "oauth",
            "token": self.agent_token,
            "database": "PROD",
            "schema": "CRM",
            **more,
        }

    def connect(self, **more: Any) -> SnowflakeConnection:
        return snowflake.connector.connect(**self.options(**more))

    def behind(self, sql: str) -> list[tuple[Any, ...]]:
        """As the emulator's administrator, behind Hoop's back."""
        info = self.stack.info
        with snowflake.connector.connect(
            host=info.snowflake_host,
            port=info.snowflake_port,
            protocol="http",
            account=info.snowflake_account,
            user=info.admin_user,
            password=info.admin_password,
            warehouse="ML_WH",
        ) as connection:
            rows: list[tuple[Any, ...]] = connection.cursor().execute(sql).fetchall()
            return rows

    def entries(self, kind: str, contains: str) -> list[dict[str, Any]]:
        """Entries of one kind whose statement contains a text, as an auditor's client sees them."""
        with HoopClient(self.url, token_source(self.stack.token("alice"))) as hoop:
            return [
                entry
                for session in hoop.sessions()
                for entry in hoop.session(session["id"])["entries"]
                if entry["kind"] == kind and contains in str(entry["data"].get("sql"))
            ]

    @contextmanager
    def approving(self, mark: str) -> Iterator[None]:
        """Alice approves the one question about a statement with `mark` in it, once it is asked."""
        answered: list[str] = []
        stop = threading.Event()

        def answer() -> None:
            with HoopClient(self.url, token_source(self.stack.token("alice"))) as hoop:
                while not stop.is_set() and not answered:
                    for one in hoop.approvals("pending"):
                        if mark in one.sql:
                            hoop.answer(one.id, "approve", "a test")
                            answered.append(one.id)
                    time.sleep(0.1)

        approver = threading.Thread(target=answer)
        approver.start()
        try:
            yield
        finally:
            stop.set()
            approver.join()
        assert len(answered) == 1, "the statement was not held for a person"


Made = Callable[[], SnowflakeConnection]
