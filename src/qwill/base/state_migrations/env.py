"""What alembic runs to migrate: on the connection, and inside the transaction, that state.py gives it."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"], version_table=context.config.attributes["version_table"]
)
context.run_migrations()
