# SPDX-License-Identifier: Apache-2.0
"""The file in which ``zaqar.upgrade`` remembers what it has copied, so that it can be stopped and run again."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (client_id TEXT NOT NULL, source TEXT NOT NULL, target TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS copied (
    position INTEGER PRIMARY KEY,
    project TEXT NOT NULL,
    queue TEXT NOT NULL,
    source_id TEXT NOT NULL,
    digest TEXT NOT NULL,
    target_id TEXT,
    UNIQUE (project, queue, source_id)
);
CREATE INDEX IF NOT EXISTS uncertain ON copied (project, queue) WHERE target_id IS NULL;
CREATE INDEX IF NOT EXISTS copies ON copied (target_id);
CREATE TEMPORARY TABLE seen (target_id TEXT PRIMARY KEY, digest TEXT NOT NULL);
"""


class OtherServices(Exception):
    """The file belongs to a copy between two other services."""


class Uncertain(NamedTuple):
    """Messages whose post was begun and has no known answer, with digests of their bodies.

    ``after`` is the copy of the message before them, if there is one.
    """

    source_ids: list[str]
    digests: list[str]
    after: str | None


class Progress:
    """The copied messages of all queues, by their ids on both services.

    A message is *uncertain* from before its post until the answer is stored. If the program ends in between, the next
    run looks for the message on the target. Raises OtherServices if the file was made for another source or target,
    and sqlite3.Error if it cannot be opened.
    """

    def __init__(self, path: Path | None, *, source: str, target: str) -> None:
        self._file = sqlite3.connect(":memory:" if path is None else path, isolation_level=None)
        self._file.executescript(_SCHEMA)
        row = self._file.execute("SELECT client_id, source, target FROM run").fetchone()
        if row is None:
            row = (str(uuid.uuid4()), source, target)
            self._file.execute("INSERT INTO run VALUES (?, ?, ?)", row)
        if row[1:] != (source, target):
            self._file.close()
            raise OtherServices(f"{path} is about a copy from {row[1]} to {row[2]}; name another file with --progress")
        self.client_id: str = row[0]

    def close(self) -> None:
        self._file.close()

    def unknown(self, project: str, queue: str, source_ids: Iterable[str]) -> set[str]:
        """Those of the messages that are neither copied nor uncertain."""
        return {
            source_id
            for source_id in source_ids
            if not self._file.execute(
                "SELECT 1 FROM copied WHERE project = ? AND queue = ? AND source_id = ?", (project, queue, source_id)
            ).fetchone()
        }

    def begin(self, project: str, queue: str, messages: Iterable[tuple[str, str]]) -> None:
        """Store that these messages, each with the digest of its body, are about to be posted in one request."""
        rows = [(project, queue, source_id, digest) for source_id, digest in messages]
        with self._file:
            self._file.execute("BEGIN")
            self._file.executemany("INSERT INTO copied (project, queue, source_id, digest) VALUES (?, ?, ?, ?)", rows)

    def finish(self, project: str, queue: str, source_ids: Sequence[str], target_ids: Sequence[str]) -> None:
        """Store that these messages are on the target, under ``target_ids`` in the same order."""
        rows = [(new, project, queue, old) for old, new in zip(source_ids, target_ids, strict=True)]
        with self._file:
            self._file.execute("BEGIN")
            self._file.executemany(
                "UPDATE copied SET target_id = ? WHERE project = ? AND queue = ? AND source_id = ?", rows
            )

    def undo(self, project: str, queue: str) -> None:
        """Store that the uncertain messages of a queue are not on the target."""
        self._file.execute("DELETE FROM copied WHERE project = ? AND queue = ? AND target_id IS NULL", (project, queue))

    def uncertain(self, project: str, queue: str) -> Uncertain:
        """The uncertain messages of a queue, in order. They are those of one request at most."""
        rows = self._file.execute(
            "SELECT source_id, digest FROM copied WHERE project = ? AND queue = ? AND target_id IS NULL"
            " ORDER BY position",
            (project, queue),
        ).fetchall()
        last = self._file.execute(
            "SELECT target_id FROM copied WHERE project = ? AND queue = ? AND target_id IS NOT NULL"
            " ORDER BY position DESC LIMIT 1",
            (project, queue),
        ).fetchone()
        return Uncertain([row[0] for row in rows], [row[1] for row in rows], last[0] if last else None)

    # -- comparison ---------------------------------------------------------------------------------------------------

    def forget_seen(self) -> None:
        """Begin a comparison: no message of the target has been seen."""
        self._file.execute("DELETE FROM seen")

    def see(self, messages: Iterable[tuple[str, str]]) -> list[int]:
        """Note messages that the target lists, each with its digest.

        Returns the positions, which grow in the order of the posts, of those that are copies.
        """
        rows = list(messages)
        self._file.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows)
        found = (
            self._file.execute("SELECT position FROM copied WHERE target_id = ?", (target_id,)).fetchone()
            for target_id, _ in rows
        )
        return [row[0] for row in found if row]

    def was_seen(self, project: str, queue: str, source_id: str, digest: str) -> bool:
        """Whether the target has listed the copy of this message, with this digest."""
        found = self._file.execute(
            "SELECT 1 FROM copied JOIN seen USING (target_id)"
            " WHERE project = ? AND queue = ? AND source_id = ? AND seen.digest = ?",
            (project, queue, source_id, digest),
        )
        return found.fetchone() is not None
