# SPDX-License-Identifier: Apache-2.0
"""Processes that hold WebSocket connections, and the order in which a subscription's deliveries are sent.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("port", sa.Integer, nullable=False),
        sa.Column("socket", sa.Text, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("condemned", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )
    op.create_index("ix_nodes_expires", "nodes", ["expires"])
    op.create_table(
        "node_subscriptions",
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("queue_uid", sa.Text, nullable=False),
        sa.Column("subscription_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("node_id", "queue_uid", "subscription_id", name="pk_node_subscriptions"),
        sqlite_with_rowid=False,
    )
    unsent = sa.text("state = 0 AND number >= 0")
    op.create_index(
        "ix_deliveries_unsent",
        "deliveries",
        ["subscription", "number"],
        sqlite_where=unsent,
        postgresql_where=unsent,
    )


def downgrade() -> None:
    op.drop_index("ix_deliveries_unsent", "deliveries")
    op.drop_table("node_subscriptions")
    op.drop_table("nodes")
