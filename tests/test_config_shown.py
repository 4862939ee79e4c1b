"""What the log says of a process's settings: all that decides, and nothing that opens a door."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import Field, SecretStr

from hoop_core.config import Settings
from hoop_core.config.section import Section
from hoop_core.config.shown import WITHHELD, shown

SECRET = "hunter2-canary"


@pytest.mark.parametrize(
    "settings",
    [
        {"store": {"url": f"postgresql://hoop:{SECRET}@db/hoop"}},
        {"store": {"recordings": f"s3://key:{SECRET}@bucket/folder?token={SECRET}"}},
        {"telemetry": {"otlp_endpoint": f"https://u:{SECRET}@collector:4318/v1/traces#{SECRET}"}},
        {"vault": {"address": f"https://{SECRET}@vault:8200"}},
    ],
)
def test_a_secret_in_an_address_is_withheld_and_the_place_is_told(
    settings: dict[str, Any],
) -> None:
    told = json.dumps(shown(Settings(**settings)))
    assert SECRET not in told and WITHHELD in told


class Later(Section):
    """Settings that somebody adds one day."""

    plain: int = 1
    marked: str = Field(default=SECRET, repr=False)
    typed: SecretStr = SecretStr(SECRET)
    free: dict[str, Any] = Field(default_factory=lambda: {"api_key": SECRET})
    maybe: dict[str, Any] | None = Field(default_factory=lambda: {"api_key": SECRET})
    names: dict[str, str] = Field(default_factory=lambda: {"idp-group": "agents"})
    several: tuple[str, ...] = (f"amqp://u:{SECRET}@host/x", "plain")


def test_marked_secret_and_free_form_values_are_withheld_others_are_told() -> None:
    told = shown(Later())
    assert SECRET not in json.dumps(told)
    assert told["plain"] == 1 and told["names"] == {"idp-group": "agents"}
    assert told["free"] == told["maybe"] == {"api_key": WITHHELD}
    assert told["several"] == [f"amqp://{WITHHELD}@host/x", "plain"]


def test_all_settings_are_told_as_plain_json() -> None:
    told = shown(Settings())
    assert json.loads(json.dumps(told)) == told
    assert set(told) == set(Settings.model_fields)
    assert told["gateway"]["readers"] == ["auditors", "data-owners"]
