# SPDX-License-Identifier: Apache-2.0
"""The statements of the sweep; see ``statements``."""

from __future__ import annotations

import sqlalchemy as sa

from zaqar.storage.sqlalchemy.schema import (
    claims,
    deliveries,
    dropped,
    fences,
    garbage,
    messages,
    outbox,
    received,
    segments,
    set_aside,
    tallies,
)
from zaqar.storage.sqlalchemy.selections import exists, inner
from zaqar.storage.sqlalchemy.sql import NOTHING, Texts, limit, now, param, segment, uid


class SweepStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        f, other = fences.c, claims.alias("c")
        self.segments_with_expired = self._text(
            sa.select(f.uid, f.segment)
            .where(f.segment > param("after"), exists(inner.c.segment == f.segment, inner.c.expires <= now))
            .order_by(f.segment)
            .limit(limit)
            .offset(NOTHING)
        )
        self.garbage = self._text(sa.select(garbage.c.segment).order_by(garbage.c.segment).limit(limit).offset(NOTHING))
        some = sa.select(inner.c.id).where(inner.c.segment == segment).limit(limit).offset(NOTHING)
        self.messages_of = self._text(sa.delete(messages).where(self._chosen(messages.c.id, some)))
        theirs = sa.select(other.c.claim_id).where(other.c.segment == segment).limit(limit).offset(NOTHING)
        self.claims_of = self._text(
            sa.delete(claims).where(claims.c.segment == segment, self._chosen(claims.c.claim_id, theirs))
        )
        a, same = set_aside.c, set_aside.alias("a")
        numbers = sa.select(same.c.sequence).where(same.c.segment == segment).limit(limit).offset(NOTHING)
        self.set_aside_of = self._text(
            sa.delete(set_aside).where(a.segment == segment, self._chosen(a.sequence, numbers))
        )
        self.forget_tallies = self._text(sa.delete(tallies).where(tallies.c.segment == segment))
        self.forget_garbage = self._text(sa.delete(garbage).where(garbage.c.segment == segment))
        self.forget_segment = self._text(sa.delete(segments).where(segments.c.id == segment))
        c = claims.c
        self.claims_over = self._text(
            sa.select(c.segment, c.claim_id).where(c.expires <= now).limit(limit).offset(NOTHING)
        )
        this = sa.and_(c.segment == segment, c.claim_id == param("claim"))
        self.remove_claim = self._text(sa.delete(claims).where(this, c.expires <= now))
        self.tombstones_past = self._text(sa.select(f.uid).where(f.forget_at <= now).limit(limit).offset(NOTHING))
        r = received.c
        past = sa.select(r.uid, r.message_id).where(r.forget_at <= now)
        self.received_past = self._text(past.limit(limit).offset(NOTHING))
        self.forget_received = self._text(
            sa.delete(received).where(r.uid == uid, r.message_id == param("letter"), r.forget_at <= now)
        )
        self._define_dropped()
        self.remove_tombstone = self._text(sa.delete(fences).where(f.uid == uid, f.forget_at <= now))

    def _define_dropped(self) -> None:
        """What tombstones hide. Rows are locked in the order in which ``expand`` and ``settle`` lock them."""
        x, subscription = dropped.c, param("subscription")
        to_sweep = sa.select(x.uid, x.subscription, x.forget_at).where(x.sweep_at <= now).order_by(x.sweep_at)
        self.dropped_to_sweep = self._text(to_sweep.limit(limit).offset(NOTHING))
        p = outbox.alias("p").c
        posts = sa.select(p.first).where(p.uid == uid).order_by(p.first).limit(limit).offset(NOTHING)
        self.posts_of_queue = self._text(
            sa.delete(outbox).where(outbox.c.uid == uid, self._chosen(outbox.c.first, self._locking(posts)))
        )
        d = deliveries.alias("d").c
        of_queue = sa.select(d.id).where(d.uid == uid).order_by(d.subscription, d.number)
        of_one = sa.select(d.id).where(d.uid == uid, d.subscription == subscription).order_by(d.number)
        self.deliveries_of_queue, self.deliveries_of_one = (
            self._text(
                sa.delete(deliveries).where(
                    self._chosen(deliveries.c.id, self._locking(some.limit(limit).offset(NOTHING)))
                )
            )
            for some in (of_queue, of_one)
        )
        # Not the one that was dropped once more since it was found.
        this = sa.and_(x.uid == uid, x.subscription == subscription, x.forget_at == param("forget_at", sa.Double))
        self.look_again = self._text(sa.update(dropped).where(this).values(sweep_at=x.forget_at))
        self.remove_dropped = self._text(sa.delete(dropped).where(this))
