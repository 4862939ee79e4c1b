"""What /hoop/v1 is, as OpenAPI 3.1: `GET /hoop/v1/openapi.json`.

https://spec.openapis.org/oas/v3.1.0
"""

from __future__ import annotations

from typing import Any

from hoop_core import __version__
from hoop_core.model import AnswerVerdict, ApprovalStatus, Json
from hoop_core.web.listing import MOST, SHOWN

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
MAYBE_TEXT: Schema = {"type": ["string", "null"]}
MOMENT: Schema = {"type": "string", "format": "date-time"}
MAYBE_MOMENT: Schema = {"type": ["string", "null"], "format": "date-time"}
TEXTS: Schema = {"type": "array", "items": TEXT}
FREE: Schema = {"type": "object", "additionalProperties": True}
MAYBE_WHOLE: Schema = {"type": ["integer", "null"]}


def _object(properties: Schema, *required: str, open_: bool = False) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": open_,
    }


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: Schema) -> Schema:
    return {"oneOf": [schema, {"type": "null"}]}


def _schemas() -> Schema:
    person = _object(
        {"issuer": TEXT, "subject": TEXT, "name": TEXT, "groups": TEXTS, "actors": TEXTS},
        "issuer",
        "subject",
        "name",
    )
    act = _object({"by": _ref("Person"), "reason": TEXT, "at": MOMENT}, "by", "reason", "at")
    return {
        "Error": _object(
            {
                "error": _object(
                    {"reason": TEXT, "message": TEXT, "hint": TEXT}, "reason", "message", "hint"
                )
            },
            "error",
        ),
        "Person": person,
        "Act": act,
        "Answer": _object(
            {
                "approver": _ref("Person"),
                "verdict": {"enum": [v.value for v in AnswerVerdict]},
                "reason": TEXT,
                "at": MOMENT,
            },
            "approver",
            "verdict",
            "reason",
            "at",
        ),
        "Impact": _object(
            {
                "state": {"enum": ["counted", "unavailable"]},
                "rows": MAYBE_WHOLE,
                "what": MAYBE_TEXT,
                "bounds": {
                    "type": "boolean",
                    "description": "Whether it touches no more rows than that.",
                },
                "sql": MAYBE_TEXT,
                "partitions": MAYBE_WHOLE,
                "partitions_total": MAYBE_WHOLE,
                "bytes": MAYBE_WHOLE,
                "restore": MAYBE_TEXT,
                "why": MAYBE_TEXT,
                "at": MOMENT,
            },
            "state",
            "rows",
            "what",
            "why",
            "at",
        ),
        "Approval": _approval(),
        "Limit": {
            "description": "What may stand in one gap of a template, bounded on both sides.",
            "oneOf": [
                _object({"type": {"const": "number"}, "min": {}, "max": {}}, "type", "min", "max"),
                _object(
                    {
                        "type": {"const": "date"},
                        "from": {"type": "string", "format": "date"},
                        "to": {"type": "string", "format": "date"},
                        "days_before": {"type": "integer", "minimum": 0},
                        "days_after": {"type": "integer", "minimum": 0},
                    },
                    "type",
                ),
                _object({"type": {"const": "text"}, "one_of": TEXTS}, "type", "one_of"),
            ],
        },
        "Reason": _object({"reason": {**TEXT, "minLength": 1, "maxLength": 4000}}, "reason"),
    }


def _approval() -> Schema:
    """The keys that every question has; those of statements, exceptions and standing approvals differ."""
    column = _object({"table": TEXT, "column": TEXT, "mask": TEXT}, "table", "column", open_=True)
    return _object(
        {
            "id": TEXT,
            "status": {"enum": [s.value for s in ApprovalStatus]},
            "kind": MAYBE_TEXT,
            "requester": _ref("Person"),
            "actors": TEXTS,
            "run": FREE,
            "session_id": MAYBE_TEXT,
            "snowflake_role": TEXT,
            "sql": MAYBE_TEXT,
            "rewritten": MAYBE_TEXT,
            "cut": {
                "const": True,
                "description": f"In lists: a text is shown to its first {SHOWN} characters. One request has all.",
            },
            "reads": TEXTS,
            "writes": TEXTS,
            "reasons": _list(_object({"code": TEXT, "message": TEXT}, "code", "message")),
            "rules": TEXTS,
            "masked": _list(column),
            "policy_digest": TEXT,
            "approvers": TEXTS,
            "quorum": {"type": "integer", "minimum": 1},
            "answers": _list(_ref("Answer")),
            "windows": _list(FREE),
            "impact": _or_null(_ref("Impact")),
            "break_glass": _or_null(FREE),
            "emergency": _or_null(FREE),
            "revocation": _or_null(_ref("Act")),
            "uses": {"type": "integer", "minimum": 0},
            "created_at": MOMENT,
            "pending_until": MOMENT,
            "valid_until": MAYBE_MOMENT,
            "consumed_at": MAYBE_MOMENT,
        },
        "id",
        "status",
        "kind",
        "requester",
        "approvers",
        "quorum",
        "answers",
        "created_at",
        "pending_until",
        open_=True,
    )


_SESSION: Schema = {
    "database": MAYBE_TEXT,
    "schema": MAYBE_TEXT,
    "role": MAYBE_TEXT,
    "account": MAYBE_TEXT,
    "context": _or_null(FREE),
    "session_parameters": _or_null(FREE),
}
_ASK = _object({"sql": TEXT, "parameters": {}, **_SESSION}, "sql", open_=True)
_ASK_STANDING = _object(
    {
        "template": {
            **TEXT,
            "description": "SQL in which a gap is {name}, and bound values are ?.",
        },
        "bounds": {"type": "object", "additionalProperties": _ref("Limit")},
        "sample": FREE,
        "parameters": {},
        "rows_at_most": {"type": "integer", "minimum": 0},
        "uses_at_most": {"type": "integer", "minimum": 1},
        "seconds": {"type": "integer", "minimum": 60},
        "reason": TEXT,
        **_SESSION,
    },
    "template",
    "bounds",
    "rows_at_most",
    "uses_at_most",
    "seconds",
    "reason",
    open_=True,
)
_ASK_EXCEPTION = _object(
    {
        "columns": TEXTS,
        "seconds": {"type": "integer", "minimum": 1},
        "reason": TEXT,
        "role": MAYBE_TEXT,
        "account": MAYBE_TEXT,
    },
    "columns",
    "seconds",
    "reason",
    open_=True,
)
_ANSWER = _object(
    {"verdict": {"enum": [v.value for v in AnswerVerdict]}, "reason": TEXT},
    "verdict",
    "reason",
    open_=True,
)


_TASK: Schema = {"dag_id": TEXT, "run_id": TEXT, "task_id": TEXT, "map_index": {}}


def _listing(name: str) -> Schema:
    """One page; `next` is the `before` of the one after it."""
    return _object({name: _list(_ref("Approval")), "next": MAYBE_TEXT}, name, "next")


_PAGE: list[Json] = [
    {
        "name": "limit",
        "in": "query",
        "description": "Requests on a page, at most. A page with long ones has fewer.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST, "default": MOST},
    },
    {
        "name": "before",
        "in": "query",
        "description": "`next` of the page before, as it is; with the same filters.",
        "schema": TEXT,
    },
]


# address, method: what it does, what it is sent, what it answers with
_TABLE: dict[tuple[str, str], tuple[str, Schema | None, Schema]] = {
    ("/approvals", "get"): ("The requests that you may see.", None, _listing("approvals")),
    ("/approvals", "post"): (
        "Ask ahead for a statement. `not_required` where it needs no approval.",
        _ASK,
        {"oneOf": [_ref("Approval"), _object({"status": {"const": "not_required"}}, "status")]},
    ),
    ("/approvals/{id}", "get"): ("One request.", None, _ref("Approval")),
    ("/approvals/{id}/answers", "post"): ("Approve or reject it.", _ANSWER, _ref("Approval")),
    ("/approvals/{id}/withdrawal", "post"): (
        "Take your own request back.",
        _ref("Reason"),
        _ref("Approval"),
    ),
    ("/approvals/{id}/break-glass", "post"): (
        "Let it run in an emergency, alone; somebody else has to review that.",
        _ref("Reason"),
        _ref("Approval"),
    ),
    ("/approvals/{id}/review", "post"): (
        "Close the review of an emergency.",
        _ref("Reason"),
        _ref("Approval"),
    ),
    ("/standing-approvals", "get"): (
        "The standing approvals that you may see.",
        None,
        _listing("standing_approvals"),
    ),
    ("/standing-approvals", "post"): (
        "Ask that every statement which fits a template may run.",
        _ASK_STANDING,
        _ref("Approval"),
    ),
    ("/standing-approvals/{id}/revocation", "post"): (
        "End a standing approval.",
        _ref("Reason"),
        _ref("Approval"),
    ),
    ("/masking-exceptions", "get"): (
        "The masking exceptions that you may see.",
        None,
        _listing("masking_exceptions"),
    ),
    ("/masking-exceptions", "post"): (
        "Ask to see masked columns for a while.",
        _ASK_EXCEPTION,
        _ref("Approval"),
    ),
    ("/masking-exceptions/{id}/revocation", "post"): (
        "End a masking exception.",
        _ref("Reason"),
        _ref("Approval"),
    ),
    ("/airflow/actions", "post"): (
        "What a task of yours that waits shall show in Airflow's Required Actions; null: nothing waits.",
        _object(
            {"approvals": TEXTS, "airflow": MAYBE_TEXT, **_TASK}, "approvals", *_TASK, open_=True
        ),
        FREE,
    ),
    ("/airflow/looks", "post"): (
        "Have Hoop read what was answered at the task in Airflow, and say how its requests stand.",
        _object({"airflow": MAYBE_TEXT, **_TASK}, *_TASK, open_=True),
        FREE,
    ),
    ("/sessions", "get"): (
        "Your sessions; for readers, all.",
        None,
        _object({"sessions": _list(FREE)}, "sessions"),
    ),
    ("/sessions/{id}", "get"): ("A session with its log entries.", None, FREE),
}
_FILTERS = (
    "status",
    "dag_id",
    "run_id",
    "task_id",
    "map_index",
    "job_name",
    "step_key",
    "asset_key",
)
_ERRORS = {
    "400": "The request cannot be read.",
    "401": "No token, or one that is not taken.",
    "403": "Denied by policy.",
    "404": "There is no such thing for you.",
    "409": "It may not be done by you, or not any more.",
    "429": "Too many failed sign-ins, or too much is asked at once.",
    "503": "Something that Hoop rests on is away: nothing was done.",
}


def document(base: str) -> Json:
    """The whole description; `base` is where it is served under."""
    paths: Json = {}
    for (path, method), (summary, sent, answered) in _TABLE.items():
        paths.setdefault(base + path, {})[method] = _operation(
            path, method, summary, sent, answered
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Hoop",
            "version": __version__,
            "description": "Approvals, standing approvals, masking exceptions and sessions.",
        },
        "security": [{"oidc": []}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "oidc": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "An OIDC token of an issuer that this Hoop takes.",
                }
            },
        },
    }


def _operation(path: str, method: str, summary: str, sent: Schema | None, answered: Schema) -> Json:
    parameters: list[Json] = []
    if "{id}" in path:
        parameters.append({"name": "id", "in": "path", "required": True, "schema": TEXT})
    elif method == "get" and path != "/sessions":
        names = _FILTERS if path == "/approvals" else _FILTERS[:1]
        parameters += [{"name": n, "in": "query", "schema": TEXT} for n in names] + _PAGE
    asks = method == "post" and path.count("/") == 1  # a new question
    codes = ("200", "201") if path == "/approvals" and asks else ("201",) if asks else ("200",)
    told = {code: _content(summary, answered) for code in codes}
    errors = {code: _content(why, _ref("Error")) for code, why in _ERRORS.items()}
    body = {} if sent is None else {"requestBody": {"required": True, **_json(sent)}}
    return {"summary": summary, "parameters": parameters, **body, "responses": told | errors}


def _content(description: str, schema: Schema) -> Json:
    return {"description": description, **_json(schema)}


def _json(schema: Schema) -> Json:
    return {"content": {"application/json": {"schema": schema}}}
