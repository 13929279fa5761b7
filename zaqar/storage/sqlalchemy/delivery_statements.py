# SPDX-License-Identifier: Apache-2.0
"""The statements about posts to be notified and about deliveries; see ``statements``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from zaqar.model import DEAD, WAITING
from zaqar.storage.base import MOST_PASSED
from zaqar.storage.sqlalchemy.schema import DELIVERY_STATES, deliveries, dropped, outbox, unsent
from zaqar.storage.sqlalchemy.sql import NOTHING, Texts, limit, now, param, rows_of, uid

_ONE: Any = sa.literal_column("1", sa.Integer)

# Written out, so that an index with such a condition serves.
_WAITING, _DEAD = (sa.literal_column(str(DELIVERY_STATES.index(state)), sa.SmallInteger) for state in (WAITING, DEAD))

d, o = deliveries.c, outbox.c
COLUMNS = [column for column in deliveries.c if column.name != "id"]
"""In the order of the fields of ``Delivery``."""

_SETTLED = (d.state, d.due, d.tries, d.attempts, d.keep_until)
_KEY = sa.and_(d.uid == uid, d.subscription == param("subscription"), d.number == param("number"))
_LEASED = sa.and_(_KEY, d.owner == param("owner"), d.state == _WAITING)


def _of_one(c: Any) -> sa.ColumnElement[bool]:
    """Those of one subscription, by an index that begins with it: the sum hides the uid from the planner."""
    return sa.and_(c.subscription == param("subscription"), c.uid + sa.literal_column("''") == uid)


@dataclass(frozen=True)
class _Place:
    """Rows in lanes, one for each value of a column, within which they come in an order."""

    table: sa.Table
    lane: str
    key: str
    """What tells the rows of one lane apart, or those of all."""
    is_key_of_all: bool
    order: tuple[str, ...]
    where: Callable[[Any], sa.ColumnElement[bool]]
    """Which rows count, as the condition of the index has it."""
    tombstones: Callable[[Any], sa.ColumnElement[bool]]
    """Which of ``dropped`` hide a row."""

    def is_reachable(self, c: Any) -> sa.ColumnElement[bool]:
        """A scalar subquery, as an EXISTS might be joined, from either side."""
        tombstone = sa.select(dropped.c.forget_at).where(self.tombstones(c)).limit(_ONE).offset(NOTHING)
        return tombstone.scalar_subquery().is_(None)

    def next_lane(self, c: Any, after: Any) -> sa.Select[Any]:
        lane = c[self.lane]
        return sa.select(sa.func.min(lane)).where(lane > after, lane <= param("last", sa.Text), self.where(c))

    def due(self, c: Any, lane: Any, shown: Sequence[Any]) -> sa.Select[Any]:
        """What is due in a lane, in its order."""
        of_lane = sa.select(*shown).where(c[self.lane] == lane, self.where(c), c.due <= now)
        return of_lane.order_by(*(c[name] for name in self.order))


_WHOLE_QUEUE = sa.literal_column("''", sa.Text)
_POSTS = _Place(
    outbox,
    "uid",
    "first",
    False,
    ("first",),
    lambda c: sa.true(),
    lambda c: sa.and_(dropped.c.uid == c.uid, dropped.c.subscription == _WHOLE_QUEUE),
)
_DELIVERIES = _Place(
    deliveries,
    "subscription",
    "id",
    True,
    ("due", "number"),
    lambda c: c.state == _WAITING,
    lambda c: sa.and_(dropped.c.uid == c.uid, dropped.c.subscription.in_([_WHOLE_QUEUE, c.subscription])),
)


class DeliveryStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        self._insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
        self._define_outbox()
        self._define_taking()
        self._define_changes()
        self._define_resend()
        self._define_log()
        self.has_undelivered_before = self._text(_undelivered_before())

    def _free(self, found: sa.Select[Any]) -> sa.Select[Any]:
        """The first of them; what another transaction is taking at this moment is passed over."""
        found = found.limit(limit).offset(NOTHING)
        return found.with_for_update(skip_locked=True) if self.is_concurrent else found

    def _first_of_each(self, shown: Sequence[sa.Column[Any]], place: _Place) -> str:
        """The first ``limit`` rows of each of the ``lanes``, in no order, locked where that is needed.

        Of these, not of all, the unreachable are left out: they may be very many, if they were dropped at this moment.
        """
        lanes = rows_of("lanes")
        table = place.table
        if self.is_concurrent:
            each = self._free(place.due(table.c, lanes.c.value, shown)).lateral("first_of_each")
            found = sa.select(*each.c).select_from(lanes.join(each, sa.true()))
            return self._text(found.where(place.is_reachable(each.c)))
        # SQLite has no LATERAL.
        inner = table.alias("inner_" + table.name).c
        first = self._free(place.due(inner, lanes.c.value, [inner[place.key]])).correlate(lanes)
        these: sa.ColumnElement[bool] = table.c[place.key].in_(first)
        if not place.is_key_of_all:
            these = sa.and_(table.c[place.lane] == lanes.c.value, these)
        return self._text(sa.select(*shown).select_from(lanes.join(table, these)).where(place.is_reachable(table.c)))

    def _lanes(self, place: _Place) -> sa.Select[Any]:
        """The first ``limit`` lanes after ``after`` and up to ``last`` in which something is due and reachable.

        Three probes of an index for each lane, however many rows it has; SQL has no DISTINCT that does so. Whether the
        first row that is due was dropped says it for the lane, as all its rows are of one subscription.
        """
        following = place.table.alias("following")
        beginning = place.next_lane(following.c, param("after", sa.Text)).scalar_subquery()
        lane = sa.select(beginning.label("value")).cte("lane", recursive=True)
        step = place.next_lane(following.c, lane.c.value).correlate(lane).scalar_subquery()
        lane = lane.union_all(sa.select(step).where(lane.c.value.is_not(None)))
        # A value and not whether one exists: that might be joined, from either side.
        due = place.table.alias("due").c
        reachable = sa.case((place.is_reachable(due), _ONE))
        first = place.due(due, lane.c.value, [reachable]).limit(_ONE).offset(NOTHING).correlate(lane)
        found = sa.select(lane.c.value).where(lane.c.value.is_not(None), first.scalar_subquery() == _ONE)
        return found.limit(limit).offset(NOTHING)

    def _define_outbox(self) -> None:
        this = sa.and_(o.uid == uid, o.first == param("first"))
        self.note = self._text(
            sa.insert(outbox).inline().values(uid=uid, first=param("first"), due=now, content=param("content"))
        )
        self.queues_with_posts = self._text(self._lanes(_POSTS))
        self.find_posted = self._first_of_each((o.uid, o.first, o.content, o.expanded), _POSTS)
        self.lease_posted = self._text(sa.update(outbox).where(this).values(due=param("until")))
        self.get_position = self._text(self._locking(sa.select(o.expanded).where(this)))
        self.move_position = self._text(
            sa.update(outbox).where(this).values(due=param("until"), expanded=param("position", sa.Text))
        )
        self.forget_posted = self._text(sa.delete(outbox).where(this))
        tombstones = sa.and_(dropped.c.uid == uid, self._among(dropped.c.subscription, "subscriptions"))
        self.dropped_among = self._text(sa.select(dropped.c.subscription).where(tombstones))

    def _define_taking(self) -> None:
        without = sa.not_(self._among(sa.literal_column("lane.value", sa.Text), "without"))
        self.subscriptions_with_due = self._text(self._lanes(_DELIVERIES).where(without))
        # In two steps, as what an update returns comes in no order.
        self.find_due = self._first_of_each((d.id, *COLUMNS), _DELIVERIES)
        self.lease = self._text(
            sa.update(deliveries).where(self._among(d.id, "ids")).values(owner=param("owner"), due=param("until"))
        )

    def _define_changes(self) -> None:
        values = {column: param(f"new_{column.name}", column.type) for column in COLUMNS}
        insert = self._insert(deliveries).inline().values(values)
        key = ["uid", "subscription", "number"]
        self.insert = self._text(insert.on_conflict_do_nothing(index_elements=key))
        changed = {column.name: values[column] for column in COLUMNS if column.name not in key}
        self.put = self._text(insert.on_conflict_do_update(index_elements=key, set_=changed))
        self.extend = self._text(sa.update(deliveries).where(_LEASED).values(due=param("until")))
        as_read = sa.and_(_KEY, d.state == _WAITING, d.due == param("before", d.due.type))
        self.advance = self._text(
            sa.update(deliveries).where(as_read).values({d.due: param("until"), d.owner: sa.null()})
        )
        settled = {column: values[column] for column in _SETTLED}
        self.settle = self._text(sa.update(deliveries).where(_LEASED).values({**settled, d.owner: sa.null()}))
        self.remove = self._text(sa.delete(deliveries).where(_LEASED))

    def _define_resend(self) -> None:
        inner = deliveries.alias("inner_deliveries").c
        again = {d.state: _WAITING, d.due: now, d.owner: sa.null(), d.tries: NOTHING, d.keep_until: sa.null()}
        of_one = sa.and_(d.uid == uid, d.subscription == param("subscription"))
        # Found by number; the sum hides from the planner that it could go through all that is settled.
        is_settled = d.state + NOTHING != NOTHING
        self.resend = self._text(
            sa.update(deliveries).where(of_one, self._among(d.number, "numbers"), is_settled).values(again)
        )
        # Passing over what others have locked could find none though some are left. So it waits, and finds others
        # instead of those that changed meanwhile.
        dead = sa.select(inner.id).where(_of_one(inner), inner.state != NOTHING, inner.state == _DEAD)
        dead = self._locking(dead.order_by(inner.number).limit(limit).offset(NOTHING))
        self.resend_dead = self._text(sa.update(deliveries).where(self._chosen(d.id, dead)).values(again))
        self.past = self._text(
            sa.select(d.id).where(d.keep_until <= now).order_by(d.keep_until).limit(limit).offset(NOTHING)
        )
        # The same again, as it may have been sent again meanwhile.
        self.sweep = self._text(sa.delete(deliveries).where(self._among(d.id, "ids"), d.keep_until <= now))

    def _define_log(self) -> None:
        before = param("before", sa.BigInteger)
        one = sa.and_(d.uid == uid, d.subscription == param("subscription"))
        self.list = self._text(_page(sa.select(*COLUMNS).where(one, d.number < before), d.number))
        settled = sa.and_(_of_one(d), d.state != NOTHING)
        in_state = sa.and_(settled, d.state == param("state", sa.SmallInteger), d.number < before)
        self.list_settled = self._text(_page(sa.select(*COLUMNS).where(in_state), d.number))
        # What waits is in the order of its time, so its numbers are sorted; rows are read for the page only.
        inner = deliveries.alias("inner_deliveries").c
        number = inner.number + NOTHING
        waiting = sa.select(inner.id).where(_of_one(inner), inner.state == _WAITING, number < before)
        chosen = self._chosen(d.id, _page(waiting, number))
        self.list_waiting = self._text(sa.select(*COLUMNS).where(chosen))
        self.get = self._text(sa.select(*COLUMNS).where(_KEY))
        count = sa.select(sa.func.count(sa.literal_column("*"))).select_from(deliveries)
        waits, dead = (_of_one(d), d.state == _WAITING), (settled, d.state == _DEAD)
        self.count = self._text(sa.select(count.where(*waits).scalar_subquery(), count.where(*dead).scalar_subquery()))


def _undelivered_before() -> sa.Select[Any]:
    """Searches for the first post of the queue and for the smallest waiting numbers of the subscription.

    Each search ends at the first row that counts, which is mostly the first row. The ORDER BY and LIMIT inside make the
    planner use the index with this order.
    """
    number: Any = param("number", sa.BigInteger)
    most: Any = sa.literal_column(str(MOST_PASSED), sa.Integer)
    post = sa.select(o.first).where(o.uid == uid, o.first < number).order_by(o.first).limit(_ONE).offset(NOTHING)
    waiting = sa.select(d.due).where(_of_one(d), unsent, d.number < number).order_by(d.number)
    first_ones = waiting.limit(most).offset(NOTHING).subquery("first_ones")
    counting = sa.select(_ONE).select_from(first_ones).where(first_ones.c.due < param("due_before", sa.Double))
    last_passed = waiting.limit(_ONE).offset(sa.literal_column(str(MOST_PASSED - 1), sa.Integer))
    found = (post, counting.limit(_ONE).offset(NOTHING), last_passed)
    return sa.select(sa.or_(*(each.scalar_subquery().is_not(None) for each in found)))


def _page(found: sa.Select[Any], number: Any) -> sa.Select[Any]:
    return found.order_by(number.desc()).limit(limit).offset(NOTHING)


@lru_cache
def delivery_statements_for(dialect: str) -> DeliveryStatements:
    return DeliveryStatements(dialect)
