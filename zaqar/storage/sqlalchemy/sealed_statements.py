# SPDX-License-Identifier: Apache-2.0
"""The statements about sealed bodies; see ``sealed``."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from zaqar.storage.base import DELIVERY, MESSAGE, POST
from zaqar.storage.sqlalchemy.schema import deliveries, messages, outbox, set_aside
from zaqar.storage.sqlalchemy.sql import NOTHING, Texts, limit, param


class SealedTable(NamedTuple):
    """A table with bodies: how to read a page of it, how to replace a body, and the columns of its key.

    ``page`` has the columns of the key, then the body, which is null if it is none that is looked for.
    """

    kind: str
    page: str
    replace: str
    key: tuple[str, ...]
    first: tuple[Any, ...]


class SealedStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        self.tables = (
            self._table(MESSAGE, messages, "body", ("id",), (-1,)),
            self._table(MESSAGE, set_aside, "body", ("segment", "sequence"), (-1, -1)),
            self._table(DELIVERY, deliveries, "body", ("id",), (-1,)),
            self._table(POST, outbox, "content", ("uid", "first"), ("", -1)),
        )

    def _table(
        self, kind: str, table: sa.Table, column: str, names: tuple[str, ...], first: tuple[Any, ...]
    ) -> SealedTable:
        body, key = table.c[column], [table.c[name] for name in names]
        shown: Any = body
        if kind != POST:
            # The database looks at the first bytes, so that only the bodies that are looked for are sent.
            one = sa.literal_column("1", sa.Integer)
            sealed, without = (sa.cast(param(name), sa.LargeBinary) for name in ("sealed", "without"))
            beginning = sa.func.substr(body, one, sa.func.length(without))
            shown = sa.case((sa.and_(sa.func.substr(body, one, one) == sealed, beginning != without), body))
        after = sa.tuple_(*(param(f"after_{name}", table.c[name].type) for name in names))
        page = sa.select(*key, shown).where(sa.tuple_(*key) > after).order_by(*key).limit(limit).offset(NOTHING)
        this = [column == param(f"this_{name}") for name, column in zip(names, key, strict=True)]
        replace = sa.update(table).where(*this, body == param("old")).values({body: param("new")})
        return SealedTable(kind, self._text(page), self._text(replace), names, first)


@lru_cache
def sealed_statements(dialect: str) -> SealedStatements:
    return SealedStatements(dialect)
