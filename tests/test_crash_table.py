"""Each part killed with SIGKILL at each step of a session: the table of docs/credentials.md.

The part is killed at a message that is on its way between two others, so the step is met exactly. Then it is
started again, the client comes to its end, and after one sweep there is no user that nobody uses, nothing ran
that the log did not say before, and nothing ran twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from hoop_core.audit.verify import verify_store
from tests.crash_world import World, until, world
from tests.wire_tap import Message, Moment

pytestmark = pytest.mark.e2e

READ = "SELECT CUSTOMER_ID, EMAIL AS {mark} FROM CUSTOMERS"
WRITE = (
    "INSERT INTO PROD.FEATURES.CHURN_STAGING "
    "SELECT CUSTOMER_ID, 0.5 AS {mark}, CURRENT_TIMESTAMP() FROM CUSTOMERS LIMIT 3"
)
LONG = (
    "INSERT INTO PROD.FEATURES.CHURN_STAGING SELECT COUNT(*) AS {mark}, 0.5, CURRENT_TIMESTAMP() "
    "FROM CUSTOMERS A, CUSTOMERS B WHERE A.CUSTOMER_ID * B.CUSTOMER_ID % 7 = 1"
)


@dataclass(frozen=True)
class Step:
    link: str
    moment: Moment
    method: str
    path: str
    body: str = ""
    sql: str = WRITE

    def fits(self, mark: str) -> Callable[[Message], bool]:
        body = self.body.format(mark=mark)
        return lambda m: m.method == self.method and self.path in m.path and body in m.body


ASKED, RUNNING, ANSWERED, MIDWAY = Moment
LOGIN, QUERY, CLOSE = "/session/v1/login-request", "/queries/v1/query-request", "/session?delete"
STEPS = {
    "before sign-in": Step("client", ASKED, "POST", LOGIN),
    "signed in, not told": Step("client", ANSWERED, "POST", LOGIN),
    "before the first statement": Step("client", ASKED, "POST", QUERY, "{mark}"),
    "before a name is on record": Step("vault", ANSWERED, "POST", "/auth/token/create"),
    "on record, before the mint": Step("vault", ASKED, "GET", "/creds/ml-reader"),
    "user about to be made": Step("minting", ASKED, "POST", QUERY, "CREATE USER"),
    "user made, Vault not told": Step("minting", ANSWERED, "POST", QUERY, "CREATE USER"),
    "user complete, Vault not told": Step("minting", ANSWERED, "POST", QUERY, "GRANT ROLE"),
    "minted, gateway not told": Step("vault", ANSWERED, "GET", "/creds/ml-reader"),
    "before signing in upstream": Step("snowflake", ASKED, "POST", LOGIN, "V_TOKEN_HOOP"),
    "signed in upstream, not told": Step("snowflake", ANSWERED, "POST", LOGIN, "V_TOKEN_HOOP"),
    "intent logged, statement sent": Step("snowflake", ASKED, "POST", QUERY, "{mark}"),
    "statement runs": Step("snowflake", RUNNING, "POST", QUERY, "{mark}", LONG),
    "statement done, not told": Step("snowflake", ANSWERED, "POST", QUERY, "{mark}"),
    "result on its way": Step("snowflake", MIDWAY, "GET", "/results/", sql=READ),
    "result on its way to the client": Step("client", MIDWAY, "GET", "/hoop/chunks/", sql=READ),
    "client closes": Step("client", ASKED, "POST", CLOSE),
    "upstream closes": Step("snowflake", ASKED, "POST", CLOSE),
    "before the revocation": Step("vault", ASKED, "PUT", "/sys/leases/revoke"),
    "user about to be dropped": Step("minting", ASKED, "POST", QUERY, "DROP USER"),
    "user dropped, Vault not told": Step("minting", ANSWERED, "POST", QUERY, "DROP USER"),
    "revoked, gateway not told": Step("vault", ANSWERED, "PUT", "/sys/leases/revoke"),
    "before the confirmation": Step("snowflake", ASKED, "POST", QUERY, "SHOW TERSE USERS"),
    "confirmed, not yet on record": Step("snowflake", ANSWERED, "POST", QUERY, "SHOW TERSE USERS"),
}
VICTIMS = ("gateway", "openbao", "plugin", "emulator")


FEW = {
    ("user made, Vault not told", "gateway"),
    ("revoked, gateway not told", "openbao"),
}
"""What `make test` looks at; the nightly run looks at all."""
nightly = pytest.mark.nightly


@pytest.fixture(scope="module", params=["command", pytest.param("background", marks=nightly)])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    with world(folder, background=request.param == "background") as made:
        yield made


@pytest.mark.parametrize(
    ("step", "victim"),
    [
        pytest.param(step, victim, marks=() if (step, victim) in FEW else nightly)
        for step in STEPS
        for victim in VICTIMS
    ],
)
def test_a_part_is_killed_and_started_again(place: World, step: str, victim: str) -> None:
    with crash(place, STEPS[step], victim):
        place.restart(victim)
    place.swept_once(victim)
    assert place.left_behind() == set()
    place.check_history()


@nightly
@pytest.mark.parametrize("place", ["command"], indirect=True)
@pytest.mark.parametrize("step", STEPS)
def test_one_command_ends_what_a_gateway_left_that_stays_dead(place: World, step: str) -> None:
    with crash(place, STEPS[step], "gateway"):
        until(place.forgotten, "its heartbeat has stopped")
        said = place.sweep()
        assert said["exit"] == 0, said
        assert place.users() == set()
        place.restart("gateway")
    place.check_history()


@contextmanager
def crash(place: World, step: Step, victim: str) -> Iterator[None]:
    """Kill it there; what is in the block happens while the client still tries."""
    mark = f"M_{uuid.uuid4().hex}"
    place.warm()
    trap = place.set_trap(step.link, step.fits(mark), step.moment, victim, mark)
    client, seen = place.client(step.sql.format(mark=mark))
    try:
        until(trap.sprung.is_set, "the step was met")
        yield
        client.join(120)
        assert not client.is_alive()
    finally:
        place.clear()
    ran = [q for q in place.history() if mark in q["QUERY_TEXT"]]
    assert len(ran) <= 1
    if seen.rows is not None:
        assert len(ran) == 1


@nightly
def test_the_log_of_all_this_is_whole(place: World) -> None:
    report = verify_store(place.stack.store_url)
    assert report.ok, report
