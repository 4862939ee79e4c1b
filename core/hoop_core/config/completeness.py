"""What Snowflake's own histories are compared with, and where the evidence is kept for queries."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hoop_core.config.section import Section

_Text = Annotated[str, Field(min_length=1, max_length=500)]


class AllowedUser(Section):
    """Snowflake users that work beside Hoop, and why they may."""

    user: _Text
    """A name as Snowflake stores it; `*` stands for any characters."""
    reason: _Text
    """Stands in every report beside the number of their statements."""
    types: tuple[_Text, ...] = ()
    """What they may run, in the words of QUERY_TYPE; empty: anything."""
    account: str = ""
    """Only in this account; empty: in all."""


class ReconcileSettings(Section):
    """docs/reconcile.md says what is compared."""

    every_seconds: float = Field(default=0.0, ge=0)
    """How often the gateways compare, one of them for all; 0: never by themselves."""
    delay_seconds: float = Field(default=3 * 3600.0, ge=0)
    """How far behind the present: ACCOUNT_USAGE fills within 45 minutes (queries) and 2 hours (logins)."""
    clocks_seconds: float = Field(default=120.0, ge=0, le=3600)
    """By how much Hoop's clock and Snowflake's may differ."""
    allowed: tuple[AllowedUser, ...] = ()
    addresses: tuple[str, ...] = ()
    """Networks that minted users sign in from (Hoop's own, as Snowflake sees them); empty: not looked at."""


class LakeSettings(Section):
    """docs/queries.md says what lies there."""

    root: str = ""
    """An fsspec URL or a folder of its own for Parquet files; empty: none are written."""
    seconds: float = Field(default=60.0, ge=0.2)
    """How often new entries are written."""
    entries: int = Field(default=20_000, ge=1, le=1_000_000)
    """How many go into one file at most."""
    results: bool = True
    """Whether the recorded results are written, too."""
