"""Where messages go. A channel sends one message at a time, and says whether a failure is for good."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from hoop_core.config.notifications import NotificationSettings
from hoop_core.errors import ConfigError
from hoop_core.notifications.messages import Message

_LONGEST = 16 * 1024


class NotSent(Exception):
    """`str()` of it says why, without an address, a secret or a receiver's words."""

    def __init__(self, why: str, *, for_good: bool = False) -> None:
        self.why, self.for_good = why, for_good
        super().__init__(why)


class Channel(Protocol):
    @property
    def settings(self) -> NotificationSettings: ...

    async def send(self, message: Message) -> None:
        """Returns when the receiver has it. Raises NotSent."""


def secret(file: Path | None, variable: str, what: str) -> str:
    """A secret from where the settings say that it is; read anew each time. Raises ConfigError."""
    if file is not None:
        try:
            with file.open(encoding="utf-8") as opened:
                text = opened.read(_LONGEST)
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(
                f"{what} cannot be read from {file}: {type(e).__name__}.", "Correct notifications."
            ) from None
    else:
        text = os.environ.get(variable, "")
    if not text.strip():
        where = str(file) if file is not None else f"the variable {variable}"
        raise ConfigError(f"{what} is not in {where}.", "Put it there, or correct notifications.")
    return text.strip()


def address(settings: NotificationSettings) -> str:
    """A channel's address, on one line. Raises ConfigError."""
    what = f"The address of the channel {settings.name}"
    text = settings.url or secret(settings.url_file, settings.url_env, what)
    if len(text.split()) != 1:
        raise ConfigError(f"{what} is more than one address.", "Give each a channel of its own.")
    return text
