"""Where events go, by openlineage-python's own configuration. A sender returns when the receiver has the event.

Three of the package's transports are served. The others send in the background or go on after a failure: an event
that is lost in them would be lost for good, and nobody would know.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import requests
import yaml
from openlineage.client.event_v2 import RunEvent
from openlineage.client.transport.file import FileConfig, FileTransport
from openlineage.client.transport.http import HttpConfig, HttpTransport

from hoop_core.config import LineageSettings
from hoop_core.errors import ConfigError
from hoop_core.identity.fetch import check_url

_LONGEST_FILE = 256 << 10
_AGAIN = frozenset({401, 403, 404, 405, 407, 408, 409, 425, 429})
"""Of the 4xx, those that say nothing about the event: it may be taken later."""
_TAIL = 64 << 10


class NotDelivered(Exception):
    """`why` names no address and no secret, and quotes no receiver."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        self.why, self.for_good = why, for_good
        super().__init__(why)


class Sender(Protocol):
    @property
    def seconds(self) -> float:
        """The longest that one event may take."""

    def send(self, event: RunEvent) -> None:
        """Raises NotDelivered."""

    def close(self) -> None: ...


def sender_of(settings: LineageSettings) -> Sender | None:
    """None where no event is wanted. Raises ConfigError for what cannot be used."""
    if settings.file is not None:
        settings.file.parent.mkdir(parents=True, exist_ok=True)
        return FileSender({"log_file_path": str(settings.file), "append": True})
    if settings.config_file is None:
        return None
    given = _transport(settings.config_file)
    kind = given.pop("type", None)
    senders: dict[Any, type[FileSender | HttpSender]] = {"file": FileSender, "http": HttpSender}
    try:
        if kind == "kafka":
            # Not everybody has Kafka's library.
            from hoop_core.lineage.kafka import KafkaSender  # noqa: PLC0415

            return KafkaSender(given)
        if isinstance(kind, str) and kind in senders:
            return senders[kind](given)
    except ModuleNotFoundError:
        raise ConfigError(
            "Kafka's library is not installed.", "Install hoop-guard[kafka]."
        ) from None
    except (RuntimeError, ValueError, TypeError, KeyError) as e:
        # What the package says may quote the configuration, and with it a secret.
        raise ConfigError(
            f"The transport in {settings.config_file} cannot be used: {type(e).__name__}.",
            "docs/lineage.md has an example of each.",
        ) from None
    raise ConfigError(
        f"The transport in {settings.config_file} has the type {str(kind)[:40]!r}.",
        "Use file, http or kafka: only these tell whether an event arrived.",
    )


def _transport(path: Path) -> dict[str, Any]:
    """Raises ConfigError."""
    try:
        with path.open(encoding="utf-8") as opened:
            loaded = yaml.safe_load(opened.read(_LONGEST_FILE))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ConfigError(
            f"lineage.config_file {path} cannot be read: {type(e).__name__}.",
            "Write it as openlineage.yml is written.",
        ) from None
    given = loaded.get("transport") if isinstance(loaded, dict) else None
    if not isinstance(given, dict):
        raise ConfigError(
            f"lineage.config_file {path} has no section `transport`.",
            "docs/lineage.md has an example of each.",
        )
    return given


class FileSender:
    """One JSON object a line. A line that a full disk has cut off is taken back before the next try."""

    seconds = 10.0

    def __init__(self, given: dict[str, Any]) -> None:
        config = FileConfig.from_dict(given)
        self._transport = FileTransport(config)
        local = config.append and "://" not in config.log_file_path
        self._path = Path(config.log_file_path) if local else None

    def send(self, event: RunEvent) -> None:
        try:
            self._take_back()
            self._transport.emit(event)
        except (OSError, RuntimeError) as e:
            cause = e.__cause__ or e
            raise NotDelivered(f"the file cannot be written: {type(cause).__name__}") from None

    def _take_back(self) -> None:
        """Everything after the last line end: it was not delivered, so it comes again."""
        if self._path is None or not self._path.exists():
            return
        size = self._path.stat().st_size
        with self._path.open("rb") as opened:
            opened.seek(max(0, size - 1))
            if opened.read(1) in {b"\n", b""}:
                return
            end = size
            while end > 0:
                begin = max(0, end - _TAIL)
                opened.seek(begin)
                found = opened.read(end - begin).rfind(b"\n")
                if found >= 0:
                    end = begin + found + 1
                    break
                end = begin
        os.truncate(self._path, end)

    def close(self) -> None:
        self._transport.close()


class _Session(requests.Session):
    """Does not follow redirects: events go where the settings say, and a POST must not become a GET."""

    def request(self, *args: Any, **named: Any) -> requests.Response:
        named["allow_redirects"] = False
        return super().request(*args, **named)


class HttpSender:
    """The package's own tries are left out: the next one comes from the log."""

    def __init__(self, given: dict[str, Any]) -> None:
        check_url(str(given.get("url")), "The address of the lineage transport")
        if given.get("verify", True) is not True:
            raise ConfigError(
                "The lineage transport does not verify its receiver.",
                "Leave `verify` out; name a private CA by `sslContext: {caCertPath: ...}`.",
            )
        once = {"total": 0, "read": 0, "connect": 0, "status_forcelist": ()}
        config = HttpConfig.from_dict({**given, "retry": once})
        config.session = _Session()
        self._transport = HttpTransport(config)
        self.seconds = (
            2 * float(self._transport.timeout) + 12.0
        )  # to connect and to wait, and a token

    def send(self, event: RunEvent) -> None:
        try:
            status = self._transport.emit(event).status_code
        except requests.HTTPError as e:
            status = 0 if e.response is None else e.response.status_code
        except requests.RequestException as e:
            raise NotDelivered(f"the receiver was not reached: {type(e).__name__}") from None
        except Exception as e:  # a token provider's, whatever it raises
            raise NotDelivered(f"the event could not be sent: {type(e).__name__}") from None
        if not 200 <= status < 300:
            refused = 400 <= status < 500 and status not in _AGAIN
            raise NotDelivered(f"the receiver answered {status}", for_good=refused)

    def close(self) -> None:
        self._transport.close()
