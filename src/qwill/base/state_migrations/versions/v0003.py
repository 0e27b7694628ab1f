"""The arena's battles, the log of its votes, and secrets of this database that no other node is told."""

import sqlalchemy as sa
from alembic import op

from qwill.base.state_migrations.columns import row_columns

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("value", sa.String(128), nullable=False),
    )
    op.create_table(
        "battles",
        *row_columns(),
        sa.Column("asker", sa.String(40), nullable=False),
        sa.Column("language", sa.String(16), nullable=False),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("model_a", sa.Text, nullable=False),
        sa.Column("model_b", sa.Text, nullable=False),
        sa.Column("reply_a", sa.JSON(none_as_null=True)),
        sa.Column("reply_b", sa.JSON(none_as_null=True)),
    )
    op.create_index("battles_asker", "battles", ["tenant", "asker"])
    op.create_table(
        "votes",
        *row_columns(),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("battle", sa.String(36), sa.ForeignKey("battles.id")),
        sa.Column("voter", sa.String(40)),
        sa.Column("outcome", sa.String(8)),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("erases", sa.String(36)),
        sa.Column("salt", sa.String(32)),
        sa.Column("commitment", sa.String(64), nullable=False),
        sa.Column("chain", sa.String(64), nullable=False),
        sa.UniqueConstraint("tenant", "sequence", name="votes_sequence"),
        sa.UniqueConstraint("battle", "voter", name="votes_once"),
    )
    op.create_index("votes_voter", "votes", ["tenant", "voter"])
