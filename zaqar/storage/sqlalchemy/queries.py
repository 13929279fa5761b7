# SPDX-License-Identifier: Apache-2.0
"""SQL statements by name, from the files in the folder ``sql``.

Each part of a store has a file of statements that both databases share (``sql/claims.sql``), and one for each database
(``sql/sqlite/claims.sql``, ``sql/postgresql/claims.sql``). Any of the three may be missing. A file looks like this::

    -- name: get_claim
    -- Comments that begin the statement, or stand inside it, are left out of the text that runs.
    SELECT ttl, grace, started FROM claims WHERE segment = :segment AND claim_id = :claim AND expires > :now

A word in small letters after a colon is a parameter. A word in capitals is replaced by text once, when the file is
read: by a constant such as ``:READY``, which is a state as it is stored, or by a piece of SQL that begins with
``-- piece: MESSAGE_COLUMNS`` in the same file or in ``pieces.sql``. psql replaces ``:WORD`` in the same way after
``\\set WORD text``.

A part declares the statements it uses::

    class ClaimQueries(Queries, file="claims"):
        get_claim: str

and reads them with ``ClaimQueries.of("sqlite").get_claim``. The import fails if the class and its files do not have the
same names. ``python -m zaqar.storage.sqlalchemy.queries postgresql claims.claim`` prints a statement with all words
replaced, ready to be pasted after EXPLAIN.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from inspect import get_annotations
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from zaqar.model import DEAD, SEALED, WAITING
from zaqar.storage.base import MOST_PASSED
from zaqar.storage.sqlalchemy.states import CLAIMED, DELAYED, DELIVERY_STATES, READY

FOLDER: Final = Path(__file__).parent / "sql"

DIALECTS: Final = ("sqlite", "postgresql")
"""The databases, under the names that SQLAlchemy has for them."""

MOST_EXPIRED: Final = 200
"""Expired messages that statistics and positions count or pass over at each call. If there are more, some are removed
first."""

MOST_COUNTED: Final = 2000
"""Messages of a queue that have expired, or whose claim or delay has ended, and that the volume of a store counts."""

MOST_DELIVERIES: Final = 100_000
"""Waiting deliveries, and dead ones, that the volume of a store counts."""

WAKEUP_CHANNEL: Final = "zaqar_wakeups"
"""The channel of LISTEN and NOTIFY. It is one for all queues because at each commit that notifies, the server looks at
every channel name of every listener."""

CONSTANTS: Final[Mapping[str, str]] = {
    "READY": str(READY),
    "CLAIMED": str(CLAIMED),
    "DELAYED": str(DELAYED),
    "WAITING": str(DELIVERY_STATES.index(WAITING)),
    "DEAD": str(DELIVERY_STATES.index(DEAD)),
    "SEALED": f"'{SEALED:02x}'",
    "MOST_EXPIRED": str(MOST_EXPIRED),
    "MORE_THAN_MOST_EXPIRED": str(MOST_EXPIRED + 1),
    "MOST_COUNTED": str(MOST_COUNTED),
    "MOST_DELIVERIES": str(MOST_DELIVERIES),
    "MOST_PASSED": str(MOST_PASSED),
    "LAST_PASSED": str(MOST_PASSED - 1),
    "TALLY_ROWS": "8",
    "WAKEUP_CHANNEL": f"'{WAKEUP_CHANNEL}'",
}
"""What a word in capitals stands for unless ``pieces.sql`` has it. Literals, not parameters: a database uses a partial
index only if the statement has the condition of the index literally."""

_HEADER: Final = re.compile(r"^-- (name|piece): (\w+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"--.*")
_WORD: Final = re.compile(r"(?<![:\w]):(\w+)")
"""A word after one colon: two are a cast of PostgreSQL."""


class QueryError(Exception):
    """The SQL files do not fit each other or the class that uses them."""


class Queries:
    """The statements of one part of a store, each in the attribute of its name."""

    _file: ClassVar[str]
    _by_dialect: ClassVar[dict[str, Any]]

    def __init_subclass__(cls, *, file: str | None = None, dialects: Sequence[str] = DIALECTS) -> None:
        """Read the files of a part. Without ``file`` the class only declares what its subclasses share."""
        super().__init_subclass__()
        if file is not None:
            cls._file = file
            cls._by_dialect = {dialect: cls._read(file, dialect) for dialect in dialects}

    @classmethod
    def of(cls, dialect: str) -> Self:
        found: Self = cls._by_dialect[dialect]
        return found

    @classmethod
    def _read(cls, file: str, dialect: str) -> Self:
        texts = texts_of(file, dialect)
        declared = {name for each in cls.__mro__ for name in get_annotations(each) if not name.startswith("_")}
        if wrong := declared ^ texts.keys():
            raise QueryError(f"{cls.__name__} or {file}.sql for {dialect} does not have: {', '.join(sorted(wrong))}")
        made = cls()
        vars(made).update(texts)
        return made


def texts_of(file: str, dialect: str) -> dict[str, str]:
    """The statements of a part by name, each in one line, with the parameters as the database's library takes them."""
    texts = {name: " ".join(text.split()) for name, text in sections_of(file, dialect).items()}
    # psycopg has parameters such as %(now)s, so that a percent sign must be doubled.
    if dialect == "postgresql":
        return {name: _WORD.sub(r"%(\1)s", text.replace("%", "%%")) for name, text in texts.items()}
    return texts


@lru_cache
def sections_of(file: str, dialect: str) -> dict[str, str]:
    """The statements of a part by name, with all words in capitals replaced."""
    found, pieces = _split(file, dialect)
    _, shared_pieces = _split("pieces", dialect)
    words = {**CONSTANTS, **shared_pieces, **pieces}
    return {name: _replace_words(text, words, f"{file}.sql: {name}") for name, text in found.items()}


def _replace_words(text: str, words: Mapping[str, str], place: str) -> str:
    def replaced(match: re.Match[str]) -> str:
        word = match[1]
        if not word.isupper():
            return match[0]
        if word not in words:
            raise QueryError(f"{place} has the unknown word :{word}")
        return _replace_words(words[word], words, place)

    return _WORD.sub(replaced, text)


@lru_cache
def _split(file: str, dialect: str) -> tuple[dict[str, str], dict[str, str]]:
    """The statements and the pieces of up to two files by name, without their comments."""
    found: dict[str, dict[str, str]] = {"name": {}, "piece": {}}
    for path in (FOLDER / f"{file}.sql", FOLDER / dialect / f"{file}.sql"):
        if not path.exists():
            continue
        _, *sections = _HEADER.split(path.read_text("utf-8"))
        for kind, name, text in zip(sections[::3], sections[1::3], sections[2::3], strict=True):
            if name in found[kind]:
                raise QueryError(f"{path} has {name} twice, or the shared file has it")
            lines = (line.rstrip() for line in _COMMENT.sub("", text).splitlines())
            found[kind][name] = "\n".join(filter(None, lines))
    if not any(found.values()):
        raise QueryError(f"no file {file}.sql for {dialect}")
    return found["name"], found["piece"]


def files_of(dialect: str) -> list[str]:
    """The names of all files with statements for a database, without those of the pieces."""
    paths = (*FOLDER.glob("*.sql"), *(FOLDER / dialect).glob("*.sql"))
    return sorted({path.stem for path in paths} - {"pieces"})


def main() -> None:
    dialect, query = sys.argv[1:]
    file, _, name = query.partition(".")
    sys.stdout.write(sections_of(file, dialect)[name] + "\n")


if __name__ == "__main__":
    main()
