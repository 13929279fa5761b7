# SPDX-License-Identifier: Apache-2.0
"""The open connections of this process, by id, with the number of them in all and for each project."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zaqar.transport.websocket.connection import Connection


class Connections:
    """The open connections. All methods are for the event loop only."""

    def __init__(self) -> None:
        self._open: dict[str, Connection] = {}
        self._projects: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        """All connections that are open now; it may be used while connections open and close."""
        return iter(list(self._open.values()))

    def find(self, connection_id: str) -> Connection | None:
        """The connection with this id; None if it is closed or was never one of this process."""
        return self._open.get(connection_id)

    def add(self, connection: Connection) -> None:
        self._open[connection.id] = connection

    def remove(self, connection: Connection) -> None:
        self._open.pop(connection.id, None)

    def count(self, project: str) -> int:
        """Number of open connections of the project."""
        return self._projects[project]

    def enter(self, project: str) -> None:
        """Count a connection as one of the project."""
        self._projects[project] += 1

    def leave(self, project: str) -> None:
        """Undo one :meth:`enter`."""
        if self._projects[project] <= 1:
            del self._projects[project]
        else:
            self._projects[project] -= 1
