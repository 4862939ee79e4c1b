"""Commands that ask a running gateway: where it is and whose token they use."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from hoop_core.client import SOURCE_ENVS, HoopClient, token_source
from hoop_core.errors import ConfigError

Url = Annotated[
    str | None, typer.Option("--url", envvar="HOOP_GATEWAY_URL", help="The gateway's address.")
]
TokenEnv = Annotated[
    str | None,
    typer.Option(
        "--token-env",
        help="The variable that holds your OIDC token; else HOOP_TOKEN_FILE, HOOP_TOKEN or, from "
        "`hoop dev up`, HOOP_TOKEN_APPROVER.",
    ),
]


def client(url: str | None, token_env: str | None) -> HoopClient:
    """A client for the gateway. Raises ConfigError or IdentityError when something is missing."""
    if not url:
        raise ConfigError("No gateway is named.", "Give --url or set HOOP_GATEWAY_URL.")
    own = any(name in os.environ for name in SOURCE_ENVS)
    if token_env is None and not own and "HOOP_TOKEN_APPROVER" in os.environ:
        token_env = "HOOP_TOKEN_APPROVER"  # noqa: S105 - a variable's name
    if token_env is not None and not os.environ.get(token_env):
        raise ConfigError(
            f"The variable {token_env} holds no token.", "Set it, or name another with --token-env."
        )
    return HoopClient(url, token_source(env=token_env))
