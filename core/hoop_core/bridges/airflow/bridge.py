"""Between Hoop's desk and Airflow's Required Actions. Hoop is the authority; Airflow is a place to be asked at.

    a task      asks ahead, has Hoop write what to show (`show`), puts it there and parks
    a person    answers in Airflow: the task goes on and says so (`look`); Hoop reads the answer itself, with its own
                credential, and gives it in that person's name, under the rules of the desk
                or in Hoop: the bridge answers the Required Action, so that the task goes on
    the task    asks Hoop how it stands. What Airflow tells it decides nothing

One loop for each Airflow looks after all that is parked there. Of several replicas any may do it: a look is claimed
in the store, and the desk takes one voice of a person once.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Sequence
from datetime import timedelta
from weakref import WeakValueDictionary

import httpx
import structlog

from hoop_core.approvals.approval import Approval, NoSuchApproval
from hoop_core.approvals.desk import ApprovalDesk
from hoop_core.audit.log import AuditLog, utc_now
from hoop_core.bridges.airflow.counting import Counting
from hoop_core.bridges.airflow.ledger import Action, Ledger, Owner
from hoop_core.bridges.airflow.remote import AirflowRemote, AnsweredAlready
from hoop_core.bridges.airflow.text import shown
from hoop_core.bridges.airflow.values import (
    APPROVE,
    IN_HOOP,
    REJECT,
    WAITING,
    AirflowSilent,
    AirflowUnavailable,
    Place,
    Row,
)
from hoop_core.config import AirflowSettings
from hoop_core.errors import ConfigError, HoopError, NotServed, StoreUnavailable, where
from hoop_core.http import BadRequest
from hoop_core.model import ApprovalStatus, Identity, Json
from hoop_core.store import Store

_log = structlog.get_logger(__name__)
_IDENTIFIER = re.compile(r"apr_[0-9a-f]{20}")
_MOST_AT_ONCE = 20
"""Requests in one Required Action."""
_BATCH, _BATCHES = 16, 4
"""Looks at once, and how often in one turn: enough for ten thousand that are looked at every ten minutes, and no flood."""
_FIRST_LOOK = timedelta(seconds=3)
_LONGEST = timedelta(minutes=10)
_FORGOTTEN = timedelta(hours=1)
_IMPACT_LOOK_SECONDS = 0.25
_KEPT, _TIDY_EVERY = timedelta(days=30), 1000
_GRANTED = frozenset({ApprovalStatus.APPROVED, ApprovalStatus.CONSUMED})


class AirflowBridge:
    """`run` it, and `close` it."""

    def __init__(
        self,
        settings: Sequence[AirflowSettings],
        store: Store,
        log: AuditLog,
        desk: ApprovalDesk,
        *,
        public_url: str,
        impact_seconds: float = 4.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`impact_seconds` is how long a task waits for the count of what it would do. Raises ConfigError."""
        self._settings = {s.name: s for s in settings}
        if len(self._settings) != len(settings):
            raise ConfigError("Two sections [[airflow]] have the same name.", "Give each its own.")
        self._remotes = {s.name: AirflowRemote(s, transport) for s in settings}
        self._desk, self._ledger, self._public_url = desk, Ledger(store), public_url
        self._counting, self._impact_seconds = Counting(desk, log), impact_seconds
        self._one_at_a_time: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def configured(self) -> bool:
        return bool(self._settings)

    # ------------------------------------------------------------------ what a task asks

    async def show(
        self, caller: Identity, name: str | None, place: Place, identifiers: Sequence[str]
    ) -> Json:
        """What the task shall show for its requests; no action, where none of them waits any more.

        Raises NotServed when there is no Airflow, BadRequest, NoSuchApproval.
        """
        owner = Owner.of(self._instance(name), place, caller)
        if not 0 < len(identifiers) <= _MOST_AT_ONCE or len(set(identifiers)) != len(identifiers):
            raise BadRequest(f"approvals must name 1 to {_MOST_AT_ONCE} different requests.")
        found = [await self._own(caller, i) for i in identifiers]
        for approval in found:
            _check_shown_here(approval, place)
        known = await asyncio.to_thread(self._ledger.known, owner, identifiers)
        if known is None:
            found = await self._foreseen(found)
        if all(a.status is not ApprovalStatus.PENDING for a in found):
            return {"action": None, "approvals": _statuses(found)}
        written = known.shown if known else await asyncio.to_thread(shown, found, self._public_url)
        async with self._alone(owner.key(written)):
            action = await asyncio.to_thread(
                self._ledger.park, owner, identifiers, written, first_look=_FIRST_LOOK
            )
        return {"action": action.shown.as_json(), "approvals": _statuses(found)}

    async def look(self, caller: Identity, name: str | None, place: Place) -> Json:
        """Read what was answered there now. Who asks for it has no say in it.

        Raises NotServed, NoSuchApproval, AirflowUnavailable.
        """
        owner = Owner.of(self._instance(name), place, caller)
        mine = await asyncio.to_thread(self._ledger.of, owner)
        if not mine:
            raise NoSuchApproval("Hoop has shown nothing at this task for you.")
        newest, *others = mine
        for action in (newest, *(a for a in others if a.open)):
            await self._look(action.key, asked=True)
        found = [await self._own(caller, i) for i in newest.approvals]
        seen = await asyncio.to_thread(self._ledger.get, newest.key)
        return {"approvals": _statuses(found), "said": (seen and seen.said) or ""}

    def _instance(self, name: str | None) -> str:
        if not self._settings:
            raise NotServed(
                "Hoop knows no Airflow.", "Add a section [[airflow]] to its settings to use it."
            )
        known = ", ".join(sorted(self._settings))
        if not name:
            if len(self._settings) > 1:
                raise BadRequest(
                    "Hoop knows several Airflows, and the connection does not say which one this is.",
                    f"Set the connection's extra `airflow` to one of: {known}.",
                )
            return next(iter(self._settings))
        if name not in self._settings:
            raise BadRequest(
                f"Hoop knows no Airflow {name[:100]!r}.",
                f"Correct the connection's extra `airflow`: one of {known}.",
            )
        return name

    async def _own(self, caller: Identity, identifier: str) -> Approval:
        if not _IDENTIFIER.fullmatch(identifier):
            raise NoSuchApproval(f"There is no approval {identifier[:100]!r} of yours.")
        approval = await asyncio.to_thread(self._desk.get, identifier)
        if approval.requester_key != caller.key or approval.actors != caller.actors:
            raise NoSuchApproval(f"There is no approval {identifier!r} of yours.")
        return approval

    async def _foreseen(self, found: list[Approval]) -> list[Approval]:
        """The impact is counted while the request is written down; it is worth a moment, and no more."""
        waited = 0.0
        while waited < self._impact_seconds and any(
            a.impact is None and a.status is ApprovalStatus.PENDING for a in found
        ):
            await asyncio.sleep(_IMPACT_LOOK_SECONDS)
            waited += _IMPACT_LOOK_SECONDS
            found = [await asyncio.to_thread(self._desk.get, a.id) for a in found]
        return found

    # ------------------------------------------------------------------ following

    async def run(self) -> None:
        await asyncio.gather(*(self._follow(s) for s in self._settings.values()))

    async def close(self) -> None:
        for remote in self._remotes.values():
            await remote.close()

    async def _follow(self, settings: AirflowSettings) -> None:
        for number in itertools.count():
            await asyncio.sleep(settings.poll_seconds)
            try:
                await self.turn(settings.name)
                if number % _TIDY_EVERY == 0:
                    await asyncio.to_thread(self._ledger.forget, _KEPT)
            except StoreUnavailable as e:
                _log.error("Airflow cannot be followed", instance=settings.name, why=e.text)
            except Exception as e:
                # Whatever it was, those who wait must be looked up again.
                _log.error("Airflow cannot be followed", instance=settings.name, where=where(e))

    async def turn(self, instance: str) -> None:
        """Look at those whose time has come; an Airflow that does not answer is not asked on."""
        for _ in range(_BATCHES):
            due = await asyncio.to_thread(self._ledger.due, instance, _BATCH)
            outcomes = await asyncio.gather(*(self._look(k) for k in due), return_exceptions=True)
            for e in outcomes:
                if isinstance(e, HoopError):
                    _log.warning("a Required Action waits", instance=instance, why=e.text)
                elif isinstance(e, BaseException):
                    _log.error("a Required Action waits", instance=instance, where=where(e))
            if len(due) < _BATCH or all(isinstance(e, AirflowSilent) for e in outcomes):
                return

    def _alone(self, key: str) -> asyncio.Lock:
        return self._one_at_a_time.setdefault(key, asyncio.Lock())

    async def _look(self, key: str, *, asked: bool = False) -> None:
        """Read the row, and do what follows. Raises AirflowUnavailable, StoreUnavailable."""
        lock = self._alone(key)
        async with lock:
            action = await asyncio.to_thread(self._ledger.get, key)
            if action is None or not (action.open or asked):
                return
            try:
                await self._follow_up(action)
            except AirflowUnavailable:
                if (await self._decided(action)).long_over:
                    await asyncio.to_thread(self._ledger.close, action)
                    raise
                wait = min(timedelta(seconds=2 ** min(action.failures + 1, 9)), _LONGEST / 2)
                await asyncio.to_thread(
                    self._ledger.later, action, wait, failures=action.failures + 1
                )
                raise

    async def _follow_up(self, action: Action) -> None:
        decided = await self._decided(action)
        row = await self._remotes[action.instance].row(action.place)
        if row is None:
            await self._missing(action, decided)
        elif row.received:
            await self._read(action, row)
        elif row.state not in WAITING:
            await self._on_its_way(action, decided)
        elif (altered := row.altered(action.shown)) is not None:
            await self._not_ours(action, decided, altered)
        else:
            await self._release(action, decided)

    async def _on_its_way(self, action: Action, decided: _Decided) -> None:
        """The task is on its way to or from its parking place; or was ended by somebody while it waited."""
        if decided.long_over:
            await asyncio.to_thread(self._ledger.close, action)
            return
        wait = min(max((utc_now() - action.parked_at) / 10, _FIRST_LOOK), _LONGEST)
        await asyncio.to_thread(self._ledger.later, action, wait, waiting_since=None, failures=0)

    async def _missing(self, action: Action, decided: _Decided) -> None:
        """Nothing is shown there: not yet, or not any more."""
        if not decided.pending and utc_now() - action.parked_at > _FORGOTTEN:
            await asyncio.to_thread(self._ledger.close, action)  # cleared, and never asked again
        elif await asyncio.to_thread(self._ledger.elsewhere, action):
            await asyncio.to_thread(
                self._ledger.later, action, _LONGEST, waiting_since=None, failures=0
            )
        else:
            await self._later(action, waiting_since=None)

    async def _not_ours(self, action: Action, decided: _Decided, altered: str) -> None:
        """What waits there is of somebody else, or altered: Hoop's user must not answer it.

        The place is the client's word. Otherwise Hoop would say yes to whatever a requester points at.
        """
        if decided.pending:
            await self._later(action, waiting_since=None)
            return
        await asyncio.to_thread(self._ledger.close, action)
        _log.warning(
            "a Required Action is not answered: it is not what Hoop had written",
            instance=action.instance,
            differs=altered,
            approvals=list(action.approvals),
            **action.place.as_json(),
        )

    async def _read(self, action: Action, row: Row) -> None:
        if row.answer_digest != action.seen:
            said = ""
            if not self._remotes[action.instance].is_own(row.user_id):
                said = await asyncio.to_thread(self._counted, action, row)
                _log.info("an answer was read from Airflow", instance=action.instance, came=said)
            await asyncio.to_thread(self._ledger.saw, action, row.answer_digest, said)
        decided = await self._decided(action)
        if decided.pending:
            await self._later(action, waiting_since=None)
        else:
            await asyncio.to_thread(self._ledger.close, action)

    def _counted(self, action: Action, row: Row) -> str:
        """What came of it, in words for the task's log. An answer is to what stands there, also where its requester
        has shown something else at the task since then.
        """
        settings = self._settings[action.instance]
        others = (a for a in self._ledger.beside(action) if row.altered(a.shown) is None)
        answered = next(others, None)
        if answered is None:
            return self._counting.count(settings, action, row)
        if answered.seen != row.answer_digest:
            self._ledger.saw(
                answered, row.answer_digest, self._counting.count(settings, answered, row)
            )
        return "What was answered in Airflow is not what Hoop had written for these requests, but for others before."

    async def _release(self, action: Action, decided: _Decided) -> None:
        """Let the task go on once all is decided, and it has certainly been parked."""
        now = utc_now()
        since = action.waiting_since or now
        if decided.pending:
            await self._later(action, waiting_since=since)
            return
        settle = timedelta(seconds=self._settings[action.instance].settle_seconds)
        if now - since < settle:
            wait = since + settle - now
            await asyncio.to_thread(
                self._ledger.later, action, wait, waiting_since=since, failures=0
            )
            return
        option = APPROVE if decided.granted else REJECT
        if option not in action.shown.options:
            option = IN_HOOP
        try:
            told = await self._remotes[action.instance].answer(
                action.place, option, decided.in_words
            )
        except AnsweredAlready:
            await asyncio.to_thread(self._ledger.later, action, timedelta(0))
            row = await self._remotes[action.instance].row(action.place)
            if row is not None and row.received:
                await self._read(action, row)
            return
        if told:
            await asyncio.to_thread(self._ledger.close, action)
        else:
            await self._later(action, waiting_since=None)

    async def _later(self, action: Action, **values: object) -> None:
        """The longer it waits the less often it is looked at; what is decided in Hoop is noticed at once."""
        age = utc_now() - action.parked_at
        wait = min(max(age / 3, 2 * _FIRST_LOOK), _LONGEST)
        await asyncio.to_thread(self._ledger.later, action, wait, failures=0, **values)

    async def _decided(self, action: Action) -> _Decided:
        def read() -> _Decided:
            found = [self._desk.get(i) for i in action.approvals]
            closed = [a.id for a in found if a.status is not ApprovalStatus.PENDING]
            self._ledger.notice(action.key, closed)
            return _Decided(found)

        return await asyncio.to_thread(read)


class _Decided:
    """How the requests of one action stand, together: one no is a no to the task."""

    def __init__(self, found: Sequence[Approval]) -> None:
        self._ended = [
            a for a in found if a.status not in _GRANTED and a.status is not ApprovalStatus.PENDING
        ]
        self.granted = all(a.status in _GRANTED for a in found)
        self.pending = not self._ended and not self.granted
        limit = max(a.pending_until for a in found)
        self.long_over = not self.pending and utc_now() > limit + _FORGOTTEN
        """By then a task that Hoop could not let go on has gone on by its own time limit."""

    @property
    def in_words(self) -> str:
        """What the Required Action says afterwards: in Hoop is who, and why."""
        if self.granted:
            return "Approved in Hoop."
        return f"{self._ended[0].id} is {self._ended[0].status} in Hoop."


def _statuses(found: Sequence[Approval]) -> list[Json]:
    return [{"id": a.id, "status": str(a.status)} for a in found]


def _check_shown_here(approval: Approval, place: Place) -> None:
    """A request for one use is shown in its own DAG run. Raises BadRequest."""
    if approval.scope is not None:
        raise BadRequest(
            f"{approval.id} asks for a standing grant, and a Required Action is for one statement.",
            "Have it answered in Hoop.",
        )
    run = approval.body.get("run") or {}
    fields = run.get("fields") or {}
    if (run.get("orchestrator"), fields.get("dag_id"), fields.get("run_id")) != (
        "airflow",
        place.dag_id,
        place.run_id,
    ):
        raise BadRequest(f"{approval.id} belongs to another run.")
