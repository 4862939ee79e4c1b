"""Hot reload: a changed policy file is taken over when it is right, and kept out when it is not."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hoop_core import guard as guard_module
from hoop_core.audit.log import AuditLog
from hoop_core.errors import PolicyDenied, StoreUnavailable
from hoop_core.guard import Guard
from hoop_core.model import Identity, RoleBinding
from hoop_core.policy.file import load_policy
from hoop_core.server import policy_watch
from hoop_core.server.policy_watch import PolicyWatch

OLD = "version: 1\nrules:\n  - {name: read, reads: ['A.B.*'], then: allow}\n"
NEW = OLD.replace("A.B.*", "A.B.C")
WRONG = OLD.replace("allow", "alow")


class World:
    """A guard with nothing but a policy, and its watch."""

    def __init__(self, file: Path, log: AuditLog) -> None:
        none: Any = None
        self.file, self.log = file, log
        file.write_text(OLD)
        self.guard = Guard(load_policy(file), none, none, none, log, none, none)
        self.watch = PolicyWatch(self.guard, log, file, seconds=1)
        asyncio.run(self.watch.loaded())

    def write(self, text: str | bytes) -> None:
        """The way a deployment does it: another file takes the name."""
        fresh = self.file.with_suffix(".new")
        fresh.write_bytes(text if isinstance(text, bytes) else text.encode())
        fresh.replace(self.file)

    def look(self, times: int = 2) -> None:
        for _ in range(times):
            asyncio.run(self.watch.look())

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(e.text) for e in self.log.entries()]

    def kinds(self) -> list[str]:
        return [e["kind"] for e in self.entries()]


@pytest.fixture
def world(tmp_path: Path, log: AuditLog) -> World:
    return World(tmp_path / "policy.yaml", log)


def test_a_right_policy_is_logged_with_its_text_and_used(world: World) -> None:
    world.look()
    assert world.kinds() == ["policy.loaded"]
    world.write(NEW)
    world.look()
    assert world.kinds() == ["policy.loaded", "policy.loaded"]
    assert world.entries()[1]["data"] == {"digest": world.guard.policy.digest, "text": NEW}
    assert str(world.guard.policy.rules[0].reads) != str(load_policy(world.file).rules[0].groups)
    assert world.guard.policy == load_policy(world.file)


def test_a_wrong_policy_is_logged_once_and_the_old_one_stays(world: World) -> None:
    before = world.guard.policy
    world.write(WRONG)
    world.look(times=5)
    assert world.guard.policy is before
    assert world.kinds() == ["policy.loaded", "policy.rejected"]
    data = world.entries()[1]["data"]
    assert data["kept"] == before.digest
    assert "policy.yaml:3: unknown outcome `alow`. Did you mean `allow`?" in data["error"]
    world.write(NEW)
    world.look()
    assert world.guard.policy.text == NEW


def test_a_text_that_is_no_policy_at_all_does_not_get_into_the_log(world: World) -> None:
    world.write("hunter2-is-my-password")
    world.look()
    assert world.kinds()[-1] == "policy.rejected"
    assert "hunter2" not in json.dumps(world.entries())


def test_a_fault_of_the_reader_rejects_once_and_the_next_right_policy_is_used(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = world.guard.policy

    def breaks(_text: str, _source: str) -> None:
        raise OverflowError("int hunter2 too large to convert to float")

    with monkeypatch.context() as broken:
        broken.setattr(policy_watch, "parse_policy", breaks)
        world.write("version: 1:1:1\n")
        world.look(times=5)
    assert world.guard.policy is before
    assert world.kinds() == ["policy.loaded", "policy.rejected"]
    assert world.entries()[1]["data"]["error"].endswith(
        "policy.yaml cannot be read: OverflowError."
    )
    assert "hunter2" not in json.dumps(world.entries()) + "".join(capsys.readouterr())
    world.write(NEW)
    world.look()
    assert world.guard.policy.text == NEW


@pytest.mark.parametrize(
    "text", ["version: 1" + ":1" * 3_000, "version: !!int ''", "version: !!bool x"]
)
def test_yaml_that_its_reader_stumbles_over_is_a_wrong_policy_like_any_other(
    world: World, text: str
) -> None:
    world.write(text)
    world.look(times=3)
    assert world.kinds() == ["policy.loaded", "policy.rejected"]


def test_a_file_that_goes_and_comes_back_is_followed(world: World) -> None:
    before = world.guard.policy
    world.file.unlink()
    world.look(times=3)
    world.file.write_bytes(b"\xff\xfe")
    world.look(times=3)
    assert world.guard.policy is before
    assert world.kinds() == ["policy.loaded", "policy.rejected", "policy.rejected"]
    world.write(NEW)
    world.look()
    assert world.guard.policy.text == NEW


def test_a_file_that_is_still_being_written_is_not_read(world: World) -> None:
    before = world.guard.policy
    for end in range(len(NEW) - 20, len(NEW)):
        world.file.write_text(NEW[:end])
        os.utime(world.file, ns=(end, end))
        world.look(times=1)
    assert world.guard.policy is before
    assert world.kinds() == ["policy.loaded"]


def test_a_change_of_comments_keeps_the_digest_and_grants_with_it(world: World) -> None:
    digest = world.guard.policy.digest
    world.write("# why\n" + OLD + "cases:\n  - {name: n, sql: SELECT 1, expect: deny}\n")
    world.look()
    assert world.guard.policy.digest == digest
    assert len(world.guard.policy.cases) == 1


def test_without_a_log_no_policy_comes_into_force(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.guard.policy

    def full(*_: object, **__: object) -> int:
        raise StoreUnavailable("The disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr(world.log, "append", full)
        world.write(NEW)
        with pytest.raises(StoreUnavailable):
            world.look()
        assert world.guard.policy is before
    world.look(times=1)
    assert world.guard.policy.text == NEW


@dataclass(frozen=True)
class _Decided:
    binding: Any
    staged: Any = None
    verdict: Any = None
    rests_on: Any = None


def test_a_policy_that_comes_while_a_user_is_minted_decides(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: list[str] = []
    ran: list[str] = []

    async def decide(guard: Guard, *_: Any) -> Any:
        decided.append(guard.policy.digest)
        binding = SimpleNamespace(policy_digest=decided[-1], settings={})
        return _Decided(binding)

    async def rests_on(_guard: Guard, *_: Any) -> dict[str, Any]:
        return {}

    async def approved(_guard: Guard, _session: Any, _request: Any, plan: Any) -> Any:
        return plan, None

    async def intent(_guard: Guard, _session: Any, _request: Any, plan: Any, *_: Any) -> int:
        ran.append(plan.binding.policy_digest)
        return 1

    async def upstream(_statement: str) -> Any:
        if world.guard.policy.text == OLD:  # the new policy is in the log before the user is there
            world.write(NEW)
            for _ in range(2):
                await world.watch.look()
        return SimpleNamespace(snowflake_user="U"), SimpleNamespace(version="1")

    steps = {"_decide": decide, "_approval": approved, "_intent": intent, "_rests_on": rests_on}
    for name, step in steps.items():
        monkeypatch.setattr(Guard, name, step)
    monkeypatch.setattr(guard_module, "begun", lambda *_: nullcontext())
    settings = SimpleNamespace(during=lambda *_, **__: nullcontext())
    recorder = SimpleNamespace(ready=lambda _session: True)
    monkeypatch.setattr(world.guard, "delivery", SimpleNamespace(recorder=recorder))
    session: Any = SimpleNamespace(
        id="ses_1", upstream=upstream, closed=False, staging=None, settings=settings, parameters={}
    )
    request: Any = SimpleNamespace(statement_id="s", abandoned=asyncio.Event(), parameters={})
    asyncio.run(world.guard._ready(session, request, ExitStack()))
    assert world.guard.policy.text == NEW
    assert len(decided) == 2
    assert ran == [world.guard.policy.digest]


def test_a_role_that_a_new_policy_withdraws_ends_what_a_session_may_do(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("version: 1\nroles:\n  - {groups: [a], vault_role: v, snowflake_role: R}\n")
    policy = load_policy(file)
    member = Identity("i", "s", "n", ("a",), "oidc", "d")
    policy.check_role(member, RoleBinding("v", "R", "OTHER_WH"))
    for who, role in (
        (Identity("i", "s", "n", ("b",), "oidc", "d"), RoleBinding("v", "R")),
        (member, RoleBinding("v", "S")),
        (member, RoleBinding("w", "R")),
    ):
        with pytest.raises(PolicyDenied) as caught:
            policy.check_role(who, role)
        assert caught.value.reason == "ROLE_WITHDRAWN"
