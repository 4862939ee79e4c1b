"""What drivers hear when they ask how a statement is doing.

The words are those of Snowflake's connectors (`QueryStatus`). BLOCKED is not used: the Go and JavaScript
connectors take it for a failure, so a statement that waits for people is QUEUED, which all of them wait out.
"""

from __future__ import annotations

from hoop_core.errors import Cancelled
from hoop_core.gateway.shelves import Running
from hoop_core.model import Json
from hoop_core.session.guarded import Stage

IN_PROGRESS, DETACHED = "333333", "333334"


def in_progress(running: Running) -> Json:
    """The answer for a statement that is under way: where to ask again.

    A detached one keeps its own code: the Go connector stops asking at any other.
    """
    text = "Query execution in progress."
    if running.detached:
        text += " Query ID can be used to fetch the result."
    return {
        "data": {
            "getResultUrl": f"/queries/{running.statement_id}/result",
            "queryId": running.statement_id,
            "progressDesc": None,
            "queryAbortsAfterSecs": 0,
        },
        "code": DETACHED if running.detached else IN_PROGRESS,
        "message": text,
        "success": True,
    }


def status_json(running: Running) -> Json:
    """One element of `data.queries` of `/monitoring/queries/{id}`."""
    status, error = _status(running), running.error
    ended = running.ended_at
    return {
        "id": running.statement_id,
        "status": status,
        "state": status,
        "sqlText": running.text,
        "sessionId": running.live.guarded.number,
        "startTime": int(running.begun_at * 1000),
        "endTime": int(ended * 1000) if ended else 0,
        "totalDuration": int((ended - running.begun_at) * 1000) if ended else 0,
        "errorCode": f"{error.errno:06d}" if error else None,
        "errorMessage": error.text if error else "",
    }


def _status(running: Running) -> str:
    if running.done:
        if running.error is None:
            return "SUCCESS"
        return "ABORTED" if isinstance(running.error, Cancelled) else "FAILED_WITH_ERROR"
    if running.abandoned.is_set():
        return "ABORTING"
    return "RUNNING" if running.progress.stage is Stage.RUNNING else "QUEUED"
