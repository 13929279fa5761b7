# SPDX-License-Identifier: Apache-2.0
"""The open connections of this process: found by their ids, and counted in all and by project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zaqar.transport.websocket.connection import Connection


class Connections:
    """What is open. All methods are for the event loop only."""

    def __init__(self) -> None:
        self._open: dict[str, Connection] = {}
        self._projects: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        """All of them, as they are now."""
        return iter(list(self._open.values()))

    def find(self, connection_id: str) -> Connection | None:
        """The connection with this id; None if it is closed or was never one of this process."""
        return self._open.get(connection_id)

    def add(self, connection: Connection) -> None:
        self._open[connection.id] = connection

    def remove(self, connection: Connection) -> None:
        self._open.pop(connection.id, None)

    def count(self, project: str) -> int:
        """How many connections the project has."""
        return self._projects[project]

    def enter(self, project: str) -> None:
        """Count a connection as one of the project."""
        self._projects[project] += 1

    def leave(self, project: str) -> None:
        """Count it no more."""
        if self._projects[project] <= 1:
            del self._projects[project]
        else:
            self._projects[project] -= 1
