# SPDX-License-Identifier: Apache-2.0
"""The statements about posts to be notified and about deliveries; see ``statements``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from zaqar.model import DEAD, WAITING
from zaqar.storage.sqlalchemy.sql import NOTHING, Texts, limit, now, param, uid
from zaqar.storage.sqlalchemy.tables import DELIVERY_STATES, deliveries, outbox

_ONE: Any = sa.literal_column("1", sa.Integer)

# Written out, so that an index with such a condition serves.
_WAITING, _DEAD = (sa.literal_column(str(DELIVERY_STATES.index(state)), sa.SmallInteger) for state in (WAITING, DEAD))

d, o = deliveries.c, outbox.c
COLUMNS = [column for column in deliveries.c if column.name != "id"]
"""In the order of the fields of ``Delivery``."""

_SETTLED = (d.state, d.due, d.tries, d.attempts, d.keep_until)
_KEY = sa.and_(d.uid == uid, d.subscription == param("subscription"), d.number == param("number"))
_LEASED = sa.and_(_KEY, d.owner == param("owner"), d.state == _WAITING)


class DeliveryStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        self._insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
        self._define_outbox()
        self._define_taking()
        self._define_changes()
        self._define_log()

    def _free(self, found: sa.Select[Any]) -> sa.Select[Any]:
        """The first of them; what another transaction is taking at this moment is passed over."""
        found = found.limit(limit).offset(NOTHING)
        return found.with_for_update(skip_locked=True) if self.is_concurrent else found

    def _define_outbox(self) -> None:
        inner = outbox.alias("inner_outbox").c
        this = sa.and_(o.uid == uid, o.first == param("first"))
        self.note = self._text(
            sa.insert(outbox).inline().values(uid=uid, first=param("first"), due=now, content=param("content"))
        )
        self.queues_with_posts = self._text(
            _walk(o.uid, sa.true(), lambda value: sa.exists().where(inner.uid == value, inner.due <= now))
        )
        free = self._free(sa.select(inner.first).where(inner.uid == uid, inner.due <= now).order_by(inner.first))
        self.take_posted = self._text(
            sa.update(outbox)
            .where(o.uid == uid, self._chosen(o.first, free))
            .values(due=param("until"))
            .returning(o.first, o.content)
        )
        self.is_noted = self._text(self._locking(sa.select(o.first).where(this)))
        self.forget_posted = self._text(sa.delete(outbox).where(this))

    def _define_taking(self) -> None:
        inner = deliveries.alias("inner_deliveries").c

        def is_due(value: Any) -> Any:
            return sa.exists().where(inner.subscription == value, inner.state == _WAITING, inner.due <= now)

        self.subscriptions_with_due = self._text(_walk(d.subscription, d.state == _WAITING, is_due))
        # In two steps, as what an update returns comes in no order.
        self.find_due = self._text(
            self._free(
                sa.select(d.id, *COLUMNS)
                .where(d.subscription == param("subscription"), d.state == _WAITING, d.due <= now)
                .order_by(d.due)
            )
        )
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
        settled = {column: values[column] for column in _SETTLED}
        self.settle = self._text(sa.update(deliveries).where(_LEASED).values({**settled, d.owner: sa.null()}))
        self.remove = self._text(sa.delete(deliveries).where(_LEASED))
        self._define_resend()

    def _define_resend(self) -> None:
        inner = deliveries.alias("inner_deliveries").c
        again = {d.state: _WAITING, d.due: now, d.owner: sa.null(), d.tries: NOTHING, d.keep_until: sa.null()}
        of_one = sa.and_(d.uid == uid, d.subscription == param("subscription"))
        self.resend = self._text(
            sa.update(deliveries).where(of_one, self._among(d.number, "numbers"), d.state != _WAITING).values(again)
        )
        dead = sa.select(inner.id).where(
            inner.uid == uid, inner.subscription == param("subscription"), inner.state == _DEAD
        )
        dead = self._free(dead.order_by(inner.number))
        self.resend_dead = self._text(sa.update(deliveries).where(self._chosen(d.id, dead)).values(again))
        old = sa.select(inner.id).where(inner.keep_until <= now).order_by(inner.keep_until)
        self.past = self._text(old.limit(limit).offset(NOTHING))
        past = self._free(old)
        self.sweep = self._text(sa.delete(deliveries).where(self._chosen(d.id, past)))

    def _define_log(self) -> None:
        page = (
            sa.select(*COLUMNS)
            .where(d.uid == uid, d.subscription == param("subscription"), d.number < param("before", sa.BigInteger))
            .order_by(d.number.desc())
            .limit(limit)
            .offset(NOTHING)
        )
        self.list = self._text(page)
        self.list_state = self._text(page.where(d.state == param("state", sa.SmallInteger)))
        self.get = self._text(sa.select(*COLUMNS).where(_KEY))
        self.count = self._text(
            sa.select(d.state, sa.func.count(sa.literal_column("*")))
            .where(d.uid == uid, d.subscription == param("subscription"), d.state.in_([_WAITING, _DEAD]))
            .group_by(d.state)
        )


def _walk(column: Any, where: Any, is_due: Callable[[Any], Any]) -> sa.Select[Any]:
    """The next ``limit`` values of an indexed column after ``after``, and whether something of each is due.

    One probe of the index for each value, however many rows have it; SQL has no DISTINCT that does so.
    """
    least = sa.func.min(column)
    step = (
        sa.select(least.label("value"), _ONE.label("place"))
        .where(column > param("after", sa.Text), where)
        .cte("step", recursive=True)
    )
    following = sa.select(least).where(column > step.c.value, where).correlate(step).scalar_subquery()
    step = step.union_all(
        sa.select(following, step.c.place + _ONE).where(step.c.value.is_not(None), step.c.place < limit)
    )
    return sa.select(step.c.value, is_due(step.c.value)).where(step.c.value.is_not(None))


@lru_cache
def delivery_statements_for(dialect: str) -> DeliveryStatements:
    return DeliveryStatements(dialect)
