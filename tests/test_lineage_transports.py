"""Events arrive, or it is known that they did not: files, HTTP and Kafka by openlineage-python's configuration."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from openlineage.client.event_v2 import RunEvent
from pydantic import ValidationError

from hoop_core.audit.log import AuditLog
from hoop_core.config import LineageSettings
from hoop_core.errors import ConfigError
from hoop_core.lineage.events import Events
from hoop_core.lineage.kafka import KafkaSender
from hoop_core.lineage.transports import FileSender, NotDelivered, sender_of
from hoop_core.store import Store
from tests.lineage_world import PLACE, intent

SECRET = "s3cr3t-api-key"


@pytest.fixture
def event(store: Store, log: AuditLog) -> RunEvent:
    seq = log.append("statement.intent", intent(), session_id="ses_1")
    (entry,) = [e for e in log.entries() if e.seq == seq]
    (made,) = Events(store, PLACE).of(seq, entry.kind, entry.text)
    return made


def configured(folder: Path, **transport: Any) -> LineageSettings:
    file = folder / "openlineage.yml"
    file.write_text(yaml.safe_dump({"transport": transport}))
    return LineageSettings(config_file=file)


class Endpoint:
    """An OpenLineage receiver on loopback that answers as it is told."""

    def __init__(self) -> None:
        self.status, self.headers, self.asked = 201, dict[str, str](), list[tuple[str, Any, Any]]()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                endpoint.asked.append((self.path, dict(self.headers), json.loads(body)))
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


# ---------------------------------------------------------------------- files


def test_events_are_lines_of_a_file(tmp_path: Path, event: RunEvent) -> None:
    sender = sender_of(LineageSettings(file=tmp_path / "deep" / "lineage.jsonl"))
    assert sender is not None
    sender.send(event)
    sender.send(event)
    lines = (tmp_path / "deep" / "lineage.jsonl").read_text().splitlines()
    assert [json.loads(line)["run"]["runId"] for line in lines] == [event.run.runId] * 2


@pytest.mark.parametrize("cut", ['{"eventType": "STA', "x" * 200_000])
def test_a_line_that_was_cut_off_is_taken_back(tmp_path: Path, event: RunEvent, cut: str) -> None:
    file = tmp_path / "lineage.jsonl"
    file.write_text('{"whole": true}\n' + cut)
    FileSender({"log_file_path": str(file), "append": True}).send(event)
    first, second = file.read_text().splitlines()
    assert json.loads(first) == {"whole": True}
    assert json.loads(second)["eventType"] == "START"


def test_a_file_that_cannot_be_written_is_no_delivery(event: RunEvent) -> None:
    sender = FileSender({"log_file_path": "/dev/full", "append": True})
    sender._path = None  # a device has no lines to look at
    with pytest.raises(NotDelivered, match="cannot be written") as refused:
        sender.send(event)
    assert not refused.value.for_good


# ---------------------------------------------------------------------- HTTP


def test_an_event_is_posted_with_the_key_of_the_configuration(
    tmp_path: Path, event: RunEvent, endpoint: Endpoint
) -> None:
    auth = {"type": "api_key", "apiKey": SECRET}
    sender = sender_of(configured(tmp_path, type="http", url=endpoint.url, auth=auth))
    assert sender is not None
    sender.send(event)
    ((path, headers, body),) = endpoint.asked
    assert path == "/api/v1/lineage"
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert body["run"]["runId"] == event.run.runId


@pytest.mark.parametrize(
    ("status", "for_good"),
    [(400, True), (413, True), (422, True), (401, False), (404, False), (429, False), (503, False)],
)
def test_a_refusal_for_the_content_is_told_from_one_that_passes(
    tmp_path: Path, event: RunEvent, endpoint: Endpoint, status: int, for_good: bool
) -> None:
    sender = sender_of(configured(tmp_path, type="http", url=endpoint.url))
    assert sender is not None
    endpoint.status = status
    with pytest.raises(NotDelivered, match=str(status)) as refused:
        sender.send(event)
    assert refused.value.for_good is for_good
    assert len(endpoint.asked) == 1  # the next try comes from the log


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_not_taken_for_success(
    tmp_path: Path, event: RunEvent, endpoint: Endpoint, status: int
) -> None:
    sender = sender_of(configured(tmp_path, type="http", url=endpoint.url))
    assert sender is not None
    endpoint.status, endpoint.headers = status, {"location": "/elsewhere"}
    with pytest.raises(NotDelivered, match=str(status)):
        sender.send(event)
    assert [path for path, _, _ in endpoint.asked] == ["/api/v1/lineage"]


def test_a_receiver_that_is_not_there_is_no_delivery_and_no_secret_is_told(
    tmp_path: Path, event: RunEvent, endpoint: Endpoint
) -> None:
    auth = {"type": "api_key", "apiKey": SECRET}
    sender = sender_of(configured(tmp_path, type="http", url=endpoint.url, auth=auth))
    assert sender is not None
    endpoint.server.socket.close()
    with pytest.raises(NotDelivered) as refused:
        sender.send(event)
    assert SECRET not in refused.value.why
    assert endpoint.url not in refused.value.why


# ---------------------------------------------------------------------- Kafka


@pytest.mark.nightly  # seconds for a broker
def test_an_event_is_in_the_topic_when_send_returns(tmp_path: Path, event: RunEvent) -> None:
    broker = {"test.mock.num.brokers": "1"}  # librdkafka's own broker, inside the producer
    sender = sender_of(configured(tmp_path, type="kafka", topic="lineage", config=broker))
    assert isinstance(sender, KafkaSender)
    sender.send(event)
    producer = sender._transport.producer
    assert producer is not None
    (metadata,) = producer.list_topics(timeout=5).brokers.values()
    consumer = Consumer(
        {
            "bootstrap.servers": f"{metadata.host}:{metadata.port}",
            "group.id": "test",
        }
    )
    partitions = producer.list_topics("lineage", timeout=5).topics["lineage"].partitions
    consumer.assign([TopicPartition("lineage", p, OFFSET_BEGINNING) for p in partitions])
    message = consumer.poll(20)
    consumer.close()
    sender.close()
    assert message is not None
    assert message.error() is None
    assert json.loads(message.value() or b"")["run"]["runId"] == event.run.runId
    assert (message.key() or b"").startswith(b"run:")


def test_a_broker_that_is_not_there_is_no_delivery(tmp_path: Path, event: RunEvent) -> None:
    config = {"bootstrap.servers": "127.0.0.1:9", "message.timeout.ms": "300"}
    sender = sender_of(configured(tmp_path, type="kafka", topic="lineage", config=config))
    assert sender is not None
    with pytest.raises(NotDelivered, match="Kafka") as refused:
        sender.send(event)
    assert not refused.value.for_good
    sender.close()


# ---------------------------------------------------------------------- what is not taken


@pytest.mark.parametrize(
    ("transport", "told"),
    [
        ({"type": "async_http", "url": "https://x.example"}, "file, http or kafka"),
        ({"type": "composite", "transports": []}, "file, http or kafka"),
        ({"type": "console"}, "file, http or kafka"),
        ({"type": ["http"]}, "file, http or kafka"),
        ({}, "file, http or kafka"),
        ({"type": "http", "url": "http://elsewhere.example"}, "http:// address of another host"),
        ({"type": "http", "url": f"https://u:{SECRET}@x.example"}, "carries a user"),
        ({"type": "http", "url": "https://x.example", "verify": False}, "does not verify"),
        ({"type": "http", "url": "https://x.example", "auth": {"type": "api_key"}}, "KeyError"),
        ({"type": "http", "url": "https://x.example", "compression": SECRET}, "ValueError"),
        ({"type": "kafka", "topic": "t"}, "RuntimeError"),
        ({"type": "file"}, "RuntimeError"),
    ],
)
def test_a_transport_that_cannot_be_used_is_refused_at_the_start(
    tmp_path: Path, transport: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as refused:
        sender_of(configured(tmp_path, **transport))
    assert SECRET not in refused.value.text


@pytest.mark.parametrize("text", ["", "[]", "transport: 3", "transport: [", "\x00"])
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "openlineage.yml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"openlineage\.yml"):
        sender_of(LineageSettings(config_file=file))


def test_there_is_one_place_for_events(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="one of file and config_file"):
        LineageSettings(file=tmp_path / "a", config_file=tmp_path / "b")


def test_nothing_is_sent_where_nothing_is_configured() -> None:
    assert sender_of(LineageSettings()) is None
