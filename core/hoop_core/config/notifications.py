"""Who is told of what happens at the approvers' desk. docs/approvals.md says how."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from hoop_core.config.section import Section

Event = Literal[
    "requested",
    "expiring",
    "decided",
    "broken_glass",
    "review_open",
    "reviewed",
    "standing_ended",
    "alert",
]
_ALL: tuple[Event, ...] = (
    "requested",
    "expiring",
    "decided",
    "broken_glass",
    "review_open",
    "reviewed",
    "standing_ended",
    "alert",
)


class NotificationSettings(Section):
    """One channel. Its address counts as a secret: it is never shown or logged."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """What it is called in the log and in metrics. A channel that is new starts with what comes next."""
    kind: Literal["apprise", "webhook"]
    url: str = Field(default="", repr=False)
    """Of a webhook whose address is no secret; https, or http on this host."""
    url_file: Path | None = None
    """The file with the address (Apprise's form, for example slack://...); read again for each message."""
    url_env: str = ""
    """The environment variable with the address."""
    secrets_file: Path | None = None
    """Signing secrets of a webhook, one a line (whsec_ and base64 of 24 to 64 bytes): each signs."""
    secrets_env: str = ""
    """The environment variable with them, separated by spaces."""
    events: tuple[Event, ...] = _ALL
    approvers: tuple[str, ...] = ()
    """Only requests that one of these groups may answer, and no alerts; empty: all."""
    accounts: tuple[str, ...] = ()
    """Only requests for these Snowflake accounts, by their names in [snowflake] and [[accounts]]; empty: all."""
    show_sql: bool = False
    """Put the statement's text, with the literals that stand in it, into the message."""
    timeout_seconds: float = Field(default=10.0, gt=0, le=120)
    tries: int = Field(default=10, ge=1, le=50)
    """Of one message, with pauses that double up to five minutes; then it is given up, which is logged."""

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> Self:
        if sum(map(bool, (self.url, self.url_file, self.url_env))) != 1:
            raise ValueError("name its address by one of url_file, url_env and, of a webhook, url")
        if self.kind == "apprise":
            if self.url:
                raise ValueError("addresses of this kind hold passwords: use url_file or url_env")
            if self.secrets_file or self.secrets_env:
                raise ValueError("only webhooks are signed: leave secrets_file and secrets_env out")
        elif bool(self.secrets_file) == bool(self.secrets_env):
            raise ValueError("a webhook needs one of secrets_file and secrets_env")
        return self


class ReminderSettings(Section):
    """When people are reminded of what waits for them."""

    expiring_seconds: float = Field(default=3600.0, gt=0)
    """So long before a request expires, or when a quarter of its time is left if that is later."""
    review_seconds: float = Field(default=86_400.0, ge=60)
    """How often of a review that is open."""
