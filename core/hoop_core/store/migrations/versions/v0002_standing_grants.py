"""standing grants: masking exceptions"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("approvals", schema=None) as batch_op:
        batch_op.add_column(sa.Column("scope", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("revocation", sa.JSON(none_as_null=True), nullable=True))
        batch_op.create_index(batch_op.f("ix_approvals_scope"), ["scope"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("approvals", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_approvals_scope"))
        batch_op.drop_column("revocation")
        batch_op.drop_column("scope")
