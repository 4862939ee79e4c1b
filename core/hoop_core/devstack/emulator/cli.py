"""The command line of the stand-in: options, start, and a clean stop on SIGTERM and SIGINT."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from hoop_core.devstack.emulator import bootstrap
from hoop_core.devstack.emulator.accounts import Account
from hoop_core.devstack.emulator.app import Service, Timing
from hoop_core.devstack.emulator.engine import Engine
from hoop_core.devstack.emulator.execution import Executor
from hoop_core.devstack.emulator.journal import Journal
from hoop_core.devstack.emulator.sessions import Sessions
from hoop_core.errors import ConfigError

LOOPBACK = "127.0.0.1"
_STOP_SECONDS = 5
_KEEP_ALIVE_SECONDS = 75
"""Longer than a driver's pool keeps an idle connection: none is closed under a request."""


@dataclass(frozen=True, slots=True)
class StandIn:
    service: Service
    executor: Executor


def build(
    account_name: str,
    b: bootstrap.Bootstrap,
    *,
    demo_data: bool,
    token_seconds: int,
    master_seconds: int,
    timing: Timing,
    journal: Journal | None = None,
) -> StandIn:
    """Puts the parts together. Raises ConfigError for a bootstrap that cannot be used."""
    account, engine = Account(account_name), Engine()
    sessions = Sessions(token_seconds, master_seconds)
    history = bootstrap.history_of(account, engine)
    executor = Executor(account, sessions, engine, history)
    for view in ("QUERY_HISTORY", "LOGIN_HISTORY"):
        executor.performer.declare_local_time(
            ("SNOWFLAKE", "ACCOUNT_USAGE", view), {"START_TIME", "END_TIME", "EVENT_TIMESTAMP"}
        )
    world = bootstrap.World(account, sessions, engine, executor)
    world.begin(b)
    if demo_data:
        world.demo(b)
    else:
        world.minter(b)
    if journal is not None:
        journal.restore(account)
        history.keep(journal)
    service = Service(
        account=account,
        sessions=sessions,
        engine=engine,
        history=history,
        executor=executor,
        timing=timing,
    )
    return StandIn(service, executor)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hoop_core.devstack.emulator",
        description="A stand-in for the Snowflake service, for development and tests.",
    )
    parser.add_argument("--port", type=int, required=True, help="loopback port to serve on")
    parser.add_argument("--bootstrap", type=Path, required=True, help="JSON file of mode 0600")
    parser.add_argument("--no-demo-data", action="store_true", help="only the first two users")
    parser.add_argument("--account", default="HOOPDEV", help="the account's name")
    parser.add_argument(
        "--journal", type=Path, help="file that keeps users and history over restarts"
    )
    parser.add_argument("--slow-seconds", type=float, default=2.0, metavar="S")
    parser.add_argument("--poll-seconds", type=float, default=10.0, metavar="S")
    parser.add_argument("--session-token-seconds", type=int, default=3600, metavar="S")
    parser.add_argument("--master-token-seconds", type=int, default=4 * 3600, metavar="S")
    parser.add_argument("--chunk-url-seconds", type=int, default=6 * 3600, metavar="S")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT. Exit code 2 for a wrong bootstrap file."""
    options = _arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    # Parsers and fakesnow log whole statements, and those may hold secrets.
    for noisy in ("sqlglot", "fakesnow", "snowflake"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        standin = build(
            options.account,
            bootstrap.read(options.bootstrap),
            demo_data=not options.no_demo_data,
            token_seconds=options.session_token_seconds,
            master_seconds=options.master_token_seconds,
            timing=Timing(options.slow_seconds, options.poll_seconds, options.chunk_url_seconds),
            journal=Journal(options.journal) if options.journal else None,
        )
    except ConfigError as e:
        sys.stderr.write(f"{e}\n")
        return e.exit_code
    config = uvicorn.Config(
        standin.service.app(),
        host=LOOPBACK,
        port=options.port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,  # an address is what the connection says, not what a header claims
        lifespan="off",
        timeout_graceful_shutdown=_STOP_SECONDS,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
    )
    server = _Server(config, standin.executor)
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn raises the signal again after its clean stop: that one means nothing more.
        signal.signal(number, lambda *_: None)
    server.run()
    standin.executor.stop()
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """Cancels what runs as soon as it is told to stop, so that no request holds it up."""

    def __init__(self, config: uvicorn.Config, executor: Executor) -> None:
        super().__init__(config)
        self._executor = executor

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._executor.cancel_all()
        super().handle_exit(sig, frame)
