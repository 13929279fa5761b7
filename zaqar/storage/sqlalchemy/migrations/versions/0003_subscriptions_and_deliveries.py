# SPDX-License-Identifier: Apache-2.0
"""Subscriptions, the outbox and deliveries.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "subscriptions",
        sa.Column("queue_uid", sa.Text, nullable=False),
        sa.Column("id", _NAME, nullable=False),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("subscriber", sa.Text, nullable=False),
        sa.Column("ttl", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("secrets", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("queue_uid", "id", name="pk_subscriptions"),
        sa.UniqueConstraint("queue_uid", "subscriber", name="uq_subscriptions_queue_uid_subscriber"),
    )
    op.create_index("ix_subscriptions_expires", "subscriptions", ["expires"])
    op.create_table(
        "outbox",
        sa.Column("uid", _NAME, nullable=False),
        sa.Column("first", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("due", sa.Double, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("uid", "first", name="pk_outbox"),
        sqlite_with_rowid=False,
    )
    _create_deliveries()
    if op.get_bind().dialect.name == "postgresql":
        # Rows come and go, so what counts is how many died, not which part of the table; see 0002.
        for table, dead in (("outbox", 1000), ("deliveries", 5000)):
            op.execute(
                f"ALTER TABLE {table} SET (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = {dead}, "
                f"autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = {2 * dead}, "
                "autovacuum_vacuum_cost_delay = 0)"
            )


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", _NUMBER, autoincrement=True, nullable=False),
        sa.Column("uid", sa.Text, nullable=False),
        sa.Column("subscription", _NAME, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("ttl", sa.BigInteger, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("due", sa.Double, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Text, nullable=False),
        sa.Column("keep_until", sa.Double),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        sa.UniqueConstraint("uid", "subscription", "number", name="uq_deliveries_uid_subscription_number"),
    )
    for name, columns, condition in (
        ("waiting", ["subscription", "due", "number", "uid"], "state = 0"),
        ("settled", ["subscription", "state", "number", "uid"], "state != 0"),
        ("keep_until", ["keep_until"], "keep_until IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(f"ix_deliveries_{name}", "deliveries", columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for table in ("deliveries", "outbox", "subscriptions"):
        op.drop_table(table)
