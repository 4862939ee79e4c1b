"""From a text to a verdict: analyse, decide, rewrite, verify. The one entrance for guard and CLI.

`judge_text` never raises: whatever goes wrong on the way is a deny with a reason.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator
from datetime import datetime
from functools import cache

from hoop_core.errors import HoopError, StatementRefused
from hoop_core.masking.masks import MaskName
from hoop_core.masking.rewrite import rewrite
from hoop_core.masking.verify import verify
from hoop_core.model import (
    Decision,
    Identity,
    NameContext,
    Outcome,
    RunContext,
    Statement,
    TableName,
    Verdict,
)
from hoop_core.policy.engine import Case, could_be_granted, decide, refusal
from hoop_core.policy.file import load_policy, parse_policy
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog
from hoop_core.sql.limits import DEFAULT, Limits
from hoop_core.sql.lineage import trace
from hoop_core.sql.refusals import refuse
from hoop_core.sql.statement import Analysis, analyse
from hoop_core.views import beneath, objects

__all__ = [
    "Analysis",
    "Catalog",
    "Limits",
    "Policy",
    "analyse",
    "judge",
    "judge_text",
    "judging",
    "load_policy",
    "parse_policy",
]


def judge(
    analysis: Analysis,
    *,
    identity: Identity,
    policy: Policy,
    catalog: Catalog,
    run: RunContext,
    now: datetime,
    exceptions: frozenset[tuple[TableName, str]] = frozenset(),
    mask_override: str | None = None,
    limits: Limits = DEFAULT,
) -> Verdict:
    """Decide on an analysed statement, and rewrite and verify what may run. Never raises.

    `now` must be timezone-aware. `mask_override` puts one mask in place of every mask of the policy.
    """
    started = time.perf_counter_ns()
    statement = analysis.statement
    try:
        views, ctes = beneath(analysis, catalog, limits), analysis.ctes
        if views is not None:
            statement, ctes, catalog = views.statement, views.ctes, views.catalog
        override = None if mask_override is None else MaskName(mask_override)
        traced = cache(lambda: trace(analysis, catalog) if views is None else views.trace())
        case = Case(
            statement,
            ctes,
            identity,
            policy,
            catalog,
            run,
            now,
            override,
            exceptions,
            lambda: traced().columns,
        )
        ruling = decide(case)
        if ruling.decision.outcome is Outcome.DENY:
            return _verdict(started, ruling.decision, statement)
        if views is not None:
            text = views.text(ruling.plans)
        else:
            text = rewrite(analysis, ruling.plans)
            if analysis.tree is None:
                _verify_command(text, statement)
            else:
                verify(text, statement=statement, plans=ruling.plans, original=analysis)
        return dataclasses.replace(
            _verdict(started, ruling.decision, statement),
            rewritten=text,
            lineage=traced().lineage,
            columns=traced().columns,
        )
    except Exception as e:
        return _verdict(started, _refused(policy, e), statement)


Wanted = tuple[TableName, ...]


def judging(
    sql: str,
    names: NameContext,
    *,
    identity: Identity,
    policy: Policy,
    run: RunContext,
    now: datetime,
    exceptions: frozenset[tuple[TableName, str]] = frozenset(),
    mask_override: str | None = None,
    limits: Limits = DEFAULT,
) -> Generator[Wanted, Catalog, Verdict]:
    """`analyse` and `judge` in one, as a conversation: yields the objects it has to know, is sent a
    catalog that holds what there is of them, and returns the verdict. Never raises.
    """
    started = time.perf_counter_ns()
    try:
        analysis = analyse(sql, names, limits)
    except Exception as e:
        return _verdict(started, _refused(policy, e), None)
    # What nothing grants is denied before anybody asks what it is: so it is not looked up either.
    asked = {t: could_be_granted(policy, identity, analysis.statement, t) for t in analysis.tables}
    wanted = tuple(t for t, may in asked.items() if may)
    catalog, waited = yield from _timed(objects(wanted, limits))
    started += waited  # waiting for the catalog is not our time
    unasked = [t for t, may in asked.items() if not may]
    if unasked:
        catalog = catalog.without(unasked)
    verdict = judge(
        analysis,
        identity=identity,
        policy=policy,
        catalog=catalog,
        run=run,
        now=now,
        exceptions=exceptions,
        mask_override=mask_override,
        limits=limits,
    )
    return dataclasses.replace(verdict, elapsed_us=_elapsed_us(started))


def _timed(
    conversation: Generator[Wanted, Catalog, Catalog],
) -> Generator[Wanted, Catalog, tuple[Catalog, int]]:
    """The conversation, and the nanoseconds that it waited for its answers."""
    waited = 0
    try:
        wanted = next(conversation)
        while True:
            asked = time.perf_counter_ns()
            catalog = yield wanted
            waited += time.perf_counter_ns() - asked
            wanted = conversation.send(catalog)
    except StopIteration as done:
        return done.value, waited


def judge_text(
    sql: str,
    names: NameContext,
    *,
    identity: Identity,
    policy: Policy,
    catalog: Catalog,
    run: RunContext,
    now: datetime,
    exceptions: frozenset[tuple[TableName, str]] = frozenset(),
    mask_override: str | None = None,
    limits: Limits = DEFAULT,
) -> Verdict:
    """`judging` with a catalog that is already complete. Never raises."""
    conversation = judging(
        sql,
        names,
        identity=identity,
        policy=policy,
        run=run,
        now=now,
        exceptions=exceptions,
        mask_override=mask_override,
        limits=limits,
    )
    try:
        next(conversation)
        while True:
            conversation.send(catalog)
    except StopIteration as done:
        verdict: Verdict = done.value
        return verdict


def _verdict(started: int, decision: Decision, statement: Statement | None) -> Verdict:
    return Verdict(decision, statement, None, elapsed_us=_elapsed_us(started))


def _elapsed_us(started: int) -> int:
    return (time.perf_counter_ns() - started) // 1000


def _refused(policy: Policy, error: Exception) -> Decision:
    if isinstance(error, HoopError):
        return refusal(policy.digest, error.reason, error.text)
    if isinstance(error, RecursionError):
        return refusal(
            policy.digest, "TOO_DEEP", "The statement is nested too deeply to be analysed."
        )
    # the text of an unexpected error may quote the statement: its class is enough to find it in the logs
    return refusal(
        policy.digest,
        "INTERNAL",
        f"The statement could not be analysed ({type(error).__name__}). Nothing was executed.",
    )


def _verify_command(text: str, statement: Statement) -> None:
    """A session statement, read anew without any name context, is still the same statement."""
    try:
        again = analyse(text, NameContext()).statement
    except StatementRefused:
        again = None
    if again is None or (again.kind, again.reads, again.writes) != (
        statement.kind,
        statement.reads,
        statement.writes,
    ):
        raise refuse("VERIFY_COMMAND", "The statement did not pass verification.")
