"""Traces to a collector by OTLP over HTTP, when the settings name one (extra `otel`)."""

from __future__ import annotations

from collections.abc import Callable

from hoop_core import __version__
from hoop_core.config import TelemetrySettings
from hoop_core.errors import ConfigError
from hoop_core.telemetry import trace_with


def start_tracing(settings: TelemetrySettings) -> Callable[[], None]:
    """Returns what sends the last spans and stops. Raises ConfigError when the SDK is not installed."""
    if not settings.otlp_endpoint:
        return _nothing
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased  # noqa: PLC0415
    except ImportError:
        raise ConfigError(
            "telemetry.otlp_endpoint is set, but OpenTelemetry's SDK is not installed.",
            "Install hoop-guard[otel], or leave the setting empty.",
        ) from None
    provider = TracerProvider(
        # by our ratio alone: a client must not decide how much is sent
        sampler=TraceIdRatioBased(settings.sample_ratio),
        resource=Resource.create(
            {"service.name": settings.service_name, "service.version": __version__}
        ),
    )
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace_with(provider)

    def stop() -> None:
        trace_with(None)
        provider.shutdown()

    return stop


def _nothing() -> None:
    """There is nothing to stop."""
