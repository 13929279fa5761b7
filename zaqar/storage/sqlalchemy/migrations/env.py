# SPDX-License-Identifier: Apache-2.0
"""Runs a command of alembic on the connection it was given, in the transaction that the caller began."""

from alembic import context

from zaqar.storage.sqlalchemy.schema import metadata, postgresql_metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=[metadata, postgresql_metadata] if connection.dialect.name == "postgresql" else metadata,
    # SQLite changes a table by making it anew.
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
