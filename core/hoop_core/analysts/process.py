"""One analysis worker, as the gateway sees it: start it, talk to it, end it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import weakref
from collections import OrderedDict
from pathlib import Path

from hoop_core.analysts import wire
from hoop_core.analysts.wire import Answer, Ask, Drop, LoadPolicy, Says, Tell
from hoop_core.errors import AnalysisUnavailable
from hoop_core.policy.model import Policy

_PROGRAM = Path(__file__).with_name("worker.py")
_POLICIES_KEPT = 4
# Of the gateway's variables, where secrets may be, only the one without which Python may not start.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH",)

_alive: weakref.WeakSet[Worker] = weakref.WeakSet()


class WorkerGone(Exception):
    """The worker ended, or answered what no worker answers: it cannot be used any more."""


class Worker:
    """A worker process of this process. Not for two statements at once: the pool sees to that."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: socket.socket) -> None:
        self._process, self._pipe = process, pipe
        self._policies: OrderedDict[str, None] = OrderedDict()
        self.served = 0
        _alive.add(self)

    @classmethod
    def spawn(cls, *, memory_mb: int, alarm_seconds: float) -> Worker:
        """Start a process; it is ready once `ready` returns. Blocks for some milliseconds.

        Raises OSError when the system does not start it.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                paths = json.dumps([str(Path(p).absolute()) for p in sys.path])
                process = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-B", str(_PROGRAM)),
                        *(str(theirs.fileno()), str(memory_mb), str(alarm_seconds), paths),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env={k: os.environ[k] for k in _KEPT_VARIABLES if k in os.environ},
                    cwd="/",
                )
            ours.setblocking(False)
            return cls(process, ours)
        except BaseException:
            ours.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    async def ready(self) -> None:
        """Wait until the process can be asked. Raises WorkerGone."""
        if (await self._answer())[0].says is not Says.READY:
            raise WorkerGone

    async def load(self, policy: Policy) -> None:
        """Give the worker a policy that it does not have yet. Raises WorkerGone, AnalysisUnavailable."""
        if policy.key in self._policies:
            self._policies.move_to_end(policy.key)
            return
        drop = tuple(self._policies)[: max(0, len(self._policies) - _POLICIES_KEPT + 1)]
        for key in drop:
            del self._policies[key]
        await self._send(LoadPolicy(policy.key, policy.account, policy.text, policy.source, drop))
        answer, _ = await self._answer()
        if answer.says is Says.UNUSABLE:
            raise AnalysisUnavailable(
                "The analysis worker reads another policy out of the policy's text; nothing was executed.",
                "Tell the operator of Hoop: gateway and worker are not of the same version.",
            )
        if answer.says is not Says.LOADED:
            raise WorkerGone
        self._policies[policy.key] = None

    async def exchange(self, message: Ask | Tell) -> tuple[Answer, int]:
        """Ask, and wait for as long as it takes: the answer and its length. Raises WorkerGone."""
        await self._send(message)
        answer, size = await self._answer()
        if answer.says is not Says.WANTED and answer.verdict is None:
            raise WorkerGone
        return answer, size

    async def drop(self) -> None:
        """End the statement under analysis, of which the worker has just wanted something."""
        await self._send(Drop())

    async def _send(self, message: LoadPolicy | Ask | Tell | Drop) -> None:
        try:
            await asyncio.get_running_loop().sock_sendall(self._pipe, wire.packed(message))
        except (OSError, wire.WireError):
            raise WorkerGone from None

    async def _answer(self) -> tuple[Answer, int]:
        try:
            (size,) = wire.LENGTH.unpack(await self._exactly(wire.LENGTH.size))
            if size > wire.MOST_ANSWERED:
                raise WorkerGone
            return wire.from_json(Answer, await self._exactly(size)), size
        except (OSError, wire.WireError):
            raise WorkerGone from None

    async def _exactly(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        got = bytearray()
        while len(got) < size:
            part = await loop.sock_recv(self._pipe, min(size - len(got), 1 << 18))
            if not part:
                raise WorkerGone
            got += part
        return bytes(got)

    def kill(self) -> None:
        """End the process at once: it holds nothing that has to be saved. `reap` is still due."""
        # Nobody has waited for it yet, so the number still means this child.
        self._process.kill()

    async def reap(self) -> int:
        """Wait for the end of a killed process: its exit code, negative for a signal."""
        try:
            return await asyncio.to_thread(self._process.wait)
        finally:
            # Only now: whoever still waits for an answer has read the end of the pipe.
            _alive.discard(self)
            self._pipe.close()

    def disown(self) -> None:
        """In a forked child: the worker belongs to the parent, and must see the parent's end."""
        self._pipe.close()
        self._process.returncode = 0  # not our child: nothing here may wait for it or signal it


def _after_fork() -> None:
    for worker in list(_alive):
        worker.disown()
    _alive.clear()


os.register_at_fork(after_in_child=_after_fork)
