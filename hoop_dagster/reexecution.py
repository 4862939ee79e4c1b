"""Re-execution from failure, by Dagster's webserver: nothing in a code location can start one.

https://docs.dagster.io/api/graphql (launchRunReexecution)
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import dagster as dg
import httpx

from hoop_core.errors import ConfigError, HoopError, Unavailable

_SECONDS = 30.0
_MOST_TOLD = 500
_MUTATION = """
mutation HoopResume($parameters: ReexecutionParams!) {
  launchRunReexecution(reexecutionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on UnauthorizedError { message }
  }
}
"""


_PASSING = frozenset({"PythonError", "UnauthorizedError"})
"""Of the kinds of refusals, those that somebody may cure: a code location that does not load, a read-only webserver."""


class WebserverUnavailable(Unavailable):
    """It cannot be reached, or did not answer as Dagster does."""

    reason = "DAGSTER_UNAVAILABLE"


class NotStarted(HoopError):
    """Dagster's webserver answered, and did not start this run. `for_good`: nor will it at another try."""

    reason = "DAGSTER_REFUSED"

    def __init__(self, message: str, hint: str = "", *, for_good: bool) -> None:
        super().__init__(message, hint)
        self.for_good = for_good


class Webserver:
    """Dagster's own webserver at `url`. Raises ConfigError."""

    def __init__(self, url: str) -> None:
        if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
            raise ConfigError("webserver_url is not an http(s) address.", "As http://dagster:3000.")
        self._url = f"{url.rstrip('/')}/graphql"

    def from_failure(self, run: dg.DagsterRun, tags: Mapping[str, str]) -> str:
        """Start what was left of `run` and return the new run's id. Raises WebserverUnavailable, NotStarted."""
        parameters = {
            "parentRunId": run.run_id,
            "strategy": "FROM_FAILURE",
            "extraTags": [{"key": k, "value": v} for k, v in tags.items()],
        }
        body = {"query": _MUTATION, "variables": {"parameters": parameters}}
        try:
            answer = httpx.post(self._url, json=body, timeout=_SECONDS, follow_redirects=False)
            answer.raise_for_status()
            told = answer.json()["data"]["launchRunReexecution"]
            kind = str(told["__typename"])
            if kind == "LaunchRunSuccess":
                return str(told["run"]["runId"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as e:
            raise WebserverUnavailable(
                f"Dagster's webserver did not start the re-execution ({type(e).__name__}).",
                "Check webserver_url.",
            ) from e
        why = f"{kind} {told.get('message', '')}".strip()[:_MOST_TOLD]
        raise NotStarted(
            f"Dagster's webserver refused the re-execution: {why}.", for_good=kind not in _PASSING
        )
