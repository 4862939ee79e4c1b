"""The tables. `store/migrations` creates them; a test holds the two equal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time on every database; SQLite alone would lose the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite gives only INTEGER PRIMARY KEY its row-id form.
_Big = BigInteger().with_variant(Integer, "sqlite")

log_entries = Table(
    "log_entries",
    metadata,
    Column("seq", _Big, primary_key=True, autoincrement=False),
    Column("kind", String(64), nullable=False),
    Column("session_id", String(64), index=True),
    Column("entry", Text, nullable=False),
    Column("leaf", LargeBinary(32), nullable=False),
    # As in the entry (RFC 3339, microseconds, Z): what is asked for a time need not be read first.
    Column("at", String(32), nullable=False, server_default=""),
)
"""An entry whose time to be kept is over is the empty text; its leaf stays."""
TOLD_OF = text("(substr(kind, 1, 9) = 'approval.' OR kind = 'reconcile.unexplained')")
"""What notifications tell of. In these very words, or the index is not used; LIKE and < depend on the collation."""
# Few entries are of these kinds, so the index costs the others nothing.
Index("ix_log_entries_told", log_entries.c.seq, sqlite_where=TOLD_OF, postgresql_where=TOLD_OF)

log_checkpoints = Table(
    "log_checkpoints",
    metadata,
    Column("size", _Big, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
    Column("signed_at", UtcDateTime, nullable=False),
)

# The one row of audit/head.py.
log_head = Table(
    "log_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("size", _Big, nullable=False),
    Column("subtrees", LargeBinary, nullable=False),
    Column("at", String(32), nullable=False),
    Column("checkpoints", String(64), nullable=False),
    Column("note", Text, nullable=False),
    Column("writer", Text, nullable=False),
)

# Roots of full runs of leaves, so that a proof need not read them all. Nothing rests on these: proofs are checked.
log_subtrees = Table(
    "log_subtrees",
    metadata,
    Column("number", _Big, primary_key=True, autoincrement=False),
    Column("root", LargeBinary(32), nullable=False),
)

# How far the log's checkpoints were told to others, and which replica does it now.
log_witnesses = Table(
    "log_witnesses",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("size", _Big, nullable=False),
    Column("published_at", UtcDateTime),
    Column("last_error", Text),
    # What it said of the last one: the signed note, perhaps with the witness's own signature.
    Column("cosigned", Text),
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("identity_key", String(1024), nullable=False, index=True),
    Column("body", JSON, nullable=False),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("closed_at", UtcDateTime),
    Column("close_reason", String(64)),
    Column("account", String(255), nullable=False, server_default=""),
    # The replica that holds the session, and SHA-256 of the two handles in force: any replica finds it by them.
    Column("owner", String(64), index=True),
    Column("token_digest", String(64), index=True, unique=True),
    Column("master_digest", String(64), index=True, unique=True),
)

replicas = Table(
    "replicas",
    metadata,
    # A new id at every start: what an earlier process of the same name held is nobody's any more.
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False, index=True),
    Column("url", String(1024), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
)

seen_tokens = Table(
    "seen_tokens",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# Browsers on their way to an identity provider and back; whoever waits for one may reach another replica.
browser_sign_ins = Table(
    "browser_sign_ins",
    metadata,
    # SHA-256 of what travels with the browser, of the waiting program's proof key, of the token that it gets.
    Column("handle", String(64), primary_key=True),
    Column("proof_key", String(64), nullable=False),
    Column("ticket", String(64), index=True, unique=True),
    Column("port", Integer, nullable=False),
    Column("provider", String(1024)),
    Column("request", JSON(none_as_null=True)),
    Column("identity", JSON(none_as_null=True)),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("binding", String(64), nullable=False, index=True),
    Column("requester_key", String(1024), nullable=False),
    Column("status", String(16), nullable=False, index=True),
    Column("approvers", JSON, nullable=False),
    Column("quorum", Integer, nullable=False),
    Column("body", JSON, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("pending_until", UtcDateTime, nullable=False),
    Column("valid_seconds", Integer, nullable=False),
    Column("valid_until", UtcDateTime),
    Column("consumed_at", UtcDateTime),
    # A standing grant holds for everything of one scope until it ends; NULL: for one use.
    Column("scope", String(64), index=True),
    Column("revocation", JSON(none_as_null=True)),
    # The kind of the statement, `masking_exception` or `standing_approval`.
    Column("kind", String(64), nullable=False, server_default=""),
    Column("impact", JSON(none_as_null=True)),
    # Which groups may break the glass; who did; whether somebody still has to look at that.
    Column("break_glass", JSON(none_as_null=True)),
    Column("emergency", JSON(none_as_null=True)),
    Column("review_open", Boolean, nullable=False, server_default=false(), index=True),
    # Of a standing approval: how often it was used.
    Column("uses", Integer, nullable=False, server_default="0"),
    # When people were last reminded that it waits for an answer, or for a review.
    Column("reminded_at", UtcDateTime),
)
Index("ix_approvals_newest", approvals.c.created_at, approvals.c.id)
# At most one open question per binding, also between replicas that ask at the same moment.
Index(
    "ux_approvals_open",
    approvals.c.binding,
    unique=True,
    sqlite_where=approvals.c.status.in_(["pending", "approved"]),
    postgresql_where=approvals.c.status.in_(["pending", "approved"]),
)

answers = Table(
    "answers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("approval_id", String(64), ForeignKey("approvals.id"), nullable=False, index=True),
    Column("approver_key", String(1024), nullable=False),
    Column("approver", JSON, nullable=False),
    Column("verdict", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("answered_at", UtcDateTime, nullable=False),
    UniqueConstraint("approval_id", "approver_key", name="uq_answers_one_per_person"),
)

# People in front of the pages. SHA-256 of what their browsers hold.
web_sessions = Table(
    "web_sessions",
    metadata,
    Column("handle", String(64), primary_key=True),
    Column("identity", JSON, nullable=False),
    Column("body", JSON(none_as_null=True)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# An answer that waits until its giver has proven once more who they are.
pending_answers = Table(
    "pending_answers",
    metadata,
    Column("handle", String(64), primary_key=True),
    Column("body", JSON, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

# How far each channel has told of the log, and which replica does it now.
notification_cursors = Table(
    "notification_cursors",
    metadata,
    Column("channel", String(255), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("next_at", UtcDateTime),
    Column("owner", String(64)),
    Column("claimed_until", UtcDateTime),
    Column("last_error", Text),
)

# What stands in an Airflow's Required Actions: as Hoop has written it, and how far it has been followed.
airflow_actions = Table(
    "airflow_actions",
    metadata,
    # SHA-256 of the instance and of the task instance.
    Column("key", String(64), primary_key=True),
    Column("instance", String(255), nullable=False),
    Column("place", JSON, nullable=False),
    Column("requester_key", String(1024), nullable=False),
    Column("shown", JSON, nullable=False),
    # False: nothing is left to be told to Airflow, or read from it.
    Column("open", Boolean, nullable=False),
    Column("parked_at", UtcDateTime, nullable=False),
    # When it was first seen to wait since then; NULL: not yet.
    Column("waiting_since", UtcDateTime),
    # SHA-256 of the answer that was read last, and what came of it.
    Column("seen", String(64)),
    Column("said", Text),
    Column("next_at", UtcDateTime, nullable=False),
    Column("failures", Integer, nullable=False, server_default="0"),
    Index("ix_airflow_actions_due", "open", "next_at"),
)

airflow_action_approvals = Table(
    "airflow_action_approvals",
    metadata,
    Column("action", String(64), primary_key=True),
    Column("approval", String(64), primary_key=True, index=True),
    # Which of them stands where in what is shown.
    Column("position", Integer, nullable=False),
    # Whether the bridge has seen that it was decided.
    Column("noticed", Boolean, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("lease_id", String(512), primary_key=True),
    Column("snowflake_user", String(255), nullable=False, index=True),
    Column("session_id", String(64), nullable=False, index=True),
    Column("vault_role", String(255), nullable=False),
    Column("snowflake_role", String(255), nullable=False),
    Column("public_key_fingerprint", String(128), nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("confirmed_at", UtcDateTime),
    Column("last_error", Text),
    Column("account", String(255), nullable=False, server_default=""),
    # The replica that uses it. While `claimed_until` lies ahead, that replica is busy ending it.
    Column("owner", String(64), index=True),
    Column("claimed_until", UtcDateTime),
    Column("accessor", String(255), nullable=False, server_default=""),
)

# Up to when an account's histories at Snowflake were compared with the log, and which replica does it now.
reconciled = Table(
    "reconciled",
    metadata,
    Column("account", String(255), primary_key=True),
    Column("until", UtcDateTime),
    Column("owner", String(64)),
    Column("claimed_until", UtcDateTime),
)

# What must be kept whatever its class says; lifted ones stay, for people to see.
legal_holds = Table(
    "legal_holds",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("reason", Text, nullable=False),
    Column("scope", JSON, nullable=False),
    Column("placed_by", String(255), nullable=False),
    Column("placed_at", UtcDateTime, nullable=False),
    Column("lifted_at", UtcDateTime),
)

# Recordings that a purge record names, until they are gone.
purges = Table(
    "purges",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("recordings", JSON, nullable=False),
    Column("done_at", UtcDateTime),
)

# How far the log is in Parquet files. `until` is what is being written: whoever comes next writes the same again.
lake_progress = Table(
    "lake_progress",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("seq", _Big, nullable=False),
    Column("until", _Big),
    Column("owner", String(64)),
    Column("claimed_until", UtcDateTime),
)
