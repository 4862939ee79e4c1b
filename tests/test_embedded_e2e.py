"""Without a gateway's address, `hoop_core.connect()` starts the same gateway in its own process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from snowflake.connector.errors import Error

import hoop_core
from hoop_core.config import Settings, load_settings
from hoop_core.delivery import Delivery
from hoop_core.server.embedded import start_embedded

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e


def own_settings(stack: DevStack, home: Path) -> Settings:
    settings = load_settings(stack.info.config_file)
    own = {"url": f"sqlite:///{home / 'own.db'}", "recordings": str(home / "recordings")}
    return settings.model_copy(update={"store": settings.store.model_copy(update=own)})


def test_the_embedded_gateway_masks_and_leaves_no_user(
    stack: DevStack,
    behind: Callable[[str], list[tuple[Any, ...]]],
    tmp_path: Path,
) -> None:
    before = {row[0] for row in behind("SHOW USERS")}
    gateway = start_embedded(own_settings(stack, tmp_path))
    try:
        with hoop_core.connect(gateway.url, stack.info.token_agent, database="PROD") as connection:
            cursor = connection.cursor().execute("SELECT SSN FROM CRM.CUSTOMERS LIMIT 1")
            assert cursor.fetchall() == [(None,)]
    finally:
        gateway.stop()
    assert {row[0] for row in behind("SHOW USERS")} <= before


def test_a_fault_inside_the_embedded_gateway_prints_no_value(
    stack: DevStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The host has configured no logging, so structlog would print every frame with its variables."""
    structlog.reset_defaults()
    value = "marion@example.org"

    async def breaks(_self: Delivery, answer: Any, *_: Any, **__: Any) -> Any:
        row = [value, answer]
        raise LookupError(f"a row with {row[0]}")

    monkeypatch.setattr(Delivery, "_taken_over", breaks)
    gateway = start_embedded(own_settings(stack, tmp_path))
    try:
        with (
            hoop_core.connect(gateway.url, stack.info.token_agent, database="PROD") as connection,
            pytest.raises(Error) as caught,
        ):
            connection.cursor().execute(f"SELECT '{value}', EMAIL FROM CRM.CUSTOMERS LIMIT 1")
    finally:
        gateway.stop()
    printed = "".join(capfd.readouterr())
    assert "LookupError" in printed and "test_embedded_e2e.py" in printed
    assert value not in printed and value not in str(caught.value)
