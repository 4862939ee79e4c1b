"""As which client Hoop signs in at Snowflake, and what of a sign-in is no wish of the caller."""

from __future__ import annotations

from typing import Any

import pytest

from hoop_core.parameters import TOLD
from hoop_core.session.guarded import without_echo
from hoop_core.snowflake.client_kinds import HOOP, ClientApp, signs_in_as


@pytest.mark.parametrize(
    ("application", "version", "app"),
    [
        ("JavaScript", "3.3.0", ClientApp("JavaScript", "3.3.0")),
        ("javascript", "3.3.0", ClientApp("JavaScript", "3.3.0")),
        ("PythonSnowpark", "1.56.0", ClientApp("PythonSnowpark", "1.56.0")),
        (".NET", "4.8.0+abc", ClientApp(".NET", "4.8.0+abc")),
    ],
)
def test_snowflakes_own_drivers_are_named(application: str, version: str, app: ClientApp) -> None:
    assert signs_in_as({"application": application, "version": version}) == app


@pytest.mark.parametrize(
    ("application", "version"),
    [
        (None, None),
        ("", "1.0"),
        ("Snowflake UI", "1.0"),
        ("JDBC ", "4.0"),
        ("Go", ""),
        ("Go", "1.0\r\nx"),
        ("Go", "1.0\n"),
        ("Go", "v1"),
        ("Go", "1" * 41),
        ("Go", 1),
        (["Go"], "1.0"),
    ],
)
def test_any_other_client_is_hoop_itself(application: Any, version: Any) -> None:
    assert signs_in_as({"application": application, "version": version}) == HOOP


def test_the_go_drivers_pool_only_repeats_what_it_was_told() -> None:
    told = {"TIMEZONE": "Etc/UTC", "AUTOCOMMIT": "true", "WEEK_START": "0"}
    assert set(told) <= set(TOLD)
    wish = {"DATE_OUTPUT_FORMAT": "DD.MM.YYYY", "LOCK_TIMEOUT": "5"}
    assert without_echo(told | wish, "Go") == wish


@pytest.mark.parametrize("application", ["JDBC", "PythonConnector", None])
def test_what_another_client_sends_is_its_wish(application: str | None) -> None:
    assert without_echo({"TIMEZONE": "Etc/UTC"}, application) == {"TIMEZONE": "Etc/UTC"}
