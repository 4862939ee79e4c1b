"""Every error that Hoop raises.

    HoopError                      what happened, why, and what to do next
    ├── ConfigError                a setting or a policy file is wrong              (exit 2)
    ├── Refused                    understood, and refused                          (exit 1)
    │   ├── IdentityError          the caller's token does not prove who it is
    │   ├── SessionGone            the session handle is unknown, closed or expired
    │   ├── StatementRefused       the text cannot be analysed, or never is allowed
    │   ├── PolicyDenied           the policy says no
    │   ├── ApprovalRefused        a human said no, or nobody answered in time
    │   │   └── ApprovalPending    nobody has answered yet, and the client does not want to wait
    │   ├── ResultBlocked          a detector found what the policy lets nobody see
    │   ├── Cancelled              the client took the statement back
    │   └── NotServed              an endpoint or an operation that Hoop does not offer
    ├── Unavailable                a dependency did not answer; nothing was run      (exit 3)
    │   ├── VaultUnavailable
    │   ├── SnowflakeUnavailable
    │   ├── StoreUnavailable       the store or the log cannot be written
    │   ├── AnalysisUnavailable    no analysis worker was free in time; try again
    │   └── GatewayUnavailable     client side: Hoop itself cannot be reached
    ├── SnowflakeError             Snowflake itself answered with an error
    └── EvidenceError              a log, a recording or a bundle fails verification (exit 1)

The gateway shows `errno`, `sqlstate` and the text in Snowflake's own error shape, so that a driver
raises its ordinary exception. Where Snowflake documents a code for the situation that code is used;
099xxx are Hoop's own. Messages never contain secrets, tokens or protected values. They also never
contain the phrase by which dagster-snowflake recognises (and swallows) a missing table.
"""

from __future__ import annotations

from pathlib import PurePath
from traceback import walk_tb
from typing import Any

__all__ = [
    "AnalysisUnavailable",
    "ApprovalPending",
    "ApprovalRefused",
    "Cancelled",
    "ConfigError",
    "EvidenceError",
    "GatewayUnavailable",
    "HoopError",
    "IdentityError",
    "NotServed",
    "PolicyDenied",
    "Refused",
    "ResultBlocked",
    "SessionGone",
    "SnowflakeError",
    "SnowflakeUnavailable",
    "StatementRefused",
    "StoreUnavailable",
    "Unavailable",
    "VaultUnavailable",
    "where",
]


class HoopError(Exception):
    """Base of all errors. `hint` says what to do next; `reason` is a stable machine word."""

    errno: int = 99000
    sqlstate: str = "58000"
    exit_code: int = 1
    reason: str = "ERROR"

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        reason: str | None = None,
        errno: int | None = None,
        sqlstate: str | None = None,
    ) -> None:
        self.message = message
        self.hint = hint
        if reason is not None:
            self.reason = reason
        if errno is not None:
            self.errno = errno
        if sqlstate is not None:
            self.sqlstate = sqlstate
        super().__init__(message)

    @property
    def text(self) -> str:
        """Message and hint as one paragraph, the way a driver shows it."""
        return f"{self.message} {self.hint}".strip()

    def __str__(self) -> str:
        return self.text


class ConfigError(HoopError):
    errno, sqlstate, exit_code, reason = 99001, "F0000", 2, "CONFIG"


class Refused(HoopError):
    errno, sqlstate, reason = 3001, "42501", "REFUSED"


class IdentityError(Refused):
    """errno 390303: Snowflake's "invalid OAuth access token"; 390318 when it has expired."""

    errno, sqlstate, reason = 390303, "08001", "IDENTITY"


class SessionGone(Refused):
    """errno 390111: session gone; 390112: session token expired, renew; 390114: log in again."""

    errno, sqlstate, reason = 390111, "08001", "SESSION_GONE"


class StatementRefused(Refused):
    """The text is outside what Hoop can prove safe. `reason` is one of the codes of `hoop_core.sql`."""

    errno, sqlstate, reason = 3001, "42501", "STATEMENT"


class PolicyDenied(Refused):
    reason = "POLICY"


class ApprovalRefused(Refused):
    reason = "APPROVAL"


class ApprovalPending(ApprovalRefused):
    """errno 99300, which Snowflake does not use: drivers pass it on, and clients know it by that."""

    errno, reason = 99300, "APPROVAL_PENDING"

    def __init__(self, approval: str, approvers: tuple[str, ...]) -> None:
        self.approval = approval
        super().__init__(
            f"This statement was not run: it waits for the approval {approval} by "
            f"{', '.join(approvers)}.",
            "Run it again in the same run once it is approved.",
        )


class ResultBlocked(Refused):
    """The statement ran; its result holds values that the policy's detectors block."""

    reason = "DETECTOR_BLOCKED"

    def __init__(self, column: str, kind: str, *, findings: tuple[Any, ...] = ()) -> None:
        self.findings = findings
        super().__init__(
            f"The result is withheld: its column {column} holds values that look like {kind}, which the "
            "policy blocks.",
            "Leave the column out, or ask the owners of the policy.",
        )


class Cancelled(Refused):
    """errno 000604: Snowflake's "SQL execution canceled"."""

    errno, sqlstate, reason = 604, "57014", "CANCELLED"


class NotServed(Refused):
    errno, sqlstate, reason = 99404, "0A000", "NOT_SERVED"


class Unavailable(HoopError):
    errno, sqlstate, exit_code, reason = 99100, "08006", 3, "UNAVAILABLE"


class VaultUnavailable(Unavailable):
    errno, reason = 99101, "VAULT_UNAVAILABLE"


class SnowflakeUnavailable(Unavailable):
    errno, reason = 99102, "SNOWFLAKE_UNAVAILABLE"


class StoreUnavailable(Unavailable):
    errno, sqlstate, reason = 99103, "58030", "STORE_UNAVAILABLE"


class GatewayUnavailable(Unavailable):
    errno, reason = 99104, "GATEWAY_UNAVAILABLE"


class AnalysisUnavailable(Unavailable):
    errno, reason = 99105, "ANALYSIS_UNAVAILABLE"


class SnowflakeError(HoopError):
    """Snowflake's own answer; `errno` and `sqlstate` are Snowflake's."""

    reason = "SNOWFLAKE"


class EvidenceError(HoopError):
    errno, sqlstate, reason = 99200, "XX001", "EVIDENCE"


_MOST_FRAMES = 25
_MOST_CAUSES = 5


def where(error: BaseException) -> str:
    """What a log says of an unexpected error: its class and the places it went through, last one last.

    Neither its text nor any local variable: both may hold rows, statements or secrets. So it is given to
    the logger as a text, for what a logger makes of the error itself is up to the host's configuration.
    """
    told: list[str] = []
    link: BaseException | None = error
    while link is not None and len(told) < _MOST_CAUSES:
        places = [
            f"{'/'.join(PurePath(f.f_code.co_filename).parts[-2:])}:{line} {f.f_code.co_name}"
            for f, line in walk_tb(link.__traceback__)
        ]
        told.append(" > ".join([type(link).__qualname__, *places[-_MOST_FRAMES:]]))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return " from ".join(told)
