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
    if op.get_bind().dialect.name == "postgresql":
        _make_fit_for_postgresql()


def _make_fit_for_postgresql() -> None:
    op.create_table(
        "tallies",
        sa.Column("segment", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("slot", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("ready", sa.BigInteger, nullable=False),
        sa.Column("claimed", sa.BigInteger, nullable=False),
        sa.Column("delayed", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("segment", "slot", name="pk_tallies"),
    )
    # Rows that change with each post or claim, in none of their indexed columns: with room on their page the new
    # version stays there, no index is touched, and the next visitor of the page removes the old one.
    for table in ("fences", "tallies"):
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 40)")
    # Queues turn all their rows over again and again, so what counts is how many died, not which part of the table.
    for table, dead in (("messages", 5000), ("claims", 2000), ("fences", 1000), ("tallies", 1000)):
        op.execute(
            f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = {dead}, "
            f"autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = {2 * dead}, "
            "autovacuum_vacuum_cost_delay = 0)"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_table("tallies")
    for table in ("received", "set_aside", "catalog"):
        op.drop_table(table)
    op.drop_index("ix_queues_pool", "queues")
