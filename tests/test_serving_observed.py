"""What is seen from outside: health, metrics, traces and logs, and what must never be seen in them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from opentelemetry import context as otel
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.requests import Request

from hoop_core import telemetry
from hoop_core.config import TelemetrySettings
from hoop_core.errors import ConfigError, PolicyDenied, SnowflakeError, VaultUnavailable
from hoop_core.server.health import Health
from hoop_core.server.logs import log_to
from hoop_core.server.tracing import start_tracing

MARKER = "marker-of-a-secret"


# ---------------------------------------------------------------------- health


class Part:
    def __init__(self) -> None:
        self.fault: Exception | None = None

    async def look(self) -> None:
        if self.fault is not None:
            raise self.fault


def ready(health: Health) -> tuple[int, dict[str, Any]]:
    answer = asyncio.run(health.readyz(Request({"type": "http"})))
    return answer.status_code, json.loads(bytes(answer.body))


def looked(health: Health, times: int = 1) -> None:
    for _ in range(times):
        asyncio.run(health.look())


def test_nothing_is_ready_before_it_was_looked_at() -> None:
    assert ready(Health({"store": Part().look}, 5.0)) == (
        503,
        {"status": "failing", "parts": {"store": "failing"}},
    )


def test_one_failure_is_forgiven_and_two_in_a_row_are_not() -> None:
    part, other = Part(), Part()
    health = Health({"vault": part.look, "store": other.look}, 5.0)
    looked(health)
    assert ready(health)[0] == 200
    part.fault = VaultUnavailable(f"Vault at 10.1.2.3 says {MARKER}.")
    looked(health)
    assert ready(health)[0] == 200
    looked(health)
    status, told = ready(health)
    assert (status, told["parts"]) == (503, {"vault": "failing", "store": "ok"})
    assert MARKER not in json.dumps(told)
    part.fault = None
    looked(health)
    assert ready(health)[0] == 200


def test_whatever_a_check_raises_is_a_failure_and_no_end_of_looking() -> None:
    part = Part()
    part.fault = ZeroDivisionError(MARKER)
    health = Health({"store": part.look}, 5.0)
    looked(health, 2)
    part.fault = None
    looked(health)
    assert health.ready


def test_a_check_that_hangs_fails_and_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hoop_core.server.health._LONGEST_CHECK", 0.01)

    async def hangs() -> None:
        await asyncio.Event().wait()

    health = Health({"vault": hangs, "store": Part().look}, 5.0)
    looked(health, 2)
    assert ready(health)[1]["parts"] == {"vault": "failing", "store": "ok"}


def test_while_it_stops_the_process_is_alive_and_not_ready() -> None:
    health = Health({"store": Part().look}, 5.0)
    looked(health)
    health.draining = True
    assert ready(health)[0] == 503
    assert asyncio.run(health.healthz(Request({"type": "http"}))).status_code == 200


# ---------------------------------------------------------------------- traces and counters


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    telemetry.trace_with(provider)
    yield exporter
    telemetry.trace_with(None)
    provider.shutdown()


@telemetry.gate("decide")
async def decides() -> None:
    telemetry.told(kind="select", decision="allow", fingerprint="f" * 64)


@telemetry.gate("snowflake")
async def fails() -> None:
    raise SnowflakeError(f"Column {MARKER} is unknown.")


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {s.name: s for s in exporter.get_finished_spans()}


async def one_statement(*gates: Any) -> None:
    with telemetry.statement("stm_1", "ses_1"):
        for gate in gates:
            await gate()


def counted(name: str, **labels: str) -> float:
    return telemetry.REGISTRY.get_sample_value(name, labels) or 0.0


def test_a_statement_is_a_span_and_each_gate_one_inside_it(spans: InMemorySpanExporter) -> None:
    asyncio.run(one_statement(decides))
    found = by_name(spans)
    whole, gate = found["statement"], found["decide"]
    assert gate.parent is not None
    assert gate.parent.span_id == whole.context.span_id
    assert dict(whole.attributes or {}) == {
        "hoop.statement": "stm_1",
        "hoop.session": "ses_1",
        "hoop.kind": "select",
        "hoop.decision": "allow",
        "hoop.fingerprint": "f" * 64,
        "hoop.outcome": "succeeded",
    }


def test_an_error_is_told_by_its_code_and_never_by_its_text(spans: InMemorySpanExporter) -> None:
    with pytest.raises(SnowflakeError):
        asyncio.run(one_statement(decides, fails))
    exported = "".join(s.to_json() for s in spans.get_finished_spans())
    assert "SNOWFLAKE" in exported
    assert MARKER not in exported
    assert all(not s.events for s in spans.get_finished_spans())


def test_the_callers_trace_goes_on(spans: InMemorySpanExporter) -> None:
    theirs = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    token = otel.attach(TraceContextTextMapPropagator().extract({"traceparent": theirs}))
    try:
        asyncio.run(one_statement(decides))
    finally:
        otel.detach(token)
    whole = by_name(spans)["statement"]
    assert f"{whole.context.trace_id:032x}" == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_statements_are_counted_without_any_tracing() -> None:
    before = counted("hoop_statements_total", kind="select", decision="allow", outcome="succeeded")
    timed = counted("hoop_gate_seconds_count", gate="decide")
    asyncio.run(one_statement(decides))
    after = counted("hoop_statements_total", kind="select", decision="allow", outcome="succeeded")
    assert (after, counted("hoop_gate_seconds_count", gate="decide")) == (before + 1, timed + 1)


def test_a_refusal_is_counted_under_its_code() -> None:
    async def denies() -> None:
        raise PolicyDenied("No.", reason="TEST_OF_A_REFUSAL")

    with pytest.raises(PolicyDenied):
        asyncio.run(one_statement(denies))
    assert counted("hoop_refusals_total", reason="TEST_OF_A_REFUSAL") == 1


def test_what_a_client_wrote_makes_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_seen", set())
    assert telemetry.label("select * from t") == "OTHER"
    assert telemetry.label("A" * 100) == "OTHER"
    assert len({telemetry.label(f"CODE_{n}") for n in range(5000)}) <= 301


def test_traces_need_the_sdk_only_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    start_tracing(TelemetrySettings())()
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match="SDK is not installed"):
        start_tracing(TelemetrySettings(otlp_endpoint="http://127.0.0.1:9/v1/traces"))


# ---------------------------------------------------------------------- logs


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything as `hoop serve` would write it."""
    root = logging.getLogger()
    kept = structlog.get_config(), root.handlers[:], root.level, warnings.formatwarning
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    stream = io.StringIO()
    log_to(stream)
    yield stream
    structlog.configure(**kept[0])
    root.handlers[:], warnings.formatwarning = kept[1], kept[3]
    root.setLevel(kept[2])
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def raises() -> None:
    raise ValueError(MARKER)


def test_a_line_is_json_and_holds_what_is_bound_to_the_request(logged: io.StringIO) -> None:
    structlog.contextvars.bind_contextvars(request="req_1", session="ses_1")
    structlog.get_logger("hoop_core.x").warning("something", part="store")
    (line,) = lines(logged)
    assert line["event"] == "something"
    assert (line["request"], line["session"], line["part"]) == ("req_1", "ses_1", "store")
    assert line["level"] == "warning"
    assert line["timestamp"].endswith("Z")


def test_libraries_are_logged_in_the_same_form(logged: io.StringIO) -> None:
    logging.getLogger("some.library").warning("took %d tries\nand a second line", 3)
    logging.getLogger("some.library").info("chatter")
    (line,) = lines(logged)
    assert line["event"] == "took 3 tries\nand a second line"
    assert line["logger"] == "some.library"


@pytest.mark.parametrize("ours", [True, False])
def test_of_an_error_only_its_class_and_places_are_logged(logged: io.StringIO, ours: bool) -> None:
    try:
        raises()
    except ValueError:
        if ours:
            structlog.get_logger("hoop_core.x").error("it failed", exc_info=True)
        else:
            logging.getLogger("some.library").exception("it failed")
    (line,) = lines(logged)
    assert "ValueError" in line["where"]
    assert "raises" in line["where"]
    assert MARKER not in logged.getvalue()


def test_warnings_are_lines_too_and_quote_no_code(logged: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("it is old", UserWarning, stacklevel=1)  # marker-of-a-secret
    (line,) = lines(logged)
    assert "UserWarning: it is old" in line["event"]
    assert MARKER not in logged.getvalue()


def test_an_error_in_a_thread_is_a_line(logged: io.StringIO) -> None:
    thread = threading.Thread(target=raises, name="a-thread")
    thread.start()
    thread.join()
    (line,) = lines(logged)
    assert line["thread"] == "a-thread"
    assert "ValueError" in line["where"]
    assert MARKER not in logged.getvalue()


def test_an_error_that_ends_the_process_is_a_line(logged: io.StringIO) -> None:
    try:
        raises()
    except ValueError as e:
        sys.excepthook(ValueError, e, e.__traceback__)
    (line,) = lines(logged)
    assert line["level"] == "critical"
    assert MARKER not in logged.getvalue()


def test_values_that_json_does_not_know_are_told_by_their_class(logged: io.StringIO) -> None:
    class Secret:
        def __repr__(self) -> str:
            return MARKER

    structlog.get_logger("hoop_core.x").warning("an object", thing=Secret())
    assert lines(logged)[0]["thing"].endswith("Secret>")
    assert MARKER not in logged.getvalue()


def test_a_long_text_does_not_fill_the_log(logged: io.StringIO) -> None:
    structlog.get_logger("hoop_core.x").warning("long", text="x" * 100_000)
    assert len(logged.getvalue()) < 5000
