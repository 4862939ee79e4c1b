"""The Airflow instances in whose Required Actions requests are shown and answered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from hoop_core.config.section import Section

_Name = Annotated[str, Field(min_length=1, max_length=1000)]


class AirflowPerson(Section):
    """Whom an Airflow user is to Hoop. `issuer` and `subject` as in that person's own token: one person has
    one voice, wherever it is given."""

    issuer: _Name
    subject: _Name
    name: str = ""
    groups: tuple[str, ...] = ()
    """Of Hoop: those that policy names as approvers. Airflow's own roles count for nothing."""


class AirflowSettings(Section):
    """One Airflow. docs/approvals.md says what each key is for."""

    name: str = Field(min_length=1, max_length=255)
    """What a connection's extra `airflow` calls it."""
    url: str = Field(min_length=1)
    """Of its API server, as https://airflow.example.com; a path in front of /api/v2 is kept."""
    username: str = ""
    """Hoop's own user there, with `password_file`: it signs in at /auth/token."""
    password_file: Path | None = None
    """Read again at each sign-in."""
    token_file: Path | None = None
    """A bearer token instead of them, read again for each request."""
    ca_file: Path | None = None
    """The certificate authority of its server, when it is not a public one."""
    unsafe_plain_http: bool = False
    """Take an http:// `url` of another host: for networks that encrypt by themselves."""
    timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    poll_seconds: float = Field(default=2.0, ge=0.2, le=60)
    """How soon a task hears what was decided in Hoop."""
    settle_seconds: float = Field(default=15.0, ge=5, le=300)
    """A task that has just been parked is left alone for so long: Airflow fails one that is answered while its
    executor still has it in hand."""
    users: dict[_Name, AirflowPerson] = Field(default_factory=dict)
    """By the id that Airflow's auth manager gives a user. Who is not here has no voice."""

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        signs_in = bool(self.username) and self.password_file is not None
        if signs_in == (self.token_file is not None) or bool(self.username) != bool(
            self.password_file
        ):
            raise ValueError("give username and password_file, or token_file")
        if self.username in self.users:
            raise ValueError(f"{self.username!r} is Hoop's own user, and cannot be a person")
        return self
