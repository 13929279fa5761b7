# SPDX-License-Identifier: Apache-2.0
"""Sealed bodies on an SQL database: the four tables with bodies one after the other, each by its primary key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from zaqar.model import SEALED
from zaqar.storage.base import DELIVERY, MESSAGE, POST, Position, SealedBody, SealedBodyStore, first_sealed
from zaqar.storage.sqlalchemy.client.conflicts import retry_on_conflict
from zaqar.storage.sqlalchemy.core import StoreCore
from zaqar.storage.sqlalchemy.queries import Queries

_SEALED = bytes((SEALED,))


class SealedBodyQueries(Queries, file="sealed_bodies"):
    deliveries_page: str
    messages_page: str
    outbox_page: str
    replace_delivery: str
    replace_message: str
    replace_set_aside: str
    set_aside_page: str


class _Table(NamedTuple):
    """How to read a page of a table, how to replace a body, and the columns of its key.

    ``page`` has the columns of the key, then the body, which is null if it is none that is searched for. ``start`` is
    a key before all others.
    """

    kind: str
    page: str
    replace: str | None
    key: tuple[str, ...]
    start: tuple[Any, ...]


class SqlSealedBodies(SealedBodyStore):
    def __init__(self, core: StoreCore) -> None:
        self._core = core
        sql = SealedBodyQueries.of(core.database.dialect)
        self._tables = (
            _Table(MESSAGE, sql.messages_page, sql.replace_message, ("id",), (-1,)),
            _Table(MESSAGE, sql.set_aside_page, sql.replace_set_aside, ("segment", "sequence"), (-1, -1)),
            _Table(DELIVERY, sql.deliveries_page, sql.replace_delivery, ("id",), (-1,)),
            _Table(POST, sql.outbox_page, None, ("uid", "first"), ("", -1)),
        )

    def find(self, *, without: bytes, after: Position | None, limit: int) -> tuple[list[SealedBody], Position | None]:
        number, *key = after or (0, *self._tables[0].start)
        table = self._tables[number]
        values = {f"after_{name}": value for name, value in zip(table.key, key, strict=True)}
        # No body begins with a zero, so that leaves out none.
        values |= {"limit": limit, "sealed": _SEALED, "without": without or b"\0"}
        with self._core.database.read() as connection:
            rows = connection.execute(table.page, values).fetchall()
        found = []
        for *place, body in rows:
            sealed = first_sealed(body, without) if table.kind == POST else body
            if sealed is not None:
                found.append(SealedBody(table.kind, (number, *place), sealed))
        if len(rows) == limit:
            return found, (number, *rows[-1][:-1])
        following = number + 1
        return found, (following, *self._tables[following].start) if following < len(self._tables) else None

    @retry_on_conflict
    def replace(self, *, replacements: Sequence[tuple[SealedBody, bytes]]) -> int:
        replaced = 0
        # In the order of the keys, in which other transactions lock rows too. Each statement compares the old body, so
        # it changes nothing if the row was changed or its key was given to another one since it was found.
        with self._core.database.write as connection:
            for (_, (number, *key), old), new in sorted(each for each in replacements if each[0].kind != POST):
                table = self._tables[number]
                if table.replace is not None:
                    values = {f"this_{name}": value for name, value in zip(table.key, key, strict=True)}
                    replaced += connection.execute(table.replace, {**values, "old": old, "new": new}).rowcount
        return replaced
