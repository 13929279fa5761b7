# SPDX-License-Identifier: Apache-2.0
"""What the statements are written with: literals, parameters, and the way to text of one dialect."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles

from zaqar.storage.sqlalchemy import schema

_DIALECTS: dict[str, Any] = {"sqlite": sqlite.dialect, "postgresql": postgresql.dialect}
_PARAMSTYLES = {"sqlite": "named", "postgresql": "pyformat"}

# Written out, not bound: SQLite uses an index with a condition only where the statement has that condition literally.
READY, CLAIMED, DELAYED = (
    sa.literal_column(str(state), sa.SmallInteger) for state in (schema.READY, schema.CLAIMED, schema.DELAYED)
)
NOTHING = sa.literal_column("0", sa.Integer)
"""Also as OFFSET, which SQLAlchemy would otherwise bind for SQLite."""


def param(name: str, type_: Any = None) -> Any:
    return sa.bindparam(name, type_=type_)


now, segment, limit = param("now", sa.Double), param("segment", sa.BigInteger), param("limit", sa.Integer)
uid, ready_from = param("uid", sa.Text), param("ready_from", sa.BigInteger)


class _Numbers(sa.sql.functions.FunctionElement[int]):
    """The numbers of a JSON array that is bound as one parameter, so that one text serves any count of them."""

    inherit_cache = True


class _Words(sa.sql.functions.FunctionElement[str]):
    """The same for texts."""

    inherit_cache = True


@compiles(_Numbers, "sqlite")
@compiles(_Words, "sqlite")
def _on_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"(SELECT value FROM json_each({compiler.process(element.clauses, **kwargs)}))"  # noqa: S608 - a parameter


@compiles(_Numbers, "postgresql")
def _numbers_on_postgresql(element: _Numbers, compiler: Any, **kwargs: Any) -> str:
    # The text of an array of numbers differs only in its brackets.
    return f"CAST(translate({compiler.process(element.clauses, **kwargs)}, '[]', '{{}}') AS bigint[])"


@compiles(_Words, "postgresql")
def _words_on_postgresql(element: _Words, compiler: Any, **kwargs: Any) -> str:
    array = compiler.process(element.clauses, **kwargs)
    return f"array(SELECT json_array_elements_text(CAST({array} AS json)))"


def chosen_once(column: sa.Column[Any], choice: sa.Select[Any] | sa.CompoundSelect[Any]) -> sa.ColumnElement[bool]:
    """Whether the column is one of a choice, on PostgreSQL, which may make that of ``IN (SELECT ...)`` for each row."""
    chosen: Any = sa.func.array(choice.scalar_subquery())
    is_chosen: sa.ColumnElement[bool] = column == sa.any_(chosen)
    return is_chosen


def json_array(values: Iterable[int] | Iterable[str]) -> str:
    """The value of a parameter that stands for a set of numbers or of texts."""
    return json.dumps(list(values))


def among(column: sa.ColumnElement[Any], name: str, dialect: str) -> sa.ColumnElement[bool]:
    """Whether the column is one of those in that parameter, which is a ``json_array``."""
    kind: Any = _Words if isinstance(column.type, sa.Text) else _Numbers
    values = kind(sa.bindparam(name, type_=sa.Text))
    if dialect == "sqlite":
        return column.op("IN", is_comparison=True)(values)
    # Not IN with a subquery, which would be joined, from either side.
    is_among: sa.ColumnElement[bool] = column == sa.any_(values)
    return is_among


class _Row(sa.sql.functions.FunctionElement[str]):
    """The texts of a JSON array as rows."""

    inherit_cache = True


@compiles(_Row, "sqlite")
def _row_on_sqlite(element: _Row, compiler: Any, **kwargs: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **kwargs)})"


@compiles(_Row, "postgresql")
def _row_on_postgresql(element: _Row, compiler: Any, **kwargs: Any) -> str:
    return f"json_array_elements_text(CAST({compiler.process(element.clauses, **kwargs)} AS json))"


def rows_of(name: str) -> Any:
    """The texts in that parameter, which is a ``json_array``, as a table with the column ``value``."""
    values: Any = _Row(sa.bindparam(name, type_=sa.Text))
    return values.table_valued(sa.column("value", sa.Text), name="each_of_them")


def compile_text(statement: sa.Executable, dialect: str) -> str:
    made = _DIALECTS[dialect](paramstyle=_PARAMSTYLES[dialect])
    compiled = statement.compile(dialect=made)  # type: ignore[attr-defined]
    bound = {name: value for name, value in compiled.params.items() if value is not None}
    if bound:
        raise TypeError(f"values that nobody would pass: {bound}")
    return str(compiled)


class Texts:
    """A group of statements as text for one dialect."""

    def __init__(self, dialect: str) -> None:
        self._dialect = dialect

    @property
    def is_concurrent(self) -> bool:
        """Whether transactions run beside each other, so that what is read to be changed must be locked."""
        return self._dialect == "postgresql"

    def _locking(self, found: sa.Select[Any]) -> sa.Select[Any]:
        """Rows that are read to be changed. Rows that changed meanwhile are looked at anew after the wait."""
        return found.with_for_update(key_share=True) if self.is_concurrent else found

    def _among(self, column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
        return among(column, name, self._dialect)

    def _chosen(self, column: Any, choice: sa.Select[Any]) -> Any:
        """Whether the column is one of a choice that is made once."""
        return chosen_once(column, choice) if self.is_concurrent else column.in_(choice)

    def _text(self, statement: sa.Executable) -> str:
        return compile_text(statement, self._dialect)


def ping_of(table: sa.Table) -> sa.Select[Any]:
    one: sa.ColumnClause[int] = sa.literal_column("1")
    return sa.select(one).select_from(table).limit(one).offset(NOTHING)
