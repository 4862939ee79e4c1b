"""`hoop serve`: the gateway, the REST interface and the pages."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer

from hoop_core.cli.output import failing
from hoop_core.config import load_settings


def configure_logging() -> None:
    """One JSON line an event on standard error; libraries only from warnings on."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s: %(message)s")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _leave(_signal: int, _frame: object) -> None:
    raise SystemExit(0)


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", help="The hoop.toml to use.", dir_okay=False)
    ] = None,
) -> None:
    """Serve the gateway until SIGTERM; then end every session and its user."""
    import uvicorn  # noqa: PLC0415 - slow imports that other commands need not wait for

    from hoop_core.server.app import build_app  # noqa: PLC0415

    configure_logging()
    os.umask(0o077)  # store, recordings and keys are nobody else's to read
    with failing(as_json=False):
        settings = load_settings(config)
        app = build_app(settings)
    gateway = settings.gateway
    typer.echo(
        f"Hoop serves http://{gateway.host}:{gateway.port} with the policy {settings.policy.file}",
        err=True,
    )
    # uvicorn raises the signal again once all is ended; by then it is an orderly end, and exit 0.
    signal.signal(signal.SIGTERM, _leave)
    uvicorn.run(
        app,
        host=settings.gateway.host,
        port=settings.gateway.port,
        log_level="warning",
        access_log=False,  # addresses of results would be in it
        server_header=False,
        timeout_keep_alive=65,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=64 * 1024,
    )
