"""What became of messages, for Prometheus. Channels are those of the settings."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from hoop_core.telemetry import REGISTRY

MESSAGES = Counter(
    "hoop_notifications",
    "Tries to send a message, by what became of them: sent, failed, given_up.",
    ["channel", "outcome"],
    registry=REGISTRY,
)
LAG = Gauge(
    "hoop_notification_lag_seconds",
    "How long the oldest message that a channel has not sent yet has waited; 0: none does.",
    ["channel"],
    registry=REGISTRY,
)
