"""The parts of the stack as subprocesses: start, watch, stop, and the tail of their logs.

Every part runs under a small watchdog in a session and process group of its own (see watchdog.py),
so a stop can reach all of a part's descendants and never anything else.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx

from hoop_core.devstack import watchdog
from hoop_core.errors import Unavailable

LOOPBACK = "127.0.0.1"
STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05
_FOREIGN = ("HOOP_", "VAULT_", "BAO_", "SNOWFLAKE_")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class PartFailed(Unavailable):
    """A part of the stack ended or did not get ready; `log_tail` holds its last lines."""

    def __init__(self, part: str, why: str, log: Path) -> None:
        self.part, self.log, self.log_tail = part, log, tail(log)
        super().__init__(f"{part} {why}.", f"Its log is {log}.", reason="PART_FAILED")


_system_random = random.SystemRandom()
_given: set[int] = set()


def free_port() -> int:
    """A loopback TCP port that is free now. A part that finds it taken fails, and says so.

    Chosen below the ports that systems give to outgoing connections (from 32768 on Linux): one of those
    could be taken by any client in the seconds before the part listens.
    """
    # A source of its own: tests and tools seed the common one, and would draw the same ports at the same time.
    for port in _system_random.sample(range(15_000, 30_000), 200):
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise Unavailable(
        "No free TCP port was found on the loopback address between 15000 and 30000.",
        "Stop what listens there.",
    )


def tail(log: Path, lines: int = 20) -> str:
    """The last lines of a log; empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(file.tell() - 64 * 1024, 0))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, in one step: readers see the old or the new text."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def process_started(pid: int) -> str | None:
    """A mark that tells a process from a later one with the same id; None when it is gone."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            # The command's name may hold blanks and brackets; the fields start after the last one.
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    listed = subprocess.run(
        ["/bin/ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return listed.stdout.strip() or None


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for a part: the stack is configured by its own files and by nothing else.

    The user's own settings for Hoop, Vault or Snowflake, and proxies, would silently point a part
    at something outside the stack.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name.lower() not in _PROXIES
    }
    return kept | {"NO_PROXY": "*", "no_proxy": "*", "PYTHONUNBUFFERED": "1"} | dict(extra or {})


class Part:
    """One part of the stack. Not thread-safe: its owner starts and stops it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self.name, self.log = name, log
        self._command, self._directory = list(command), directory
        self._environment = clean_environment(environment)
        self._stop_seconds = stop_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process group of the part; None when it does not run."""
        return self._process.pid if self._process and self.running else None

    def start(self) -> None:
        """Start the part; returns at once. Raises PartFailed when it cannot be started at all."""
        if self.running:
            return
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        guard = [sys.executable, "-I", "-S", str(Path(watchdog.__file__)), str(self._stop_seconds)]
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(
                [*guard, *self._command],
                stdin=subprocess.PIPE,
                stdout=descriptor,
                stderr=descriptor,
                cwd=self._directory,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as e:
            raise PartFailed(self.name, f"cannot be started ({e.strerror})", self.log) from e
        finally:
            os.close(descriptor)

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until `ready()`; raises PartFailed when the part ends or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            answers = ready()
            # Asked afterwards: somebody else may answer at the address of a part that has ended.
            if self._process is None or self._process.poll() is not None:
                code = self._process.returncode if self._process else "none"
                raise PartFailed(self.name, f"ended while starting (exit code {code})", self.log)
            if answers:
                return
            if time.monotonic() > deadline:
                raise PartFailed(self.name, f"was not ready within {seconds:.0f} s", self.log)
            time.sleep(_POLL_SECONDS)

    def wait_healthy(self, url: str, *, seconds: float, accept: frozenset[int]) -> None:
        """Wait until `GET url` answers with a status in `accept`. Raises PartFailed."""
        with httpx.Client(trust_env=False, timeout=2.0) as client:

            def answers() -> bool:
                try:
                    return client.get(url).status_code in accept
                except httpx.TransportError:
                    return False

            self.wait_until(answers, seconds=seconds)

    def kill(self) -> None:
        """End the part at once, as a crash would: it gets no chance to clean up."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin:
            process.stdin.close()

    def stop(self) -> None:
        """Ask the part to end, wait, then end whatever is left of its own process group."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(self._stop_seconds)
        except subprocess.TimeoutExpired:
            # Not reaped yet, so the number still means our group and nobody else's.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin:
            process.stdin.close()
