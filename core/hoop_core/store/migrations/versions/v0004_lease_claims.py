"""leases: who is busy ending one, and what it hangs on before it is known"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hoop_core.store.tables import UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.add_column(sa.Column("claimed_until", UtcDateTime(), nullable=True))
        batch_op.add_column(
            sa.Column("accessor", sa.String(length=255), nullable=False, server_default="")
        )


def downgrade() -> None:
    with op.batch_alter_table("leases", schema=None) as batch_op:
        batch_op.drop_column("accessor")
        batch_op.drop_column("claimed_until")
