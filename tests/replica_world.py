"""What the processes of the tests with several replicas do: each with a store, a log and a desk of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, insert

from hoop_core.approvals.binding import Binding
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.model import AnswerVerdict, ApprovalTerms, Identity, Json, RoleBinding, RunContext
from hoop_core.store import Store
from hoop_core.store.tables import sessions


@dataclass(frozen=True)
class Place:
    """Where the replicas of a test find what they share."""

    url: str
    key: Path


@dataclass
class Replica:
    place: Place
    store: Store = field(init=False)
    log: AuditLog = field(init=False)
    desk: ApprovalDesk = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(self.place.url, busy_seconds=30)
        self.log = AuditLog(self.store, load_or_create_key(self.place.key, "test.example/log"))
        self.desk = ApprovalDesk(self.store, self.log)

    def __enter__(self) -> Replica:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()


def person(name: str, *groups: str) -> Identity:
    return Identity("https://idp", name, name, groups, "oidc", "")


AGENT = person("agent", "ml")
TERMS = ApprovalTerms(("owners",), 2, timedelta(hours=1), timedelta(minutes=30))


def binding(number: int = 0) -> Binding:
    return Binding(
        identity=AGENT,
        role=RoleBinding("v", "R"),
        fingerprint=f"f{number}",
        executed_sha256="e",
        parameters_sha256="p",
        policy_digest="d",
        catalog_digest="c",
        run=RunContext(),
    )


def migrate(place: Place) -> str:
    store = Store(place.url)
    try:
        store.migrate()
    except Exception as e:
        return repr(e)
    finally:
        store.close()
    return "set up"


def append(place: Place, writer: int, entries: int) -> list[int]:
    """Every third entry comes with a row of its own; every fifth tries and fails."""
    with Replica(place) as replica:
        numbers = []
        for n in range(entries):

            def write(connection: Connection, n: int = n) -> Json:
                row = {"id": f"{writer}-{n}", "identity_key": "k", "body": {}}
                connection.execute(insert(sessions).values(**row, opened_at=datetime.now(UTC)))
                if n % 5 == 0:
                    raise ZeroDivisionError
                return {"writer": writer, "n": n}

            try:
                data = write if n % 3 == 0 else {"writer": writer, "n": n}
                numbers.append(replica.log.append("test", data))
            except ZeroDivisionError:
                continue
            if n % 7 == 0:
                replica.log.checkpoint()
        replica.log.checkpoint()
        return numbers


def ask(place: Place, number: int) -> str:
    with Replica(place) as replica:
        return replica.desk.ask(binding(number), TERMS, {"sql": "x"}, session_id=None).id


def answer(place: Place, identifier: str, name: str, verdict: str) -> str:
    with Replica(place) as replica:
        try:
            who = person(name, "owners")
            return str(replica.desk.answer(identifier, who, AnswerVerdict(verdict), "ok").status)
        except Exception as e:
            return type(e).__name__


def use(place: Place, identifier: str) -> str:
    with Replica(place) as replica:

        def write(connection: Connection) -> Json:
            replica.desk.consume(connection, identifier, binding())
            return {"approval": identifier}

        try:
            replica.log.append("statement.intent", write)
        except Exception as e:
            return type(e).__name__
        return "used"


def claim(place: Place) -> str:
    with Replica(place) as replica:
        try:
            replica.log.claim()
        except Exception as e:
            return type(e).__name__
        return "claimed"
