"""What every table of state begins with, as migrations create it."""

from __future__ import annotations

import sqlalchemy as sa


def row_columns() -> list[sa.Column]:
    """As in state_rows.table(): part of released migrations, so never changed."""
    return [
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("origin", sa.String(36), nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("changed", sa.BigInteger, nullable=False),
        sa.Column("deleted", sa.BigInteger),
    ]
