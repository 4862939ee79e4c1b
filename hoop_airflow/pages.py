"""The pages of the plugin. They read Hoop as the connection's identity, and show a signed-in Airflow user what belongs to
DAGs that this user may read. Everything that comes from Hoop is foreign text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any

import structlog
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.core_api.security import get_user
from airflow.configuration import conf
from airflow.models.connection import Connection
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader

from hoop_airflow.connection import checked, gateway_of, token_of
from hoop_core.characters import letters_named, written_out
from hoop_core.client import Approval, ApprovalStatus, GatewayAddress, HoopClient
from hoop_core.errors import HoopError

_log = structlog.get_logger(__name__)
_SECONDS = 10.0
_MOST = 200
_STYLE, _SCRIPT = "hoop.css", "hoop.js"

User = Annotated[Any, Depends(get_user)]


def application() -> FastAPI:
    app = FastAPI(title="Hoop", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(HTTPException)
    async def refused(_request: Request, error: HTTPException) -> HTMLResponse:
        return _page("told.html", error.status_code, title="Not shown", told=str(error.detail))

    @app.get("/inbox")
    def inbox(user: User) -> HTMLResponse:
        return _shown(user, {}, "inbox.html", title="Hoop inbox")

    @app.get("/task/{dag_id}/{run_id}/{task_id}/{map_index}")
    def task(user: User, dag_id: str, run_id: str, task_id: str, map_index: str) -> HTMLResponse:
        run = {"dag_id": dag_id, "run_id": run_id}
        # Airflow leaves its placeholder where the task is not mapped
        index = map_index if map_index.isdecimal() else "-1"
        place = {"task_id": task_id, "map_index": index}
        return _shown(user, run, "task.html", title="Hoop", place=place)

    return app


def _shown(user: Any, run: dict[str, str], template: str, **values: Any) -> HTMLResponse:
    """The requests of the run, or of all runs of DAGs that the user may read."""
    readable = get_auth_manager().get_authorized_dag_ids(user=user)
    if run and run["dag_id"] not in readable:
        return _page("told.html", 403, title="Not shown", told="You may not read this DAG.")
    try:
        gateway, found = _requests(run)
    except (HoopError, ValueError) as e:
        _log.warning("Hoop cannot be read for a page", why=str(e))
        told = e.message if isinstance(e, HoopError) else "The connection to Hoop cannot be read."
        hint = e.hint if isinstance(e, HoopError) else "Look at the log of Airflow's API server."
        return _page("told.html", 502, title="Hoop is not to be read now", told=f"{told} {hint}")
    mine = [
        a
        for a in found
        if a.run.orchestrator == "airflow" and a.run.fields.get("dag_id") in readable
    ]
    waiting = [a for a in mine if a.status is ApprovalStatus.PENDING]
    others = [a for a in mine if a.status is not ApprovalStatus.PENDING]
    return _page(
        template,
        page_of=gateway.approval_page,
        base=_base(),
        waiting=_newest(waiting),
        others=_newest(others),
        **values,
    )


def _requests(run: dict[str, str]) -> tuple[GatewayAddress, Sequence[Approval]]:
    """Raises HoopError; ValueError where Airflow has no such connection."""
    name = conf.get("hoop", "conn_id", fallback="hoop_default")
    try:
        connection = checked(Connection.get_connection_from_secrets(name))
    except HoopError:
        raise
    except Exception as e:  # Airflow's own class for it has moved between its versions
        raise ValueError(f"the connection {name!r}: {type(e).__name__}") from None
    gateway = gateway_of(connection)
    with HoopClient(gateway, token_of(connection), timeout_seconds=_SECONDS) as client:
        if run:
            return gateway, client.approvals(run=run)
        waiting = client.approvals(ApprovalStatus.PENDING)
        known = {a.id for a in waiting}
        return gateway, (*waiting, *(a for a in client.approvals() if a.id not in known))


def _newest(found: Sequence[Approval]) -> list[Approval]:
    return sorted(found, key=lambda a: a.created_at, reverse=True)[:_MOST]


def _base() -> str:
    """Of Airflow's own addresses."""
    return (conf.get("api", "base_url", fallback="") or "").rstrip("/")


def _page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    text = (
        _templates()
        .get_template(template)
        .render(style=_asset(_STYLE), script=_asset(_SCRIPT), **values)
    )
    policy = (
        f"default-src 'none'; style-src {_digest(_STYLE)}; script-src {_digest(_SCRIPT)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    )
    headers = {
        "cache-control": "no-store",
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "SAMEORIGIN",
    }
    return HTMLResponse(text, status_code=status, headers=headers)


@lru_cache(maxsize=1)
def _templates() -> Environment:
    made = Environment(loader=PackageLoader("hoop_airflow"), autoescape=True)
    made.filters |= {"plainly": _plainly, "letters": letters_named}
    return made


def _plainly(text: Any) -> str:
    """What is not seen, or turns the order of what is seen, shows."""
    return written_out(str(text))


@lru_cache(maxsize=2)
def _asset(name: str) -> str:
    return resources.files("hoop_airflow").joinpath("templates", name).read_text()


@lru_cache(maxsize=2)
def _digest(name: str) -> str:
    """What the policy of the page allows to stand in it."""
    digest = hashlib.sha256(_asset(name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
