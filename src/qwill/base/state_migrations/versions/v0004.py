"""Battles of several turns: what was asked and answered before the turn that `reply_a` and `reply_b` belong to."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    op.add_column("battles", sa.Column("earlier", sa.JSON, nullable=False, server_default="[]"))
