"""The life of minted users against real OpenBao and the emulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.config import Settings, load_settings
from hoop_core.credentials.leases import LeaseKeeper
from hoop_core.credentials.sweeper import Sweeper
from hoop_core.credentials.vault import VaultMinter
from hoop_core.errors import SnowflakeError, StoreUnavailable
from hoop_core.model import RoleBinding
from hoop_core.snowflake.session import http_client, open_session
from hoop_core.store import Store

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Behind = Callable[[str], list[tuple[Any, ...]]]
READER = RoleBinding("ml-reader", "ML_READER", "ML_WH")


class DropsNothing(VaultMinter):
    """A Vault whose revocation answers well although the user lives on (the quoted-name trap)."""

    def revoke(self, lease_id: str) -> None:
        return


@dataclass
class World:
    settings: Settings
    store: Store
    log: AuditLog
    keeper: LeaseKeeper

    def kinds(self) -> list[str]:
        return [e.kind for e in self.log.entries()]


def run_in_world(
    stack: DevStack,
    folder: Path,
    test: Callable[[World], Awaitable[None]],
    minter: type[VaultMinter] = VaultMinter,
) -> None:
    """Run `test` with a lease keeper of its own on the stack's Vault and Snowflake."""

    @asynccontextmanager
    async def world() -> AsyncIterator[World]:
        settings = load_settings(stack.info.config_file)
        store = Store(f"sqlite:///{folder / 'w.db'}", busy_seconds=0.5)
        store.migrate()
        log = AuditLog(store, load_or_create_key(folder / "w.key", "test/log"))
        http = http_client(settings.snowflake)
        keeper = LeaseKeeper(
            store,
            log,
            minter(settings.vault),
            http=http,
            settings=settings.snowflake,
            observer_role=RoleBinding("hoop-observer", "HOOP_OBSERVER"),
        )
        try:
            yield World(settings, store, log, keeper)
        finally:
            await keeper.close()
            await http.aclose()
            store.close()

    async def go() -> None:
        async with world() as w:
            await test(w)

    asyncio.run(go())


def users(behind: Behind) -> set[str]:
    return {row[0] for row in behind("SHOW USERS")}


def test_a_lease_lives_is_revoked_and_confirmed_gone(
    stack: DevStack, behind: Behind, tmp_path: Path
) -> None:
    async def test(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")
        assert lease.snowflake_user in users(behind)
        assert lease.private_key and "PRIVATE" not in repr(lease)
        await w.keeper.release(lease)
        assert lease.snowflake_user not in users(behind)
        assert w.keeper.unfinished(include_active=True)[0].session_id == "observer"
        assert w.kinds()[-1] == "credential.gone"

    run_in_world(stack, tmp_path, test)


def test_a_revoked_users_key_is_refused(stack: DevStack, tmp_path: Path) -> None:
    async def test(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")
        http = http_client(w.settings.snowflake)
        session = await open_session(http, w.settings.snowflake, lease)
        await w.keeper.release(lease)
        with pytest.raises(SnowflakeError) as running:
            await session.rows("SHOW TABLES")
        with pytest.raises(SnowflakeError) as again:
            await open_session(http, w.settings.snowflake, lease)
        assert running.value.errno == 390111 and again.value.errno == 390144
        await http.aclose()

    run_in_world(stack, tmp_path, test)


def test_a_user_that_lives_on_stays_pending_until_a_sweep_ends_it(
    stack: DevStack, behind: Behind, tmp_path: Path
) -> None:
    left: list[str] = []

    async def leave(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")
        await w.keeper.release(lease)
        left.append(lease.snowflake_user)
        assert w.kinds()[-1] == "credential.pending"
        assert lease.lease_id in [x.lease_id for x in w.keeper.unfinished(include_active=False)]

    async def sweep(w: World) -> None:
        sweeper = Sweeper(w.keeper)
        await sweeper.end(await sweeper.left_behind())
        assert [x.session_id for x in w.keeper.unfinished(include_active=False)] == []

    run_in_world(stack, tmp_path, leave, DropsNothing)
    assert left[0] in users(behind)
    run_in_world(stack, tmp_path, sweep)
    assert left[0] not in users(behind)


def test_nobody_is_left_after_the_keeper_has_closed(
    stack: DevStack, behind: Behind, tmp_path: Path
) -> None:
    before = users(behind)
    kinds: list[str] = []

    async def test(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")
        await w.keeper.release(lease)
        await w.keeper.close()
        kinds.extend(w.kinds())
        last = list(w.log.entries())[-1]
        assert '"confirmed_by":"login_refused"' in last.text

    run_in_world(stack, tmp_path, test)
    assert users(behind) <= before
    assert kinds.count("credential.minted") == kinds.count("credential.gone") == 2


def test_a_user_that_cannot_be_put_on_record_is_taken_back(
    stack: DevStack, behind: Behind, tmp_path: Path
) -> None:
    before = users(behind)

    async def test(w: World) -> None:
        with w.store.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE leases")
        with pytest.raises(StoreUnavailable):
            await w.keeper.acquire(READER, "s1")

    run_in_world(stack, tmp_path, test)
    assert users(behind) <= before


def test_a_caller_that_gives_up_while_minting_leaves_no_user(
    stack: DevStack, behind: Behind, tmp_path: Path
) -> None:
    before = users(behind)

    async def test(w: World) -> None:
        asking = asyncio.create_task(w.keeper.acquire(READER, "s1"))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await w.keeper.close()
        assert w.kinds().count("credential.minted") == w.kinds().count("credential.gone") > 0

    run_in_world(stack, tmp_path, test)
    assert users(behind) <= before


def test_the_observer_reads_columns_and_no_rows(stack: DevStack, tmp_path: Path) -> None:
    from hoop_core.model import TableName

    async def test(w: World) -> None:
        see = w.keeper.observer.describe
        found = await see(TableName("PROD", "CRM", "CUSTOMERS"))
        assert found is not None
        assert list(found.columns)[:3] == ["CUSTOMER_ID", "FULL_NAME", "EMAIL"]
        assert await see(TableName("PROD", "CRM", "NOTHING")) is None
        assert await see(TableName("PROD", "CRM", "CUST_MERS")) is None
        assert await see(TableName("NOWHERE", "X", "Y")) is None
        with pytest.raises(SnowflakeError):
            await w.keeper.observer._rows("SELECT EMAIL FROM PROD.CRM.CUSTOMERS")

    run_in_world(stack, tmp_path, test)
