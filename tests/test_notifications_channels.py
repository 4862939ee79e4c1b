"""Webhooks and chats against real receivers on loopback."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hoop_core.cli.notifications import app
from hoop_core.config import NotificationSettings, Settings, load_settings
from hoop_core.devstack.processes import free_port
from hoop_core.errors import ConfigError
from hoop_core.notifications.channels import NotSent
from hoop_core.notifications.chats import Chat
from hoop_core.notifications.messages import Message
from hoop_core.notifications.notifier import channels_of
from hoop_core.notifications.plain import plain
from hoop_core.notifications.webhook import Webhook

KEY = "whsec_" + base64.b64encode(b"k" * 32).decode()
OLD = "whsec_" + base64.b64encode(b"o" * 24).decode()
MESSAGE = Message(
    "msg_1_7", "A title", "A line & more", "https://hoop.example/x", b'{"a":"\xc3\xa9"}'
)


class Receiver(ThreadingHTTPServer):
    """Answers with `status`; keeps what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.delay = 200, 0.0
        self.headers: dict[str, str] = {}
        self.came: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.came.append((self.path, dict(self.headers.items()), body))
        time.sleep(self.server.delay)
        self.send_response(self.server.status)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    file = tmp_path / "secrets"
    file.write_text(f"{KEY}\n")
    return file


def hook(receiver: Receiver, secrets: Path, **changes: Any) -> Webhook:
    values = {"name": "hook", "kind": "webhook", "url": receiver.url, "secrets_file": secrets}
    return Webhook(NotificationSettings(**{**values, **changes}))


def send(channel: Webhook | Chat, message: Message = MESSAGE) -> None:
    asyncio.run(channel.send(message))


def verified(came: tuple[str, dict[str, str], bytes], key: str) -> Any:
    """By an implementation that is not ours."""
    from standardwebhooks.webhooks import Webhook as Theirs

    return Theirs(key).verify(came[2], came[1])


def test_a_receiver_can_verify_what_it_gets(receiver: Receiver, secrets: Path) -> None:
    send(hook(receiver, secrets))
    (came,) = receiver.came
    assert verified(came, KEY) == {"a": "é"}
    assert came[1]["webhook-id"] == "msg_1_7"
    assert came[1]["content-type"] == "application/json"


def test_while_a_secret_is_replaced_both_verify(receiver: Receiver, secrets: Path) -> None:
    from standardwebhooks.webhooks import WebhookVerificationError

    channel = hook(receiver, secrets)
    secrets.write_text(f"{KEY}\n{OLD}\n")
    send(channel)
    secrets.write_text(f"{KEY}\n")
    send(channel)
    both, only_new = receiver.came
    assert verified(both, OLD) == verified(both, KEY)
    with pytest.raises(WebhookVerificationError):
        verified(only_new, OLD)


@pytest.mark.parametrize(
    ("status", "for_good"),
    [
        (301, True),
        (307, True),
        (400, True),
        (404, True),
        (410, True),
        (408, False),
        (429, False),
        (500, False),
        (503, False),
    ],
)
def test_what_a_receiver_answers_says_whether_to_try_again(
    receiver: Receiver, secrets: Path, status: int, for_good: bool
) -> None:
    receiver.status = status
    with pytest.raises(NotSent, match=f"HTTP {status}") as caught:
        send(hook(receiver, secrets))
    assert caught.value.for_good is for_good


def test_no_redirect_is_followed(receiver: Receiver, secrets: Path) -> None:
    receiver.status = 307
    receiver.headers = {"location": receiver.url.replace("/hook", "/elsewhere")}
    with pytest.raises(NotSent):
        send(hook(receiver, secrets))
    assert [path for path, _, _ in receiver.came] == ["/hook"]


def test_a_receiver_that_does_not_answer_is_left(receiver: Receiver, secrets: Path) -> None:
    receiver.delay = 1.0
    with pytest.raises(NotSent, match="in time"):
        send(hook(receiver, secrets, timeout_seconds=0.1))


def test_a_receiver_that_is_not_there_may_come_back(receiver: Receiver, secrets: Path) -> None:
    channel = hook(receiver, secrets, url="http://127.0.0.1:1/hook")
    with pytest.raises(NotSent, match="ConnectError") as caught:
        send(channel)
    assert not caught.value.for_good


def test_an_address_that_is_a_secret_is_in_no_log(
    receiver: Receiver, secrets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loud = [logging.getLogger(name) for name in ("httpx", "httpcore")]
    for logger in loud:
        logger.setLevel(logging.DEBUG)
    with caplog.at_level(logging.DEBUG):
        send(hook(receiver, secrets))
    assert receiver.came
    assert "/hook" not in caplog.text
    assert [logger.level for logger in loud] == [logging.WARNING] * 2


def test_an_address_that_is_no_secret_keeper_is_refused(tmp_path: Path, secrets: Path) -> None:
    for url in ("http://example.com/x", "https://u:p@example.com/", "ftp://example.com"):
        with pytest.raises(ConfigError) as caught:
            Webhook(NotificationSettings(name="h", kind="webhook", url=url, secrets_file=secrets))
        assert "u:p" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "abc", "whsec_***", "whsec_YWJj", KEY[6:]])
def test_a_bad_secret_is_refused_without_being_shown(
    receiver: Receiver, secrets: Path, text: str
) -> None:
    secrets.write_text(text)
    with pytest.raises(ConfigError) as caught:
        hook(receiver, secrets)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "webhook", "url": "https://x.example"},
        {"kind": "webhook", "secrets_env": "S"},
        {"kind": "apprise", "url": "slack://a/b/c"},
        {"kind": "apprise", "url_env": "A", "url_file": "f"},
        {"kind": "apprise", "url_env": "A", "secrets_env": "S"},
        {"kind": "pigeon", "url_env": "A"},
        {"kind": "apprise", "url_env": "A", "name": "with space"},
        {"kind": "apprise", "url_env": "A", "events": ["gossip"]},
    ],
)
def test_settings_that_make_no_channel_are_refused_without_showing_an_address(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    file = tmp_path / "hoop.toml"
    lines = [f"{k} = {json.dumps(v)}" for k, v in {"name": "c", **values}.items()]
    file.write_text("[[notifications]]\n" + "\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match="notifications") as caught:
        load_settings(file)
    assert "slack://" not in str(caught.value)


def test_two_channels_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TO", "json://127.0.0.1:1")
    twice = NotificationSettings(name="c", kind="apprise", url_env="TO")
    with pytest.raises(ConfigError, match="called c"):
        channels_of(Settings(notifications=(twice, twice)))


# ---------------------------------------------------------------------- apprise


def chat(monkeypatch: pytest.MonkeyPatch, url: str, **changes: Any) -> Chat:
    monkeypatch.setenv("CHAT_URL", url)
    return Chat(
        NotificationSettings(
            **{"name": "chat", "kind": "apprise", "url_env": "CHAT_URL", **changes}
        )
    )


def test_a_chat_gets_title_and_text(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    send(chat(monkeypatch, f"json://user:pa55@127.0.0.1:{receiver.server_port}/"))
    content = json.loads(receiver.came[0][2])
    assert (content["title"], content["message"]) == (
        MESSAGE.title,
        f"{MESSAGE.text}\nOpen: {MESSAGE.link}",
    )


def test_a_chat_that_fails_says_nothing_of_its_address(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = 500
    with pytest.raises(NotSent) as caught:
        send(chat(monkeypatch, f"json://user:pa55@127.0.0.1:{receiver.server_port}/"))
    assert "pa55" not in str(caught.value) + caplog.text
    with pytest.raises(ConfigError) as unknown:
        chat(monkeypatch, "nosuchservice://user:pa55@host")
    assert "pa55" not in str(unknown.value) + caplog.text


def test_a_chat_follows_no_redirect(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver.status = 307
    receiver.headers = {"location": receiver.url}
    with pytest.raises(NotSent):
        send(chat(monkeypatch, f"json://127.0.0.1:{receiver.server_port}/first"))
    assert {path for path, _, _ in receiver.came} == {"/first"}


def test_a_chat_that_hangs_takes_one_thread_at_most(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.delay = 2.0
    channel = chat(monkeypatch, f"json://127.0.0.1:{receiver.server_port}/", timeout_seconds=0.1)
    with pytest.raises(NotSent, match="in time"):
        send(channel)
    with pytest.raises(NotSent, match="has not ended"):
        send(channel)
    receiver.delay = 0.0


@pytest.mark.parametrize(
    "url",
    [
        "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#approvals",
        "discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js",
        "workflows://teams.example:443/643e69f83c8944438d68119179a10a64/KXbWb6eGWDG5VYBN",
    ],
)
def test_what_a_service_is_sent_has_nothing_active_of_a_strangers_in_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    sent: list[str] = []

    class Answered(requests.Response):
        def __init__(self) -> None:
            super().__init__()
            self.status_code, self._content = 200, b"ok"

    def request(_method: str, _url: str, **given: Any) -> requests.Response:
        sent.append(given.get("data") or json.dumps(given.get("json")))
        return Answered()

    monkeypatch.setattr(requests, "request", request)
    monkeypatch.setattr(requests, "post", lambda to, **given: request("POST", to, **given))
    stranger = plain("<!channel> @everyone [Open](https://evil.example) <https://evil.example|x>")
    page = "https://hoop.example.com/approvals/apr_1"
    send(
        chat(monkeypatch, url),
        Message("m", f"By {stranger}", f"Who: {stranger}", page, b""),
    )
    told = json.dumps(json.loads(sent[0]), ensure_ascii=False)
    assert page in told
    told = told.replace(f"[Open the request]({page})", "")
    for active in ("<!", "@everyone", "](", "https://evil", "|x>"):
        assert active not in told


@pytest.mark.parametrize(
    ("url", "most"),
    [
        ("discord://4174216298/JHMHI8qBe7bk2ZwO5U711o3dV_js", 2000),
        ("tgram://123456789:abcdefghijklmnopqrstuvwxyz_ABCDEFGHI/1234", 4096),
        ("workflows://teams.example:443/643e69f83c8944438d68119179a10a64/KXbWb6eGWDG5VYBN", 1000),
    ],
)
@pytest.mark.parametrize("letter", ["X", "é", "\U0001f600", "'"])
def test_a_message_as_long_as_any_fits_and_has_its_link(
    url: str, most: int, letter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import requests

    told: list[str] = []

    class Answered(requests.Response):
        def __init__(self) -> None:
            super().__init__()
            self.status_code, self._content = 200, b'{"ok": true}'

    def request(_method: str, _url: str, **given: Any) -> requests.Response:
        body = given.get("json") or json.loads(given["data"])
        card = (body.get("attachments") or [{}])[0].get("content", {}).get("body", [])
        texts = [body.get("content"), body.get("text"), *(part.get("text") for part in card)]
        told.append("\n".join(filter(None, texts)))
        return Answered()

    monkeypatch.setattr(requests, "request", request)
    monkeypatch.setattr(requests, "post", lambda to, **given: request("POST", to, **given))
    facts = ["Who: agent", f"Run: {letter * 3000}", f"Statement: {letter * 2000}", "Until: noon"]
    page = "https://hoop.example.com/approvals/apr_1"
    send(
        chat(monkeypatch, url),
        Message("m", f"Approval needed: {letter * 2000}", "\n".join(facts), page, b""),
    )
    (text,) = told
    assert len(text.encode("utf-16-le")) // 2 <= most
    for whole in (page, "Who: agent", "Until: noon", "Cut, whole in Hoop: Run, Statement"):
        assert whole in text


def test_what_is_short_is_not_cut(monkeypatch: pytest.MonkeyPatch, receiver: Receiver) -> None:
    channel = chat(monkeypatch, f"json://127.0.0.1:{receiver.server_port}/")
    text = "Who: agent\nNeeds: 1 of owners"
    send(channel, Message("m", "Approval needed", text, "https://hoop.example/x", b""))
    ((_, _, body),) = receiver.came
    assert text in json.loads(body)["message"].replace("\r\n", "\n")
    assert "Cut" not in json.loads(body)["message"]


@pytest.fixture
def mailbox() -> Iterator[tuple[int, list[bytes]]]:
    from aiosmtpd.controller import Controller

    got: list[bytes] = []

    class Box:
        async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
            got.append(envelope.content)
            return "250 OK"

    controller = Controller(Box(), hostname="127.0.0.1", port=free_port())
    controller.start()
    yield controller.port, got
    controller.stop()


def test_mail_arrives_as_text_that_no_browser_acts_on(
    mailbox: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, got = mailbox
    url = f"mailto://127.0.0.1:{port}/?from=hoop@example.com&to=owners@example.com&mode=insecure"
    send(
        chat(monkeypatch, url),
        Message("m", "T\r\nBcc: eve@example.com", "<b>x</b> & y", "https://hoop.example/x", b""),
    )
    mail = email.message_from_bytes(got[0], policy=email.policy.default)
    assert "bcc" not in {k.lower() for k in mail}
    body = mail.get_body(("html", "plain"))
    assert body is not None
    content = body.get_content()
    assert "<b>" not in content or body.get_content_type() == "text/plain"
    assert "https://hoop.example/x" in content


# ---------------------------------------------------------------------- command line


def configured(tmp_path: Path, receiver: Receiver, secrets: Path) -> str:
    file = tmp_path / "hoop.toml"
    file.write_text(
        f'[[notifications]]\nname = "hook"\nkind = "webhook"\nurl = "{receiver.url}"\n'
        f'secrets_file = "{secrets}"\n'
    )
    return str(file)


def test_a_channel_can_be_tried(tmp_path: Path, receiver: Receiver, secrets: Path) -> None:
    config = configured(tmp_path, receiver, secrets)
    done = CliRunner().invoke(app, ["test", "hook", "--config", config, "--json"])
    assert done.exit_code == 0, done.output
    assert verified(receiver.came[0], KEY)["type"] == "hoop.test"
    receiver.status = 500
    failed = CliRunner().invoke(app, ["test", "hook", "--config", config])
    assert failed.exit_code == 3
    unknown = CliRunner().invoke(app, ["test", "nobody", "--config", config])
    assert unknown.exit_code == 2


def test_channels_are_listed_without_their_addresses(
    tmp_path: Path, receiver: Receiver, secrets: Path
) -> None:
    config = configured(tmp_path, receiver, secrets)
    for options in ([], ["--json"]):
        done = CliRunner().invoke(app, ["list", "--config", config, *options])
        assert done.exit_code == 0
        assert "hook" in done.output
        assert str(receiver.server_port) not in done.output


def test_no_address_or_secret_is_in_a_repr(receiver: Receiver, secrets: Path) -> None:
    os.environ.pop("CHAT_URL", None)
    channel = hook(receiver, secrets)
    shown = repr(Settings(notifications=(channel.settings,))) + repr(channel)
    assert str(receiver.server_port) not in shown
    assert KEY not in shown
