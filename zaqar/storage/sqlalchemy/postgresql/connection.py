# SPDX-License-Identifier: Apache-2.0
"""One connection to PostgreSQL: its parameters, its deadline, and what a fork does to it.

``pool`` and ``wakeups`` open connections.
"""

from __future__ import annotations

import math
import os
import select
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol, Self

import psycopg
import sqlalchemy as sa
from psycopg import conninfo, pq
from psycopg.abc import PQGen
from psycopg.types.numeric import FloatBinaryDumper, Int8BinaryDumper
from psycopg.types.string import BytesBinaryDumper

from zaqar.errors import StartupError
from zaqar.uris import is_host

_READABLE, _WRITABLE = select.POLLIN, select.POLLOUT

CONNECT_SECONDS = 3
"""Seconds that opening a connection takes at most."""

TRANSACTION_SECONDS = 4.5
"""Seconds that a transaction takes at most, including the wait for a connection."""

PLANS_LAST = 10.0
"""Seconds that a query plan is used. On an empty table any index looks as good as the right one."""

# Every statement is served by an index, so the planner need not choose by statistics, which lag behind a queue that
# fills and empties within minutes; and a plan that was made once serves every queue. The server ends a statement that
# outlasts the patience of its client, and a transaction whose client was stopped: its locks block other clients.
SETTINGS = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "statement_timeout": "4s",
    "idle_in_transaction_session_timeout": "10s",
}

_DEFAULTS = ("on", "auto", "0")
"""The values that these settings have on a server of which nobody has changed them."""


class _Integer(Int8BinaryDumper):
    """Sends every integer as a bigint. psycopg would choose the smallest type that fits the value, and PostgreSQL
    prepares the same text once more for each combination of types."""


class TimedOut(psycopg.OperationalError):
    """The server does not answer."""


class PostgresqlConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection of psycopg that waits for the server until its ``deadline`` and no longer.

    The time limits of the server (statement_timeout) do not help if the server hangs or the network drops packets.
    """

    deadline = math.inf
    """When to give up, by ``time.monotonic``. The user sets it before each transaction."""
    planned = 0.0
    """The time from which its query plans are, by ``time.monotonic``."""

    def wait(self, gen: PQGen[Any], interval: float = 0.0, timeout: float | None = None) -> Any:
        """Run a generator of psycopg, which yields when it needs the socket to be readable or writable.

        Raises TimedOut at the deadline. The connection is then in the middle of an answer, and must be closed.
        """
        # psycopg's own loop wakes up every 0.1 s (``interval``) to look for signals, and has no deadline of this kind.
        # gevent replaces select.poll, so that other greenlets run meanwhile.
        try:
            wanted = next(gen)
            poll = select.poll()
            descriptor = self.pgconn.socket
            while True:
                poll.register(descriptor, (_READABLE if wanted & 1 else 0) | (_WRITABLE if wanted & 2 else 0))
                left = self.deadline - monotonic()
                events = poll.poll(None if left == math.inf else max(0.0, left * 1000))
                if not events:
                    raise TimedOut("the server does not answer in time")
                event = events[0][1]
                # An error or the end of the connection counts as both: libpq reads it and says what it is.
                ready = (
                    wanted
                    if event & ~(_READABLE | _WRITABLE)
                    else (event & _READABLE and 1) | (event & _WRITABLE and 2)
                )
                wanted = gen.send(ready)
        except StopIteration as stop:
            return stop.value

    def executemany(self, statement: str, parameters: Iterable[Any], /) -> psycopg.Cursor[tuple[Any, ...]]:
        """Run a statement once for each of the parameters, all in one round trip."""
        cursor = self.cursor()
        cursor.executemany(statement, parameters)
        return cursor

    def keep_plans_fresh(self, now: float) -> None:
        """Discard plans that may be from a time when the tables were small. The server then plans anew."""
        if now - self.planned > PLANS_LAST:
            self.execute("DISCARD PLANS", prepare=False)
            self.planned = now

    def is_quiet(self) -> bool:
        """Whether nothing has arrived since the last use. On an idle connection only news of its end can arrive."""
        poll = select.poll()
        poll.register(self.pgconn.socket, _READABLE)
        return not poll.poll(0)

    def is_usable(self) -> bool:
        """Whether another transaction can begin on it."""
        return self.pgconn.transaction_status == pq.TransactionStatus.IDLE


@dataclass(frozen=True, slots=True)
class ConnectionParameters:
    """What libpq needs to connect to one database."""

    name: str
    """The database in log lines and error texts, without a password."""
    conninfo: str
    plain_conninfo: str
    """The same without the settings of this module, for schema changes, which may take long."""
    transaction_pooling: bool = False
    """Whether each transaction may come to another session of the server, because a pooler is in between.

    Then statements are not prepared, and the role has to have the settings: a pooler refuses those of a client.
    """

    def __repr__(self) -> str:
        return f"ConnectionParameters({self.name})"

    @classmethod
    def of(cls, uri: str, *, transaction_pooling: bool = False) -> Self:
        """Read them from a URI. Raises StartupError if it is malformed."""
        # SQLAlchemy reads the query as a form, in which "+" is a space. For libpq it is a plus sign.
        place, mark, query = uri.partition("?")
        url = sa.make_url(place + mark + query.replace("+", "%2B"))
        if url.drivername not in ("postgresql", "postgresql+psycopg"):
            raise StartupError(
                f"PostgreSQL is used through psycopg: the URI begins with postgresql://, not {url.drivername}://."
            )
        options = {name: value if isinstance(value, str) else ",".join(value) for name, value in url.query.items()}
        port = None if url.port is None else str(url.port)
        asked = {"host": url.host, "port": port, "user": url.username, "password": url.password}
        given = {**{name: value for name, value in asked.items() if value is not None}, **options}
        if url.database:
            given["dbname"] = url.database
        where = f"{given.get('host', 'localhost')}" + (f":{given['port']}" if "port" in given else "")
        name = f"The PostgreSQL database {given.get('dbname', '')} at {where}".replace("  ", " ")
        # A host that begins with "/" is the folder of a Unix socket.
        if not all(host.startswith("/") or is_host(host) for host in given.get("host", "").split(",")):
            raise StartupError("The URI of the database is malformed: its host cannot be a name or an address.")
        defaults = {"application_name": "zaqar", "tcp_user_timeout": "4000", "keepalives_idle": "10"}
        settings = " ".join(f"-c {option}={value}" for option, value in SETTINGS.items())
        asked_for = given.pop("options", "")
        try:
            made = conninfo.make_conninfo(**{**defaults, **given}, options=f"{settings} {asked_for}".strip())
            plain = conninfo.make_conninfo(**{**defaults, **given}, options=asked_for)
        except psycopg.Error as exc:
            raise StartupError(f"{name} cannot be opened: {' '.join(str(exc).split())}.") from exc
        return cls(name, plain if transaction_pooling else made, plain, transaction_pooling)

    def connect(self) -> PostgresqlConnection:
        """Open a connection within ``CONNECT_SECONDS``. Raises psycopg's errors."""
        connection = PostgresqlConnection.connect(self.conninfo, autocommit=True, connect_timeout=CONNECT_SECONDS)
        if self.transaction_pooling:
            connection.prepare_threshold = None
            connection.planned = math.inf
        else:
            # The second use of a text prepares it: each text of the stores runs many times.
            connection.prepare_threshold = 1
            connection.planned = monotonic()
        for type_, dumper in ((int, _Integer), (float, FloatBinaryDumper), (bytes, BytesBinaryDumper)):
            connection.adapters.register_dumper(type_, dumper)
        return connection

    def connect_plainly(self) -> psycopg.Connection[Any]:
        """Open a connection without deadline and settings, for schema changes. Raises psycopg's errors."""
        # Nothing is prepared: through a pooler, the names of prepared statements would clash with those of others.
        return psycopg.connect(self.plain_conninfo, connect_timeout=CONNECT_SECONDS, prepare_threshold=None)


def find_missing_settings(connection: PostgresqlConnection) -> list[str]:
    """The names of SETTINGS that a connection does not have, because something between it and the server drops them."""
    row = connection.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in SETTINGS)).fetchone()
    assert row is not None
    return [name for name, value in zip(SETTINGS, row, strict=True) if value in _DEFAULTS]


# -- fork -------------------------------------------------------------------------------------------------------------


class HasConnections(Protocol):
    def renew_in_child(self) -> None: ...


_owners: weakref.WeakSet[Any] = weakref.WeakSet()


def register_for_fork(owner: HasConnections) -> None:
    """Call ``owner.renew_in_child`` in each forked child as long as the owner lives."""
    _owners.add(owner)


_inherited: list[PostgresqlConnection] = []
"""Connections of the parent. They stay referenced for good: their destructor would send the server a message that
ends the session, over the socket that the parent still uses."""


def leave_to_parent(connections: Iterable[PostgresqlConnection]) -> None:
    """Close the sockets of inherited connections in this child, without telling the server."""
    for connection in connections:
        os.close(connection.pgconn.socket)
        _inherited.append(connection)


def _renew_in_child() -> None:
    for owner in list(_owners):
        owner.renew_in_child()


os.register_at_fork(after_in_child=_renew_in_child)
