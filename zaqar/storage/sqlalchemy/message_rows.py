# SPDX-License-Identifier: Apache-2.0
"""Messages as rows: the columns :MESSAGE_COLUMNS of ``sql/pieces.sql``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zaqar.model import Message, Origin


def message_of(queue_uid: str, row: tuple[Any, ...]) -> Message:
    """The message in one row."""
    sequence, body, created, expires, client_id, claim_id, count, checksum, queue, old_id, old_count, due, trace = row
    origin = None if queue is None else Origin(queue, old_id, old_count)
    # PERF: by position, which is faster. None is ``error``, which no store sets.
    return Message(
        queue_uid, sequence, body, created, expires, client_id, claim_id, count, checksum, origin, None, due, trace
    )


def messages_of(queue_uid: str, rows: Iterable[tuple[Any, ...]]) -> list[Message]:
    """Sort by sequence: RETURNING yields rows in no defined order."""
    return [message_of(queue_uid, row) for row in sorted(rows)]
