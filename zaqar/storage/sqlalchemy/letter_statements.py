# SPDX-License-Identifier: Apache-2.0
"""The statements about dead letters; see ``statements``."""

from __future__ import annotations

import sqlalchemy as sa

from zaqar.storage.sqlalchemy.schema import messages, received, set_aside
from zaqar.storage.sqlalchemy.selections import first_free, inner
from zaqar.storage.sqlalchemy.sql import NOTHING, READY, Texts, limit, param, segment, uid

_NO_CLAIM = sa.null()
_NO_DELAY = sa.null()


class LetterStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        self._define_moving()
        self._define_setting_aside()
        self._define_receiving()

    def _define_moving(self) -> None:
        """To the end of a queue of the same store."""

        m = messages.c
        self.candidates = self._text(
            self._locking(first_free())
            .with_only_columns(inner.c.id, inner.c.sequence, inner.c.claim_count, inner.c.created, inner.c.expires)
            .where(inner.c.sequence < param("end_of_queue"))
        )
        self.move = self._text(
            sa.update(messages)
            .where(m.id == param("message"))
            .values(
                segment=param("new_segment"),
                sequence=param("new_sequence"),
                created=param("new_created"),
                expires=param("new_expires"),
                claim_count=NOTHING,
                origin_queue=param("from_queue"),
                origin_id=param("from_id"),
                origin_claim_count=m.claim_count,
            )
        )

    def _define_setting_aside(self) -> None:
        m, a = messages.c, set_aside.c
        kept = [column.name for column in a]
        chosen = sa.select(*(m[name] for name in kept)).where(self._among(m.id, "ids"))
        self.set_aside = self._text(sa.insert(set_aside).from_select(kept, chosen))
        shown = (a.sequence, a.body, a.created, a.expires, a.client_id, _NO_CLAIM, a.claim_count, a.checksum)
        self.aside = self._text(
            sa.select(*shown, a.origin_queue, a.origin_id, a.origin_claim_count, _NO_DELAY)
            .where(a.segment == segment)
            .order_by(a.sequence)
            .limit(limit)
            .offset(NOTHING)
        )
        self.forget = self._text(sa.delete(set_aside).where(a.segment == segment, self._among(a.sequence, "sequences")))

    def _define_receiving(self) -> None:
        r = received.c
        self.known = self._text(sa.select(r.message_id).where(r.uid == uid, self._among(r.message_id, "letters")))
        self.remember = self._text(
            sa.insert(received).values(uid=uid, message_id=param("letter"), forget_at=param("forget_at"))
        )
        self.insert = self._text(
            sa.insert(messages)
            .inline()
            .values(
                segment=segment,
                sequence=param("sequence"),
                state=READY,
                expires=param("expires"),
                created=param("created"),
                claim_count=NOTHING,
                client_id=param("client_id"),
                checksum=param("checksum"),
                origin_queue=param("from_queue"),
                origin_id=param("letter"),
                origin_claim_count=param("from_claim_count"),
                body=param("body"),
            )
        )
