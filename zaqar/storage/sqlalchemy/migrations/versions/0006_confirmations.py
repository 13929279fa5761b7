# SPDX-License-Identifier: Apache-2.0
"""How often a subscriber was asked to confirm, and pauses between two times.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("subscriptions", sa.Column("challenge", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "pauses",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("ends", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_pauses"),
    )
    op.create_index("ix_pauses_ends", "pauses", ["ends"])


def downgrade() -> None:
    op.drop_table("pauses")
    op.drop_column("subscriptions", "challenge")
