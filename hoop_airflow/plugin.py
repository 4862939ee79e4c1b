"""Hoop in Airflow's UI: an inbox in the navigation, and a tab of each task instance.

Both are pages of Airflow's own API server, so that they may stand in its frames (Hoop's own refuse that), and only
show: to answer, one goes to Required Actions or to Hoop. The name of the connection that they read Hoop with is
`conn_id` in the section `[hoop]` of airflow.cfg, else `hoop_default`.

This module is imported by every part of Airflow; what only the API server needs is imported at the first request.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from hoop_airflow.links import HoopApprovalLink

PREFIX = "/hoop"


class _AtFirstRequest:
    """The ASGI application, made when it is needed."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            from hoop_airflow.pages import application  # noqa: PLC0415

            self._app = application()
        await self._app(scope, receive, send)


def _at(path: str) -> str:
    """Airflow may be served below a path of its host."""
    base = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
    return f"{base}{PREFIX}{path}"


class HoopPlugin(AirflowPlugin):
    name = "hoop"
    fastapi_apps = [{"app": _AtFirstRequest(), "url_prefix": PREFIX, "name": "Hoop"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "Hoop inbox",
            "href": _at("/inbox"),
            "destination": "nav",
            "category": "browse",
            "url_route": "hoop-inbox",
        },
        {
            "name": "Hoop",
            "href": _at("/task/{DAG_ID}/{RUN_ID}/{TASK_ID}/{MAP_INDEX}"),
            "destination": "task_instance",
            "url_route": "hoop",
        },
    ]
    operator_extra_links = [HoopApprovalLink()]  # noqa: RUF012
