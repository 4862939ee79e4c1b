"""A statement that was decided, and what became of it: what the gates hand to one another."""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from hoop_core.approvals.binding import Binding
from hoop_core.errors import HoopError, StatementRefused, where
from hoop_core.http import unexpected
from hoop_core.loads.staged import Staged
from hoop_core.model import Json, Screen, Verdict
from hoop_core.results.answers import ChunkSet
from hoop_core.session.basis import Basis

_log = structlog.get_logger(__name__)
INVALID_IDENTIFIER = 904  # a column went away: what is believed of the tables is out of date
UPSTREAM_ENDED = "UPSTREAM_ENDED"
"""The reason of the error that ends the caller's session with the one at Snowflake."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A statement that was understood and decided, and what a grant for it must be bound to."""

    verdict: Verdict
    binding: Binding
    screen: Screen = field(default_factory=Screen)
    """What the policy's detectors do to this caller's results."""
    bindings: Json | None = None
    """The values that are still bound: names among them stand in the text."""
    staged: Staged = field(default_factory=Staged)
    rows_recorded: int | None = None
    """How many rows of the result the recording keeps; None: all."""

    made_there: bool = False
    """Whether a table that it makes is there already, and would be replaced."""
    basis: Basis | None = None
    """What it was decided from."""
    rests_on: Json = field(default_factory=dict)
    """Of one that may run: the grant with its answers, and the lease of the user that it runs as, as evidence."""

    @property
    def text(self) -> str:
        if self.verdict.rewritten is None:
            raise StatementRefused("A denied statement has no text to run.")
        return self.verdict.rewritten


@dataclass(frozen=True, slots=True)
class Delivered:
    """What goes back to the client, and the remote parts that it may fetch through Hoop."""

    answer: Json
    chunks: ChunkSet | None
    policy_digest: str = ""
    """The policy under which it was shown."""
    exceptions: tuple[str, ...] = ()
    """The approved exceptions that it rests on."""


def as_hoop_error(error: Exception) -> HoopError:
    """A fault of Hoop's own is told to nobody but our log; the caller hears that it is refused."""
    if isinstance(error, HoopError):
        return error
    _log.error("a statement failed inside Hoop", where=where(error))
    return unexpected()
