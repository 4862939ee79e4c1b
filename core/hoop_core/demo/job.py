"""The demo from the first process to the last check. Shows nothing itself: `cli.demo` does."""

from __future__ import annotations

import shutil
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Protocol

from hoop_core.audit.verify import Report, verify_bundle
from hoop_core.client import Approval, GivenToken, HoopClient
from hoop_core.config import load_settings
from hoop_core.credentials.log_key import opened_log
from hoop_core.demo import checks
from hoop_core.demo.airflow import TASKS, AirflowProcess, AirflowResult
from hoop_core.demo.answers import Approver, Desk, OwnAnswer
from hoop_core.demo.behind import (
    CUSTOMERS,
    FEATURES,
    STAGING,
    Login,
    Ran,
    RevokedKey,
    administrator,
    import_driver,
    try_revoked_key,
)
from hoop_core.demo.checks import Check, ClaimFailed, Seen, check
from hoop_core.devstack.processes import PartFailed
from hoop_core.devstack.stack import AGENT, APPROVER, APPROVER2, DevStack
from hoop_core.devstack.vault_setup import MINTER
from hoop_core.errors import ApprovalRefused
from hoop_core.evidence.bundle import Bundle, Population, export_bundle
from hoop_core.model import Json, RoleBinding

EVIDENCE = "evidence.zip"
REPORT = "report.json"

_POLL_SECONDS = 0.25
_RUN_SECONDS = 24 * 3600.0
_OBSERVER = "OBSERVER"
_AGENTS_ROLE = RoleBinding("ml-reader", "ML_READER")


class Stage(Protocol):
    """Where the demo tells what it is doing."""

    def step(self, text: str) -> None:
        """A new step has begun."""

    def task(self, task_id: str, state: str) -> None:
        """A task of the DAG has reached a state."""

    def answered(self, text: str) -> None:
        """A person has answered."""


@dataclass(frozen=True, slots=True)
class DemoReport:
    """What the demo saw. `users` are the minted users; `left` those that were still there at the end."""

    checks: tuple[Check, ...]
    tasks: Mapping[str, str]
    seen: tuple[Seen, ...]
    approvals: tuple[Approval, ...]
    users: tuple[str, ...]
    left: tuple[str, ...]
    bundle: Bundle
    seconds: float

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(c.passed for c in self.checks)

    def as_json(self) -> Json:
        return {
            "ok": self.ok,
            "checks": [asdict(c) for c in self.checks],
            "tasks": dict(self.tasks),
            "seen": [_shown(s) for s in self.seen],
            "approvals": [_approval(a) for a in self.approvals],
            "minted_users": list(self.users),
            "users_left": list(self.left),
            "log_root": self.bundle.root,
            "log_entries": self.bundle.entries,
            "verifier_key": self.bundle.verifier_key,
            "evidence": str(self.bundle.path),
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True, slots=True)
class _Found:
    """What Snowflake itself says, before and after the gateway has gone."""

    staging_before: int
    staging_after: int
    customers: int
    features: int
    unmasked: int
    users_during: tuple[str, ...]
    users_after: tuple[str, ...]
    logins: tuple[Login, ...]
    history: tuple[Ran, ...]
    tried_key: RevokedKey


@dataclass(frozen=True, slots=True)
class _Saw:
    """All that the checks go by. `others` are the users that are neither minted nor an agent's."""

    result: AirflowResult
    found: _Found
    seen: list[Seen]
    approvals: tuple[Approval, ...]
    own_answers: list[OwnAnswer]
    report: Report
    others: frozenset[str]


class Demo:
    """One run. `home` is for the parts' files and may be thrown away; `out` gets the evidence."""

    def __init__(self, home: Path, out: Path, decide: Approver, stage: Stage) -> None:
        self._home, self._out, self._decide, self._stage = home, out, decide, stage

    def run(self) -> DemoReport:
        """Raises HoopError when a part cannot be started or reached; a broken claim is no error."""
        started = time.monotonic()
        with ExitStack() as parts:
            airflow = AirflowProcess(self._home / "airflow")
            parts.callback(airflow.stop)
            airflow.start()
            Thread(target=import_driver, daemon=True).start()
            stack = DevStack(self._home / "stack")
            parts.callback(stack.stop)
            stack.start(self._stage.step)
            agent, *approvers = (
                parts.enter_context(HoopClient(stack.info.gateway_url, GivenToken(stack.token(n))))
                for n in (AGENT, APPROVER, APPROVER2)
            )
            persons = dict(zip((APPROVER, APPROVER2), approvers, strict=True))
            desk = Desk(persons, agent, self._decide, heard=self._stage.answered)

            self._stage.step("Counting what the tables hold before")
            with administrator(stack.info) as admin:
                before = admin.count(STAGING)
            self._stage.step("Running the DAG in Airflow")
            airflow.give(stack.info.gateway_url, stack.token(AGENT))
            self._watch(airflow, desk)
            result = airflow.result()
            approvals = tuple(reversed(agent.approvals()))

            self._stage.step("Looking behind Hoop's back")
            found, seen = self._look(stack, result, before)
            self._stage.step("Exporting and verifying the evidence")
            bundle, report = self._evidence(stack)
            others = frozenset({stack.info.admin_user, MINTER})
            all_checks = self._checks(
                _Saw(result, found, seen, approvals, desk.own_answers, report, others)
            )
            self._stage.step("Stopping the stack")
        users = tuple(sorted({e.user for e in found.logins if checks.MINTED.match(e.user)}))
        return DemoReport(
            checks=all_checks,
            tasks=result.tasks,
            seen=tuple(seen),
            approvals=approvals,
            users=users,
            left=tuple(u for u in users if u in found.users_after),
            bundle=bundle,
            seconds=time.monotonic() - started,
        )

    def _watch(self, airflow: AirflowProcess, desk: Desk) -> None:
        """Answer what is asked until Airflow ends. Raises PartFailed when it never does."""
        told: dict[str, str] = {}
        deadline = time.monotonic() + _RUN_SECONDS
        while True:
            running = airflow.running
            for task, state in airflow.states().items():
                if told.get(task) != state:
                    told[task] = state
                    self._stage.task(task, state)
            if not running:
                return
            if time.monotonic() > deadline:
                raise PartFailed("Airflow", "did not end", airflow.part.log)
            try:
                desk.look()
            except ApprovalRefused as e:
                # Somebody else was faster, or it expired in the meantime: the checks will tell.
                self._stage.answered(str(e))
            time.sleep(_POLL_SECONDS)

    def _look(
        self, stack: DevStack, result: AirflowResult, staging_before: int
    ) -> tuple[_Found, list[Seen]]:
        with administrator(stack.info) as admin:
            during = admin.users()
            try:
                seen = checks.pair(result, admin.customers)
            except ClaimFailed:
                seen = []  # the check of the masks will say so
            built = result.tasks.get("build_features") == "success"
            counts = (
                admin.count(STAGING),
                admin.count(CUSTOMERS),
                admin.count(FEATURES) if built else 0,
                admin.unmasked_features() if built else 0,
            )
            # Ends every session; what Hoop itself looks with goes too.
            stack.stop_gateway()
            found = _Found(
                staging_before,
                *counts,
                users_during=during,
                users_after=admin.users(),
                logins=admin.logins(),
                history=admin.history(),
                # Last, so that its user is not taken for one of the agent's.
                tried_key=try_revoked_key(load_settings(stack.config_file), _AGENTS_ROLE),
            )
        return found, seen

    def _evidence(self, stack: DevStack) -> tuple[Bundle, Report]:
        path = self._out / EVIDENCE
        path.unlink(missing_ok=True)
        settings = load_settings(stack.config_file)
        with opened_log(settings) as (store, log):
            bundle = export_bundle(settings, path, Population("hoop demo"), log=log, store=store)
        return bundle, verify_bundle(path)

    def _checks(self, saw: _Saw) -> tuple[Check, ...]:
        found = saw.found
        lineage = self._home / "stack" / "lineage.jsonl"
        claims: dict[str, tuple[str, Callable[[], str]]] = {
            "job_done": (
                "The DAG ran to its end in Airflow",
                lambda: checks.job_done(saw.result),
            ),
            "masked": (
                "The agent saw no e-mail address, SSN or card number",
                lambda: checks.masked_for_the_agent(saw.seen),
            ),
            "untouched": (
                "What it may see is what the table holds",
                lambda: checks.the_rest_is_untouched(saw.seen),
            ),
            "features": (
                "The feature table was written, and nothing protected is in it",
                lambda: checks.features_written(found.customers, found.features, found.unmasked),
            ),
            "one_approver": (
                "The new table waited for one data owner",
                lambda: checks.approved(saw.approvals, "create_table_as", 1),
            ),
            "two_approvers": (
                "The DELETE without WHERE waited for two",
                lambda: checks.approved(saw.approvals, "delete", 2),
            ),
            "four_eyes": (
                "The agent could not approve its own requests",
                lambda: checks.four_eyes(saw.own_answers),
            ),
            "deleted": (
                "The approved DELETE was carried out",
                lambda: checks.staging_cleared(found.staging_before, found.staging_after),
            ),
            "minted": (
                "Only users minted for it ever ran the agent's statements",
                lambda: checks.only_minted_users(found.logins, found.history, saw.others),
            ),
            "gone_after_use": (
                "Each of the agent's users was gone when its session ended",
                lambda: checks.gone(found.users_during, found.logins, except_role=_OBSERVER),
            ),
            "gone_at_the_end": (
                "No minted user is left at the end",
                lambda: checks.gone(found.users_after, found.logins),
            ),
            "key_void": (
                "A revoked user's key opens nothing any more",
                lambda: checks.key_void(found.tried_key),
            ),
            "lineage": (
                "Lineage tells where the feature table comes from",
                lambda: checks.lineage_written(lineage.read_text().splitlines()),
            ),
            "evidence": ("The evidence bundle verifies", lambda: checks.verified(saw.report)),
            "tampering": (
                "One changed byte in it is found and named",
                lambda: self._tampering(self._out / EVIDENCE),
            ),
        }
        return tuple(check(name, claim, look) for name, (claim, look) in claims.items())

    def _tampering(self, bundle: Path) -> str:
        """Change one byte of one log entry in a copy of the bundle."""
        copy = self._home / "changed.zip"
        name = "log/entries.jsonl"
        with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(copy, "w") as new:
            for item in old.infolist():
                content = bytearray(old.read(item))
                if item.filename == name:
                    middle = content.index(b'"', len(content) // 2) + 1
                    content[middle] ^= 0x01
                new.writestr(item, bytes(content))
        faults = verify_bundle(copy).faults
        checks.require(bool(faults), "the changed bundle verified")
        named = next((f for f in faults if "entr" in f.place), None)
        checks.require(named is not None, f"only found: {faults[0].place}: {faults[0].what}")
        return f"{named.place}: {named.what}" if named else ""


def remove(home: Path) -> None:
    """Throw the parts' files away."""
    shutil.rmtree(home, ignore_errors=True)


def _shown(seen: Seen) -> Json:
    names = (*checks.PROTECTED, *checks.OPEN)
    return {
        "customer_id": _plain(seen.agent["CUSTOMER_ID"]),
        "agent": {n: _plain(seen.agent[n]) for n in names},
        "table": {n: _plain(seen.table[n]) for n in names},
    }


def _plain(value: object) -> Any:
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _approval(approval: Approval) -> Json:
    return {
        "id": approval.id,
        "status": str(approval.status),
        "kind": approval.kind,
        "sql": approval.sql,
        "requester": approval.requester.name,
        "quorum": approval.quorum,
        "answers": [
            {"approver": a.approver.name, "verdict": str(a.verdict), "reason": a.reason}
            for a in approval.answers
        ],
    }


__all__ = ["EVIDENCE", "REPORT", "TASKS", "Demo", "DemoReport", "Stage", "remove"]
