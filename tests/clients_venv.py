"""Clients in a virtual environment of their own: what they pin does not fit beside ours.

The environments are kept between runs, in the user's cache folder, and named by the requirements.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.clients_world import ClientsWorld
from tests.native_world import CLIENTS, build, built

_SECONDS = 120


def environment(client: str) -> Path:
    """The `bin` folder of the environment for `tests/clients/<client>/requirements.txt`; made where it is
    missing, which takes a minute. A registry that is not reached skips the test."""
    uv = str(Path(sys.executable).with_name("uv"))
    with built(CLIENTS / client, "requirements.txt") as (folder, done):
        python = folder / "venv" / "bin" / "python"
        if not done:
            build([uv, "venv", "--quiet", "--clear", "--python", sys.executable, "venv"], folder)
            build(
                [
                    uv,
                    "pip",
                    "install",
                    "--quiet",
                    "--python",
                    str(python),
                    "-r",
                    "requirements.txt",
                ],
                folder,
            )
    return python.parent


def run(
    world: ClientsWorld, command: list[str], folder: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a client with Hoop's address and a token in its environment, and nothing of ours besides."""
    given = {
        "HOME": str(folder),
        "SNOWFLAKE_HOME": str(folder),
        "SNOWFLAKE_DISABLE_PLATFORM_DETECTION": "true",
        "HOOP_HOST": world.host,
        "HOOP_PORT": str(world.port),
        "HOOP_TOKEN": world.agent_token,
        **more,
    }
    return subprocess.run(
        command,
        cwd=folder,
        env={**_plain(os.environ), **given},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


def _plain(of: Mapping[str, str]) -> dict[str, str]:
    """What a program needs to start at all: another environment must not see our virtual environment."""
    return {k: v for k, v in of.items() if k in {"PATH", "LANG", "LC_ALL", "TMPDIR", "TZ"}}
