# SPDX-License-Identifier: Apache-2.0
"""The plans of queries: EXPLAIN, on the connections that the stores use."""

from __future__ import annotations

import re
from collections.abc import Mapping

from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.queries import files_of, texts_of

_ONE = ("ids", "numbers", "sequences", "subscriptions", "uids", "without")
SETS: Mapping[str, str] = {**dict.fromkeys(_ONE, "[1]"), "names": "[[1, 1, 1]]"}
"""Values of parameters that stand for a set."""

ARRAYS = ("claim_ids", "each_state", "each_due", "each_expires", "each_checksum", "each_body", "each_trace")


def queries_on(dialect: str, files: tuple[str, ...] = ()) -> dict[str, str]:
    """The queries of these files, or of all, under the names ``file.query``."""
    return {
        f"{file}.{name}": text for file in files or files_of(dialect) for name, text in texts_of(file, dialect).items()
    }


def plan_on_sqlite(database: Database, text: str) -> list[str]:
    values = {name: SETS.get(name, 1) for name in re.findall(r":(\w+)", text)}
    with database.read() as connection:
        return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values).fetchall()]


def plan_on_postgresql(database: Database, text: str) -> list[str]:
    """The generic plan, which the connections of the stores use."""
    names = sorted(set(re.findall(r"%\((\w+)\)s", text)))
    values = ", ".join("'{}'" if name in ARRAYS else f"'{SETS.get(name, '1')}'" for name in names)
    numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", text).replace("%%", "%")
    with database.write as connection:
        connection.execute(f"PREPARE explained AS {numbered}")
        try:
            call = f"explained ({values})" if names else "explained"
            return [row[0] for row in connection.execute(f"EXPLAIN EXECUTE {call}").fetchall()]
        finally:
            connection.execute("DEALLOCATE explained")
