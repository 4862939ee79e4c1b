"""Hoop for Dagster: a drop-in for SnowflakeResource that holds Hoop's address and the job's token only,
and what resumes runs once people have approved.
"""

from __future__ import annotations

from hoop_dagster.check import hoop_approval_check
from hoop_dagster.resource import HoopSnowflakeResource
from hoop_dagster.sensor import hoop_approval_sensor

__all__ = ["HoopSnowflakeResource", "hoop_approval_check", "hoop_approval_sensor"]
