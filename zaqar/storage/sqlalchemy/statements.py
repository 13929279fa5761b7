# SPDX-License-Identifier: Apache-2.0
"""The statements of the message store, defined once with SQLAlchemy Core, as text for one dialect.

Parameters are named. A statement that shows messages needs ``now``, as it shows a claim only while it lives.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from zaqar.storage.sqlalchemy.letter_statements import LetterStatements
from zaqar.storage.sqlalchemy.schema import claims, dropped, fences, garbage, messages, segments
from zaqar.storage.sqlalchemy.selections import (
    LEASE,
    LONGER,
    SHOWN,
    alive,
    claim_shown,
    counts,
    first_free,
    in_force,
    inner,
    listing_of,
    looked,
    numbered,
    positions,
    total_counts,
)
from zaqar.storage.sqlalchemy.sql import (
    CLAIMED,
    NOTHING,
    READY,
    Texts,
    limit,
    now,
    param,
    ping_of,
    segment,
    uid,
)
from zaqar.storage.sqlalchemy.sweep_statements import SweepStatements


class FenceStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        self._define_checks()
        self._define_life()

    def _define_checks(self) -> None:
        """What each operation asks of the fence and leaves there."""

        f = fences.c
        self.look = self._text(self._locking(looked()))
        self.segment = self._text(self._locking(sa.select(f.segment).where(in_force)))
        self.append = self._text(
            sa.update(fences)
            .where(in_force)
            .values(
                next_sequence=f.next_sequence + param("count"),
                ready=f.ready + param("more_ready"),
                delayed=f.delayed + param("more_delayed"),
            )
            .returning(f.segment, f.next_sequence)
        )
        self.count = self._text(
            sa.update(fences)
            .where(f.uid == uid)
            .values(
                ready=f.ready + param("more_ready"),
                claimed=f.claimed + param("more_claimed"),
                delayed=f.delayed + param("more_delayed"),
                ready_from=sa.func.coalesce(param("new_ready_from", sa.BigInteger), f.ready_from),
            )
        )
        self.counts = self._text(counts(self.is_concurrent, patient=False).where(f.uid == uid))
        self.patient_counts = self._text(counts(self.is_concurrent, patient=True).where(f.uid == uid))
        self.all_counts = self._text(total_counts(self.is_concurrent))
        self.positions = self._text(positions().where(self._among(f.uid, "uids")))
        self.ping = self._text(ping_of(fences))

    def _define_life(self) -> None:
        """How a fence comes, changes and goes."""

        f = fences.c
        empty = {"ready": NOTHING, "claimed": NOTHING, "delayed": NOTHING}
        self.find = self._text(self._locking(sa.select(f.generation, f.segment, f.forget_at).where(f.uid == uid)))
        self.insert = self._text(
            sa.insert(fences).values(
                uid=uid,
                generation=param("generation"),
                next_sequence=sa.literal_column("1"),
                segment=segment,
                ready_from=sa.literal_column("1"),
                forget_at=param("forget_at"),
                **empty,
            )
        )
        self.delete = self._text(sa.delete(fences).where(f.uid == uid))
        self.raise_generation = self._text(
            sa.update(fences).where(f.uid == uid).values(generation=param("new_generation"))
        )
        self.replace_segment = self._text(
            sa.update(fences).where(f.uid == uid).values(segment=param("new_segment"), **empty)
        )
        self.bury = self._text(
            sa.update(fences).where(f.uid == uid).values(segment=sa.null(), forget_at=param("until"), **empty)
        )
        self.drop_deliveries = self._text(self._drop_deliveries())
        self.add_segment = self._text(sa.insert(segments).values().returning(segments.c.id))
        self.discard_segment = self._text(sa.insert(garbage).values(segment=segment))

    def _drop_deliveries(self) -> Any:
        """A tombstone for the deliveries of a subscription, or with '' for all of a queue and its posts."""
        insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[self._dialect]
        until = param("until", sa.Double)
        made = (
            insert(dropped).inline().values(uid=uid, subscription=param("subscription"), sweep_at=now, forget_at=until)
        )
        longer = sa.case((dropped.c.forget_at > until, dropped.c.forget_at), else_=until)
        again = {"sweep_at": now, "forget_at": longer}
        return made.on_conflict_do_update(index_elements=["uid", "subscription"], set_=again)


class MessageStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        self._define_messages()
        self._define_timers()

    def _define_messages(self) -> None:
        """One message or several, by number or by place in the order."""

        m = messages.c
        self.insert = self._text(
            sa.insert(messages)
            .inline()
            .values(
                segment=segment,
                sequence=param("sequence"),
                state=param("state"),
                due=param("due"),
                expires=param("expires"),
                created=now,
                claim_count=NOTHING,
                client_id=param("client_id"),
                checksum=param("checksum"),
                body=param("body"),
            )
        )
        self._lists = {
            (claimed, delayed, excluding): self._text(listing_of(claimed, delayed, excluding))
            for claimed in (False, True)
            for delayed in (False, True)
            for excluding in (False, True)
        }
        self.newest = self._text(listing_of(claimed=True, newest_first=True))
        self._define_by_number()
        first = self._locking(first_free().with_only_columns(inner.c.id))
        self.first_free = self._text(first_free().with_only_columns(inner.c.sequence))
        self.pop = self._text(sa.delete(messages).where(self._chosen(m.id, first)).returning(*SHOWN))

    def _define_by_number(self) -> None:
        m = messages.c
        one = numbered(segment, lambda number: number == param("sequence"), concurrent=self.is_concurrent)
        several = numbered(segment, lambda number: self._among(number, "sequences"), concurrent=self.is_concurrent)
        self.get = self._text(sa.select(*SHOWN).where(several, alive(messages)).order_by(m.sequence))
        self.delete_held = self._text(
            sa.delete(messages).where(
                m.segment == segment,
                m.state == CLAIMED,
                m.sequence == param("sequence"),
                m.claim_id == param("claim_id"),
                m.due > now,
                alive(messages),
            )
        )
        self.examine = self._text(self._locking(sa.select(m.id, m.state, claim_shown).where(one, alive(messages))))
        examined = sa.select(m.id, m.state, claim_shown).where(several, alive(messages))
        # Locked in one order by all, so that two never wait for each other.
        self.examine_several = self._text(
            self._locking(examined.order_by(m.sequence)) if self.is_concurrent else examined
        )
        self.delete = self._text(sa.delete(messages).where(m.id == param("id")))
        self.delete_several = self._text(sa.delete(messages).where(self._among(m.id, "ids")))

    def _define_timers(self) -> None:
        """What time does to messages."""

        m = messages.c
        self.due_batch = self._text(
            self._locking(
                sa.select(m.id, m.sequence, m.state, m.expires <= now)
                .where(m.segment == segment, m.state != NOTHING, m.due <= now)
                .order_by(m.due)
                .limit(limit)
                .offset(NOTHING)
            )
        )
        self.ripen = self._text(
            sa.update(messages).where(self._among(m.id, "ids")).values(state=READY, due=sa.null(), claim_id=sa.null())
        )
        gone = sa.select(inner.c.id).where(inner.c.segment == segment, inner.c.expires <= now)
        gone = self._locking(gone.order_by(inner.c.expires).limit(limit).offset(NOTHING))
        self.expire = self._text(sa.delete(messages).where(self._chosen(m.id, gone)).returning(m.state))

    def listing(self, *, claimed: bool, delayed: bool, excluding: bool) -> str:
        return self._lists[claimed, delayed, excluding]


class ClaimStatements(Texts):
    def __init__(self, dialect: str) -> None:
        super().__init__(dialect)
        self._define_taking()
        self._define_claims()

    def _define_taking(self) -> None:
        """Messages on their way into a claim."""

        m = messages.c
        first = self._locking(first_free().with_only_columns(inner.c.id))
        self.take = self._text(sa.update(messages).where(self._chosen(m.id, first)).values(LEASE).returning(*SHOWN))
        fresh = first.where(inner.c.claim_count < param("max_claim_count"))
        self.take_fresh = self._text(
            sa.update(messages).where(self._chosen(m.id, fresh)).values(LEASE).returning(*SHOWN)
        )
        self.take_these = self._text(
            sa.update(messages).where(self._among(m.id, "ids")).values(LEASE).returning(*SHOWN)
        )

    def _define_claims(self) -> None:
        """A claim and the messages that it holds."""

        m, c = messages.c, claims.c
        mine = sa.and_(c.segment == segment, c.claim_id == param("claim"))
        held = sa.and_(
            m.segment == segment, m.state != NOTHING, m.due == param("held_until"), m.claim_id == param("claim")
        )
        self.insert = self._text(
            sa.insert(claims).values(
                segment=segment,
                claim_id=param("claim"),
                ttl=param("ttl"),
                grace=param("grace"),
                started=param("started"),
                expires=param("end"),
            )
        )
        self.get = self._text(sa.select(c.ttl, c.grace, c.started).where(mine, c.expires > now))
        self.held = self._text(sa.select(*SHOWN).where(held, alive(messages)))
        self.update = self._text(
            sa.update(claims)
            .where(mine)
            .values(ttl=param("new_ttl"), grace=param("new_grace"), started=param("started"), expires=param("end"))
        )
        self.renew = self._text(sa.update(messages).where(held).values({m.due: param("end"), m.expires: LONGER}))
        self.delete = self._text(sa.delete(claims).where(mine).returning(c.expires))
        self.release = self._text(
            sa.update(messages)
            .where(held)
            .values(state=READY, due=sa.null(), claim_id=sa.null())
            .returning(messages.c.sequence)
        )
        self.live = self._text(sa.select(c.claim_id).where(mine, c.expires > now))


class Statements:
    """All of them, by what they are about."""

    def __init__(self, dialect: str) -> None:
        self.fences = FenceStatements(dialect)
        self.messages = MessageStatements(dialect)
        self.claims = ClaimStatements(dialect)
        self.letters = LetterStatements(dialect)
        self.sweep = SweepStatements(dialect)


@lru_cache
def statements_for(dialect: str) -> Statements:
    return Statements(dialect)
