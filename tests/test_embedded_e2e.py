"""Without a gateway's address, `hoop_core.connect()` starts the same gateway in its own process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import hoop_core
from hoop_core.config import load_settings
from hoop_core.server.embedded import start_embedded

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e


def test_the_embedded_gateway_masks_and_leaves_no_user(
    stack: DevStack,
    behind: Callable[[str], list[tuple[Any, ...]]],
    tmp_path: Path,
) -> None:
    before = {row[0] for row in behind("SHOW USERS")}
    settings = load_settings(stack.info.config_file)
    own = settings.model_copy(
        update={
            "store": settings.store.model_copy(
                update={
                    "url": f"sqlite:///{tmp_path / 'own.db'}",
                    "recordings": str(tmp_path / "recordings"),
                }
            )
        }
    )
    gateway = start_embedded(own)
    try:
        with hoop_core.connect(gateway.url, stack.info.token_agent, database="PROD") as connection:
            cursor = connection.cursor().execute("SELECT SSN FROM CRM.CUSTOMERS LIMIT 1")
            assert cursor.fetchall() == [(None,)]
    finally:
        gateway.stop()
    assert {row[0] for row in behind("SHOW USERS")} <= before
