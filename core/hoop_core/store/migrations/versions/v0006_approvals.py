"""approvals: impact, emergencies, uses; people before the pages; notifications"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

from hoop_core.store.tables import UtcDateTime

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    columns: tuple[sa.Column[Any], ...] = (
        sa.Column("kind", sa.String(length=64), server_default="", nullable=False),
        sa.Column("impact", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("break_glass", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("emergency", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("review_open", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("uses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("reminded_at", UtcDateTime(), nullable=True),
    )
    for column in columns:
        op.add_column("approvals", column)
    _kinds()
    op.create_index(op.f("ix_approvals_review_open"), "approvals", ["review_open"])
    op.create_index("ix_approvals_newest", "approvals", ["created_at", "id"])
    told_of = sa.text("substr(kind, 1, 9) = 'approval.'")
    op.create_index(
        "ix_log_entries_told",
        "log_entries",
        ["seq"],
        sqlite_where=told_of,
        postgresql_where=told_of,
    )
    op.create_table(
        "web_sessions",
        sa.Column("handle", sa.String(length=64), nullable=False),
        sa.Column("identity", sa.JSON(), nullable=False),
        sa.Column("body", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("handle", name=op.f("pk_web_sessions")),
    )
    op.create_index(op.f("ix_web_sessions_expires_at"), "web_sessions", ["expires_at"])
    op.create_table(
        "pending_answers",
        sa.Column("handle", sa.String(length=64), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("handle", name=op.f("pk_pending_answers")),
    )
    op.create_index(op.f("ix_pending_answers_expires_at"), "pending_answers", ["expires_at"])
    op.create_table(
        "notification_cursors",
        sa.Column("channel", sa.String(length=255), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", UtcDateTime(), nullable=True),
        sa.Column("owner", sa.String(length=64), nullable=True),
        sa.Column("claimed_until", UtcDateTime(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("channel", name=op.f("pk_notification_cursors")),
    )
    _airflow()


def _kinds() -> None:
    """What was asked before has its kind in its body only, and lists are made by kind.

    PostgreSQL looks into no JSON with an escaped NUL (https://www.postgresql.org/docs/current/datatype-json.html).
    """
    connection = op.get_bind()
    body: sa.ColumnElement[Any] = sa.column("body", sa.JSON())
    if connection.dialect.name != "sqlite":
        body = sa.cast(sa.func.replace(sa.cast(body, sa.Text()), r"\u0000", r"\u0001"), sa.JSON())
    approvals = sa.table("approvals", sa.column("kind", sa.String()))
    kind = sa.func.substr(body["kind"].as_string(), 1, 64)
    connection.execute(sa.update(approvals).values(kind=sa.func.coalesce(kind, "")))


def _airflow() -> None:
    op.create_table(
        "airflow_actions",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("instance", sa.String(length=255), nullable=False),
        sa.Column("place", sa.JSON(), nullable=False),
        sa.Column("requester_key", sa.String(length=1024), nullable=False),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("parked_at", UtcDateTime(), nullable=False),
        sa.Column("waiting_since", UtcDateTime(), nullable=True),
        sa.Column("seen", sa.String(length=64), nullable=True),
        sa.Column("said", sa.Text(), nullable=True),
        sa.Column("next_at", UtcDateTime(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_airflow_actions")),
    )
    op.create_index("ix_airflow_actions_due", "airflow_actions", ["open", "next_at"])
    op.create_table(
        "airflow_action_approvals",
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("approval", sa.String(length=64), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("noticed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("action", "approval", name=op.f("pk_airflow_action_approvals")),
    )
    op.create_index(
        op.f("ix_airflow_action_approvals_approval"), "airflow_action_approvals", ["approval"]
    )


def downgrade() -> None:
    for table in ("airflow_action_approvals", "airflow_actions"):
        op.drop_table(table)
    for table in ("notification_cursors", "pending_answers", "web_sessions"):
        op.drop_table(table)
    op.drop_index("ix_approvals_newest", "approvals")
    op.drop_index(op.f("ix_approvals_review_open"), "approvals")
    op.drop_index("ix_log_entries_told", "log_entries")
    for column in (
        "reminded_at",
        "uses",
        "review_open",
        "emergency",
        "break_glass",
        "impact",
        "kind",
    ):
        op.drop_column("approvals", column)
