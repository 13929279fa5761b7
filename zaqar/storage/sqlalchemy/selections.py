# SPDX-License-Identifier: Apache-2.0
"""Parts that several groups of statements are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import sqlalchemy as sa

from zaqar.storage.sqlalchemy.schema import fences, messages, tallies
from zaqar.storage.sqlalchemy.sql import (
    CLAIMED,
    DELAYED,
    NOTHING,
    READY,
    chosen_once,
    limit,
    now,
    param,
    ready_from,
    segment,
    uid,
)

CROWD = 200
"""Expired messages that statistics count at each call. Where there are more, some are removed first."""

_count_of_all: Any = sa.func.count(sa.literal_column("*"))

inner = messages.alias("m")
"""For subqueries about messages inside a statement that changes them."""

claim_shown = sa.case((sa.and_(messages.c.state == CLAIMED, messages.c.due > now), messages.c.claim_id))
_delay_shown = sa.case((sa.and_(messages.c.state == DELAYED, messages.c.due > now), messages.c.due))
SHOWN = (
    messages.c.sequence,
    messages.c.body,
    messages.c.created,
    messages.c.expires,
    messages.c.client_id,
    claim_shown.label("live_claim_id"),
    messages.c.claim_count,
    messages.c.checksum,
    messages.c.origin_queue,
    messages.c.origin_id,
    messages.c.origin_claim_count,
    _delay_shown.label("delayed_until"),
)
"""In the order of ``model.Message``; ``rows.message_of`` reads them."""


def alive(table: Any) -> sa.ColumnElement[bool]:
    """Nearly all messages are, so this must not be what they are looked for by; the sum hides it from the planner."""
    living: sa.ColumnElement[bool] = table.c.expires + NOTHING > now
    return living


def numbered(of: Any, wanted: Callable[[Any], sa.ColumnElement[bool]], *, concurrent: bool) -> sa.ColumnElement[bool]:
    """Messages by number, in whatever state; ``wanted`` is a condition on the number.

    On PostgreSQL state by state: whether it finds ``state IN (0, 1, 2)`` by the index or scans a whole queue depends on
    statistics. The segment is looked at again, as a row may have been moved to another queue meanwhile; the sum hides
    that from the planner.
    """
    m, states = messages.c, (READY, CLAIMED, DELAYED)
    if not concurrent:
        return sa.and_(m.segment == of, m.state.in_(states), wanted(m.sequence))
    at = (
        sa.select(inner.c.id).where(inner.c.segment == of, inner.c.state == s, wanted(inner.c.sequence)) for s in states
    )
    return sa.and_(chosen_once(m.id, sa.union_all(*at)), m.segment + NOTHING == of)


def first_free(of: Any = segment, start: Any = ready_from, *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    found = sa.select(inner).where(
        inner.c.segment == of, inner.c.state == READY, inner.c.sequence >= start, alive(inner), *conditions
    )
    return found.order_by(inner.c.sequence).limit(limit).offset(NOTHING)


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
    counted = sa.select(_count_of_all).select_from(inner)
    return counted.where(inner.c.segment == fences.c.segment, *conditions).correlate(fences).scalar_subquery()


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


def _counted_gone(patient: bool) -> tuple[sa.ColumnElement[int], sa.ColumnElement[int]]:
    """How many have expired, and how many of these were delayed for longer than they lived."""
    gone = inner.c.expires <= now
    if patient:
        return _count(gone), _count(gone, inner.c.due > now, inner.c.state + NOTHING == DELAYED)
    first = sa.select(inner.c.due, inner.c.state).where(inner.c.segment == fences.c.segment, gone)
    met = first.limit(sa.literal_column(str(CROWD + 1))).offset(NOTHING).correlate(fences).subquery("met")
    few = sa.select(sa.func.nullif(_count_of_all, sa.literal_column(str(CROWD + 1)))).select_from(met)
    stillborn = sa.select(_count_of_all).where(met.c.due > now, met.c.state == DELAYED)
    return few.scalar_subquery(), stillborn.scalar_subquery()


def counts(with_tallies: bool, *, patient: bool) -> sa.Select[Any]:
    """Free and claimed messages of each fence: the counters, put right by what time did since they were written.

    ``expires`` of a claimed message is never before its ``due``. So what has expired is READY (gone from there), due
    (counted, then taken off again), or DELAYED for longer than it lives (never counted, so put back). Who is not
    ``patient`` gets null for the free ones where more than ``CROWD`` have expired, and these are not all counted.

    States are hidden from the planner by the sum: what is counted is found by its time, and is little.
    """
    gone, stillborn = _counted_gone(patient)
    stillborn = sa.case((_counted("delayed", with_tallies) == NOTHING, NOTHING), else_=stillborn)
    free = _counted("ready", with_tallies) + _count(is_due) - gone + stillborn
    claimed = _counted("claimed", with_tallies) - _count(is_due, inner.c.state + NOTHING == CLAIMED)
    shown: Any = sa.select(free.label("free"), claimed.label("claimed"))
    return cast("sa.Select[Any]", shown.select_from(fences))


def total_counts(with_tallies: bool) -> sa.Select[Any]:
    each = counts(with_tallies, patient=True).where(fences.c.forget_at.is_(None)).subquery("each_fence")
    sums = (sa.cast(sa.func.sum(column), sa.BigInteger) for column in (each.c.free, each.c.claimed))
    total: Any = sa.select(*(sa.func.coalesce(each_sum, NOTHING) for each_sum in sums))
    return cast("sa.Select[Any]", total)


def positions() -> sa.Select[Any]:
    """What ``model.QueuePosition`` is made of, for each fence. Nothing is changed, also if messages are due.

    Expired messages are passed over, up to ``CROWD`` of them. If there are more, it counts as a free message: the claim
    that follows finds none, and removes some of them or lets scans begin behind them.
    """
    f = fences.c
    one: Any = sa.literal_column("1")
    mine = sa.and_(inner.c.segment == f.segment, inner.c.state != NOTHING)

    def has_living(order: Any, *conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
        first = sa.select(inner.c.expires).where(inner.c.segment == f.segment, *conditions).order_by(order)
        few = first.limit(sa.literal_column(str(CROWD))).offset(NOTHING).correlate(fences).subquery("met")
        more = first.limit(one).offset(sa.literal_column(str(CROWD))).correlate(fences)
        living = sa.exists(sa.select(one).select_from(few).where(few.c.expires > now))
        return sa.or_(living, sa.exists(more))

    ready = has_living(inner.c.sequence, inner.c.state == READY, inner.c.sequence >= f.ready_from)
    due = has_living(inner.c.due, inner.c.state != NOTHING, inner.c.due <= now)
    next_due = sa.select(inner.c.due).where(mine, inner.c.due > now).order_by(inner.c.due)
    next_due = next_due.limit(one).offset(NOTHING).correlate(fences)
    last = f.next_sequence - one
    return sa.select(f.uid, last, sa.or_(ready, due), next_due.scalar_subquery()).where(f.forget_at.is_(None))


def listing_of(
    claimed: bool = False,
    delayed: bool = False,
    excluding: bool = False,
    newest_first: bool = False,
    of: Any = segment,
    after: Any = _after,
    after_ready: Any = _after_ready,
    most: Any = limit,
    each_ends: bool = False,
) -> sa.Select[Any] | sa.CompoundSelect[Any]:
    """Pages over one or several states: one scan of the index for each, merged by number and ended at the limit.

    SQLite merges scans as far as needed; for PostgreSQL, which would read them whole, ``each_ends`` at the limit.
    """

    def ended(scanned: Any, order: Any) -> Any:
        return scanned.order_by(order.desc() if newest_first else order).limit(most).offset(NOTHING)

    def scan(state: Any) -> Any:
        m = messages.c
        beyond = m.sequence > (after_ready if state is READY else after)
        found = sa.select(*SHOWN).where(m.segment == of, m.state == state, beyond, alive(messages))
        if excluding:
            found = found.where(m.client_id != param("exclude_client"))
        return sa.select(ended(found, m.sequence).subquery()) if each_ends else found

    states = [READY] + [CLAIMED] * claimed + [DELAYED] * delayed
    pages: Any = sa.union_all(*map(scan, states)) if len(states) > 1 else scan(READY)
    return cast("sa.Select[Any]", ended(pages, sa.literal_column("sequence", sa.BigInteger)))
