"""The web pages."""

from __future__ import annotations

from pydantic import Field

from hoop_core.config.section import Section


class PageSettings(Section):
    session_seconds: int = Field(default=8 * 3600, ge=60, le=7 * 86_400)
    """The longest that somebody stays signed in to the pages."""
    idle_seconds: int = Field(default=1800, ge=60, le=86_400)
    """A session that nothing was looked at with for so long has ended."""
    answer_max_age_seconds: int | None = Field(default=None, ge=0, le=86_400)
    """How long ago whoever answers may have typed their password (or shown their key) at the identity
    provider; None: that the provider still knows them is enough. 0: each answer asks anew."""
    live_pages: int = Field(default=2000, ge=0)
    """Open pages that are told of changes as they happen; the others find out when they are loaded again."""
