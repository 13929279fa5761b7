# SPDX-License-Identifier: Apache-2.0
"""One connection to PostgreSQL: how it is made, how long it waits, and what becomes of it in a fork."""

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

PLANS_LAST = 10.0
"""Seconds that a plan is used. On an empty table any index looks as good as the right one."""

# Every statement is served by an index, so the planner need not choose by statistics, which lag behind a queue that
# fills and empties within minutes; and a plan made once serves every queue. One that waits longer than its client
# does is ended by the server, and so is a transaction whose client was stopped: its locks hold up others.
_SETTINGS = {
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


class _Integer(Int8BinaryDumper):
    """Every integer as a bigint: the smallest type that fits would make other prepared statements of the same text."""


class TimedOut(psycopg.OperationalError):
    """The server does not answer."""


class Link(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits until its ``deadline`` (``time.monotonic``) and no longer.

    The server's own limits do not help where the server hangs, or the network between.
    """

    deadline = math.inf
    planned = 0.0
    """When its plans began to be made, by ``time.monotonic``."""

    def wait(self, gen: PQGen[Any], interval: float = 0.0, timeout: float | None = None) -> Any:
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
                # An error or the end of the connection counts as both: libpq will say what it is.
                ready = (
                    wanted
                    if event & ~(_READABLE | _WRITABLE)
                    else (event & _READABLE and 1) | (event & _WRITABLE and 2)
                )
                wanted = gen.send(ready)
        except StopIteration as stop:
            return stop.value

    def executemany(self, statement: str, parameters: Iterable[Any], /) -> psycopg.Cursor[tuple[Any, ...]]:
        cursor = self.cursor()
        cursor.executemany(statement, parameters)  # all in one round trip
        return cursor

    def keep_plans_fresh(self, now: float) -> None:
        """Forget plans that may be from when the tables were small. They are made again at the size tables have now."""
        if now - self.planned > PLANS_LAST:
            self.execute("DISCARD PLANS", prepare=False)
            self.planned = now

    def is_quiet(self) -> bool:
        """Whether nothing came on it since it was used last. What would come is news of its end."""
        poll = select.poll()
        poll.register(self.pgconn.socket, _READABLE)
        return not poll.poll(0)

    def is_usable(self) -> bool:
        """Whether another transaction can begin on it."""
        return self.pgconn.transaction_status == pq.TransactionStatus.IDLE


@dataclass(frozen=True, slots=True)
class Address:
    """Where a database is and how to log in there; ``name`` is what may be shown of it."""

    name: str
    parameters: str
    plain_parameters: str
    """Without the settings, for changes of the schema, which may take long."""

    def __repr__(self) -> str:
        return f"Address({self.name})"

    @classmethod
    def of(cls, uri: str) -> Self:
        # SQLAlchemy reads the query as a form. libpq, whose parameters these are, takes "+" for a plus sign.
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
        settings = " ".join(f"-c {option}={value}" for option, value in _SETTINGS.items())
        asked_for = given.pop("options", "")
        try:
            made = conninfo.make_conninfo(**{**defaults, **given}, options=f"{settings} {asked_for}".strip())
            plain = conninfo.make_conninfo(**{**defaults, **given}, options=asked_for)
        except psycopg.Error as exc:
            raise StartupError(f"{name} cannot be opened: {' '.join(str(exc).split())}.") from exc
        return cls(name, made, plain)

    def connect(self, patience: int) -> Link:
        link = Link.connect(self.parameters, autocommit=True, connect_timeout=patience)
        link.prepare_threshold = 1
        link.planned = monotonic()
        for type_, dumper in ((int, _Integer), (float, FloatBinaryDumper), (bytes, BytesBinaryDumper)):
            link.adapters.register_dumper(type_, dumper)
        return link

    def connect_plainly(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.plain_parameters, connect_timeout=3)


# -- fork -------------------------------------------------------------------------------------------------------------


class Forked(Protocol):
    def renew_in_child(self) -> None: ...


_forked: weakref.WeakSet[Any] = weakref.WeakSet()


def register_for_fork(database: Forked) -> None:
    _forked.add(database)


_inherited: list[Link] = []
"""Never used and never garbage: closing one properly would say farewell in the name of the parent."""


def leave_to_parent(links: Iterable[Link]) -> None:
    for link in links:
        os.close(link.pgconn.socket)
        _inherited.append(link)


def _renew_in_child() -> None:
    for database in list(_forked):
        database.renew_in_child()


os.register_at_fork(after_in_child=_renew_in_child)
