# SPDX-License-Identifier: Apache-2.0
"""Trace contexts of messages and deliveries, and indexes that count subscriptions.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default, so that neither database writes the rows that are there.
    op.add_column("messages", sa.Column("trace", sa.Text))
    op.add_column("set_aside", sa.Column("trace", sa.Text))
    op.add_column("deliveries", sa.Column("trace", sa.Text))
    op.add_column("deliveries", sa.Column("request_id", sa.Text))
    for column in ("queue_uid", "project"):
        op.create_index(f"ix_subscriptions_{column}_expires", "subscriptions", [column, "expires"])


def downgrade() -> None:
    for column in ("queue_uid", "project"):
        op.drop_index(f"ix_subscriptions_{column}_expires", "subscriptions")
    for table, column in (
        ("deliveries", "request_id"),
        ("deliveries", "trace"),
        ("set_aside", "trace"),
        ("messages", "trace"),
    ):
        op.drop_column(table, column)
