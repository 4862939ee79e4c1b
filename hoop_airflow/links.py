"""The button "Hoop approval" of a task instance."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink


class HoopApprovalLink(BaseOperatorLink):
    """Leads to the request in Hoop. Airflow asks for it in the worker, and keeps what it is told."""

    name = "Hoop approval"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return getattr(operator, "hoop_page", "")
