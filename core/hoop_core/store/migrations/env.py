"""Run by Alembic: the connection comes from `Store.migrate`, never from an ini file."""

from __future__ import annotations

from alembic import context

from hoop_core.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with connection.begin(), context.begin_transaction():
    context.run_migrations()
