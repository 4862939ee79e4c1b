"""One life for both minters: minted, used, revoked, confirmed gone; whatever fails, and wherever it ends.

Against real OpenBao and the emulator.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from hoop_core.cli.credentials import app
from hoop_core.credentials.minting import VAULT_FAULT
from hoop_core.credentials.pool import WarmPool
from hoop_core.errors import (
    HoopError,
    SnowflakeError,
    SnowflakeUnavailable,
    StoreUnavailable,
    VaultUnavailable,
)
from hoop_core.model import LeaseState, RoleBinding, TableName
from hoop_core.snowflake.session import open_session
from tests.credentials_world import BACKENDS, READER, World, run_in_world

if TYPE_CHECKING:
    from hoop_core.devstack.stack import DevStack

pytestmark = pytest.mark.e2e
Behind = Callable[[str], list[tuple[Any, ...]]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevStack]:
    """Vault and Snowflake without a gateway: nobody else mints or sweeps."""
    from hoop_core.devstack.stack import DevStack

    with DevStack(tmp_path_factory.mktemp("credentials"), gateway=False) as running:
        yield running


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def left(behind: Behind) -> Iterator[Callable[[], set[str]]]:
    """Users that are there and were not when the test began; none of them may outlive the test."""
    before = users(behind)

    def now() -> set[str]:
        return {u for u in users(behind) - before if "HOOP_" in u}

    yield now


def users(behind: Behind) -> set[str]:
    return {row[0] for row in behind("SHOW USERS")}


def test_a_user_is_minted_used_revoked_and_confirmed_gone(
    stack: DevStack, behind: Behind, tmp_path: Path, backend: str
) -> None:
    async def test(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")
        assert lease.snowflake_user in users(behind)
        assert lease.private_key and "PRIVATE" not in repr(lease)
        session = await open_session(w.line, w.settings.snowflake, lease)
        assert (await session.rows("SELECT CURRENT_USER() AS WHO"))[0][
            "who"
        ] == lease.snowflake_user
        assert [s.state for s in w.standing()] == [LeaseState.ACTIVE]
        await w.keeper.release(lease)
        assert lease.snowflake_user not in users(behind)
        assert w.standing() == []
        mine = [k for k in w.kinds() if k.startswith("credential.")]
        assert mine[0] == "credential.minting" and mine[-1] == "credential.gone"
        with pytest.raises(SnowflakeError) as running:
            await session.rows("SHOW TABLES")
        with pytest.raises(SnowflakeError) as again:
            await open_session(w.line, w.settings.snowflake, lease)
        assert running.value.errno == 390111 and again.value.errno == 390144

    run_in_world(stack, tmp_path, test, backend)


def test_the_log_tells_the_whole_life_and_names_the_account(
    stack: DevStack, tmp_path: Path, backend: str
) -> None:
    async def test(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")
        await w.keeper.release(lease)
        entries = [json.loads(e.text) for e in w.log.entries(session_id="s1")]
        assert [e["kind"] for e in entries] == [
            "credential.minting", "credential.minted", "credential.revoking", "credential.gone",
        ]  # fmt: skip
        assert {e["data"]["account"] for e in entries} == {"HOOPDEV"}
        assert entries[1]["data"]["snowflake_user"] == lease.snowflake_user
        assert lease.snowflake_user.startswith(entries[0]["data"]["snowflake_user"])
        assert "PRIVATE" not in str(entries)

    run_in_world(stack, tmp_path, test, backend)


@pytest.mark.parametrize("step", ["before", "after"])
def test_a_mint_that_fails_inside_vault_is_tried_once_more_with_another_name(
    stack: DevStack, behind: Behind, left: Callable[[], set[str]], tmp_path: Path, step: str
) -> None:
    async def test(w: World) -> None:
        faults: dict[str, Any] = getattr(w.minter, step)

        def once() -> Exception:
            del faults["mint"]
            return VaultUnavailable("Vault failed.", reason=VAULT_FAULT)

        faults["mint"] = once
        lease = await w.keeper.acquire(READER, "s1")
        await w.settled()
        assert [s.lease.snowflake_user for s in w.standing()] == [lease.snowflake_user]
        assert w.kinds().count("credential.minting") == 3  # the observer's is one
        await w.keeper.release(lease)

    run_in_world(stack, tmp_path, test)
    assert left() == set()


def test_a_vault_that_fails_for_good_is_asked_twice(stack: DevStack, tmp_path: Path) -> None:
    async def test(w: World) -> None:
        w.minter.before["mint"] = lambda: VaultUnavailable("Vault failed.", reason=VAULT_FAULT)
        with pytest.raises(VaultUnavailable):
            await w.keeper.acquire(READER, "s1")
        await w.settled()
        assert w.minter.steps.count("mint") == 2

    run_in_world(stack, tmp_path, test)


def test_orphans_are_looked_for_though_vault_cannot_revoke_what_it_gave_up(
    stack: DevStack, behind: Behind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(w: World) -> None:
        async def fails() -> int:
            raise VaultUnavailable("Vault cannot revoke what it had given up.")

        monkeypatch.setattr(w.minter, "sweep", fails)
        name = f"{w.keeper.minter.prefix}0123456789ABCD_X"
        behind(f"CREATE USER {name} TYPE = SERVICE")
        behind(f"GRANT OWNERSHIP ON USER {name} TO ROLE VAULT_MINTER")
        swept = await w.sweeper.sweep(force=True)
        assert swept.orphans == (name,) and not swept.clean
        assert name not in users(behind)

    run_in_world(stack, tmp_path, test)


def down() -> Exception:
    return SnowflakeUnavailable("Snowflake does not answer (ConnectError).")


def sealed() -> Exception:
    return VaultUnavailable("Vault cannot be reached (VaultDown).")


@pytest.mark.parametrize(("when", "step"), [("before", "draft"), ("after", "draft"),
                                            ("before", "mint"), ("after", "mint")])  # fmt: skip
def test_a_failed_mint_hands_out_nobody_and_leaves_nobody(
    stack: DevStack,
    tmp_path: Path,
    left: Callable[[], set[str]],
    backend: str,
    when: str,
    step: str,
) -> None:
    async def test(w: World) -> None:
        getattr(w.minter, when)[step] = down if backend == "direct" else sealed
        with pytest.raises(HoopError):
            await w.keeper.acquire(READER, "s1")
        await w.settled()
        assert w.standing() == []

    run_in_world(stack, tmp_path, test, backend)
    assert not left()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failed_revocation_stays_pending_until_a_sweep_ends_it(
    stack: DevStack, tmp_path: Path, left: Callable[[], set[str]], backend: str, when: str
) -> None:
    async def test(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")
        getattr(w.minter, when)["revoke"] = sealed
        await w.keeper.release(lease)
        assert [(s.state, bool(s.last_error)) for s in w.standing()] == [(LeaseState.PENDING, True)]
        assert w.kinds()[-1] == "credential.pending"
        w.minter.before.clear(), w.minter.after.clear()
        swept = await w.sweeper.sweep(force=True)
        assert swept.gone == (lease.snowflake_user,) and w.standing() == []

    run_in_world(stack, tmp_path, test, backend)
    assert not left()


def test_what_cannot_be_confirmed_is_not_gone(
    stack: DevStack, behind: Behind, tmp_path: Path, backend: str
) -> None:
    """The revocation answers well, and the line to Snowflake is cut before anybody could look."""

    async def test(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")
        revoke = w.minter.inner.revoke

        async def and_then_cut(ended: Any) -> None:
            await revoke(ended)
            w.line.cut = True

        w.minter.inner.revoke = and_then_cut  # type: ignore[method-assign]
        await w.keeper.release(lease)
        assert [s.state for s in w.standing()] == [LeaseState.PENDING]
        w.line.cut, w.minter.inner.revoke = False, revoke  # type: ignore[method-assign]
        swept = await w.sweeper.sweep(force=True)
        assert swept.gone == (lease.snowflake_user,)

    run_in_world(stack, tmp_path, test, backend)


def test_a_user_that_survives_its_revocation_is_ended_with_its_owners_rights(
    stack: DevStack, behind: Behind, tmp_path: Path, backend: str
) -> None:
    """A Vault that was restored from a backup answers 204 for a lease that it does not know."""

    async def test(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")

        async def nothing(_ended: Any) -> None: ...

        w.minter.inner.revoke = nothing  # type: ignore[method-assign]
        await w.keeper.release(lease)
        assert lease.snowflake_user not in users(behind)
        assert '"confirmed_by":"end_procedure"' in list(w.log.entries())[-1].text

    revoking = []

    async def and_take_the_observer_back(w: World) -> None:
        revoking.append(w.minter.inner.revoke)
        await test(w)
        w.minter.inner.revoke = revoking[0]  # type: ignore[method-assign]

    run_in_world(stack, tmp_path, and_take_the_observer_back, backend)


def test_without_that_right_it_stays_pending(
    stack: DevStack, behind: Behind, tmp_path: Path, backend: str
) -> None:
    async def test(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")
        revoke = w.minter.inner.revoke

        async def nothing(_ended: Any) -> None: ...

        w.minter.inner.revoke = nothing  # type: ignore[method-assign]
        await w.keeper.release(lease)
        assert lease.snowflake_user in users(behind)
        assert [s.state for s in w.standing()] == [LeaseState.PENDING]
        w.minter.inner.revoke = revoke  # type: ignore[method-assign]
        await w.sweeper.sweep(force=True)

    run_in_world(stack, tmp_path, test, backend, end_procedure="")


STEPS = ("drafted", "asked", "minted", "recorded", "claimed", "revoked")


@pytest.mark.parametrize("step", STEPS)
def test_whatever_step_a_process_dies_after_the_next_one_leaves_nobody(
    stack: DevStack,
    tmp_path: Path,
    left: Callable[[], set[str]],
    backend: str,
    step: str,
) -> None:
    async def dies(w: World) -> None:
        """The steps of a mint and of a revocation, one by one, up to where the process ends."""
        made: dict[str, Any] = {}
        ledger, minter = w.keeper.ledger, w.minter

        async def claimed() -> None:
            ledger.ending(made["lease"], None)
            with w.store.write() as connection:  # long ago
                connection.exec_driver_sql(
                    "UPDATE leases SET claimed_until = '2020-01-01 00:00:00'"
                )

        for name in STEPS[: STEPS.index(step) + 1]:
            match name:
                case "drafted":
                    made["draft"] = await minter.draft(READER, "s1", "HOOPDEV")
                case "asked":
                    ledger.asked(made["draft"].lease)
                case "minted":
                    made["lease"] = await minter.mint(made["draft"])
                case "recorded":
                    ledger.minted(made["draft"].lease, made["lease"])
                case "claimed":
                    await claimed()
                case "revoked":
                    await minter.revoke(made["lease"])

    async def next_one(w: World) -> None:
        swept = await w.sweeper.sweep()
        assert swept.clean and w.standing() == []
        assert len(swept.gone) == (0 if step == "drafted" else 1)

    run_in_world(stack, tmp_path, dies, backend, owner="rep_dead")
    run_in_world(stack, tmp_path, next_one, backend, owner="rep_2", alive={"rep_2"})
    assert not left()


def test_a_living_process_keeps_its_users(
    stack: DevStack, behind: Behind, tmp_path: Path, backend: str
) -> None:
    async def uses(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")

        async def other(o: World) -> None:
            swept = await o.sweeper.sweep(force=True)
            assert not swept.gone and not swept.orphans and lease.snowflake_user in users(behind)

        await asyncio.to_thread(
            run_in_world, stack, tmp_path, other, backend, owner="rep_2", alive={"rep_1", "rep_2"}
        )
        await w.keeper.release(lease)

    run_in_world(stack, tmp_path, uses, backend, alive={"rep_1", "rep_2"})


def test_a_user_of_ours_that_is_in_no_entry_is_found_told_and_ended(
    stack: DevStack, behind: Behind, tmp_path: Path, backend: str
) -> None:
    async def test(w: World) -> None:
        name = w.minter.prefix + "0123456789ABCD_LOST"
        behind(f"GRANT ROLE VAULT_MINTER TO USER {stack.info.admin_user}")
        behind("USE ROLE VAULT_MINTER")
        behind(f"CREATE USER {name} TYPE = SERVICE")
        behind("CREATE USER V_TOKEN_HOOP_FFFFFE_0123456789ABCD_THEIRS TYPE = SERVICE")
        try:
            swept = await w.sweeper.sweep()
            assert swept.orphans == swept.gone == (name,)
            assert name not in users(behind)
            assert "V_TOKEN_HOOP_FFFFFE_0123456789ABCD_THEIRS" in users(behind)
            kinds = w.kinds()
            assert "credential.orphan" in kinds and kinds[-1] == "credential.gone"
            assert w.keeper.counters.orphans == 1
        finally:
            behind("DROP USER V_TOKEN_HOOP_FFFFFE_0123456789ABCD_THEIRS")
            behind("USE ROLE ACCOUNTADMIN")

    run_in_world(stack, tmp_path, test, backend)


def test_a_user_made_under_a_quoted_name_is_refused_and_ended(
    stack: DevStack, behind: Behind, tmp_path: Path
) -> None:
    """Vault says V_..., Snowflake has "v_...": dropping the unquoted name would drop nobody."""

    async def test(w: World) -> None:
        mint = w.minter.inner.mint

        async def quoted(draft: Any) -> Any:
            lease = await mint(draft)
            if lease.session_id != "observer":
                behind("USE ROLE VAULT_MINTER")
                behind(f"DROP USER {lease.snowflake_user}")
                behind(f'CREATE USER "{lease.snowflake_user.lower()}" TYPE = SERVICE')
                behind("USE ROLE ACCOUNTADMIN")
            return lease

        w.minter.inner.mint = quoted  # type: ignore[method-assign]
        with pytest.raises(VaultUnavailable, match="without quotes"):
            await w.keeper.acquire(READER, "s1")
        await w.settled()
        assert w.standing() == []
        assert not [
            u for u in users(behind) if u.upper().startswith(w.minter.prefix) and u.islower()
        ]

    behind(f"GRANT ROLE VAULT_MINTER TO USER {stack.info.admin_user}")
    run_in_world(stack, tmp_path, test)


def test_a_user_that_cannot_be_put_on_record_is_taken_back(
    stack: DevStack, tmp_path: Path, left: Callable[[], set[str]], backend: str
) -> None:
    async def test(w: World) -> None:
        mint = w.minter.inner.mint

        async def and_the_store_breaks(draft: Any) -> Any:
            lease = await mint(draft)
            with w.store.engine.begin() as connection:
                connection.exec_driver_sql("ALTER TABLE leases RENAME TO elsewhere")
            return lease

        w.minter.inner.mint = and_the_store_breaks  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await w.keeper.acquire(READER, "s1")
        await w.settled()
        with w.store.engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO leases")
        w.minter.inner.mint = mint  # type: ignore[method-assign]

    run_in_world(stack, tmp_path, test, backend)
    assert not left()


def test_nothing_is_minted_that_is_not_on_record_first(
    stack: DevStack, tmp_path: Path, left: Callable[[], set[str]], backend: str
) -> None:
    async def test(w: World) -> None:
        with w.store.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE leases")
        with pytest.raises(StoreUnavailable):
            await w.keeper.acquire(READER, "s1")
        assert w.minter.steps == ["draft"]

    run_in_world(stack, tmp_path, test, backend)
    assert not left()


def test_a_caller_that_gives_up_while_minting_leaves_no_user(
    stack: DevStack, tmp_path: Path, left: Callable[[], set[str]], backend: str
) -> None:
    async def test(w: World) -> None:
        asking = asyncio.create_task(w.keeper.acquire(READER, "s1"))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await w.settled()
        assert w.standing() == []

    run_in_world(stack, tmp_path, test, backend)
    assert not left()


def test_a_mint_that_takes_too_long_is_refused_and_its_late_user_ended(
    stack: DevStack, tmp_path: Path, left: Callable[[], set[str]], backend: str
) -> None:
    async def test(w: World) -> None:
        await w.keeper.observer.users("NOBODY")  # it is there before everything is slow
        mint, go_on = w.minter.inner.mint, asyncio.Event()

        async def slow(draft: Any) -> Any:
            await go_on.wait()
            return await mint(draft)

        w.minter.inner.mint = slow  # type: ignore[method-assign]
        with pytest.raises(VaultUnavailable, match="too long"):
            await w.keeper.acquire(READER, "s1")
        go_on.set()
        await w.settled()
        assert w.standing() == [] and w.keeper.counters.gone == 1

    run_in_world(stack, tmp_path, test, backend, mint_seconds=1.5)
    assert not left()


def test_more_users_than_the_limit_wait_and_then_hear_why(
    stack: DevStack, tmp_path: Path, backend: str
) -> None:
    async def test(w: World) -> None:
        first = await w.keeper.acquire(READER, "s1")
        with pytest.raises(VaultUnavailable, match="limit") as refused:
            await w.keeper.acquire(READER, "s2")
        assert refused.value.reason == "TOO_MANY_USERS" and w.keeper.counters.waited == 1
        waiting = asyncio.create_task(w.keeper.acquire(READER, "s3"))
        await w.keeper.release(first)
        await w.keeper.release(await waiting)

    run_in_world(stack, tmp_path, test, backend, max_users=1, wait_seconds=5)


def test_a_storm_of_logins_is_served_without_a_stampede(
    stack: DevStack, tmp_path: Path, left: Callable[[], set[str]], backend: str
) -> None:
    async def test(w: World) -> None:
        leases = await asyncio.gather(*(w.keeper.acquire(READER, f"s{n}") for n in range(12)))
        assert len({x.snowflake_user for x in leases}) == 12
        await asyncio.gather(*(w.keeper.release(x) for x in leases))
        assert w.standing() == [] and w.keeper.counters.gone == 12

    run_in_world(stack, tmp_path, test, backend)
    assert not left()


def test_nobody_is_left_after_the_keeper_has_closed(
    stack: DevStack, tmp_path: Path, left: Callable[[], set[str]], backend: str
) -> None:
    kinds: list[str] = []

    async def test(w: World) -> None:
        lease = await w.keeper.acquire(READER, "s1")
        await w.keeper.release(lease)
        await w.keeper.observer.close()
        kinds.extend(w.kinds())
        assert '"confirmed_by":"login_refused"' in list(w.log.entries())[-1].text

    run_in_world(stack, tmp_path, test, backend)
    assert kinds.count("credential.minted") == kinds.count("credential.gone") == 2
    assert not left()


def test_a_role_that_vault_does_not_know_is_a_clear_error(stack: DevStack, tmp_path: Path) -> None:
    async def test(w: World) -> None:
        with pytest.raises(VaultUnavailable, match="does not let Hoop mint"):
            await w.keeper.acquire(RoleBinding("no-such-role", "X"), "s1")
        await w.settled()
        assert w.standing() == []

    run_in_world(stack, tmp_path, test)


def test_the_observer_reads_columns_and_no_rows(stack: DevStack, tmp_path: Path) -> None:
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


def test_users_minted_ahead_are_used_once_and_end_when_they_are_stale_or_not_wanted(
    stack: DevStack, tmp_path: Path, left: Callable[[], set[str]], backend: str
) -> None:
    async def test(w: World) -> None:
        wanted = [READER]
        pool = WarmPool(w.keeper, lambda: wanted)
        await pool.fill()
        assert pool.size == 2
        first, second = await pool.take(READER, "s1"), await pool.take(READER, "s2")
        assert first and second and first.snowflake_user != second.snowflake_user
        assert await pool.take(READER, "s3") is None
        assert {s.lease.session_id for s in w.standing()} == {"s1", "s2"}
        assert [e.kind for e in w.log.entries(session_id="s1")] == ["credential.assigned"]
        session = await open_session(w.line, w.settings.snowflake, first)
        await session.close()
        await w.keeper.release(first)
        await w.keeper.release(second)
        await pool.fill()
        wanted.clear()
        await pool.fill()
        await w.settled()
        assert pool.size == 0 and w.standing() == []
        wanted.append(READER)
        await pool.fill()
        w.keeper.limits = w.keeper.limits.model_copy(update={"warm_seconds": 1e-6})
        assert await pool.take(READER, "s4") is None
        await pool.close()
        await w.settled()
        assert w.standing() == []

    run_in_world(stack, tmp_path, test, backend, warm=2)
    assert not left()


def test_minting_ahead_leaves_room_for_who_asks(
    stack: DevStack, tmp_path: Path, backend: str
) -> None:
    async def test(w: World) -> None:
        pool = WarmPool(w.keeper, lambda: [READER])
        await pool.fill()
        assert pool.size == 2 and w.keeper.full
        await pool.close()

    run_in_world(stack, tmp_path, test, backend, warm=9, max_users=2)


def test_a_vault_that_forgot_everything_keeps_no_user_alive(tmp_path: Path) -> None:
    """OpenBao is killed and comes back empty: its leases are unknown, and the users still there."""
    from hoop_core.devstack.stack import DevStack

    with DevStack(tmp_path / "stack", gateway=False) as own:

        async def test(w: World) -> None:
            await w.keeper.acquire(READER, "s1")
            await w.keeper.observer.users("X")
            await asyncio.to_thread(own.stop_openbao)
            for entry in w.standing():
                await w.keeper.release(entry.lease)
            assert [s.state for s in w.standing()] == [LeaseState.PENDING]
            await asyncio.to_thread(own.restart_openbao)
            swept = await w.sweeper.sweep(force=True)
            assert swept.clean and w.standing() == []

        run_in_world(own, tmp_path, test)


def test_the_command_lists_what_was_left_behind_and_ends_it(
    stack: DevStack, tmp_path: Path, left: Callable[[], set[str]]
) -> None:
    config = tmp_path / "hoop.toml"
    text = stack.config_file.read_text()
    config.write_text(
        text.replace(str(stack.home / "hoop.db"), str(tmp_path / "w.db")).replace(
            str(stack.home / "hoop-log.key"), str(tmp_path / "w.key")
        )
    )

    def hoop(*arguments: str) -> tuple[int, Any]:
        result = CliRunner().invoke(app, [*arguments, "--config", str(config), "--json"])
        return result.exit_code, json.loads(result.stdout)

    async def dies(w: World) -> None:
        draft = await w.minter.draft(READER, "s1", "HOOPDEV")
        w.keeper.ledger.asked(draft.lease)
        w.keeper.ledger.minted(draft.lease, await w.minter.mint(draft))

    run_in_world(stack, tmp_path, dies, owner="rep_dead")
    code, listed = hoop("list")
    assert code == 1
    (user,) = [x["snowflake_user"] for x in listed["leases"] if x["session_id"] == "s1"]
    assert not any(x["held"] for x in listed["leases"]) and user in left()
    shown = CliRunner().invoke(app, ["list", "--config", str(config)])
    assert user in shown.stdout and "left behind" in shown.stdout
    code, swept = hoop("sweep")
    assert code == 0 and swept["accounts"]["HOOPDEV"]["gone"] == [user]
    assert hoop("list") == (0, {"leases": []})
    assert not left()


def test_the_sweep_says_with_its_exit_code_that_vault_is_down(
    stack: DevStack, tmp_path: Path
) -> None:
    async def test(w: World) -> None: ...

    run_in_world(stack, tmp_path, test)
    config = tmp_path / "hoop.toml"
    config.write_text(
        stack.config_file.read_text()
        .replace(str(stack.home / "hoop.db"), str(tmp_path / "w.db"))
        .replace(str(stack.home / "hoop-log.key"), str(tmp_path / "w.key"))
        .replace(stack.info.vault_addr, "http://127.0.0.1:9")
    )
    result = CliRunner().invoke(app, ["sweep", "--config", str(config), "--json"])
    assert result.exit_code == 3
    assert "cannot be reached" in str(json.loads(result.stdout)["accounts"]["HOOPDEV"]["faults"])
