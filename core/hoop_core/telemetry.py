"""What is measured on a statement's way: how long each gate takes (Prometheus), and a trace (OpenTelemetry).

One registry a process. Labels come from closed lists, or are bounded by `label`. Spans hold ids, kinds and
decisions; never a text, a value, a name of a table or a token. Without an OpenTelemetry SDK they are no-ops.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, wraps
from types import TracebackType
from typing import ParamSpec, TypeVar

import structlog
from opentelemetry import trace
from opentelemetry.trace import Span, Status, StatusCode, TracerProvider, get_current_span
from prometheus_client import CollectorRegistry, Counter, Histogram

from hoop_core.errors import (
    Cancelled,
    HoopError,
    Refused,
    ResultBlocked,
    StoreUnavailable,
    Unavailable,
)

P = ParamSpec("P")
T = TypeVar("T")

REGISTRY = CollectorRegistry()
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)

GATES = Histogram(
    "hoop_gate_seconds",
    "Time in one gate; waiting for approvers counts in `approval`.",
    ["gate"],
    registry=REGISTRY,
    buckets=_SECONDS,
)
STATEMENTS = Counter(
    "hoop_statements",
    "Statements that came to an end.",
    ["kind", "decision", "outcome"],
    registry=REGISTRY,
)
REFUSALS = Counter(
    "hoop_refusals", "Statements refused, by the reason's code.", ["reason"], registry=REGISTRY
)
CREDENTIALS = Histogram(
    "hoop_credential_seconds",
    "Minting users, and ending them until they are seen to be gone.",
    ["step", "outcome"],
    registry=REGISTRY,
    buckets=_SECONDS,
)
LOG_SECONDS = Histogram(
    "hoop_log_append_seconds",
    "Until an entry of the log was durable.",
    registry=REGISTRY,
    buckets=_SECONDS,
)
LOG_ENTRIES = Counter("hoop_log_entries", "Entries of the log.", ["kind"], registry=REGISTRY)
LOG_FAILURES = Counter(
    "hoop_log_append_failures", "Entries that could not be written.", registry=REGISTRY
)

_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,47}\Z")
_KIND = re.compile(r"[a-z][a-z0-9_.]{0,47}\Z")
_MOST_LABELS = 300
_seen: set[str] = set()


def label(text: str, form: re.Pattern[str] = _REASON) -> str:
    """`text` as a label's value; OTHER for what no code of ours looks like, or when there are too many."""
    if not form.match(text):
        return "OTHER"
    if text not in _seen:
        if len(_seen) >= _MOST_LABELS:
            return "OTHER"
        _seen.add(text)
    return text


# ---------------------------------------------------------------------- traces


class _Tracing:
    """The provider in use. The process-wide default of OpenTelemetry is the host's, and stays alone."""

    tracer: trace.Tracer = trace.NoOpTracer()
    on = False

    @classmethod
    def span(cls, name: str) -> AbstractContextManager[Span]:
        return cls.tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        )


def trace_with(provider: TracerProvider | None) -> None:
    """Send spans to `provider`; None: nowhere."""
    _Tracing.tracer = provider.get_tracer("hoop") if provider else trace.NoOpTracer()
    _Tracing.on = provider is not None


@dataclass(slots=True)
class _Told:
    """What became known of the statement that is under way."""

    span: Span
    kind: str = "unknown"
    decision: str = "none"


_current: ContextVar[_Told | None] = ContextVar("hoop_statement", default=None)


def told(
    *,
    kind: str | None = None,
    decision: str | None = None,
    fingerprint: str | None = None,
    intent: int | None = None,
) -> None:
    """Add what is known of the statement under way. `kind` and `decision` are from closed lists."""
    now = _current.get()
    if now is None:
        return
    now.kind, now.decision = kind or now.kind, decision or now.decision
    known = {"kind": kind, "decision": decision, "fingerprint": fingerprint, "intent": intent}
    for name, value in known.items():
        if value is not None:
            now.span.set_attribute(f"hoop.{name}", value)


@contextmanager
def statement(statement_id: str, session_id: str) -> Iterator[None]:
    """The whole way of one statement; how it ends is counted."""
    ids = {"hoop.statement": statement_id, "hoop.session": session_id}
    structlog.contextvars.bind_contextvars(statement=statement_id, session=session_id)
    with _Tracing.tracer.start_as_current_span(
        "statement", attributes=ids, record_exception=False, set_status_on_exception=False
    ) as span:
        mine = _Told(span)
        token = _current.set(mine)
        outcome = "succeeded"
        try:
            yield
        except BaseException as e:
            outcome = _outcome(e)
            if outcome == "refused" and isinstance(e, HoopError):
                REFUSALS.labels(label(e.reason)).inc()
            _failed(span, e)
            raise
        finally:
            span.set_attribute("hoop.outcome", outcome)
            STATEMENTS.labels(label(mine.kind, _KIND), mine.decision, outcome).inc()
            _current.reset(token)


def _outcome(error: BaseException) -> str:
    match error:
        case Cancelled():
            return "cancelled"
        case ResultBlocked():
            return "withheld"
        case Unavailable():
            return "unavailable"
        case Refused():
            return "refused"
        case _:
            return "failed"


def _failed(span: Span, error: BaseException) -> None:
    """The code only: an error's text may quote the statement."""
    reason = label(error.reason) if isinstance(error, HoopError) else type(error).__name__
    span.set_status(Status(StatusCode.ERROR, reason))


class in_gate:  # noqa: N801 - used like a function
    """Measure and trace a block; `name` is from the code."""

    __slots__ = ("_began", "_name", "_span")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._began = time.perf_counter()
        # Even a span that goes nowhere takes longer than most gates.
        self._span = _Tracing.span(self._name) if _Tracing.on else None
        if self._span is not None:
            self._span.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _gate_seconds(self._name).observe(time.perf_counter() - self._began)
        if self._span is not None:
            if error is not None:
                _failed(get_current_span(), error)
            self._span.__exit__(kind, error, traceback)


@cache
def _gate_seconds(name: str) -> Histogram:
    return GATES.labels(name)


def gate(name: str) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Measure and trace each call of a coroutine function; `name` is from the code."""

    def decorate(work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @wraps(work)
        async def measured(*args: P.args, **kwargs: P.kwargs) -> T:
            with in_gate(name):
                return await work(*args, **kwargs)

        return measured

    return decorate


def credential_step(
    step: str,
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
    """Measure each call of a coroutine function that mints or ends a user; False is failure too."""

    def decorate(work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
        @wraps(work)
        async def measured(*args: P.args, **kwargs: P.kwargs) -> T:
            began, outcome = time.perf_counter(), "failed"
            try:
                done = await work(*args, **kwargs)
                outcome = "failed" if done is False else "done"
                return done
            finally:
                CREDENTIALS.labels(step, outcome).observe(time.perf_counter() - began)

        return measured

    return decorate


@contextmanager
def log_append(kind: str) -> Iterator[None]:
    """Measure one entry of the log on its way to being durable."""
    began = time.perf_counter()
    try:
        yield
    except StoreUnavailable:
        LOG_FAILURES.inc()
        raise
    LOG_SECONDS.observe(time.perf_counter() - began)
    LOG_ENTRIES.labels(label(kind, _KIND)).inc()
