"""What became of lineage events, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from hoop_core.telemetry import REGISTRY

EVENTS = Counter(
    "hoop_lineage_events",
    "Tries to send a lineage event, by what became of them: sent, failed, given_up.",
    ["outcome"],
    registry=REGISTRY,
)
LAG = Gauge(
    "hoop_lineage_lag_seconds",
    "How old the entry of the log is whose lineage event waits to be sent; 0: none does.",
    registry=REGISTRY,
)
