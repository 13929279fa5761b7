# SPDX-License-Identifier: Apache-2.0
"""The statements of the message store, defined once with SQLAlchemy Core, as text for one dialect.

Parameters are named. A statement that shows messages needs ``now``, as it shows a claim only while it lives.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import sqlalchemy as sa

from zaqar.storage.sqlalchemy.letter_statements import LetterStatements
from zaqar.storage.sqlalchemy.selections import SHOWN, alive, claim_shown, first_free, inner
from zaqar.storage.sqlalchemy.sql import (
    CLAIMED,
    DELAYED,
    NOTHING,
    READY,
    Texts,
    among,
    limit,
    now,
    param,
    ping_of,
    segment,
    uid,
)
from zaqar.storage.sqlalchemy.tables import claims, fences, garbage, messages, received, segments, set_aside, tallies

LONGER = sa.case((messages.c.expires < param("life"), param("life")), else_=messages.c.expires)
"""A claim only ever moves the end of life further away."""

_after, _after_ready = param("after", sa.BigInteger), param("after_ready", sa.BigInteger)
LEASE = {
    messages.c.state: CLAIMED,
    messages.c.due: param("end"),
    messages.c.claim_id: param("new_claim_id"),
    messages.c.claim_count: messages.c.claim_count + sa.literal_column("1"),
    messages.c.expires: LONGER,
}
is_due = sa.and_(inner.c.state != NOTHING, inner.c.due <= now)
in_force = sa.and_(fences.c.uid == uid, fences.c.generation == param("generation"), fences.c.forget_at.is_(None))


def exists(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists(sa.select(sa.literal_column("1")).select_from(inner).where(*conditions).correlate(fences))


def _count(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    counted = sa.select(sa.func.count(sa.literal_column("*"))).select_from(inner)
    return counted.where(inner.c.segment == fences.c.segment, *conditions).correlate(fences).scalar_subquery()


class FenceStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        self._define_checks()
        self._define_life()

    def _define_checks(self) -> None:
        """What each operation asks of the fence and leaves there."""

        f = fences.c
        self.look = self._text(self._locking(looked()))
        self.segment = self._text(self._locking(sa.select(f.segment).where(in_force)))
        self.append = self._text(
            sa.update(fences)
            .where(in_force)
            .values(
                next_sequence=f.next_sequence + param("count"),
                ready=f.ready + param("more_ready"),
                delayed=f.delayed + param("more_delayed"),
            )
            .returning(f.segment, f.next_sequence)
        )
        self.count = self._text(
            sa.update(fences)
            .where(f.uid == uid)
            .values(
                ready=f.ready + param("more_ready"),
                claimed=f.claimed + param("more_claimed"),
                delayed=f.delayed + param("more_delayed"),
                ready_from=sa.func.coalesce(param("new_ready_from", sa.BigInteger), f.ready_from),
            )
        )
        self.counts = self._text(counts(self.is_concurrent).where(f.uid == uid))
        self.all_counts = self._text(_total_counts(self.is_concurrent))
        self.ping = self._text(ping_of(fences))

    def _define_life(self) -> None:
        """How a fence comes, changes and goes."""

        f = fences.c
        empty = {"ready": NOTHING, "claimed": NOTHING, "delayed": NOTHING}
        self.find = self._text(self._locking(sa.select(f.generation, f.segment, f.forget_at).where(f.uid == uid)))
        self.insert = self._text(
            sa.insert(fences).values(
                uid=uid,
                generation=param("generation"),
                next_sequence=sa.literal_column("1"),
                segment=segment,
                ready_from=sa.literal_column("1"),
                forget_at=param("forget_at"),
                **empty,
            )
        )
        self.delete = self._text(sa.delete(fences).where(f.uid == uid))
        self.raise_generation = self._text(
            sa.update(fences).where(f.uid == uid).values(generation=param("new_generation"))
        )
        self.replace_segment = self._text(
            sa.update(fences).where(f.uid == uid).values(segment=param("new_segment"), **empty)
        )
        self.bury = self._text(
            sa.update(fences).where(f.uid == uid).values(segment=sa.null(), forget_at=param("until"), **empty)
        )
        self.add_segment = self._text(sa.insert(segments).values().returning(segments.c.id))
        self.discard_segment = self._text(sa.insert(garbage).values(segment=segment))


def looked() -> sa.Select[Any]:
    """What ``fences.Fence`` is made of."""
    f = fences.c
    due = exists(inner.c.segment == f.segment, is_due).label("due")
    return sa.select(f.segment, f.next_sequence, f.ready_from, due).where(in_force)


def _counted(name: str, with_tallies: bool) -> sa.ColumnElement[int]:
    if not with_tallies:
        return fences.c[name]
    mine = tallies.c.segment == fences.c.segment
    tallied = sa.select(sa.cast(sa.func.sum(tallies.c[name]), sa.BigInteger)).where(mine).correlate(fences)
    counted: sa.ColumnElement[int] = fences.c[name] + sa.func.coalesce(tallied.scalar_subquery(), NOTHING)
    return counted


def counts(with_tallies: bool) -> sa.Select[Any]:
    """Free and claimed messages of each fence: the counters, put right by what time did since they were written.

    ``expires`` of a claimed message is never before its ``due``. So what has expired is READY (gone from there), due
    (counted, then taken off again), or DELAYED for longer than it lives (never counted, so put back).
    """
    gone = inner.c.expires <= now
    stillborn = _count(gone, inner.c.due > now, inner.c.state + NOTHING == DELAYED)
    stillborn = sa.case((_counted("delayed", with_tallies) == NOTHING, NOTHING), else_=stillborn)
    free = _counted("ready", with_tallies) + _count(is_due) - _count(gone) + stillborn
    claimed = _counted("claimed", with_tallies) - _count(is_due, inner.c.state == CLAIMED)
    shown: Any = sa.select(free.label("free"), claimed.label("claimed"))
    return cast("sa.Select[Any]", shown.select_from(fences))


def _total_counts(with_tallies: bool) -> sa.Select[Any]:
    each = counts(with_tallies).where(fences.c.forget_at.is_(None)).subquery("each_fence")
    sums = (sa.cast(sa.func.sum(column), sa.BigInteger) for column in (each.c.free, each.c.claimed))
    total: Any = sa.select(*(sa.func.coalesce(each_sum, NOTHING) for each_sum in sums))
    return cast("sa.Select[Any]", total)


class MessageStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        self._define_messages()
        self._define_timers()

    def _define_messages(self) -> None:
        """One message or several, by number or by place in the order."""

        m = messages.c
        self.insert = self._text(
            sa.insert(messages)
            .inline()
            .values(
                segment=segment,
                sequence=param("sequence"),
                state=param("state"),
                due=param("due"),
                expires=param("expires"),
                created=now,
                claim_count=NOTHING,
                client_id=param("client_id"),
                checksum=param("checksum"),
                body=param("body"),
            )
        )
        self._lists = {
            (claimed, delayed, excluding): self._text(listing_of(claimed, delayed, excluding))
            for claimed in (False, True)
            for delayed in (False, True)
            for excluding in (False, True)
        }
        self.newest = self._text(listing_of(claimed=True, newest_first=True))
        numbered = sa.and_(m.segment == segment, m.state.in_([READY, CLAIMED, DELAYED]))
        one = sa.and_(numbered, m.sequence == param("sequence"))
        several = sa.and_(numbered, among(m.sequence, "sequences"))
        self.get = self._text(sa.select(*SHOWN).where(several, alive(messages)).order_by(m.sequence))
        self.delete_held = self._text(
            sa.delete(messages).where(
                m.segment == segment,
                m.state == CLAIMED,
                m.sequence == param("sequence"),
                m.claim_id == param("claim_id"),
                m.due > now,
                alive(messages),
            )
        )
        self.examine = self._text(self._locking(sa.select(m.id, m.state, claim_shown).where(one, alive(messages))))
        examined = sa.select(m.id, m.state, claim_shown).where(several, alive(messages))
        # Locked in one order by all, so that two never wait for each other.
        self.examine_several = self._text(
            self._locking(examined.order_by(m.sequence)) if self.is_concurrent else examined
        )
        self.delete = self._text(sa.delete(messages).where(m.id == param("id")))
        self.delete_several = self._text(sa.delete(messages).where(among(m.id, "ids")))
        first = self._locking(first_free().with_only_columns(inner.c.id))
        self.first_free = self._text(first_free().with_only_columns(inner.c.sequence))
        self.pop = self._text(sa.delete(messages).where(self._chosen(m.id, first)).returning(*SHOWN))

    def _define_timers(self) -> None:
        """What time does to messages."""

        m = messages.c
        self.due_batch = self._text(
            self._locking(
                sa.select(m.id, m.sequence, m.state, m.expires <= now)
                .where(m.segment == segment, m.state != NOTHING, m.due <= now)
                .order_by(m.due)
                .limit(limit)
                .offset(NOTHING)
            )
        )
        self.ripen = self._text(
            sa.update(messages).where(among(m.id, "ids")).values(state=READY, due=sa.null(), claim_id=sa.null())
        )
        gone = sa.select(inner.c.id).where(inner.c.segment == segment, inner.c.expires <= now)
        gone = self._locking(gone.order_by(inner.c.expires).limit(limit).offset(NOTHING))
        self.expire = self._text(sa.delete(messages).where(self._chosen(m.id, gone)).returning(m.state))

    def listing(self, *, claimed: bool, delayed: bool, excluding: bool) -> str:
        return self._lists[claimed, delayed, excluding]


def listing_of(
    claimed: bool = False,
    delayed: bool = False,
    excluding: bool = False,
    newest_first: bool = False,
    of: Any = segment,
    after: Any = _after,
    after_ready: Any = _after_ready,
    most: Any = limit,
) -> sa.Select[Any] | sa.CompoundSelect[Any]:
    """Pages over one or several states: one scan of the index for each, merged by number and ended at the limit."""

    def scan(state: Any) -> sa.Select[Any]:
        m = messages.c
        found = sa.select(*SHOWN).where(m.segment == of, m.state == state, alive(messages))
        if not newest_first:
            found = found.where(m.sequence > (after_ready if state is READY else after))
        return found.where(m.client_id != param("exclude_client")) if excluding else found

    states = [READY] + [CLAIMED] * claimed + [DELAYED] * delayed
    pages = sa.union_all(*map(scan, states)) if len(states) > 1 else scan(READY)
    order = sa.literal_column("sequence", sa.BigInteger)
    return pages.order_by(order.desc() if newest_first else order).limit(most).offset(NOTHING)


class ClaimStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        self._define_taking()
        self._define_claims()

    def _define_taking(self) -> None:
        """Messages on their way into a claim."""

        m = messages.c
        first = self._locking(first_free().with_only_columns(inner.c.id))
        self.take = self._text(sa.update(messages).where(self._chosen(m.id, first)).values(LEASE).returning(*SHOWN))
        fresh = first.where(inner.c.claim_count < param("max_claim_count"))
        self.take_fresh = self._text(
            sa.update(messages).where(self._chosen(m.id, fresh)).values(LEASE).returning(*SHOWN)
        )
        self.take_these = self._text(sa.update(messages).where(among(m.id, "ids")).values(LEASE).returning(*SHOWN))

    def _define_claims(self) -> None:
        """A claim and the messages that it holds."""

        m, c = messages.c, claims.c
        mine = sa.and_(c.segment == segment, c.claim_id == param("claim"))
        held = sa.and_(
            m.segment == segment, m.state != NOTHING, m.due == param("held_until"), m.claim_id == param("claim")
        )
        self.insert = self._text(
            sa.insert(claims).values(
                segment=segment,
                claim_id=param("claim"),
                ttl=param("ttl"),
                grace=param("grace"),
                started=param("started"),
                expires=param("end"),
            )
        )
        self.get = self._text(sa.select(c.ttl, c.grace, c.started).where(mine, c.expires > now))
        self.held = self._text(sa.select(*SHOWN).where(held, alive(messages)))
        self.update = self._text(
            sa.update(claims)
            .where(mine)
            .values(ttl=param("new_ttl"), grace=param("new_grace"), started=param("started"), expires=param("end"))
        )
        self.renew = self._text(sa.update(messages).where(held).values({m.due: param("end"), m.expires: LONGER}))
        self.delete = self._text(sa.delete(claims).where(mine).returning(c.expires))
        self.release = self._text(
            sa.update(messages)
            .where(held)
            .values(state=READY, due=sa.null(), claim_id=sa.null())
            .returning(messages.c.sequence)
        )
        self.live = self._text(sa.select(c.claim_id).where(mine, c.expires > now))


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
        self.remove_tombstone = self._text(sa.delete(fences).where(f.uid == uid, f.forget_at <= now))


class Statements:
    """All of them, by what they are about."""

    def __init__(self, dialect: str) -> None:
        self.fences = FenceStatements(dialect)
        self.messages = MessageStatements(dialect)
        self.claims = ClaimStatements(dialect)
        self.letters = LetterStatements(dialect)
        self.sweep = SweepStatements(dialect)


@lru_cache
def statements_for(dialect: str) -> Statements:
    return Statements(dialect)
