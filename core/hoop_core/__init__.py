"""Hoop: the control surface between autonomous or scheduled jobs and Snowflake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hoop_core.client import connect

__version__ = "0.1.0"
__all__ = ["__version__", "connect"]


def __getattr__(name: str) -> Any:
    """`hoop_core.connect`, without loading the driver for those who only want a value."""
    if name == "connect":
        from hoop_core.client import connect  # noqa: PLC0415

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
