"""reconciling with Snowflake, legal holds, purges, and the Parquet files

Notifications tell of alerts, too, so the index that they are found by covers those.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hoop_core.store.tables import UtcDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_BEFORE = sa.text("substr(kind, 1, 9) = 'approval.'")
_NOW = sa.text("(substr(kind, 1, 9) = 'approval.' OR kind = 'reconcile.unexplained')")


def upgrade() -> None:
    op.create_table(
        "reconciled",
        sa.Column("account", sa.String(length=255), nullable=False),
        sa.Column("until", UtcDateTime(), nullable=True),
        sa.Column("owner", sa.String(length=64), nullable=True),
        sa.Column("claimed_until", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("account", name=op.f("pk_reconciled")),
    )
    op.create_table(
        "legal_holds",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("scope", sa.JSON(), nullable=False),
        sa.Column("placed_by", sa.String(length=255), nullable=False),
        sa.Column("placed_at", UtcDateTime(), nullable=False),
        sa.Column("lifted_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_legal_holds")),
    )
    op.create_table(
        "purges",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("recordings", sa.JSON(), nullable=False),
        sa.Column("done_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_purges")),
    )
    op.create_table(
        "lake_progress",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", _Big, nullable=False),
        sa.Column("until", _Big, nullable=True),
        sa.Column("owner", sa.String(length=64), nullable=True),
        sa.Column("claimed_until", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lake_progress")),
    )
    _told(_NOW)


def downgrade() -> None:
    _told(_BEFORE)
    for table in ("lake_progress", "purges", "legal_holds", "reconciled"):
        op.drop_table(table)


def _told(kinds: sa.TextClause) -> None:
    op.drop_index("ix_log_entries_told", "log_entries")
    op.create_index(
        "ix_log_entries_told",
        "log_entries",
        ["seq"],
        sqlite_where=kinds,
        postgresql_where=kinds,
    )
