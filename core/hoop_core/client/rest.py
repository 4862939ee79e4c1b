"""A client for Hoop's REST API, /hoop/v1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from hoop_core import __version__
from hoop_core.client.address import GatewayAddress
from hoop_core.client.connection import hoop_context, resolve_gateway, unreachable
from hoop_core.client.values import Approval, parse_approval
from hoop_core.errors import (
    ApprovalRefused,
    Cancelled,
    ConfigError,
    EvidenceError,
    GatewayUnavailable,
    HoopError,
    IdentityError,
    NotServed,
    PolicyDenied,
    Refused,
    SessionGone,
    SnowflakeError,
    SnowflakeUnavailable,
    StatementRefused,
    StoreUnavailable,
    Unavailable,
    VaultUnavailable,
)
from hoop_core.identity.tokens import TokenSource, token_source
from hoop_core.model import AnswerVerdict, ApprovalStatus, Json, RunContext

_BY_REASON: dict[str, type[HoopError]] = {
    c.reason: c
    for c in (
        ApprovalRefused,
        Cancelled,
        ConfigError,
        EvidenceError,
        GatewayUnavailable,
        IdentityError,
        NotServed,
        PolicyDenied,
        SessionGone,
        SnowflakeError,
        SnowflakeUnavailable,
        StatementRefused,
        StoreUnavailable,
        VaultUnavailable,
    )
}
_BY_STATUS: dict[int, type[HoopError]] = {
    400: StatementRefused,
    401: IdentityError,
    403: PolicyDenied,
    404: NotServed,
    409: ApprovalRefused,
    422: StatementRefused,
    503: Unavailable,
}
_BEHIND_A_PROXY = frozenset({502, 504})
_SECONDS = 30.0
MOST_LISTED = 2000
"""Requests of one list; those after them are found by status, or by run."""


def error_from(status: int, body: object) -> HoopError:
    """The exception for an error answer: by its reason, else by its status."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        if status in _BEHIND_A_PROXY or status >= 500:
            return GatewayUnavailable(
                f"Hoop answered with HTTP {status} and no explanation.",
                "Look at the gateway's log, and at the proxy in front of it, if there is one.",
            )
        return Refused(
            f"The request was answered with HTTP {status}, not by Hoop.",
            "Check that the address is Hoop's.",
        )
    reason = str(error.get("reason") or "")
    kind = _BY_REASON.get(reason) or _BY_STATUS.get(status)
    if kind is None:
        kind = Unavailable if status >= 500 else Refused
    return kind(
        str(error.get("message") or f"HTTP {status}"),
        str(error.get("hint") or ""),
        reason=reason or None,
    )


class HoopClient:
    """Approvals and sessions, as the identity whose token `source` yields.

    Thread safe as far as httpx.Client is. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        url: str | GatewayAddress | None = None,
        source: TokenSource | None = None,
        *,
        timeout_seconds: float = _SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.address = url if isinstance(url, GatewayAddress) else resolve_gateway(url)
        self._source = source or token_source()
        # Redirects are not followed: the token is for the address that was configured, no other.
        self._http = httpx.Client(
            base_url=f"{self.address.url}/hoop/v1/",
            timeout=timeout_seconds,
            follow_redirects=False,
            # No proxy of the environment can reach a gateway on our own loopback.
            trust_env=not self.address.on_this_host,
            headers={"User-Agent": f"hoop/{__version__}", "Accept": "application/json"},
            transport=transport,
        )

    def __repr__(self) -> str:
        return f"HoopClient({self.address.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def request_approval(
        self,
        sql: str,
        *,
        parameters: Sequence[Any] | None = None,
        database: str | None = None,
        schema: str | None = None,
        role: str | None = None,
        run: RunContext | None = None,
        purpose: str | None = None,
        session_parameters: Mapping[str, Any] | None = None,
    ) -> Approval | None:
        """Ask ahead for a statement; None when policy wants no approval for it.

        `session_parameters` are those of the session that will run it: formats and time zone change
        what a text means, so the grant is bound to them.
        Asking again for the same statement, identity and run gives the same open request.
        Raises PolicyDenied when policy says no, StatementRefused when the text is out of bounds.
        """
        body = self._send(
            "POST",
            "approvals",
            {
                "sql": sql,
                "parameters": None if parameters is None else list(parameters),
                "database": database,
                "schema": schema,
                "role": role,
                "context": hoop_context(run, purpose),
                "session_parameters": dict(session_parameters or {}),
            },
        )
        if body.get("status") == "not_required":
            return None
        return parse_approval(body)

    def approvals(
        self,
        status: ApprovalStatus | str | None = None,
        *,
        run: Mapping[str, str] | None = None,
    ) -> tuple[Approval, ...]:
        """The requests that this identity may see, with `status`, and of the run, where given: at most MOST_LISTED.

        A long text of one of them is `cut`; `approval` has all of it.
        `run` names fields of the run context that must be equal (for example dag_id and run_id).
        """
        query = {} if status is None else {"status": str(status)}
        found = self._listed("approvals", "approvals", {**query, **(run or {})})
        wanted = (run or {}).items()
        # Filtered here too: a gateway that does not know a filter answers with more.
        return tuple(a for a in found if all(a.run.fields.get(k) == v for k, v in wanted))

    def approval(self, approval_id: str) -> Approval:
        return parse_approval(self._send("GET", f"approvals/{quote(approval_id, safe='')}"))

    def answer(self, approval_id: str, verdict: AnswerVerdict | str, reason: str = "") -> Approval:
        """Approve or reject. Raises ApprovalRefused when it is not (or no longer) ours to answer."""
        return parse_approval(
            self._send(
                "POST",
                f"approvals/{quote(approval_id, safe='')}/answers",
                {"verdict": str(AnswerVerdict(verdict)), "reason": reason},
            )
        )

    def withdraw(self, approval_id: str, reason: str) -> Approval:
        """Take our own request back. Raises ApprovalRefused when it is not ours, or used already."""
        return self._moved("approvals", approval_id, "withdrawal", reason)

    def break_glass(self, approval_id: str, reason: str) -> Approval:
        """Let a pending request run in an emergency; somebody else has to review that afterwards.

        Raises ApprovalRefused when the policy does not let us.
        """
        return self._moved("approvals", approval_id, "break-glass", reason)

    def review(self, approval_id: str, reason: str) -> Approval:
        """Close the review of an emergency. Raises ApprovalRefused when it is not ours to close."""
        return self._moved("approvals", approval_id, "review", reason)

    def request_standing_approval(
        self,
        template: str,
        bounds: Mapping[str, Mapping[str, Any]],
        sample: Mapping[str, Any],
        *,
        rows_at_most: int,
        uses_at_most: int,
        span: timedelta,
        reason: str,
        parameters: Sequence[Any] | None = None,
        database: str | None = None,
        schema: str | None = None,
        role: str | None = None,
        run: RunContext | None = None,
        session_parameters: Mapping[str, Any] | None = None,
    ) -> Approval:
        """Ask that every statement which fits `template` within `bounds` may run for `span`.

        `sample` has a value for each gap: approvers see what would run with it. `run` names the schedule that it
        is for (dag_id and task_id, or job_name and step_key). Raises PolicyDenied when the policy offers none.
        """
        return parse_approval(
            self._send(
                "POST",
                "standing-approvals",
                {
                    "template": template,
                    "bounds": {name: dict(limit) for name, limit in bounds.items()},
                    "sample": dict(sample),
                    "parameters": None if parameters is None else list(parameters),
                    "rows_at_most": rows_at_most,
                    "uses_at_most": uses_at_most,
                    "seconds": int(span.total_seconds()),
                    "reason": reason,
                    "database": database,
                    "schema": schema,
                    "role": role,
                    "context": hoop_context(run, None),
                    "session_parameters": dict(session_parameters or {}),
                },
            )
        )

    def standing_approvals(
        self, status: ApprovalStatus | str | None = None
    ) -> tuple[Approval, ...]:
        """The standing approvals that this identity asked for or may answer, newest first: at most MOST_LISTED."""
        query = {} if status is None else {"status": str(status)}
        return tuple(self._listed("standing-approvals", "standing_approvals", query))

    def revoke_standing_approval(self, approval_id: str, reason: str) -> Approval:
        """End a standing approval at once. Raises ApprovalRefused when it is not ours."""
        return self._moved("standing-approvals", approval_id, "revocation", reason)

    def _moved(self, kind: str, approval_id: str, move: str, reason: str) -> Approval:
        path = f"{kind}/{quote(approval_id, safe='')}/{move}"
        return parse_approval(self._send("POST", path, {"reason": reason}))

    def request_masking_exception(
        self,
        columns: Sequence[str],
        span: timedelta,
        reason: str,
        *,
        role: str | None = None,
    ) -> Approval:
        """Ask to see `columns` (DATABASE.SCHEMA.TABLE.COLUMN) unmasked for `span` once it is approved.

        Asking again for the same columns and time gives the same open request. Raises PolicyDenied when
        there is nothing to except, or the policy offers no exception or a shorter one only.
        """
        return parse_approval(
            self._send(
                "POST",
                "masking-exceptions",
                {
                    "columns": list(columns),
                    "seconds": int(span.total_seconds()),
                    "reason": reason,
                    "role": role,
                },
            )
        )

    def masking_exceptions(
        self, status: ApprovalStatus | str | None = None
    ) -> tuple[Approval, ...]:
        """The masking exceptions that this identity asked for or may answer, newest first: at most MOST_LISTED."""
        query = {} if status is None else {"status": str(status)}
        return tuple(self._listed("masking-exceptions", "masking_exceptions", query))

    def revoke_masking_exception(self, approval_id: str, reason: str) -> Approval:
        """End an exception, or take its request back. Raises ApprovalRefused when it is not ours."""
        return parse_approval(
            self._send(
                "POST",
                f"masking-exceptions/{quote(approval_id, safe='')}/revocation",
                {"reason": reason},
            )
        )

    def airflow_action(
        self, approval_ids: Sequence[str], task: Mapping[str, Any], *, airflow: str | None = None
    ) -> Json:
        """What the task shall show in Airflow's Required Actions for these requests of its own, as `action`:
        subject, body, options, params; None when none of them waits any more.

        `task` has dag_id, run_id, task_id, map_index; `airflow` is the name that Hoop's settings give the Airflow.
        Raises NotServed when Hoop knows no Airflow.
        """
        return self._send(
            "POST",
            "airflow/actions",
            {"approvals": list(approval_ids), "airflow": airflow, **task},
        )

    def airflow_look(self, task: Mapping[str, Any], *, airflow: str | None = None) -> Json:
        """Have Hoop read what was answered at the task, and say how its requests stand.

        Raises Unavailable while Hoop cannot reach that Airflow.
        """
        return self._send("POST", "airflow/looks", {"airflow": airflow, **task})

    def sessions(self) -> tuple[Json, ...]:
        return tuple(_items(self._send("GET", "sessions"), "sessions"))

    def session(self, session_id: str) -> Json:
        return self._send("GET", f"sessions/{quote(session_id, safe='')}")

    def _listed(self, path: str, name: str, query: Mapping[str, str]) -> list[Approval]:
        """Page after page, as long as there is another one."""
        found: list[Approval] = []
        cursor: str | None = None
        for _ in range(MOST_LISTED):  # a page may be empty, and a gateway at fault
            page = query if cursor is None else {**query, "before": cursor}
            body = self._send("GET", path, query=page)
            found += (parse_approval(a) for a in _items(body, name))
            cursor = body.get("next")
            if not isinstance(cursor, str) or len(found) >= MOST_LISTED:
                break
        return found[:MOST_LISTED]

    def _send(
        self,
        method: str,
        path: str,
        payload: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> Json:
        headers = {"Authorization": f"Bearer {self._source.token()}"}
        try:
            answer = self._http.request(method, path, json=payload, params=query, headers=headers)
        except httpx.TransportError as e:
            # The cause is kept: certificate faults and refused connections need different cures.
            raise unreachable(self.address.url) from e
        try:
            body = answer.json()
        except ValueError:
            body = None
        if not answer.is_success:
            raise error_from(answer.status_code, body)
        if isinstance(body, list):
            return {"items": body}
        if not isinstance(body, dict):
            raise GatewayUnavailable(
                f"{self.address.url} answered something that is not Hoop's JSON.",
                "Check that the address is Hoop's.",
            )
        return body


def _items(body: Json, name: str) -> list[Json]:
    items = body.get("items", body.get(name))
    if not isinstance(items, list):
        raise GatewayUnavailable(
            f"The answer holds no list of {name}.",
            "Check that the address is Hoop's and that client and gateway are of one version.",
        )
    return items
