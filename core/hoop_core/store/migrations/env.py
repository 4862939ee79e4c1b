"""Run by Alembic: the connection comes from `Store.migrate`, never from an ini file."""

from __future__ import annotations

from alembic import context

from hoop_core.store.store import WRITE
from hoop_core.store.tables import metadata

# Writing from its BEGIN on (SQLite): two processes that start together take turns.
connection = context.config.attributes["connection"].execution_options(**{WRITE: True})
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with connection.begin():
    context.config.attributes["begun"](connection)
    with context.begin_transaction():
        context.run_migrations()
