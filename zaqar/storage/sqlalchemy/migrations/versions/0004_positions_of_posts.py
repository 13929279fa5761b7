# SPDX-License-Identifier: Apache-2.0
"""How far each post of the outbox is expanded into deliveries.

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Without a default, so that neither database writes the rows that are there.
    op.add_column("outbox", sa.Column("expanded", sa.Text))


def downgrade() -> None:
    # Posts that are expanded in part begin anew: deliveries that are stored still are not made again.
    op.drop_column("outbox", "expanded")
