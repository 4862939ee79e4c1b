"""A task instance, what Hoop lets it show, and what Airflow says stands there. Airflow's words are hostile input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hoop_core.approvals.binding import digest
from hoop_core.errors import Unavailable
from hoop_core.http import BadRequest
from hoop_core.model import AnswerVerdict, Json

APPROVE, REJECT, IN_HOOP = "Approve", "Reject", "Answered in Hoop"
VERDICTS = {APPROVE: AnswerVerdict.APPROVE, REJECT: AnswerVerdict.REJECT}
WAITING = frozenset({"awaiting_input", "deferred"})
"""States of a task instance that waits for a person: since Airflow 3.3, and before."""

_LONGEST = 1000
_LAST = 2**31 - 1
"""Airflow keeps a task's number in 32 bits."""


class AirflowUnavailable(Unavailable):
    """An Airflow did not answer, or not as its API is described."""

    reason = "AIRFLOW_UNAVAILABLE"


class AirflowSilent(AirflowUnavailable):
    """It did not answer at all, or with an error of its own: nothing else is to be had there now."""


@dataclass(frozen=True, slots=True)
class Place:
    """A task instance, as the client names it."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Place:
        """Raises BadRequest."""
        dag, run, task = (_name(body.get(k)) for k in ("dag_id", "run_id", "task_id"))
        index = body.get("map_index", -1)
        if not isinstance(index, int) or isinstance(index, bool) or not -1 <= index <= _LAST:
            raise BadRequest(f"map_index must be from -1 to {_LAST}.")
        return cls(dag, run, task, index)

    @property
    def path(self) -> str:
        """Of its Required Action in Airflow's REST API."""
        dag, run, task = (quote(p, safe="") for p in (self.dag_id, self.run_id, self.task_id))
        return f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/{self.map_index}/hitlDetails"

    def as_json(self) -> Json:
        return {
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "task_id": self.task_id,
            "map_index": self.map_index,
        }


@dataclass(frozen=True, slots=True)
class Shown:
    """A Required Action as Hoop has written it."""

    subject: str
    body: str
    options: tuple[str, ...]
    params: Json

    def as_json(self) -> Json:
        return {
            "subject": self.subject,
            "body": self.body,
            "options": list(self.options),
            "params": self.params,
        }

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Shown:
        return cls(body["subject"], body["body"], tuple(body["options"]), body["params"])

    @property
    def digest(self) -> str:
        return digest(self.as_json())


@dataclass(frozen=True, slots=True)
class Row:
    """A Required Action as Airflow has it."""

    subject: str
    body: str | None
    options: tuple[str, ...]
    defaults: tuple[str, ...] | None
    multiple: bool
    params: Json
    state: str
    """Of the task instance."""
    received: bool
    user_id: str | None
    user_name: str
    responded_at: str
    chosen: tuple[str, ...]
    reason: str
    ti_id: str

    @classmethod
    def of(cls, body: Json) -> Row:
        """Raises AirflowUnavailable for anything that is not such a row."""
        try:
            task, by = body["task_instance"], body.get("responded_by_user")
            given = body.get("params_input") or {}
            reason = given.get("reason")
            return cls(
                subject=_text(body["subject"]),
                body=None if body.get("body") is None else _text(body["body"]),
                options=_texts(body["options"]),
                defaults=None if body.get("defaults") is None else _texts(body["defaults"]),
                multiple=bool(body.get("multiple")),
                params=_params(body.get("params") or {}),
                state=_text(task.get("state") or ""),
                received=bool(body.get("response_received"))
                or body.get("responded_at") is not None,
                user_id=None if by is None else _text(by["id"]),
                user_name="" if by is None else _text(by.get("name") or "")[:200],
                responded_at=_text(body.get("responded_at") or "")[:64],
                chosen=_texts(body.get("chosen_options") or []),
                reason=reason if isinstance(reason, str) else "",
                ti_id=_text(task.get("id") or "")[:64],
            )
        except (KeyError, TypeError, AttributeError, ValueError):
            raise AirflowUnavailable(
                "Airflow's answer is not a Required Action.",
                "Check that `url` is that of its API server, and that it is Airflow 3.1 or later.",
            ) from None

    @property
    def answer_digest(self) -> str:
        """Tells one answer from the next one of the same task."""
        return digest(
            [
                self.ti_id,
                self.user_id,
                self.responded_at,
                list(self.chosen),
                self.reason,
                self.shown.digest,
            ]
        )

    @property
    def shown(self) -> Shown:
        return Shown(self.subject, self.body or "", self.options, self.params)

    def altered(self, shown: Shown) -> str | None:
        """What of it is not as Hoop has written it; None: nothing.

        A default would answer for nobody when the time is over, and several options at once are no answer.
        """
        differing = {
            "subject": self.subject != shown.subject,
            "text": self.body != shown.body,
            "options": self.options != shown.options,
            "defaults": self.defaults is not None,
            "multiple choice": self.multiple,
            "form": not _same_form(self.params, shown.params),
        }
        return ", ".join(k for k, v in differing.items() if v) or None


def _name(value: Any) -> str:
    """ "~" is every DAG or run to Airflow, and dots would climb in the address. Raises BadRequest."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or value in {"~", ".", ".."}:
        raise BadRequest("dag_id, run_id and task_id must name one task instance.")
    return value


def _same_form(there: Json, ours: Json) -> bool:
    """Airflow 3.1.0 to 3.1.2 keep a field's value only."""
    bare = {k: {"value": v["value"], "description": None, "schema": {}} for k, v in ours.items()}
    return there in (ours, bare)


def _params(value: Any) -> Json:
    """Of each field what a person sees; Airflow adds where it was defined."""
    keys = ("value", "description", "schema")
    return {_text(k): {key: v.get(key) for key in keys} for k, v in value.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(map(_text, value))
