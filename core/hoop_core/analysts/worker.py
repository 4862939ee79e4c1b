"""The analysis worker: a process that reads hostile texts, and may be killed at any moment.

Run by path, `python -I worker.py DESCRIPTOR MEMORY_MB ALARM_SECONDS PATHS`, so that it never imports the
`__main__` of the program that Hoop is embedded in. It has no environment, no standard streams, and one
socket; when that ends, it ends. A worker that is stuck in an analysis when the gateway dies is ended by
the kernel's alarm, which needs no cooperation of ours.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import types

_OPEN_FILES = 64


def main(arguments: list[str]) -> int:
    """Serve until the socket ends."""
    descriptor, memory_mb = int(arguments[0]), int(arguments[1])
    alarm_seconds, paths = float(arguments[2]), json.loads(arguments[3])
    for everybodys in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # sent to the whole group: the gateway's to handle
        signal.signal(everybodys, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Ours come first: nothing beside the embedding program may take the place of the library's modules.
    sys.path += [p for p in paths if p not in sys.path]
    _bound(resource.RLIMIT_CORE, 0)  # a core file would hold statements
    _bound(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _bound(resource.RLIMIT_AS, memory_mb * 1024 * 1024)
    # The package of CEL imports its own command line, with a whole terminal library: half of our start.
    sys.modules["cel.cli"] = types.ModuleType("cel.cli")
    with socket.socket(fileno=descriptor) as pipe:
        from hoop_core.analysts.analyst import Analyst  # noqa: PLC0415 - needs the paths

        analyst = Analyst(pipe, alarm_seconds)
        analyst.warm_up()
        # Up to here a fault is told on standard error; from here on a traceback may quote a statement.
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        analyst.serve()
    return 0


def _bound(what: int, most: int) -> None:
    """Lower a limit of this process; systems that do not have it keep their own."""
    try:
        hard = resource.getrlimit(what)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(what, (most, most))
    except (OSError, ValueError):
        return


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
