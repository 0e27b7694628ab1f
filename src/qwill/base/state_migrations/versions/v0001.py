"""The node's own id, the outbox, API keys and who changed them."""

import sqlalchemy as sa
from alembic import op

from qwill.base.ids import uuid7
from qwill.base.state_migrations.columns import row_columns

revision, down_revision = "0001", None


def upgrade() -> None:
    node = op.create_table("node", sa.Column("id", sa.String(36), primary_key=True))
    op.bulk_insert(node, [{"id": uuid7()}])
    op.create_table(
        "outbox",
        sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("table_name", sa.String(63), nullable=False),
        sa.Column("row_id", sa.String(36), nullable=False),
        sa.Column("operation", sa.String(6), nullable=False),
        sa.Column("payload", sa.JSON(none_as_null=True)),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_row", "outbox", ["row_id"])
    op.create_table(
        "api_keys",
        *row_columns(),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("start", sa.String(20), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("limits", sa.JSON, nullable=False),
        sa.Column("expires", sa.BigInteger),
    )
    op.create_table(
        "audit",
        *row_columns(),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("subject", sa.String(36), nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
    )
