# SPDX-License-Identifier: Apache-2.0
"""What a whole SQL database holds, for monitoring; see ``sql/volume.sql``."""

from __future__ import annotations

from zaqar.model import Volume
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.queries import Queries


class VolumeQueries(Queries, file="volume"):
    count_deliveries: str
    count_messages: str


def read_volume(database: Database, now: float) -> Volume:
    """Count the messages and the deliveries of the database. Two statements, whose cost is bounded.

    The numbers are exact, with these exceptions:

    - Of each queue 1,000 messages that have expired are looked at, and 1,000 whose claim or delay has ended, if others
      end later. If there are more, the rest counts as it is stored until a sweep, a claim or a page of the queue changes
      that: an expired message as free, a message that is due as claimed or delayed.
    - ``oldest`` is the ``created`` of the first message of each queue. A dead letter behind it may be older, because it
      keeps its ``created`` if the dead letter queue sets no TTL. More than 1,000 expired messages hide the first one.
    - ``waiting`` and ``dead`` end at 100,000. ``oldest_waiting`` is the ``created`` of the first delivery of each
      subscription, in the order of the messages.
    """
    sql = VolumeQueries.of(database.dialect)
    with database.read() as connection:
        free, claimed, delayed, *oldest = connection.execute(sql.count_messages, {"now": now}).fetchone()
        waiting, dead, oldest_waiting = connection.execute(sql.count_deliveries).fetchone()
    return Volume(
        free=free,
        claimed=claimed,
        delayed=delayed,
        oldest=min((created for created in oldest if created is not None), default=None),
        waiting=waiting,
        dead=dead,
        oldest_waiting=oldest_waiting,
    )
