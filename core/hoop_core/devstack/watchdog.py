"""Runs one part of the stack, and ends it when the supervisor is gone, however it went.

`python watchdog.py GRACE_SECONDS COMMAND...` with a pipe as standard input, whose other end only the
supervisor holds. The kernel closes that end when the supervisor dies, even by SIGKILL; the watchdog
then reads end of file and stops the part. Why not PR_SET_PDEATHSIG: it exists on Linux only, it fires
when the *thread* that started the child ends, and it needs code between fork and exec, which is
not safe in a process with threads.

Imports the standard library only and is run with `-I -S`, so that it costs a few milliseconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType


def main(arguments: list[str]) -> int:
    """Run the command; its exit code is ours (128 + signal number when a signal ended it)."""
    grace_seconds, command = float(arguments[0]), arguments[1:]
    part = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        part.terminate()

    def watch() -> None:
        while os.read(0, 64):
            pass
        part.terminate()
        try:
            part.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            # We lead the group that the supervisor made for this part: nobody else is in it.
            os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
    code = part.wait()
    # What the part leaves behind in our group (OpenBao's plugin, say) ends with it; we do not.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
