# SPDX-License-Identifier: Apache-2.0
"""Indexes that count the subscriptions of a queue and of a project.

Revision ID: 0012
Revises: 0011
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in ("queue_uid", "project"):
        op.create_index(f"ix_subscriptions_{column}_expires", "subscriptions", [column, "expires"])


def downgrade() -> None:
    for column in ("queue_uid", "project"):
        op.drop_index(f"ix_subscriptions_{column}_expires", "subscriptions")
