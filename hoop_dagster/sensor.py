"""A sensor that goes on with runs that ended because a statement waited for people.

No process waits meanwhile. The run is found by its tag, Hoop is asked what became of its requests, and a
run of exactly what was left is started once all of them are approved. Nothing rests on this sensor's
memory: a run counts as resumed when the run that goes on with it is there.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from hoop_core.characters import written_out
from hoop_core.client import (
    AnswerVerdict,
    Approval,
    ApprovalStatus,
    HoopClient,
    resolve_gateway,
    token_source,
)
from hoop_core.errors import GatewayUnavailable, HoopError
from hoop_dagster.context import first_of
from hoop_dagster.left import Left, left_of
from hoop_dagster.reexecution import NotStarted, Webserver, WebserverUnavailable
from hoop_dagster.tags import (
    APPROVAL_ID,
    APPROVAL_STATUS,
    APPROVED_BY,
    PARENT_RUN_ID,
    RESUMED_BY,
    RESUMES_RUN,
    RETRIES,
    RETRIES_BEFORE,
    ROOT_JOB_NAME,
    ROOT_RUN_ID,
    RunState,
)

_AT_ONCE = 100
_SECONDS = 20.0
"""For one tick; Dagster's daemon gives up after 60, and one call may take 30."""
_MOST_REQUESTS = 100
"""Of one run."""
_MOST_SAID, _LONGEST_SAID = 20, 2000
_CARRIED = (
    "dagster/partition",
    "dagster/asset_partition_range_",
    "dagster/priority",
    "dagster/max_retries",
    "dagster/retry_strategy",
    "dagster/max_runtime",
    "dagster/isolation",
    "dagster/concurrency_key",
)
"""Of Dagster's own tags, those that say what to run and how; the others say what became of a run."""
_IMPLICIT_JOB = "__ASSET_JOB"
_ENDS = {
    ApprovalStatus.REJECTED: RunState.REFUSED,
    ApprovalStatus.EXPIRED: RunState.EXPIRED,
    ApprovalStatus.CONSUMED: RunState.USED,
}
_WHY = {
    RunState.REFUSED: "was refused",
    RunState.EXPIRED: "was not approved, or not used, in time",
    RunState.USED: "was used by another run",
}


def hoop_approval_sensor(
    *,
    name: str = "hoop_approval_sensor",
    gateway_url: str | None = None,
    token_file: str | None = None,
    token_env: str | None = None,
    webserver_url: str | None = None,
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
) -> dg.SensorDefinition:
    """Resume runs of this code location that ended awaiting approval.

    Assets are resumed by a run of those that were planned and not made, with the partition, the run
    config and the tags of the first run. Jobs of ops, and asset jobs with a definition of their own where
    `webserver_url` is given, are re-executed from failure, which only Dagster's webserver can do.

    `token_file` or `token_env` name the place of a token that may see the requests: the job's own
    identity, or one of the gateway's readers.
    """

    @dg.sensor(
        name=name,
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Resumes runs once people have approved what they ended for.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        runs = _waiting(context)
        if not runs:
            return dg.SkipReason("No run waits for an approval.")
        source = token_source(env=token_env, file=token_file)
        try:
            with HoopClient(resolve_gateway(gateway_url), source) as hoop:
                tick = _Tick(context, hoop, Webserver(webserver_url) if webserver_url else None)
                requests = tick.look_at_all(runs)
        except HoopError as e:
            # Nothing is lost: the runs keep their tag, and the next tick asks again.
            return dg.SkipReason(f"{len(runs)} runs wait for an approval. {e.text}")
        if requests:
            return dg.SensorResult(run_requests=requests)
        return dg.SkipReason(tick.in_words or "Nothing to resume.")

    return sensor


def _waiting(context: dg.SensorEvaluationContext) -> Sequence[dg.DagsterRun]:
    """Some of the runs that wait, others at each tick when they are many."""
    runs = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE], tags={APPROVAL_STATUS: str(RunState.AWAITING)}
    )
    found = context.instance.get_run_records(
        runs, limit=_AT_ONCE, cursor=context.cursor or None, ascending=True
    )
    if not found and context.cursor:
        found = context.instance.get_run_records(runs, limit=_AT_ONCE, ascending=True)
    more = len(found) == _AT_ONCE
    context.update_cursor(found[-1].dagster_run.run_id if more else "")
    return [record.dagster_run for record in found]


@dataclass(slots=True)
class _Resumption:
    """What goes on, as whose successor."""

    run: dg.DagsterRun
    left: Left
    approvals: Sequence[Approval]

    @property
    def key(self) -> str:
        return f"hoop:{','.join(a.id for a in self.approvals)}:{self.run.run_id}"

    def own_tags(self) -> dict[str, str]:
        root_job, root_id = first_of(self.run)
        people = dict.fromkeys(name for a in self.approvals for name in _approvers(a))
        return {
            APPROVAL_ID: ",".join(a.id for a in self.approvals),
            APPROVED_BY: ", ".join(people),
            RESUMES_RUN: self.run.run_id,
            ROOT_RUN_ID: root_id,
            ROOT_JOB_NAME: root_job,
        }

    def tags(self) -> dict[str, str]:
        """The user's tags, and those of Dagster's that say what to run and how."""
        kept = {
            k: v
            for k, v in self.run.tags.items()
            if k.startswith(_CARRIED) or not k.startswith((".", "dagster/", "hoop/"))
        }
        retries = self.run.tags.get(RETRIES_BEFORE)
        return kept | ({RETRIES: retries} if retries else {}) | self.own_tags()


class _Tick:
    """One evaluation of the sensor. What is wrong with one run stops no other."""

    def __init__(
        self, context: dg.SensorEvaluationContext, hoop: HoopClient, webserver: Webserver | None
    ) -> None:
        self._context, self._hoop, self._webserver = context, hoop, webserver
        self._instance = context.instance
        self._webserver_answers = True
        self._said: list[str] = []

    @property
    def in_words(self) -> str:
        more = len(self._said) - _MOST_SAID
        return "; ".join(self._said[:_MOST_SAID]) + (f"; and {more} more" if more > 0 else "")

    def look_at_all(self, runs: Sequence[dg.DagsterRun]) -> list[dg.RunRequest]:
        """What to start now. In no order, so that none is always behind one that takes all the time."""
        found = []
        until = time.monotonic() + _SECONDS
        for run in random.sample(runs, len(runs)):
            if time.monotonic() > until:
                self._say("the other runs are looked at by the next tick")
                break
            try:
                request = self.look_at(run)
            except GatewayUnavailable as e:
                self._say(f"{len(runs)} runs wait for an approval. {e.text}")
                break
            except HoopError as e:
                self._say(f"run {run.run_id}: {e.text}")
            except Exception as e:
                self._context.log.exception("Run %s cannot be looked at.", run.run_id)
                self._say(f"run {run.run_id} cannot be looked at ({type(e).__name__})")
            else:
                found += [request] if request else []
        return found

    def _say(self, text: str) -> None:
        """For people in Dagster's UI; what cannot be stored, or is not seen, is written out."""
        self._said.append(written_out(text[:_LONGEST_SAID]))

    def look_at(self, run: dg.DagsterRun) -> dg.RunRequest | None:
        """What to start for this run, if anything now. Runs that are decided lose their tag."""
        child = self._child(run)
        if child is not None:
            mine = child.tags.get(RESUMES_RUN) == run.run_id
            state = RunState.RESUMED if mine else RunState.SUPERSEDED
            self._close(run, state, f"goes on as run {child.run_id}", {RESUMED_BY: child.run_id})
            return None
        left = left_of(self._instance, run)
        if not left.approvals:  # a re-execution by hand has its parent's tags, and another end
            self._close(run, RunState.SUPERSEDED, "ended for another reason")
            return None
        if not self._is_ours(run, left):
            return None
        approvals = self._approvals(run, left)
        return self._resumed(_Resumption(run, left, approvals)) if approvals else None

    def _child(self, run: dg.DagsterRun) -> dg.DagsterRun | None:
        """The run that goes on with this one: started by this sensor, or by somebody in Dagster's UI."""
        for tag in (RESUMES_RUN, PARENT_RUN_ID):
            found = self._instance.get_runs(dg.RunsFilter(tags={tag: run.run_id}), limit=1)
            if found:
                return found[0]
        return None

    def _is_ours(self, run: dg.DagsterRun, left: Left) -> bool:
        """Whether this code location has to go on with it."""
        here = self._context.repository_def
        if here is None:
            return False
        if left.planned:
            return left.known_to(here.asset_graph)
        return here.has_job(run.job_name)

    def _approvals(self, run: dg.DagsterRun, left: Left) -> list[Approval]:
        """All requests of the run once all are approved; else none, and a run that cannot go on is closed."""
        found: list[Approval] = []
        if len(left.approvals) > _MOST_REQUESTS:
            self._close(run, RunState.BY_HAND, f"ended for more than {_MOST_REQUESTS} requests")
            return found
        for identifier in left.approvals:
            try:
                found.append(self._hoop.approval(identifier))
            except GatewayUnavailable:
                raise
            except HoopError as e:
                self._say(f"{identifier} of run {run.run_id}: {e.text}")
                return []
        waiting = [a for a in found if a.status is ApprovalStatus.PENDING]
        ended = [
            a for a in found if a.status not in {ApprovalStatus.PENDING, ApprovalStatus.APPROVED}
        ]
        if ended:
            state = _ENDS.get(ended[0].status, RunState.REFUSED)
            self._close(run, state, f"is not resumed: {ended[0].id} {_WHY[state]}{_said(ended[0])}")
            return []
        closed = [a for a in found if a.opens_at is not None]
        if closed and not waiting:  # before that it would only end again
            opens = max(a.opens_at for a in closed if a.opens_at is not None)
            self._say(f"run {run.run_id} is approved and may go on from {opens:%Y-%m-%d %H:%M} UTC")
            return []
        if waiting:
            names = ", ".join(f"{a.id} ({', '.join(a.approvers)})" for a in waiting)
            self._say(f"run {run.run_id} waits for {names}")
            return []
        return found

    def _resumed(self, resumption: _Resumption) -> dg.RunRequest | None:
        run, left, here = resumption.run, resumption.left, self._context.repository_def
        own_job = run.job_name != _IMPLICIT_JOB
        if self._webserver is not None and (own_job or not left.planned):
            self._reexecute(self._webserver, resumption)
            return None
        if not left.planned or here is None:
            self._close(
                run,
                RunState.BY_HAND,
                "is approved. Re-execute it from failure: the sensor can do so itself when it is given "
                "webserver_url",
            )
            return None
        whole = left.within(here.asset_graph)
        return dg.RunRequest(
            run_key=resumption.key,
            asset_selection=sorted(whole.assets),
            asset_check_keys=sorted(whole.checks),
            tags=resumption.tags(),
            run_config=run.run_config,
        )

    def _reexecute(self, webserver: Webserver, resumption: _Resumption) -> None:
        """Raises NotStarted, WebserverUnavailable."""
        run = resumption.run
        if not self._webserver_answers:  # each try that waits takes its time from the other runs
            self._say(f"run {run.run_id} is approved and waits for Dagster's webserver")
            return
        try:
            child = webserver.from_failure(run, self._reexecution_tags(resumption))
        except WebserverUnavailable:
            self._webserver_answers = False
            raise
        except NotStarted as e:
            if not e.for_good:
                raise
            self._close(run, RunState.BY_HAND, f"is approved. {e.message} Re-execute it by hand")
            return
        self._close(run, RunState.RESUMED, f"goes on as run {child}", {RESUMED_BY: child})

    def _reexecution_tags(self, resumption: _Resumption) -> dict[str, str]:
        """Dagster copies the parent's tags: what said that it waits must not be among them."""
        before = resumption.run.tags.get(RETRIES_BEFORE)
        default = str(self._instance.run_retries_retry_on_asset_or_op_failure).lower()
        return resumption.own_tags() | {
            APPROVAL_STATUS: str(RunState.RESUMED),
            RETRIES: before or default,
        }

    def _close(
        self,
        run: dg.DagsterRun,
        state: RunState,
        said: str,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._instance.add_run_tags(run.run_id, {APPROVAL_STATUS: str(state), **(tags or {})})
        message = written_out(f"Hoop: this run {said}.")
        self._instance.report_engine_event(message, run)
        self._context.log.info("Run %s: %s", run.run_id, message)
        self._say(f"run {run.run_id} {said}")


def _approvers(approval: Approval) -> Iterator[str]:
    for answer in approval.answers:
        if answer.verdict is AnswerVerdict.APPROVE:
            yield answer.approver.name


def _said(approval: Approval) -> str:
    """Who said no, and why."""
    no = [a for a in approval.answers if a.verdict is AnswerVerdict.REJECT]
    if no:
        return f" by {no[0].approver.name}: {no[0].reason}"
    if approval.revocation is not None:
        return f" by {approval.revocation.by.name}: {approval.revocation.reason}"
    return ""
