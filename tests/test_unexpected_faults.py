"""What is told of a fault of Hoop's own: where it happened, and nothing of what it happened with."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from starlette.requests import Request

from hoop_core.approvals.waiting import WaitingRoom
from hoop_core.config import CredentialsSettings
from hoop_core.credentials.sweeper import Sweeper
from hoop_core.errors import where
from hoop_core.gateway.protocol import in_snowflakes_shape
from hoop_core.gateway.queries import StatementBoard
from hoop_core.plan import as_hoop_error

CORE = Path(__file__).parent.parent / "core" / "hoop_core"
VALUE = "123-45-6789"


def broken(row: str) -> None:
    local = {"ssn": row}
    try:
        local["no " + row]
    except KeyError as e:
        raise ValueError(f"cannot read {row}") from e


def fault() -> Exception:
    try:
        broken(VALUE)
    except ValueError as e:
        return e
    raise AssertionError("it breaks")


def test_a_fault_is_told_by_class_and_places_through_all_its_causes() -> None:
    told = where(fault())
    assert re.fullmatch(
        r"ValueError > tests/test_unexpected_faults\.py:\d+ fault > "
        r"tests/test_unexpected_faults\.py:\d+ broken"
        r" from KeyError > tests/test_unexpected_faults\.py:\d+ broken",
        told,
    )


def test_a_fault_deep_down_or_of_many_causes_is_told_shortly() -> None:
    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError(VALUE)

    error: BaseException = ValueError(VALUE)
    try:
        deep(500)
    except ValueError as e:
        error = e
    for _ in range(50):
        outer = ValueError(VALUE)
        outer.__cause__, error = error, outer
    assert len(where(error)) < 3_000
    looped = ValueError(VALUE)
    looped.__context__ = KeyError(VALUE)
    looped.__context__.__context__ = looped
    assert where(looped).count("KeyError") < 5


def _delivery() -> None:
    as_hoop_error(fault())


def _answer() -> None:
    async def fails(*_: Any) -> None:
        broken(VALUE)

    async def story() -> None:
        guarded = SimpleNamespace(id="s", closed=False, identity=SimpleNamespace(key="k"))
        live: Any = SimpleNamespace(guarded=guarded, busy=0, last_used=0.0)
        guard: Any = SimpleNamespace(run=fails)
        running = StatementBoard(guard, poll_seconds=5).submit(live, "r", {"sqlText": "SELECT 1"})
        await asyncio.wait({running.task})

    asyncio.run(story())


def _endpoint() -> None:
    async def endpoint(_request: Request) -> Any:
        broken(VALUE)

    request = Request({"type": "http", "path": "/x", "headers": []})
    asyncio.run(in_snowflakes_shape(endpoint)(request))


def _waiting() -> None:
    class Desk:
        def statuses(self, _identifiers: set[str]) -> None:
            broken(VALUE)

    async def story() -> None:
        desk: Any = Desk()
        room = WaitingRoom(desk, poll_seconds=0.0)
        room._parked["a"].add(asyncio.get_running_loop().create_future())
        task = asyncio.create_task(room.run())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())


def _sweeper() -> None:
    class Keeper:
        limits = CredentialsSettings()

        async def end(self, _lease: Any, *, alive: Any) -> bool:
            broken(VALUE)
            return True

    keeper: Any = Keeper()
    lease: Any = SimpleNamespace(lease_id="l")
    assert not asyncio.run(Sweeper(keeper)._end(lease, {}))


@pytest.mark.parametrize("told", [_delivery, _answer, _endpoint, _waiting, _sweeper])
def test_no_value_is_printed_however_the_host_logs(
    told: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unconfigured, structlog prints the local variables of every frame where rich is installed."""
    structlog.reset_defaults()
    told()
    printed = "".join(capsys.readouterr())
    assert "test_unexpected_faults.py" in printed  # it does tell where
    assert VALUE not in printed


def test_no_logger_is_given_an_error_to_print_as_it_likes() -> None:
    given = re.compile(r"exc_info\s*=|\.exception\(\s*[\"']|traceback\.(print|format)_|stack_info=")
    found = [
        f"{path.relative_to(CORE)}:{number}"
        for path in sorted(CORE.rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if given.search(line)
    ]
    assert found == []
