"""Events to Kafka, through confluent-kafka. The package's transport does not tell whether an event arrived."""

from __future__ import annotations

from typing import Any

import confluent_kafka
from openlineage.client.event_v2 import RunEvent
from openlineage.client.serde import Serde
from openlineage.client.transport.kafka import KafkaConfig, KafkaTransport

from hoop_core.lineage.transports import NotDelivered

_SECONDS = 20.0


class KafkaSender:
    """Configuration, message keys and form are the package's."""

    seconds = 2 * _SECONDS

    def __init__(self, given: dict[str, Any]) -> None:
        config = KafkaConfig.from_dict(dict(given))
        # All replicas of the topic have it, once and in order, or it has failed before we stop to wait.
        config.config = {
            "acks": "all",
            "enable.idempotence": "true",
            "message.timeout.ms": str(int(_SECONDS * 1000)),
            **config.config,
        }
        self._transport = KafkaTransport(config)

    def send(self, event: RunEvent) -> None:
        failed: list[confluent_kafka.KafkaError | None] = []
        key = self._transport.message_key or self._transport._get_message_key(event)
        producer = self._transport.producer
        if producer is None:
            raise NotDelivered("the transport is closed")
        try:
            producer.produce(
                topic=self._transport.topic,
                key=key,
                value=Serde.to_json(event).encode(),
                on_delivery=lambda error, _message: failed.append(error),
            )
            producer.flush(self.seconds)
        except (confluent_kafka.KafkaException, BufferError) as e:
            raise NotDelivered(f"Kafka did not take it: {type(e).__name__}") from None
        if not failed:
            producer.purge()
            producer.flush(1.0)
            raise NotDelivered("Kafka did not answer in time")
        if failed[0] is not None:
            too_large = failed[0].code() == confluent_kafka.KafkaError.MSG_SIZE_TOO_LARGE
            raise NotDelivered(f"Kafka refused it: {failed[0].name()}", for_good=too_large)

    def close(self) -> None:
        self._transport.close(timeout=1.0)
