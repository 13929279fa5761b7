# SPDX-License-Identifier: Apache-2.0
"""Queues, fences, messages and claims.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "queues",
        sa.Column("uid", sa.Text, nullable=False),
        sa.Column("project", _name, nullable=False),
        sa.Column("kind", _name, nullable=False),
        sa.Column("name", _name, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("pool", sa.Text),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("notify", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("uid", name="pk_queues"),
        sa.UniqueConstraint("project", "kind", "name", name="uq_queues_project_kind_name"),
    )
    op.create_table(
        "segments",
        sa.Column("id", _number, autoincrement=True, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_segments"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "garbage",
        sa.Column("segment", sa.BigInteger, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("segment", name="pk_garbage"),
    )
    _create_fences()
    _create_messages()
    _create_claims()


def _create_fences() -> None:
    op.create_table(
        "fences",
        sa.Column("uid", sa.Text, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("next_sequence", sa.BigInteger, nullable=False),
        sa.Column("segment", sa.BigInteger),
        sa.Column("ready", sa.BigInteger, nullable=False),
        sa.Column("claimed", sa.BigInteger, nullable=False),
        sa.Column("delayed", sa.BigInteger, nullable=False),
        sa.Column("ready_from", sa.BigInteger, nullable=False),
        sa.Column("forget_at", sa.Double),
        sa.PrimaryKeyConstraint("uid", name="pk_fences"),
        sa.UniqueConstraint("segment", name="uq_fences_segment"),
        sqlite_with_rowid=False,
    )
    remembered = sa.text("forget_at IS NOT NULL")
    op.create_index(
        "ix_fences_forget_at", "fences", ["forget_at"], sqlite_where=remembered, postgresql_where=remembered
    )


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("id", _number, autoincrement=True, nullable=False),
        sa.Column("segment", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("due", sa.Double),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("claim_id", sa.Text),
        sa.Column("claim_count", sa.Integer, nullable=False),
        sa.Column("client_id", sa.Text, nullable=False),
        sa.Column("checksum", sa.Text),
        sa.Column("origin_queue", sa.Text),
        sa.Column("origin_id", sa.Text),
        sa.Column("origin_claim_count", sa.Integer),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_messages"),
    )
    op.create_index("ix_messages_order", "messages", ["segment", "state", "sequence", "expires"])
    waiting = sa.text("state != 0")
    op.create_index(
        "ix_messages_due",
        "messages",
        ["segment", "due", "claim_id"],
        sqlite_where=waiting,
        postgresql_where=waiting,
    )
    op.create_index("ix_messages_expires", "messages", ["segment", "expires"])


def _create_claims() -> None:
    op.create_table(
        "claims",
        sa.Column("segment", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("claim_id", sa.Text, nullable=False),
        sa.Column("ttl", sa.Integer, nullable=False),
        sa.Column("grace", sa.Integer, nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("segment", "claim_id", name="pk_claims"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_claims_expires", "claims", ["expires"])


def downgrade() -> None:
    for table in ("claims", "messages", "fences", "garbage", "segments", "queues"):
        op.drop_table(table)
