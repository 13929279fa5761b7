# SPDX-License-Identifier: Apache-2.0
"""What a whole SQL database holds, for monitoring; see ``sql/volume.sql``."""

from __future__ import annotations

from typing import Any, Final

from zaqar.model import Volume
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.queries import Queries

QUEUES_AT_ONCE: Final = 100
"""Queues whose messages one statement counts: a few milliseconds, and a second if each queue is at its bounds."""


class VolumeQueries(Queries, file="volume"):
    count_deliveries: str
    count_messages: str


def read_volume(database: Database, now: float) -> Volume:
    """Count the messages and the deliveries of the database.

    Each statement is a transaction by itself, so that none takes long: the messages of QUEUES_AT_ONCE queues, and all
    deliveries. The numbers are exact, with these exceptions:

    - Of each queue 2,000 messages that have expired are looked at, and 2,000 whose claim or delay has ended, unless all
      have. If there are more, the rest counts as it is stored until a sweep, a claim or a page of the queue changes
      that: an expired message as free, a message that is due as claimed or delayed.
    - ``oldest`` is the ``created`` of the first message of each queue. A dead letter behind it may be older, because it
      keeps its ``created`` if the dead letter queue sets no TTL. More than 2,000 expired messages hide the first one.
    - ``waiting`` and ``dead`` end at 100,000. ``oldest_waiting`` is the ``created`` of the first delivery of each
      subscription, in the order of the messages.
    """
    sql = VolumeQueries.of(database.dialect)
    pages: list[list[Any]] = []
    count, last = QUEUES_AT_ONCE, 0
    while count == QUEUES_AT_ONCE:
        page = {"now": now, "after": last, "limit": QUEUES_AT_ONCE}
        with database.read_once() as connection:
            count, last, *found = connection.execute(sql.count_messages, page).fetchone()
        pages.append(found)
    free, claimed, delayed, *oldest = zip(*pages, strict=True)
    with database.read_once() as connection:
        waiting, dead, oldest_waiting = connection.execute(sql.count_deliveries).fetchone()
    return Volume(
        free=sum(free),
        claimed=sum(claimed),
        delayed=sum(delayed),
        oldest=min((created for each in oldest for created in each if created is not None), default=None),
        waiting=waiting,
        dead=dead,
        oldest_waiting=oldest_waiting,
    )
