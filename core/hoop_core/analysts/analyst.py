"""What a worker process does: reads frames, judges, answers. See worker.py for the process around it."""

from __future__ import annotations

import gc
import pickle
import resource
import signal
import socket
import sys
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from hoop_core.analysts import wire
from hoop_core.analysts.wire import Answer, Ask, Drop, LoadPolicy, Says, Tell
from hoop_core.errors import HoopError
from hoop_core.judge import judge_text, judging
from hoop_core.model import Identity, NameContext, RunContext, TableName, Verdict
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy
from hoop_core.sql.catalog import Catalog, CatalogObject

_WARM_TEXT = "WITH c AS (SELECT a, COUNT(*) AS n FROM t WHERE a > 1 GROUP BY a) SELECT * FROM c"
COLLECT_AFTER = 100_000
"""New objects that wait for a collection: some twenty statements. One after each would empty the
processor's caches for the next."""
_PEAK_UNIT = 1024 * 1024 if sys.platform == "darwin" else 1024


@dataclass(slots=True)
class _Conversation:
    """A statement under analysis, and what has been told of the catalog so far."""

    judging: Generator[tuple[TableName, ...], Catalog, Verdict]
    known: dict[TableName, CatalogObject | None]
    wanted: tuple[TableName, ...] | None = None
    used: set[TableName] = field(default_factory=set)

    def carry_on(self) -> Answer:
        """Up to the first object that is not known yet, or to the verdict."""
        try:
            if self.wanted is None:
                self.wanted = next(self.judging)
            while not (missing := tuple(t for t in self.wanted if t not in self.known)):
                self.used.update(self.wanted)
                there_are = {t: o for t, o in self.known.items() if o is not None}
                self.wanted = self.judging.send(Catalog.of(there_are))
        except StopIteration as done:
            return _answer(done.value, self.used)
        return Answer(Says.WANTED, missing)


def _answer(verdict: Verdict, used: set[TableName]) -> Answer:
    """The text of the statement stays behind: the gateway has it."""
    if verdict.statement is not None:
        verdict = replace(verdict, statement=replace(verdict.statement, sql=""))
    return Answer(Says.VERDICT, tuple(sorted(used)), verdict, peak_mb())


def peak_mb() -> int:
    """The most memory that this process has used, in MiB.

    Not by getrusage(2) where it can be helped: its maximum survives execve(2), so that the child of a
    large gateway would seem large itself.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:", 1)[1].split(maxsplit=1)[0]) // 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // _PEAK_UNIT


class Analyst:
    """One statement at a time, over one socket."""

    def __init__(self, pipe: socket.socket, alarm_seconds: float) -> None:
        self._pipe, self._alarm = pipe, alarm_seconds
        self._policies: dict[str, Policy] = {}
        self._under_way: _Conversation | None = None

    def warm_up(self) -> None:
        """Fill what the libraries build at first use; the first statement shall not pay for it."""
        judge_text(
            _WARM_TEXT,
            NameContext("D", "S"),
            identity=Identity("", "", "", (), "", ""),
            policy=Policy(""),
            catalog=Catalog(),
            run=RunContext(),
            now=datetime.now(UTC),
        )
        # The trees of statements are full of cycles. A collection in the midst of a statement looks at
        # every object of the libraries and doubles the time of long ones: so between statements, and
        # without what has come to stay.
        gc.collect()
        gc.freeze()
        gc.disable()

    def serve(self) -> None:
        """Until the gateway closes the socket."""
        self._send(Answer(Says.READY))
        while (frame := wire.receive(self._pipe, wire.MOST_ASKED)) is not None:
            message = pickle.loads(frame)  # noqa: S301 - from the gateway, whose child this is
            match message:
                case LoadPolicy():
                    self._load(message)
                case Ask():
                    policy = self._policies[message.policy]
                    conversation = judging(**message.arguments, policy=policy)
                    self._go_on(_Conversation(conversation, dict(message.known)))
                case Tell() if self._under_way is not None:
                    self._under_way.known.update(message.objects)
                    self._go_on(self._under_way)
                case Drop():
                    self._under_way = None
                case _:
                    raise wire.WireError("a message out of turn")

    def _load(self, message: LoadPolicy) -> None:
        for key in message.drop:
            self._policies.pop(key, None)
        try:
            policy = parse_policy(message.text, message.source)
        except HoopError:
            return self._send(Answer(Says.UNUSABLE))
        if message.account is not None:
            policy = policy.for_account(message.account)
        if policy.key != message.key:
            return self._send(Answer(Says.UNUSABLE))
        self._policies[policy.key] = policy
        return self._send(Answer(Says.LOADED))

    def _go_on(self, conversation: _Conversation) -> None:
        # The gateway kills in time. The alarm is for the case that there is no gateway any more.
        signal.setitimer(signal.ITIMER_REAL, self._alarm)
        try:
            answer = conversation.carry_on()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._under_way = conversation if answer.says is Says.WANTED else None
        self._send(answer)
        if self._under_way is None:
            del conversation
            if gc.get_count()[0] > COLLECT_AFTER:
                gc.collect()

    def _send(self, answer: Answer) -> None:
        self._pipe.sendall(wire.framed(wire.to_json(answer), wire.MOST_ANSWERED))
