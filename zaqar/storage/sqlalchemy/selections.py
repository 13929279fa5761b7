# SPDX-License-Identifier: Apache-2.0
"""Parts that several groups of statements are made of."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from zaqar.storage.sqlalchemy.sql import CLAIMED, NOTHING, READY, limit, now, ready_from, segment
from zaqar.storage.sqlalchemy.tables import messages

inner = messages.alias("m")
"""For subqueries about messages inside a statement that changes them."""

claim_shown = sa.case((sa.and_(messages.c.state == CLAIMED, messages.c.due > now), messages.c.claim_id))
SHOWN = (
    messages.c.sequence,
    messages.c.body,
    messages.c.created,
    messages.c.expires,
    messages.c.client_id,
    claim_shown.label("live_claim_id"),
    messages.c.claim_count,
    messages.c.checksum,
    messages.c.origin_queue,
    messages.c.origin_id,
    messages.c.origin_claim_count,
)
"""In the order of ``model.Message``; ``rows.message_of`` reads them."""


def alive(table: Any) -> sa.ColumnElement[bool]:
    """Nearly all messages are, so this must not be what they are looked for by; the sum hides it from the planner."""
    living: sa.ColumnElement[bool] = table.c.expires + NOTHING > now
    return living


def first_free(of: Any = segment, start: Any = ready_from, *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    found = sa.select(inner).where(
        inner.c.segment == of, inner.c.state == READY, inner.c.sequence >= start, alive(inner), *conditions
    )
    return found.order_by(inner.c.sequence).limit(limit).offset(NOTHING)
