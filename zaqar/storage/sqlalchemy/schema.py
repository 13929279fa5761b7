# SPDX-License-Identifier: Apache-2.0
"""The tables of both stores, and why each index is there. Times are seconds since the epoch."""

from __future__ import annotations

import sqlalchemy as sa

_NAMES = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}
metadata = sa.MetaData(naming_convention=_NAMES)
postgresql_metadata = sa.MetaData(naming_convention=_NAMES)
"""Tables that only PostgreSQL has."""

# SQLite numbers rows only in a column declared INTEGER.
_Number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# Names are ordered by code point on every database.
_Name = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

queues = sa.Table(
    "queues",
    metadata,
    sa.Column("uid", sa.Text, primary_key=True),
    sa.Column("project", _Name, nullable=False),
    sa.Column("kind", _Name, nullable=False),
    sa.Column("name", _Name, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("pool", sa.Text),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("notify", sa.Boolean, nullable=False),
    sa.UniqueConstraint("project", "kind", "name"),
)
_placed = queues.c.pool.is_not(None)
sa.Index("ix_queues_pool", queues.c.pool, sqlite_where=_placed, postgresql_where=_placed)

# One row, once there is a pool or a flavor.
catalog = sa.Table(
    "catalog",
    metadata,
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
)

# Messages and claims belong to a segment, not to a queue. A purge gives the queue a new segment and a drop takes the
# segment away, in one small step however much it holds. Numbers are never used twice (AUTOINCREMENT).
segments = sa.Table(
    "segments",
    metadata,
    sa.Column("id", _Number, primary_key=True, autoincrement=True),
    sqlite_autoincrement=True,
)

# Segments that no fence names any more; their rows wait to be removed in batches.
garbage = sa.Table("garbage", metadata, sa.Column("segment", sa.BigInteger, primary_key=True, autoincrement=False))

# One row per queue: with a segment it is the fence in force, with ``forget_at`` the tombstone of a dropped queue.
# ``ready``, ``claimed`` and ``delayed`` count the rows of the segment by stored state, exactly, in every transaction.
# No READY row with a number below ``ready_from`` is alive, by the clock of any host. Searches begin there, after the
# messages that have expired and wait for a sweep.
fences = sa.Table(
    "fences",
    metadata,
    sa.Column("uid", sa.Text, primary_key=True),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("next_sequence", sa.BigInteger, nullable=False),
    sa.Column("segment", sa.BigInteger),
    sa.Column("ready", sa.BigInteger, nullable=False),
    sa.Column("claimed", sa.BigInteger, nullable=False),
    sa.Column("delayed", sa.BigInteger, nullable=False),
    sa.Column("ready_from", sa.BigInteger, nullable=False),
    sa.Column("forget_at", sa.Double),
    sa.UniqueConstraint("segment"),
    sqlite_with_rowid=False,
)

# On PostgreSQL claims run beside each other and do not lock the fence. Claims, pops and deletes add to these counters
# instead of those of the fence. A connection has one of a few rows, by its process on the server, so that two
# transactions seldom wait for each other.
tallies = sa.Table(
    "tallies",
    postgresql_metadata,
    sa.Column("segment", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("slot", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("ready", sa.BigInteger, nullable=False),
    sa.Column("claimed", sa.BigInteger, nullable=False),
    sa.Column("delayed", sa.BigInteger, nullable=False),
)
_remembered = fences.c.forget_at.is_not(None)
sa.Index("ix_fences_forget_at", fences.c.forget_at, sqlite_where=_remembered, postgresql_where=_remembered)

# ``due`` is when a claim or a delay ends. A row is free if it is READY or if ``due <= now``, and gone from
# ``expires <= now`` on, whatever its state. So each timer acts at its moment. Making due rows READY and deleting
# expired ones only keeps the indexes short.
# ``trace`` is null in most rows. Then it takes one byte on SQLite, and on PostgreSQL a bit for which a row has room.
messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", _Number, primary_key=True, autoincrement=True),
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
    sa.Column("trace", sa.Text),
)
# Order within a state. A message is also found by its number through this one, with ``state IN (0, 1, 2)``: a unique
# index of (segment, sequence) would be one more b-tree, which costs a page in the log of each commit. ``expires`` lets
# a search pass expired rows without reading them.
sa.Index("ix_messages_order", messages.c.segment, messages.c.state, messages.c.sequence, messages.c.expires)
# To find messages that are due, and those that a claim holds: the end of the claim is the ``due`` of its messages.
sa.Index(
    "ix_messages_due",
    messages.c.segment,
    messages.c.due,
    messages.c.claim_id,
    sqlite_where=messages.c.state != sa.literal_column("0"),
    postgresql_where=messages.c.state != sa.literal_column("0"),
)
# To find expired messages. By segment first, so that no search reads the expired messages of other queues; a sweep
# goes from fence to fence.
sa.Index("ix_messages_expires", messages.c.segment, messages.c.expires)

claims = sa.Table(
    "claims",
    metadata,
    sa.Column("segment", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("claim_id", sa.Text, primary_key=True),
    sa.Column("ttl", sa.Integer, nullable=False),
    sa.Column("grace", sa.Integer, nullable=False),
    sa.Column("started", sa.Double, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sqlite_with_rowid=False,
)
sa.Index("ix_claims_expires", claims.c.expires)

# Dead letters on their way to another store: out of the messages, so that no timer, count or listing meets them.
set_aside = sa.Table(
    "set_aside",
    metadata,
    sa.Column("segment", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("created", sa.Double, nullable=False),
    sa.Column("claim_count", sa.Integer, nullable=False),
    sa.Column("client_id", sa.Text, nullable=False),
    sa.Column("checksum", sa.Text),
    sa.Column("origin_queue", sa.Text),
    sa.Column("origin_id", sa.Text),
    sa.Column("origin_claim_count", sa.Integer),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("trace", sa.Text),
)

# Dead letters of another store that a queue has received. By queue, not by segment: a purge does not make them new.
received = sa.Table(
    "received",
    metadata,
    sa.Column("uid", sa.Text, primary_key=True),
    sa.Column("message_id", sa.Text, primary_key=True),
    sa.Column("forget_at", sa.Double, nullable=False),
    sqlite_with_rowid=False,
)
sa.Index("ix_received_forget_at", received.c.forget_at)

# By the uid of the queue, so that a subscription cannot belong to a later queue of the same name.
subscriptions = sa.Table(
    "subscriptions",
    metadata,
    sa.Column("queue_uid", sa.Text, primary_key=True),
    sa.Column("id", _Name, primary_key=True),
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
    sa.Column("challenge", sa.BigInteger, nullable=False, server_default="0"),
    # One for each subscriber of a queue, also if two are made at the same time.
    sa.UniqueConstraint("queue_uid", "subscriber"),
)
# To find expired subscriptions of any queue.
sa.Index("ix_subscriptions_expires", subscriptions.c.expires)
# To count the subscriptions of a queue, or of a project, without reading those that have expired.
sa.Index("ix_subscriptions_queue_uid_expires", subscriptions.c.queue_uid, subscriptions.c.expires)
sa.Index("ix_subscriptions_project_expires", subscriptions.c.project, subscriptions.c.expires)

# Until when an action, named by the key, must not be repeated.
pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("ends", sa.Double, nullable=False),
)
sa.Index("ix_pauses_ends", pauses.c.ends)

# Keystone trusts that the service has made and not yet deleted.
trusts = sa.Table(
    "trusts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("queue_uid", sa.Text, nullable=False),
    sa.Column("subscription_id", sa.Text, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("due", sa.Double, nullable=False),
    sa.Column("attached", sa.Boolean, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
)
# To find trusts that are due; and those of a subscription, or of a whole queue, that is removed.
sa.Index("ix_trusts_due", trusts.c.due)
sa.Index("ix_trusts_queue_uid_subscription_id", trusts.c.queue_uid, trusts.c.subscription_id)

# Running processes that hold WebSocket connections. A condemned one has 0 as ``expires``, so its lease is over.
nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("machine", sa.Text, nullable=False),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("port", sa.Integer, nullable=False),
    sa.Column("socket", sa.Text, nullable=False),
    sa.Column("expires", sa.Double, nullable=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("condemned", sa.Boolean, nullable=False),
)
# To find nodes whose lease is over.
sa.Index("ix_nodes_expires", nodes.c.expires)

# Subscriptions of the connections of nodes.
node_subscriptions = sa.Table(
    "node_subscriptions",
    metadata,
    sa.Column("node_id", sa.Text, primary_key=True),
    sa.Column("queue_uid", sa.Text, primary_key=True),
    sa.Column("subscription_id", sa.Text, primary_key=True),
    sqlite_with_rowid=False,
)

# Posts whose deliveries are not made yet. ``due`` is when a post may be taken, which under a lease is when the lease
# ends. The primary key is the only index: posts are found queue after queue, and within a queue in their order. Posts
# with a lease are passed over and are few at any time; an index by ``due`` would be one more b-tree to write to.
outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("uid", _Name, primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("due", sa.Double, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    # The position as a JSON array; null for a new post.
    sa.Column("expanded", sa.Text),
    sqlite_with_rowid=False,
)

# Tombstones that hide posts and deliveries: of a subscription, or with ``subscription`` '' of a whole queue. From
# ``sweep_at`` on a sweep removes the hidden rows, and looks once more at ``forget_at``. The collation is that of the
# columns that the two are compared with, or the default, so that the primary key serves each comparison.
dropped = sa.Table(
    "dropped",
    metadata,
    sa.Column("uid", _Name, primary_key=True),
    sa.Column("subscription", _Name, primary_key=True),
    sa.Column("sweep_at", sa.Double, nullable=False),
    sa.Column("forget_at", sa.Double, nullable=False),
    sqlite_with_rowid=False,
)
sa.Index("ix_dropped_sweep_at", dropped.c.sweep_at)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("id", _Number, primary_key=True, autoincrement=True),
    sa.Column("uid", sa.Text, nullable=False),
    sa.Column("subscription", _Name, nullable=False),
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
    sa.Column("trace", sa.Text),
    # Null if the id of the request is unknown.
    sa.Column("request_id", sa.Text),
    # Each delivery is stored once, however often its post is expanded. Also for the log of one subscription.
    sa.UniqueConstraint("uid", "subscription", "number"),
)
# To go from one subscription with waiting deliveries to the next one, and to find the delivery that is due for longest
# in each, however many the others have. The last columns are there for counting without reading rows; ``state`` too,
# because SQLite reads it again.
_waiting = deliveries.c.state == sa.literal_column("0")
sa.Index(
    "ix_deliveries_waiting",
    deliveries.c.subscription,
    deliveries.c.due,
    deliveries.c.number,
    deliveries.c.uid,
    deliveries.c.state,
    sqlite_where=_waiting,
    postgresql_where=_waiting,
)
# To find the smallest waiting number of a subscription, however many deliveries are due earlier or are settled. All
# numbers meet the second condition. It is there so that the planner uses this index only for the one statement that has
# the same condition.
unsent = sa.and_(_waiting, deliveries.c.number >= sa.literal_column("0"))
sa.Index(
    "ix_deliveries_unsent",
    deliveries.c.subscription,
    deliveries.c.number,
    sqlite_where=unsent,
    postgresql_where=unsent,
)
# The log of deliveries that are done and of those that are dead, and the count of the dead. Waiting deliveries are not
# in it: most deliveries are made, sent and removed, and cost this index nothing.
_settled = deliveries.c.state != sa.literal_column("0")
sa.Index(
    "ix_deliveries_settled",
    deliveries.c.subscription,
    deliveries.c.state,
    deliveries.c.number,
    deliveries.c.uid,
    sqlite_where=_settled,
    postgresql_where=_settled,
)
# To find settled deliveries that were kept for long enough.
_kept = deliveries.c.keep_until.is_not(None)
sa.Index("ix_deliveries_keep_until", deliveries.c.keep_until, sqlite_where=_kept, postgresql_where=_kept)
