# SPDX-License-Identifier: Apache-2.0
"""Trace contexts of dead letters on their way to another store.

Revision ID: 0010
Revises: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default, so that neither database writes the rows that are there.
    op.add_column("set_aside", sa.Column("trace", sa.Text))


def downgrade() -> None:
    op.drop_column("set_aside", "trace")
