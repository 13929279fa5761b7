# SPDX-License-Identifier: Apache-2.0
"""Tombstones of dropped subscriptions and queues, for their posts and deliveries.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "dropped",
        sa.Column("uid", _NAME, nullable=False),
        sa.Column("subscription", _NAME, nullable=False),
        sa.Column("sweep_at", sa.Double, nullable=False),
        sa.Column("forget_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("uid", "subscription", name="pk_dropped"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_dropped_sweep_at", "dropped", ["sweep_at"])
    # What was left of queues that were dropped before goes too.
    op.execute("INSERT INTO dropped SELECT uid, '', 0, forget_at FROM fences WHERE forget_at IS NOT NULL")


def downgrade() -> None:
    op.drop_table("dropped")
