"""A stack whose parts can be killed at any message between them, and what Snowflake and the log say after."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import snowflake.connector
from snowflake.connector.errors import Error
from sqlalchemy import select
from typer.testing import CliRunner

from hoop_core.audit.stored import stored_entries
from hoop_core.cli.credentials import app as credentials_commands
from hoop_core.devstack.processes import Part, free_port
from hoop_core.devstack.replica import Replica
from hoop_core.devstack.stack import DevStack
from hoop_core.model import LeaseState
from hoop_core.replicas import Replicas
from hoop_core.store import Store
from hoop_core.store.tables import leases, replicas
from tests.wire_tap import Message, Moment, Tap, Trap, quietly

BEAT_SECONDS = "0.5"
_PATIENCE = 90.0
_MINTED = "V_TOKEN_HOOP_%"
Json = dict[str, Any]


def until(true: Callable[[], bool], what: str, seconds: float = _PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"never came true: {what}"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] not in "ZX" and int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def process_of(part: Part) -> int:
    """The part itself, below its watchdog."""
    assert part.pid is not None
    (pid,) = children(part.pid)
    return pid


@dataclass
class Ran:
    """What the client saw of its session."""

    rows: list[Any] | None = None
    error: Error | None = None


@dataclass
class World:
    stack: DevStack
    gateway: Replica
    taps: dict[str, Tap]
    store: Store
    background: bool

    # -- killing --------------------------------------------------------------------------------
    def pid_of(self, victim: str) -> int:
        if victim == "plugin":
            (pid,) = children(process_of(self.stack.openbao.part))
            return pid
        parts = {
            "gateway": self.gateway.part,
            "openbao": self.stack.openbao.part,
            "emulator": self.stack.emulator,
        }
        return process_of(parts[victim])

    def kill(self, victim: str) -> None:
        pid = self.pid_of(victim)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists() or _ended(pid), "the victim is dead", 10)

    def restart(self, victim: str) -> None:
        """The plugin is started again by OpenBao, when it needs it."""
        if victim == "gateway":
            self.gateway.part.kill()
            self.gateway.start()
        elif victim == "openbao":
            self.stack.openbao.part.kill()
            self.stack.restart_openbao()
        elif victim == "emulator":
            self.stack.emulator.kill()
            self.stack.restart_emulator()

    def set_trap(
        self, link: str, fits: Callable[[Message], bool], moment: Moment, victim: str, mark: str
    ) -> Trap:
        trap = Trap(
            fits,
            moment,
            act=lambda: self.kill(victim),
            busy=lambda: until(lambda: self.began(mark), "the statement runs"),
        )
        self.taps[link].trap = trap
        return trap

    def clear(self) -> None:
        for tap in self.taps.values():
            tap.trap = None

    # -- a client -------------------------------------------------------------------------------
    def client(self, sql: str) -> tuple[threading.Thread, Ran]:
        """A session with one statement, in a thread of its own."""
        seen = Ran()

        def run() -> None:
            connection = None
            try:
                connection = self.connect()
                seen.rows = connection.cursor().execute(sql).fetchall()
            except Error as e:
                seen.error = e
            finally:
                if connection is not None:
                    quietly(connection.close)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread, seen

    def warm(self) -> None:
        """Have the gateway's observer signed in, and the tables known."""
        with self.connect() as connection:
            connection.cursor().execute(
                "SELECT 1 FROM CUSTOMERS, PROD.FEATURES.CHURN_STAGING LIMIT 1"
            )
        self.settled()

    def connect(self) -> Any:
        return snowflake.connector.connect(
            host="127.0.0.1",
            port=self.taps["client"].port,
            protocol="http",
            account="hoopdev",
            user="whoever",
            authenticator="oauth",
            token=self.stack.info.token_agent,
            database="PROD",
            schema="CRM",
            login_timeout=30,
            network_timeout=30,
        )

    # -- what there is --------------------------------------------------------------------------
    def admin(self, sql: str) -> list[Any]:
        info = self.stack.info
        with snowflake.connector.connect(
            host=info.snowflake_host,
            port=info.snowflake_port,
            protocol="http",
            account=info.snowflake_account,
            user=info.admin_user,
            password=info.admin_password,
        ) as connection:
            return list(connection.cursor().execute(sql).fetchall())

    def began(self, mark: str) -> bool:
        return mark in (self.stack.home / "emulator.journal").read_text()

    def users(self) -> set[str]:
        return {str(r[0]) for r in self.admin(f"SHOW USERS LIKE '{_MINTED}'")}

    def history(self) -> list[Json]:
        """What minted users ran, the observer left out."""
        names = ("QUERY_TEXT", "USER_NAME", "QUERY_TAG", "QUERY_ID")
        rows = self.admin(
            f"SELECT {', '.join(names)} FROM SNOWFLAKE.ACCOUNT_USAGE.QUERY_HISTORY "
            f"WHERE USER_NAME LIKE '{_MINTED}' AND ROLE_NAME <> 'HOOP_OBSERVER'"
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def entries(self) -> list[tuple[int, str, Json]]:
        return [(e.seq, e.kind, json.loads(e.text)["data"]) for e in stored_entries(self.store)]

    def standing(self) -> list[Any]:
        """Leases that are not gone, with the name of the process that holds them."""
        query = (
            select(leases, replicas.c.name.label("holder"))
            .select_from(leases.outerjoin(replicas, replicas.c.id == leases.c.owner))
            .where(leases.c.state != LeaseState.GONE)
        )
        with self.store.read() as connection:
            return list(connection.execute(query).all())

    def settled(self) -> None:
        """Wait until the gateway itself works on no user any more, save its observer."""

        def still() -> bool:
            return not [
                r
                for r in self.standing()
                if r.holder == self.gateway.name
                and (r.claimed_until is not None or r.session_id != "observer")
                and r.state != LeaseState.PENDING
            ]

        until(still, "the gateway has come to rest")
        until(lambda: not [r for r in self.standing() if r.claimed_until], "nobody ends a user")

    def sweep(self) -> Json:
        """`hoop credentials sweep`."""
        done = CliRunner().invoke(
            credentials_commands,
            ["sweep", "--config", str(self.stack.config_file), "--json"],
            env={"HOOP_GATEWAY__REPLICA_BEAT_SECONDS": BEAT_SECONDS},
        )
        return {"exit": done.exit_code, **json.loads(done.stdout)}

    def swept_once(self, victim: str) -> None:
        """The gateway's own sweeper for a gateway that died, or all the time; else the command."""
        if victim == "gateway" or self.background:
            until(lambda: not self.left_behind() and not self.due(), "it is swept")
            return
        self.settled()
        said = self.sweep()
        assert said["exit"] == 0, said
        assert not self.left_behind() and not self.due(), said

    def due(self) -> list[Any]:
        """What stands in the store and should not any more."""
        return [
            r
            for r in self.standing()
            if r.holder != self.gateway.name or r.state != LeaseState.ACTIVE
        ]

    def forgotten(self) -> bool:
        """Whether the gateway has been silent for so long that it is dead to others."""
        me = Replicas(self.store, name="", beat_seconds=float(BEAT_SECONDS))
        return set(me.alive()) == {me.id}

    def left_behind(self) -> set[str]:
        """Minted users that should not be there: all but the living gateway's observer."""
        users = self.users()
        rightly = {
            r.snowflake_user
            for r in self.standing()
            if r.session_id == "observer"
            and r.state == LeaseState.ACTIVE
            and r.holder == self.gateway.name
        }
        return users - rightly

    def check_history(self) -> None:
        """Nothing ran without its intent, and nothing twice."""
        intents = {n: data for n, kind, data in self.entries() if kind == "statement.intent"}
        seen: set[int] = set()
        for query in self.history():
            number = int(query["QUERY_TAG"].split(" ")[0].split(":")[3])
            intent = intents[number]
            assert intent["executed"] == query["QUERY_TEXT"]
            assert intent["snowflake_user"] == query["USER_NAME"]
            assert number not in seen, f"ran twice: {query['QUERY_TEXT']}"
            seen.add(number)


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@contextmanager
def world(home: Path, *, background: bool = False) -> Iterator[World]:
    """With `background` the gateway's own sweeper works all the time, else only once, at its start."""
    taps = {name: Tap() for name in ("client", "vault", "snowflake", "minting")}
    try:
        stack = DevStack(home, gateway=False, durable=True, minting_port=taps["minting"].port)
        taps["vault"].target = stack.openbao.port
        taps["snowflake"].target = taps["minting"].target = stack._emulator_port
        with stack:
            often = "1" if background else "3600"
            settings = {
                "HOOP_VAULT__ADDRESS": taps["vault"].url,
                "HOOP_VAULT__TIMEOUT_SECONDS": "15",
                "HOOP_SNOWFLAKE__URL": taps["snowflake"].url,
                "HOOP_GATEWAY__PUBLIC_URL": taps["client"].url,
                "HOOP_GATEWAY__REPLICA_BEAT_SECONDS": BEAT_SECONDS,
                "HOOP_CREDENTIALS__SWEEP_SECONDS": often,
                "HOOP_CREDENTIALS__ORPHAN_SECONDS": often,
                "HOOP_ANALYSIS__STARTED": "1",
            }
            gateway = stack.replica("the-gateway", settings, port=free_port())
            taps["client"].target = gateway.port
            gateway.start()
            store = Store(stack.store_url)
            store.attach()
            try:
                yield World(stack, gateway, taps, store, background)
            finally:
                store.close()
    finally:
        for tap in taps.values():
            tap.close()
