"""The frozen values that travel between the gates. No I/O, no behaviour beyond reading themselves."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from hoop_core.windows import Window

_PLAIN = re.compile(r"[A-Z_][A-Z0-9_$]*\Z")


@lru_cache(maxsize=65_536)
def quote_part(part: str) -> str:
    """One part of a Snowflake name as it must be written: bare when it is plain upper case."""
    return part if _PLAIN.match(part) else '"' + part.replace('"', '""') + '"'


def account_key(name: str) -> str:
    """An account identifier as it is compared: drivers cut off the region, and write `_` or `-`, in any case.

    https://docs.snowflake.com/en/user-guide/admin-account-identifier
    """
    return name.strip().partition(".")[0].upper().replace("_", "-")


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A fully qualified object name, in stored case (unquoted identifiers are already folded up)."""

    database: str
    schema: str
    name: str

    def __str__(self) -> str:
        return ".".join(quote_part(p) for p in (self.database, self.schema, self.name))


@dataclass(frozen=True, slots=True)
class NameContext:
    """The session's current database and schema, in stored case; None where none is set."""

    database: str | None = None
    schema: str | None = None


class Kind(StrEnum):
    """What a statement is, in the words of the policy file."""

    SELECT = "select"
    SHOW = "show"
    DESCRIBE = "describe"
    TRANSACTION = "transaction"
    SESSION = "session"
    INSERT = "insert"
    INSERT_OVERWRITE = "insert_overwrite"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    TRUNCATE = "truncate"
    CREATE_TABLE = "create_table"
    CREATE_TABLE_AS = "create_table_as"
    ALTER_TABLE = "alter_table"
    DROP_TABLE = "drop_table"
    CREATE_TEMP_STAGE = "create_temp_stage"
    PUT = "put"
    COPY_INTO_TABLE = "copy_into_table"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Statement:
    """What was understood of one statement.

    `fingerprint` is the SHA-256 (hex) of the canonical token text and the name context: two texts
    that differ only in comments and white space share it.
    """

    sql: str
    kind: Kind
    names: NameContext
    reads: tuple[TableName, ...]
    writes: tuple[TableName, ...]
    functions: tuple[str, ...]
    facts: Mapping[str, bool | int]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Identity:
    """A verified caller. The pair (issuer, subject) is the person or the job; `name` is for reading."""

    issuer: str
    subject: str
    name: str
    groups: tuple[str, ...]
    method: str
    token_digest: str = field(repr=False)
    expires_at: datetime | None = None
    claims: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict, repr=False)
    """Further claims of the token that the settings name: what row filters may compare with."""
    actors: tuple[str, ...] = ()
    """Keys of those who act for the caller (RFC 8693), the one who does it now first; empty: nobody."""

    @property
    def key(self) -> str:
        return identity_key(self.issuer, self.subject)


def identity_key(issuer: str, subject: str) -> str:
    """What tells callers apart: no issuer has a `#` in it (RFC 8414 section 2)."""
    return f"{issuer}#{subject}"


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where the caller says it runs. Asserted by the client, never verified: evidence says so.

    `orchestrator` is "airflow", "dagster" or "". Airflow's `fields`: dag_id, run_id, task_id, map_index,
    try_number. Dagster's: job_name, run_id, step_key, asset_key, partition_key. Both may add `purpose`.
    """

    orchestrator: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


class Outcome(StrEnum):
    ALLOW = "allow"
    REQUIRE_APPROVAL = "require_approval"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Reason:
    """`code` is stable (UPPER_SNAKE); `message` is for a person."""

    code: str
    message: str


class Detector(StrEnum):
    """Kinds of values that are recognised in results by what they look like."""

    EMAIL = "email"
    CARD = "card"
    SSN = "ssn"
    IBAN = "iban"
    PHONE = "phone"
    TOKEN = "token"  # noqa: S105 - keys and tokens of all sorts


class DetectorAction(StrEnum):
    """What happens to a result in which a detector finds something; later ones are stricter."""

    REPORT = "report"
    MASK = "mask"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class Screen:
    """What the detectors do to the results that one caller gets.

    `freed` are the kinds that some rule masks or blocks for others, and not for this caller: they are still
    looked for, so that the log says what was shown.
    """

    masks: frozenset[Detector] = frozenset()
    blocks: frozenset[Detector] = frozenset()
    reports: frozenset[Detector] = frozenset()
    freed: frozenset[Detector] = frozenset()
    open: frozenset[int] = frozenset()
    """Columns of the result that an approved exception shows: looked at and reported, not changed."""

    @property
    def every(self) -> frozenset[Detector]:
        return self.masks | self.blocks | self.reports | self.freed

    @property
    def binds(self) -> bool:
        """Whether a result may have to be changed or withheld: then it must be readable."""
        return bool(self.masks or self.blocks)


@dataclass(frozen=True, slots=True, order=True)
class MaskedColumn:
    table: TableName
    column: str
    mask: str
    exception: str | None = None
    """The approved exception that shows the column all the same; None: masked, or shown by group."""


@dataclass(frozen=True, slots=True, order=True)
class FilteredTable:
    """A table of which the caller sees some rows only; `where` as the policy writes it, without values."""

    table: TableName
    where: str
    by_session: bool = False
    """What the filter means may depend on formats, time zone or week rules of the session."""


@dataclass(frozen=True, slots=True)
class BreakGlass:
    """Who may let a statement run in an emergency, alone, and for how long that holds."""

    groups: tuple[str, ...]
    valid_for: timedelta


@dataclass(frozen=True, slots=True)
class StandingTerms:
    """That a statement may be approved once for many runs: for how long at most, and of how many rows."""

    longest: timedelta
    rows_at_most: int


@dataclass(frozen=True, slots=True)
class ApprovalTerms:
    """Who must answer, how many distinct persons, and for how long question and grant live."""

    approvers: tuple[str, ...]
    quorum: int
    pending_for: timedelta
    valid_for: timedelta
    windows: tuple[Window, ...] = ()
    """When what was approved may run: in all of them at once; none: at any time."""
    break_glass: BreakGlass | None = None
    standing: StandingTerms | None = None


class ApprovalStatus(StrEnum):
    """Where a question stands."""

    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CONSUMED = "consumed"
    REVOKED = "revoked"  # a standing grant that was ended before its time
    WITHDRAWN = "withdrawn"  # taken back by whoever asked


class AnswerVerdict(StrEnum):
    """What an approver may say."""

    APPROVE = "approve"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Listing:
    """What a SHOW may tell its caller of: the objects that some pattern of `shown` covers and none of `hidden`.

    Patterns have three parts, `*` for any. Of objects that one of `uncounted` covers no size is told. `places` are
    patterns of schemas that the caller may write to: tools look for them before they do.
    """

    shown: tuple[tuple[str, ...], ...] = ()
    hidden: tuple[tuple[str, ...], ...] = ()
    uncounted: tuple[tuple[str, ...], ...] = ()
    places: tuple[tuple[str, ...], ...] = ()

    def shows(self, name: tuple[str, ...]) -> bool:
        """Of a database (one part), a schema (two) or an object (three)."""
        granted = self.shown if len(name) > 2 else (*self.shown, *self.places)
        return any(_covers(p, name) for p in granted) and not any(
            _covers(p, name) and set(p[len(name) :]) <= {"*"} for p in self.hidden
        )

    def counts(self, name: tuple[str, ...]) -> bool:
        return not any(_covers(p, name) for p in self.uncounted)


def _covers(pattern: tuple[str, ...], name: tuple[str, ...]) -> bool:
    return all(p in ("*", n) for p, n in zip(pattern, name, strict=False))


@dataclass(frozen=True, slots=True)
class Decision:
    outcome: Outcome
    reasons: tuple[Reason, ...]
    rules: tuple[str, ...]
    masked: tuple[MaskedColumn, ...]
    policy_digest: str
    approval: ApprovalTerms | None = None
    exposed: tuple[MaskedColumn, ...] = ()
    """Columns that the policy masks for others and shows to this caller: an exception, on record.
    The column `*` with the mask `row_filter` stands for rows that others do not see."""
    filtered: tuple[FilteredTable, ...] = ()
    """Tables of which the caller sees only the rows that a filter of the policy lets by."""
    listing: Listing | None = None
    """Of a SHOW: what may stand in its answer."""


@dataclass(frozen=True, slots=True)
class ColumnLineage:
    """One output column and the base columns that it depends on; `unknown` means: assume all."""

    output: str
    sources: tuple[tuple[TableName, str], ...]
    unknown: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Everything that is known about a statement before it runs.

    `rewritten` is the exact text that will be executed; None when the decision is deny.
    `statement` is None when the text could not be understood at all.
    """

    decision: Decision
    statement: Statement | None
    rewritten: str | None
    lineage: tuple[ColumnLineage, ...] = ()
    columns: tuple[tuple[TableName, tuple[str, ...]], ...] = ()
    """The columns of each table that the statement reads anywhere, predicates and joins included."""
    elapsed_us: int = 0


class Scope(StrEnum):
    """For how long a minted user serves: a client's session, or one of its statements."""

    SESSION = "session"
    STATEMENT = "statement"


@dataclass(frozen=True, slots=True)
class RoleBinding:
    """Which Snowflake role a caller becomes, and which Vault role mints the user for it."""

    vault_role: str
    snowflake_role: str
    warehouse: str | None = None
    scope: Scope = Scope.SESSION


class LeaseState(StrEnum):
    MINTING = "minting"  # asked for: whether there is a user is not known yet
    ACTIVE = "active"
    PENDING = "pending"  # revocation asked for or due, not yet confirmed: the sweeper's list
    GONE = "gone"  # confirmed: Snowflake no longer knows the user


@dataclass(frozen=True, slots=True)
class Lease:
    """A minted Snowflake user. The private key never leaves the process that asked for it.

    While it is being minted, `snowflake_user` is what its name will begin with, and `lease_id` Hoop's own.
    """

    lease_id: str
    snowflake_user: str
    role: RoleBinding
    session_id: str
    created_at: datetime
    expires_at: datetime
    public_key_fingerprint: str
    private_key: bytes = field(repr=False, default=b"")
    account: str = ""
    """Key of the Snowflake account (`account_key`)."""
    accessor: str = field(repr=False, default="")
    """Of the Vault token that it hangs on: what ends it when Vault's answer was lost."""


Json = dict[str, Any]
