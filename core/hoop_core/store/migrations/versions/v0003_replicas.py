"""replicas, accounts, and tokens that were seen"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hoop_core.store.tables import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "replicas",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("url", sa.String(length=1024), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replicas")),
    )
    op.create_index(op.f("ix_replicas_name"), "replicas", ["name"], unique=False)
    op.create_table(
        "seen_tokens",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_seen_tokens")),
    )
    op.create_index(op.f("ix_seen_tokens_expires_at"), "seen_tokens", ["expires_at"], unique=False)
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("account", sa.String(length=255), nullable=False, server_default="")
        )
        batch_op.add_column(sa.Column("owner", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("token_digest", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("master_digest", sa.String(length=64), nullable=True))
        batch_op.create_index(batch_op.f("ix_sessions_owner"), ["owner"], unique=False)
        batch_op.create_index(batch_op.f("ix_sessions_token_digest"), ["token_digest"], unique=True)
        batch_op.create_index(
            batch_op.f("ix_sessions_master_digest"), ["master_digest"], unique=True
        )
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("account", sa.String(length=255), nullable=False, server_default="")
        )
        batch_op.add_column(sa.Column("owner", sa.String(length=64), nullable=True))
        batch_op.create_index(batch_op.f("ix_leases_owner"), ["owner"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_leases_owner"))
        batch_op.drop_column("owner")
        batch_op.drop_column("account")
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        for index in ("master_digest", "token_digest", "owner"):
            batch_op.drop_index(batch_op.f(f"ix_sessions_{index}"))
        for column in ("master_digest", "token_digest", "owner", "account"):
            batch_op.drop_column(column)
    op.drop_table("seen_tokens")
    op.drop_table("replicas")
