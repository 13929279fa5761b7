# SPDX-License-Identifier: Apache-2.0
"""Keystone trusts that the service has made for subscriptions and is to delete one day.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "trusts",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("queue_uid", sa.Text, nullable=False),
        sa.Column("subscription_id", sa.Text, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("due", sa.Double, nullable=False),
        sa.Column("attached", sa.Boolean, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_trusts"),
    )
    op.create_index("ix_trusts_due", "trusts", ["due"])
    op.create_index("ix_trusts_queue_uid_subscription_id", "trusts", ["queue_uid", "subscription_id"])


def downgrade() -> None:
    op.drop_table("trusts")
