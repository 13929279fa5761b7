# SPDX-License-Identifier: Apache-2.0
"""The sweep of an SQL database: removing what is dead. No request waits for it.

Each step finds rows in a transaction that reads, and removes them in a short transaction that writes. A step that is
interrupted leaves the rest to the next sweep.
"""

from __future__ import annotations

from collections.abc import Callable

from zaqar.model import Swept
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.client.database import Connection
from zaqar.storage.sqlalchemy.core import BATCH, StoreCore, json_array
from zaqar.storage.sqlalchemy.queries import Queries

QUEUES_AT_ONCE = 50


class SweepQueries(Queries, file="sweep"):
    dropped_to_sweep: str
    ended_claims: str
    first_garbage: str
    look_again: str
    old_deliveries: str
    old_received: str
    old_tombstones: str
    ping: str
    remove_deliveries_of_queue: str
    remove_deliveries_of_subscription: str
    remove_dropped: str
    remove_ended_claim: str
    remove_old_deliveries: str
    remove_old_received: str
    remove_old_tombstone: str
    remove_posts_of_queue: str
    segments_with_expired: str


class Sweep:
    """The operations of a message store that concern all its queues."""

    def __init__(self, core: StoreCore) -> None:
        self._core = core
        self._sql = SweepQueries.of(core.database.dialect)
        self._swept = 0
        """The segment after which the sweep for expired messages goes on."""

    def ping(self) -> None:
        with self._core.database.read() as connection:
            connection.execute(self._sql.ping).fetchone()

    def sweep(self, now: float, limit: int) -> Swept:
        kinds = (
            self._sweep_messages,
            self._sweep_garbage,
            self._sweep_claims,
            self._sweep_received,
            self._sweep_tombstones,
            self._sweep_deliveries,
            self._sweep_dropped,
        )
        removed: list[int] = []
        for kind in kinds:
            # Each kind has a share, so that none waits for ever behind another of which there is always more.
            share = max(limit - sum(removed), -(-limit // len(kinds)))
            removed.append(self._sweep_kind(kind, now, share))
        return Swept(sum(removed), expired=removed[0])

    def _sweep_kind(self, kind: Callable[[float, int], int], now: float, limit: int) -> int:
        removed = 0
        while removed < limit and (more := self._sweep_batch(kind, now, min(BATCH, limit - removed))):
            removed += more
        return removed

    @retry_on_conflict
    def _sweep_batch(self, kind: Callable[[float, int], int], now: float, limit: int) -> int:
        """A conflict repeats one batch alone, so that the batches before count once."""
        return kind(now, limit)

    def _sweep_messages(self, now: float, limit: int) -> int:
        """Expired messages of the next queues that have some. 0 only after a look at all queues."""
        for after in (self._swept, 0):
            page = {"after": after, "now": now, "limit": QUEUES_AT_ONCE}
            with self._core.database.read() as connection:
                found = connection.execute(self._sql.segments_with_expired, page).fetchall()
            if found:
                removed, finished = self._core.remove_expired_in(found, now, limit)
                if finished is not None:
                    self._swept = finished
                return removed
        return 0

    def _sweep_garbage(self, now: float, limit: int) -> int:
        with self._core.database.read() as connection:
            row = connection.execute(self._sql.first_garbage).fetchone()
        return 0 if row is None else self._core.remove_garbage(row[0], limit=limit)

    def _sweep_claims(self, now: float, limit: int) -> int:
        with self._core.database.read() as connection:
            found = connection.execute(self._sql.ended_claims, {"now": now, "limit": limit}).fetchall()
        if not found:
            return 0
        with self._core.database.write as connection:
            ended = [{"segment": segment, "claim": claim_id, "now": now} for segment, claim_id in found]
            return connection.executemany(self._sql.remove_ended_claim, ended).rowcount

    def _sweep_received(self, now: float, limit: int) -> int:
        with self._core.database.read() as connection:
            found = connection.execute(self._sql.old_received, {"now": now, "limit": limit}).fetchall()
        if not found:
            return 0
        with self._core.database.write as connection:
            old = [{"uid": uid, "letter": letter, "now": now} for uid, letter in found]
            return connection.executemany(self._sql.remove_old_received, old).rowcount

    def _sweep_tombstones(self, now: float, limit: int) -> int:
        with self._core.database.read() as connection:
            found = connection.execute(self._sql.old_tombstones, {"now": now, "limit": limit}).fetchall()
        if not found:
            return 0
        with self._core.database.write as connection:
            old = [{"uid": uid, "now": now} for (uid,) in found]
            return connection.executemany(self._sql.remove_old_tombstone, old).rowcount

    def _sweep_deliveries(self, now: float, limit: int) -> int:
        with self._core.database.read() as connection:
            found = connection.execute(self._sql.old_deliveries, {"now": now, "limit": limit}).fetchall()
        if not found:
            return 0
        ids = json_array(number for (number,) in found)
        with self._core.database.write as connection:
            return connection.execute(self._sql.remove_old_deliveries, {"now": now, "ids": ids}).rowcount

    def _sweep_dropped(self, now: float, limit: int) -> int:
        """Posts and deliveries that tombstones hide. A tombstone counts too when nothing is left that it hides."""
        with self._core.database.read() as connection:
            found = connection.execute(self._sql.dropped_to_sweep, {"now": now, "limit": limit}).fetchall()
        if not found:
            return 0
        removed = 0
        with self._core.database.write as connection:
            for uid, subscription, forget_at in found:
                removed += self._remove_hidden(connection, uid, subscription, limit - removed)
                if removed >= limit:
                    break
                # The tombstone goes last. Until its end, an expansion that began before the drop may still store a
                # delivery; so it is looked at once more at its end before it is removed.
                tombstone = {"uid": uid, "subscription": subscription, "forget_at": forget_at}
                statement = self._sql.remove_dropped if forget_at <= now else self._sql.look_again
                connection.execute(statement, tombstone)
                removed += 1
        return removed

    def _remove_hidden(self, connection: Connection, uid: str, subscription: str, limit: int) -> int:
        """Remove up to ``limit`` posts and deliveries that one tombstone hides; return how many."""
        if subscription:
            these = {"uid": uid, "subscription": subscription, "limit": limit}
            return connection.execute(self._sql.remove_deliveries_of_subscription, these).rowcount
        removed = connection.execute(self._sql.remove_posts_of_queue, {"uid": uid, "limit": limit}).rowcount
        if removed < limit:
            rest = {"uid": uid, "limit": limit - removed}
            removed += connection.execute(self._sql.remove_deliveries_of_queue, rest).rowcount
        return removed
