# SPDX-License-Identifier: Apache-2.0
"""Trace contexts of messages.

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


def downgrade() -> None:
    op.drop_column("messages", "trace")
