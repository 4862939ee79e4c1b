"""Where a browser may be sent within Hoop, and what the log says of where it came from."""

from __future__ import annotations

import re

from starlette.requests import Request

from hoop_core.model import Json

_WAY = re.compile(
    r"/(?:approvals|standing|sessions)(?:/[A-Za-z0-9_.-]{1,100})?(?:\?[A-Za-z0-9_=&%.~+:-]{0,300})?\Z"
)
HOME = ("/approvals", "Go to the approvals")


def safe_way(given: str | None) -> str:
    """A page of ours, or the inbox: nobody is sent elsewhere by what an address says."""
    return given if given and _WAY.match(given) else HOME[0]


def way_to(request: Request) -> str:
    """The page that was asked for, to come back to."""
    query = request.url.query
    return safe_way(request.url.path + (f"?{query}" if query else ""))


def client_of(request: Request) -> Json:
    """Where a call comes from, for the log."""
    return {
        "application": "browser",
        "path": request.url.path[:200],
        "address": request.client.host if request.client else None,
    }
