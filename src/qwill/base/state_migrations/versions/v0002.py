"""Conversations and their messages."""

import sqlalchemy as sa
from alembic import op

from qwill.base.state_migrations.columns import row_columns

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    op.create_table(
        "conversations",
        *row_columns(),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("settings", sa.JSON, nullable=False),
        sa.Column("search", sa.Text, nullable=False),
    )
    op.create_index("conversations_latest", "conversations", ["tenant", "changed", "id"])
    op.create_table(
        "messages",
        *row_columns(),
        sa.Column("conversation", sa.String(36), sa.ForeignKey("conversations.id"), nullable=False),
        sa.Column("parents", sa.JSON, nullable=False),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("message", sa.JSON, nullable=False),
        sa.Column("model", sa.Text),
        sa.Column("details", sa.JSON, nullable=False),
        sa.Column("search", sa.Text, nullable=False),
    )
    op.create_index("messages_conversation", "messages", ["conversation", "id"])
