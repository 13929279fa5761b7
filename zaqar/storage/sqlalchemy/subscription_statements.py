# SPDX-License-Identifier: Apache-2.0
"""The statements about subscriptions, as text for one dialect; see ``statements``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from zaqar.storage.sqlalchemy.schema import pauses, subscriptions
from zaqar.storage.sqlalchemy.sql import NOTHING, Texts, limit, now, param

COLUMNS = list(subscriptions.c)


class SubscriptionStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        s = subscriptions.c
        of_queue = s.queue_uid == param("queue_uid")
        this = sa.and_(of_queue, s.id == param("id"))
        same = sa.and_(of_queue, s.subscriber == param("subscriber"))
        alive = s.expires > now
        insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
        values = {column: param(f"new_{column.name}", column.type) for column in COLUMNS}
        self.insert = self._text(
            insert(subscriptions)
            .inline()
            .values(values)
            .on_conflict_do_nothing(index_elements=["queue_uid", "subscriber"])
        )
        self.get = self._text(sa.select(*COLUMNS).where(this, alive))
        self.with_subscriber = self._text(sa.select(*COLUMNS).where(same))
        self.list = self._text(
            sa.select(*COLUMNS)
            .where(of_queue, s.id > param("after"), alive)
            .order_by(s.id)
            .limit(limit)
            .offset(NOTHING)
        )
        self.replace = self._text(
            sa.update(subscriptions)
            .where(this, alive, s.version == param("new_version") - sa.literal_column("1"))
            .values({column: value for column, value in values.items() if column.name not in ("queue_uid", "id")})
        )
        self.delete = self._text(sa.delete(subscriptions).where(this))
        self.delete_version = self._text(sa.delete(subscriptions).where(this, s.version == param("version")))
        with_subscriber = sa.and_(this, s.subscriber == param("subscriber"))
        self.delete_with_subscriber = self._text(sa.delete(subscriptions).where(with_subscriber))
        self.exists = self._text(sa.select(s.id).where(this))
        self.delete_all = self._text(sa.delete(subscriptions).where(of_queue))
        self.delete_expired = self._text(sa.delete(subscriptions).where(same, s.expires <= now))
        self.expired = self._text(
            sa.select(*COLUMNS).where(s.expires <= now).order_by(s.expires).limit(limit).offset(NOTHING)
        )
        self._pauses(insert)

    def _pauses(self, insert: Any) -> None:
        p = pauses.c
        begin = insert(pauses).inline().values({p.key: param("key"), p.ends: param("ends", p.ends.type)})
        self.begin_pause = self._text(
            begin.on_conflict_do_update(index_elements=["key"], set_={"ends": begin.excluded.ends}, where=p.ends <= now)
        )
        self.pause = self._text(sa.select(p.ends).where(p.key == param("key")))
        # Locked ones are of others who begin a pause at this moment: to wait for them could be a deadlock.
        over = sa.select(p.key).where(p.ends <= now).limit(limit).offset(NOTHING).with_for_update(skip_locked=True)
        self.delete_pauses = self._text(sa.delete(pauses).where(p.key.in_(over)))


@lru_cache
def subscription_statements_for(dialect: str) -> SubscriptionStatements:
    return SubscriptionStatements(dialect)
