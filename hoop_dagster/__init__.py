"""Hoop for Dagster: a drop-in for SnowflakeResource that holds Hoop's address and the job's token only."""

from __future__ import annotations

from hoop_dagster.resource import HoopSnowflakeResource

__all__ = ["HoopSnowflakeResource"]
