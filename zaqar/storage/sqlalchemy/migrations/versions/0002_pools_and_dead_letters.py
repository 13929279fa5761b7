# SPDX-License-Identifier: Apache-2.0
"""Pools and flavors, and dead letters on their way to another store.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    placed = sa.text("pool IS NOT NULL")
    op.create_index("ix_queues_pool", "queues", ["pool"], sqlite_where=placed, postgresql_where=placed)
    op.create_table(
        "catalog",
        sa.Column("id", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_catalog"),
    )
    op.create_table(
        "set_aside",
        sa.Column("segment", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("claim_count", sa.Integer, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("checksum", sa.Text),
        sa.Column("origin_queue", sa.Text),
        sa.Column("origin_id", sa.Text),
        sa.Column("origin_claim_count", sa.Integer),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("segment", "sequence", name="pk_set_aside"),
    )
    op.create_table(
        "received",
        sa.Column("uid", sa.Text, nullable=False),
        sa.Column("message_id", sa.Text, nullable=False),
        sa.Column("forget_at", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("uid", "message_id", name="pk_received"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_received_forget_at", "received", ["forget_at"])


def downgrade() -> None:
    for table in ("received", "set_aside", "catalog"):
        op.drop_table(table)
    op.drop_index("ix_queues_pool", "queues")
