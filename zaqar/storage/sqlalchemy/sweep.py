# SPDX-License-Identifier: Apache-2.0
"""What nobody waits for: removing what is dead, and the sums over all queues."""

from __future__ import annotations

from zaqar.model import Stats
from zaqar.storage.sqlalchemy.claims import ClaimStore
from zaqar.storage.sqlalchemy.client.database import Connection, Database
from zaqar.storage.sqlalchemy.fences import BATCH

QUEUES_AT_ONCE = 50


class SweepStore(ClaimStore):
    """The part of the message store that is about the store as a whole."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._swept = 0
        """The segment at which the sweep for expired messages goes on."""

    def volume(self, *, now: float) -> Stats:
        with self._database.read() as connection:
            free, claimed = connection.execute(self._statements.fences.all_counts, {"now": now}).fetchone()
        return Stats(free, claimed)

    def sweep(self, *, now: float, limit: int) -> int:
        removed = 0
        kinds = (
            self._sweep_messages,
            self._sweep_garbage,
            self._sweep_claims,
            self._sweep_received,
            self._sweep_tombstones,
            self._sweep_deliveries,
            self._sweep_dropped,
        )
        for sweep_some in kinds:
            # Each kind has a share, so that none waits for ever behind another of which there is always more.
            left = max(limit - removed, -(-limit // len(kinds)))
            while left > 0 and (more := sweep_some(now, min(BATCH, left))):
                removed += more
                left -= more
        return removed

    def _sweep_messages(self, now: float, limit: int) -> int:
        """Expired messages of the next queues that have some; all around once before the answer is 0."""
        sql = self._statements.sweep
        for after in (self._swept, 0):
            page = {"after": after, "now": now, "limit": QUEUES_AT_ONCE}
            with self._database.read() as connection:
                found = connection.execute(sql.segments_with_expired, page).fetchall()
            if found:
                return self._expire_in(found, now, limit)
        return 0

    def _expire_in(self, found: list[tuple[str, int]], now: float, limit: int) -> int:
        removed = 0
        with self._database.write as connection:
            for uid, segment in found:
                row = connection.execute(self._statements.fences.find, {"uid": uid}).fetchone()
                if row is None or row[1] != segment:
                    continue  # purged or dropped since it was found: the segment is garbage
                removed += self._expire(connection, uid, segment, now, limit=limit - removed)
                if removed == limit:
                    break
                self._swept = segment
        return removed

    def _sweep_garbage(self, now: float, limit: int) -> int:
        with self._database.read() as connection:
            row = connection.execute(self._statements.sweep.garbage, {"limit": 1}).fetchone()
        return 0 if row is None else self._remove_garbage(row[0], limit=limit)

    def _sweep_claims(self, now: float, limit: int) -> int:
        sql = self._statements.sweep
        with self._database.read() as connection:
            found = connection.execute(sql.claims_over, {"now": now, "limit": limit}).fetchall()
        if not found:
            return 0
        with self._database.write as connection:
            over = [{"segment": segment, "claim": claim_id, "now": now} for segment, claim_id in found]
            return connection.executemany(sql.remove_claim, over).rowcount

    def _sweep_received(self, now: float, limit: int) -> int:
        sql = self._statements.sweep
        with self._database.read() as connection:
            found = connection.execute(sql.received_past, {"now": now, "limit": limit}).fetchall()
        if not found:
            return 0
        with self._database.write as connection:
            past = [{"uid": uid, "letter": letter, "now": now} for uid, letter in found]
            return connection.executemany(sql.forget_received, past).rowcount

    def _sweep_tombstones(self, now: float, limit: int) -> int:
        sql = self._statements.sweep
        with self._database.read() as connection:
            found = connection.execute(sql.tombstones_past, {"now": now, "limit": limit}).fetchall()
        if not found:
            return 0
        with self._database.write as connection:
            return connection.executemany(sql.remove_tombstone, [{"uid": uid, "now": now} for (uid,) in found]).rowcount

    def _sweep_dropped(self, now: float, limit: int) -> int:
        """Posts and deliveries that tombstones hide; a tombstone counts as well, when nothing is left behind it."""
        sql = self._statements.sweep
        with self._database.read() as connection:
            found = connection.execute(sql.dropped_to_sweep, {"now": now, "limit": limit}).fetchall()
        if not found:
            return 0
        removed = 0
        with self._database.write as connection:
            for uid, subscription, forget_at in found:
                removed += self._remove_hidden(connection, uid, subscription, limit - removed)
                if removed >= limit:
                    break
                tombstone = {"uid": uid, "subscription": subscription, "forget_at": forget_at}
                connection.execute(sql.remove_dropped if forget_at <= now else sql.look_again, tombstone)
                removed += 1
        return removed

    def _remove_hidden(self, connection: Connection, uid: str, subscription: str, limit: int) -> int:
        """Remove up to ``limit`` posts and deliveries behind one tombstone; how many."""
        sql = self._statements.sweep
        if subscription:
            these = {"uid": uid, "subscription": subscription, "limit": limit}
            return connection.execute(sql.deliveries_of_one, these).rowcount
        removed = connection.execute(sql.posts_of_queue, {"uid": uid, "limit": limit}).rowcount
        if removed < limit:
            rest = {"uid": uid, "limit": limit - removed}
            removed += connection.execute(sql.deliveries_of_queue, rest).rowcount
        return removed
