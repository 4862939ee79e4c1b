"""`recordings`: how many rows of whose results are kept."""

from __future__ import annotations

import pytest

from hoop_core.errors import ConfigError
from hoop_core.model import Identity
from hoop_core.policy.file import parse_policy
from hoop_core.policy.model import Policy


def caller(*groups: str) -> Identity:
    return Identity("https://idp", "ann", "Ann", groups, "oidc", "")


def policy(*entries: str) -> Policy:
    lines = "".join(f"  - {{{entry}}}\n" for entry in entries)
    return parse_policy(f"version: 1\nrecordings:\n{lines}", "p.yaml")


def test_all_rows_are_kept_where_nothing_is_said() -> None:
    assert parse_policy("version: 1\n", "p.yaml").rows_recorded(caller("eng")) is None


@pytest.mark.parametrize(("rows", "kept"), [("all", None), ("digest", 0), ("1000", 1000)])
def test_rows_are_all_none_or_so_many(rows: str, kept: int | None) -> None:
    assert policy(f"rows: {rows}").rows_recorded(caller()) == kept


def test_an_entry_is_for_its_groups_and_not_for_those_excepted() -> None:
    said = policy("rows: digest, groups: [etl], except_groups: [trial]")
    assert said.rows_recorded(caller("etl")) == 0
    assert said.rows_recorded(caller("eng")) is None
    assert said.rows_recorded(caller("etl", "trial")) is None


def test_of_several_entries_the_one_that_keeps_most_counts() -> None:
    """Nobody gets rid of evidence by one more group."""
    said = policy("rows: digest", "rows: 50, groups: [etl]", "rows: all, groups: [agents]")
    assert said.rows_recorded(caller()) == 0
    assert said.rows_recorded(caller("etl")) == 50
    assert said.rows_recorded(caller("etl", "agents")) is None


@pytest.mark.parametrize("rows", ["0", "-1", "none", "true", "1.5", "[1]", "~", "2000000000"])
def test_anything_else_is_an_error_with_its_line(rows: str) -> None:
    with pytest.raises(ConfigError, match=r"p\.yaml:3"):
        policy(f"rows: {rows}")


def test_what_is_kept_is_part_of_the_digest() -> None:
    assert policy("rows: digest").digest != policy("rows: all").digest
