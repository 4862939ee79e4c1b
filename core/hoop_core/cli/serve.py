"""`hoop serve`: the gateway, the REST interface and the pages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from hoop_core.cli.output import failing
from hoop_core.config import load_settings


def serve(
    config: Annotated[
        Path | None, typer.Option("--config", help="The hoop.toml to use.", dir_okay=False)
    ] = None,
) -> None:
    """Serve the gateway until SIGTERM; then let clients finish, and end every session and its user."""
    # slow imports that other commands need not wait for
    from hoop_core.server.logs import log_to  # noqa: PLC0415
    from hoop_core.server.served import build  # noqa: PLC0415
    from hoop_core.server.serving import serve as run  # noqa: PLC0415
    from hoop_core.server.tls import certificates_of  # noqa: PLC0415

    log_to(sys.stderr)
    os.umask(0o077)  # store, recordings and keys are nobody else's to read
    with failing(as_json=False):
        settings = load_settings(config)
        certificates_of(settings.gateway)  # before anything is made
        served = build(settings)
        gateway = settings.gateway
        scheme = "https" if gateway.tls_certificate else "http"
        typer.echo(
            f"Hoop serves {scheme}://{gateway.host}:{gateway.port} with the policy "
            f"{settings.policy.file}",
            err=True,
        )
        run(served)
