"""The `hoop` command. Names, JSON keys and exit codes are a contract: other programs script against it."""

from __future__ import annotations

from hoop_core.cli.root import main

__all__ = ["main"]
