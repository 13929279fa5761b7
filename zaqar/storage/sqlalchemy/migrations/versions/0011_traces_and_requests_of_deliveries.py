# SPDX-License-Identifier: Apache-2.0
"""Trace contexts of deliveries, and the requests that posted their messages.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default, so that neither database writes the rows that are there.
    op.add_column("deliveries", sa.Column("trace", sa.Text))
    op.add_column("deliveries", sa.Column("request_id", sa.Text))


def downgrade() -> None:
    op.drop_column("deliveries", "request_id")
    op.drop_column("deliveries", "trace")
