# SPDX-License-Identifier: Apache-2.0
"""Sealed bodies on an SQL database: the four tables with bodies one after the other, each by its primary key."""

from __future__ import annotations

from collections.abc import Sequence

from zaqar.model import SEALED
from zaqar.storage.base import POST, Position, SealedBody, first_sealed
from zaqar.storage.sqlalchemy.sealed_statements import sealed_statements
from zaqar.storage.sqlalchemy.sweep import SweepStore

_SEALED = bytes((SEALED,))


class SealedBodyStore(SweepStore):
    """The part of the message store that is about sealed bodies."""

    def find_sealed_bodies(
        self, *, without: bytes, after: Position | None, limit: int
    ) -> tuple[list[SealedBody], Position | None]:
        tables = sealed_statements(self._database.dialect).tables
        number, *key = after or (0, *tables[0].first)
        table = tables[number]
        values = {f"after_{name}": value for name, value in zip(table.key, key, strict=True)}
        # No body begins with a zero, so that leaves out none.
        values |= {"limit": limit, "sealed": _SEALED, "without": without or b"\0"}
        with self._database.read() as connection:
            rows = connection.execute(table.page, values).fetchall()
        found = []
        for *place, body in rows:
            sealed = first_sealed(body, without) if table.kind == POST else body
            if sealed is not None:
                found.append(SealedBody(table.kind, (number, *place), sealed))
        if len(rows) == limit:
            return found, (number, *rows[-1][:-1])
        following = number + 1
        return found, (following, *tables[following].first) if following < len(tables) else None

    def replace_bodies(self, *, replacements: Sequence[tuple[SealedBody, bytes]]) -> int:
        tables = sealed_statements(self._database.dialect).tables
        replaced = 0
        # Those with a lease are locked by others too, row by row in the order of their keys.
        wanted = sorted(each for each in replacements if each[0].kind != POST)
        with self._database.write as connection:
            for (_, (number, *key), old), new in wanted:
                table = tables[number]
                values = {f"this_{name}": value for name, value in zip(table.key, key, strict=True)}
                replaced += connection.execute(table.replace, {**values, "old": old, "new": new}).rowcount
        return replaced
