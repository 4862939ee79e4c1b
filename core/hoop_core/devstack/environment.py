"""Where the stack lives by default, and the form of its env file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_SHELL_SPECIAL = frozenset(" '\"$`\\&;|<>()*?#~!")


def default_home() -> Path:
    """$HOOP_DEV_HOME, else $XDG_STATE_HOME/hoop/dev, else ~/.local/state/hoop/dev."""
    if chosen := os.environ.get("HOOP_DEV_HOME"):
        return Path(chosen)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "hoop" / "dev"


def format_env(values: Mapping[str, str]) -> str:
    """KEY=VALUE lines that a shell can source and a program can split at the first `=`."""
    for name, value in values.items():
        if not value.isprintable() or set(value) & _SHELL_SPECIAL:
            raise ValueError(f"{name} cannot stand in an env file without quotes")
    return "".join(f"{name}={value}\n" for name, value in values.items())
