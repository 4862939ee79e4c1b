"""the log's signed head, the time of each entry, and how far checkpoints were published"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from hoop_core.store.tables import UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_Big = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_BEGINNING = '{"at":"'


def upgrade() -> None:
    op.add_column(
        "log_entries", sa.Column("at", sa.String(length=32), nullable=False, server_default="")
    )
    # Canonical JSON: the time is what every entry begins with.
    entries = sa.table("log_entries", sa.column("at", sa.String()), sa.column("entry", sa.Text()))
    told = sa.func.substr(entries.c.entry, len(_BEGINNING) + 1, 27)
    op.execute(
        sa.update(entries)
        .values(at=told)
        .where(sa.func.substr(entries.c.entry, 1, len(_BEGINNING)) == _BEGINNING)
    )
    op.create_table(
        "log_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("size", _Big, nullable=False),
        sa.Column("subtrees", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("checkpoints", sa.String(length=64), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_log_head")),
    )
    op.create_table(
        "log_subtrees",
        sa.Column("number", _Big, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_log_subtrees")),
    )
    op.create_table(
        "log_witnesses",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("size", _Big, nullable=False),
        sa.Column("published_at", UtcDateTime(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("cosigned", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_log_witnesses")),
    )


def downgrade() -> None:
    for table in ("log_witnesses", "log_subtrees", "log_head"):
        op.drop_table(table)
    op.drop_column("log_entries", "at")
