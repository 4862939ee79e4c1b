"""A lease keeper of a test's own on the stack's Vault and Snowflake, with both minters and faults on order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hoop_core.audit.checkpoint import load_or_create_key
from hoop_core.audit.log import AuditLog
from hoop_core.config import CredentialsSettings, DirectSettings, Settings, load_settings
from hoop_core.credentials.direct import DirectMinter
from hoop_core.credentials.leases import LeaseKeeper
from hoop_core.credentials.ledger import Ledger, Standing, installation
from hoop_core.credentials.minting import Draft, Minter
from hoop_core.credentials.sweeper import Sweeper
from hoop_core.credentials.vault import OnThreads, VaultMinter
from hoop_core.errors import SnowflakeUnavailable
from hoop_core.model import Json, Lease, RoleBinding
from hoop_core.snowflake.http import SnowflakeHttp
from hoop_core.store import Store

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

BACKENDS = ("vault", "direct")
READER = RoleBinding("ml-reader", "ML_READER", "ML_WH")
OBSERVER = RoleBinding("hoop-observer", "HOOP_OBSERVER", "ML_WH")
Fault = Callable[[], Exception]


class Line(SnowflakeHttp):
    """The line to Snowflake, which can be cut."""

    cut = False

    async def call(self, method: str, path: str, body: Json | None, token: str | None) -> Json:
        if self.cut:
            raise SnowflakeUnavailable("Snowflake does not answer (cut).")
        return await super().call(method, path, body, token)


@dataclass
class Faulty:
    """A minter that fails on order, before a step takes place or after it. The observer's are spared."""

    inner: Minter
    before: dict[str, Fault] = field(default_factory=dict)
    after: dict[str, Fault] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        return self.inner.prefix

    async def draft(self, role: RoleBinding, session_id: str, account: str) -> Draft:
        step = self.inner.draft(role, session_id, account)
        return await self._step("draft", session_id, step)

    async def mint(self, draft: Draft) -> Lease:
        return await self._step("mint", draft.lease.session_id, self.inner.mint(draft))

    async def revoke(self, lease: Lease) -> None:
        return await self._step("revoke", lease.session_id, self.inner.revoke(lease))

    async def sweep(self) -> int:
        return await self.inner.sweep()

    async def close(self) -> None:
        await self.inner.close()

    async def _step(self, name: str, session_id: str, step: Any) -> Any:
        faults = session_id != "observer"
        if faults:
            self.steps.append(name)
        if faults and name in self.before:
            step.close()
            raise self.before[name]()
        answer = await step
        if faults and name in self.after:
            raise self.after[name]()
        return answer


@dataclass
class World:
    settings: Settings
    store: Store
    log: AuditLog
    keeper: LeaseKeeper
    minter: Faulty
    line: Line

    @property
    def sweeper(self) -> Sweeper:
        return Sweeper(self.keeper)

    def kinds(self) -> list[str]:
        return [e.kind for e in self.log.entries()]

    def standing(self) -> list[Standing]:
        """Entries that are not gone, the observer's left out."""
        return [s for s in self.keeper.ledger.standing() if s.lease.session_id != "observer"]

    async def settled(self) -> None:
        """Wait for what the keeper does in the background."""
        while self.keeper._background:
            await asyncio.wait(self.keeper._background)


@lru_cache
def _empty_store() -> bytes:
    """A store with its tables: to make one takes half a second."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "empty.db"
        made = Store(f"sqlite:///{file}")
        made.migrate()
        with made.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        made.close()
        return file.read_bytes()


@asynccontextmanager
async def world(
    stack: DevStack,
    folder: Path,
    backend: str = "vault",
    *,
    owner: str = "rep_1",
    alive: Collection[str] | None = None,
    **limits: Any,
) -> AsyncIterator[World]:
    settings = load_settings(stack.info.config_file)
    if not (folder / "w.db").exists():
        (folder / "w.db").write_bytes(_empty_store())
    store = Store(f"sqlite:///{folder / 'w.db'}", busy_seconds=0.5)
    store.attach()
    log = AuditLog(store, load_or_create_key(folder / "w.key", "hoop.local/log"))
    line = Line(settings.snowflake)
    installed = installation(store, log)
    inner: Minter
    if backend == "vault":
        inner = OnThreads(VaultMinter(settings.vault, installed), 4)
    else:
        inner = DirectMinter(
            direct_settings(stack, folder), settings.snowflake, installed,
            http=line,
        )  # fmt: skip
    minter = Faulty(inner)
    keeper = LeaseKeeper(
        Ledger(store, log, owner=owner, account="HOOPDEV"),
        minter,
        http=line,
        settings=settings.snowflake,
        observer_role=OBSERVER,
        limits=CredentialsSettings(**limits),
        alive=None if alive is None else lambda: alive,
    )
    try:
        yield World(settings, store, log, keeper, minter, line)
    finally:
        line.cut = False
        minter.before.clear()
        minter.after.clear()
        await keeper.close()
        await line.aclose()
        store.close()


def direct_settings(stack: DevStack, folder: Path) -> DirectSettings:
    """The demo has one minter's key pair: the direct minter signs in with it."""
    file = folder / "minter.pem"
    if not file.exists():
        file.touch(0o600)
        file.write_text(stack._private_key)
    return DirectSettings(user="VAULT_MINTER_SVC", role="VAULT_MINTER", private_key_file=file)


def run_in_world(
    stack: DevStack,
    folder: Path,
    test: Callable[[World], Awaitable[None]],
    backend: str = "vault",
    **options: Any,
) -> None:
    async def go() -> None:
        async with world(stack, folder, backend, **options) as w:
            await test(w)

    asyncio.run(go())
