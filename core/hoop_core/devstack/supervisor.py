"""The process that holds a DevStack while `hoop dev up` itself has long returned.

`launch` starts it in a session of its own and reads its reports from a pipe: one JSON object a line,
`progress`, then `ready` (with the environment, secrets included: that is why it is a pipe and not a
file) or `failed`. `stop` ends it by the process id that it left in its home.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from hoop_core.devstack.processes import PartFailed, process_started, tail, write_private
from hoop_core.devstack.stack import DevStack, Progress
from hoop_core.errors import HoopError, Unavailable

_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.1


class LaunchFailed(HoopError):
    """The stack did not come up. `exit_code` is the command's; `log_tail` the failed part's last lines."""

    def __init__(
        self, message: str, hint: str, exit_code: int, log_tail: str, reason: str = "LAUNCH_FAILED"
    ) -> None:
        super().__init__(message, hint, reason=reason)
        self.exit_code, self.log_tail = exit_code, log_tail


@dataclass(frozen=True, slots=True)
class Supervisor:
    """A running supervisor, told from a later process with the same id by its start time."""

    pid: int
    started: str

    @property
    def alive(self) -> bool:
        return process_started(self.pid) == self.started


def _record(home: Path) -> Path:
    return home / "supervisor.json"


def running(home: Path) -> Supervisor | None:
    """The supervisor of `home`; None when there is none or it has ended."""
    try:
        data = json.loads(_record(home).read_text())
        found = Supervisor(int(data["pid"]), str(data["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.alive else None


def launch(home: Path, *, policy: Path | None, progress: Progress) -> dict[str, str]:
    """Start a stack that survives this process; returns its environment, secrets included.

    Raises LaunchFailed with the exit code of the failure.
    """
    logs = home / "logs"
    for directory in (home, logs):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = logs / "supervisor.log"
    reader, writer = os.pipe()
    command = [sys.executable, "-P", "-m", "hoop_core.devstack.supervisor"]
    command += ["--home", str(home), "--report", str(writer)]
    command += ["--policy", str(policy.resolve())] if policy else []
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(writer,),
            start_new_session=True,
        )
    finally:
        os.close(output)
        os.close(writer)
    try:
        with os.fdopen(reader) as reports:
            for line in reports:
                report = json.loads(line)
                if "progress" in report:
                    progress(report["progress"])
                elif "ready" in report:
                    return dict(report["ready"])
                else:
                    process.wait(_STOP_SECONDS)
                    raise LaunchFailed(**report["failed"])
    except KeyboardInterrupt:
        process.terminate()
        process.wait(_STOP_SECONDS)
        raise
    raise LaunchFailed(
        "The supervisor ended while starting.",
        f"Its log is {log}.",
        Unavailable.exit_code,
        tail(log),
    )


def stop(home: Path) -> bool:
    """End the stack of `home` and wait for it. False when none was running.

    Raises Unavailable when it does not end in time.
    """
    found = running(home)
    if found is None:
        return False
    try:
        os.kill(found.pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    deadline = time.monotonic() + _STOP_SECONDS
    while found.alive:
        if time.monotonic() > deadline:
            raise Unavailable(
                f"The stack (process {found.pid}) did not stop within {_STOP_SECONDS:.0f} s.",
                f"See the logs in {home / 'logs'}, then try again.",
            )
        time.sleep(_POLL_SECONDS)
    return True


class StopSignals:
    """SIGTERM and SIGINT: while the stack starts they break off, afterwards they end the wait."""

    def __init__(self) -> None:
        self._asked, self._started = threading.Event(), False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        first = not self._asked.is_set()
        self._asked.set()
        # A second signal must not break into the clean-up that the first one began.
        if first and not self._started:
            raise SystemExit(0)

    def wait(self) -> None:
        """Return when a signal came, or has come already."""
        self._started = True
        self._asked.wait()


def hold(
    home: Path, *, policy: Path | None, progress: Progress, ready: Callable[[dict[str, str]], None]
) -> None:
    """Run a stack in this process until SIGTERM or SIGINT. Raises what DevStack.start raises."""
    signals = StopSignals()
    stack = DevStack(home, policy=policy)
    try:
        info = stack.start(progress)
        started = process_started(os.getpid())
        write_private(_record(home), json.dumps({"pid": os.getpid(), "started": started}))
        ready(info.env())
        signals.wait()
    finally:
        if stack.owns_home:
            _record(home).unlink(missing_ok=True)
        stack.stop()


def main() -> None:
    """Entry point of the detached process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--report", type=int, required=True)
    parser.add_argument("--policy", type=Path)
    arguments = parser.parse_args()
    pipe = os.fdopen(arguments.report, "w")

    def report(**message: Any) -> None:
        try:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()
        except BrokenPipeError:
            # Whoever asked for the stack is gone: nobody would ever learn its address.
            raise SystemExit(1) from None

    def ready(environment: dict[str, str]) -> None:
        report(ready=environment)
        pipe.close()

    try:
        hold(
            arguments.home,
            policy=arguments.policy,
            progress=lambda step: report(progress=step),
            ready=ready,
        )
    except HoopError as e:
        report(
            failed={
                "reason": e.reason,
                "message": e.message,
                "hint": e.hint,
                "exit_code": e.exit_code,
                "log_tail": e.log_tail if isinstance(e, PartFailed) else "",
            }
        )
        raise SystemExit(e.exit_code) from None
    except Exception as e:
        report(
            failed={
                "message": f"The stack could not be started ({type(e).__name__}).",
                "hint": f"See {arguments.home / 'logs' / 'supervisor.log'}.",
                "exit_code": Unavailable.exit_code,
                "log_tail": "",
            }
        )
        raise


if __name__ == "__main__":
    main()
