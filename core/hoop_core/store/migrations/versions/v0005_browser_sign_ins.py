"""browsers on their way to an identity provider"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hoop_core.store.tables import UtcDateTime

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "browser_sign_ins",
        sa.Column("handle", sa.String(length=64), nullable=False),
        sa.Column("proof_key", sa.String(length=64), nullable=False),
        sa.Column("ticket", sa.String(length=64), nullable=True),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("provider", sa.String(length=1024), nullable=True),
        sa.Column("request", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("identity", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("handle", name=op.f("pk_browser_sign_ins")),
    )
    op.create_index(
        op.f("ix_browser_sign_ins_expires_at"), "browser_sign_ins", ["expires_at"], unique=False
    )
    op.create_index(op.f("ix_browser_sign_ins_ticket"), "browser_sign_ins", ["ticket"], unique=True)


def downgrade() -> None:
    op.drop_table("browser_sign_ins")
