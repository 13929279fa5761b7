# SPDX-License-Identifier: Apache-2.0
"""The warm operations on PostgreSQL, each one statement, which is a transaction by itself: one round trip.

Each begins with the fence as its snapshot has it. Only a post locks it; docs/decisions/0008 says why that is enough.
Operations that read give the fence in the first columns, so that no row means a stale queue, and then what was found,
or nulls. Numbers are taken in ``post`` and nowhere else.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from zaqar.model import SEALED
from zaqar.storage.sqlalchemy.postgresql.wakeups import CHANNEL
from zaqar.storage.sqlalchemy.schema import claims, fences, messages, outbox, tallies
from zaqar.storage.sqlalchemy.selections import (
    LEASE,
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
)
from zaqar.storage.sqlalchemy.sql import CLAIMED, DELAYED, NOTHING, READY, Texts, chosen_once, now, param

SLOTS = 8
"""Rows that the tallies of one queue are spread over."""

_ONE: Any = sa.literal_column("1", sa.BigInteger)
_TRUE = sa.literal_column("true", sa.Boolean)
_count_of_all: Any = sa.func.count(sa.literal_column("*"))


def _fence() -> sa.CTE:
    return looked().cte("fence")


def _only(fence: sa.CTE, column: str, *conditions: sa.ColumnElement[bool]) -> Any:
    """A value of the fence, null where there is none or a condition does not hold: then nothing else is found."""
    return sa.select(fence.c[column]).where(*conditions).correlate(None).scalar_subquery()


def _there(of: Any, *conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    return sa.exists(sa.select(_ONE).select_from(of).where(*conditions))


def _tally(fence: sa.CTE, changed: sa.CTE, ready: Any, claimed: Any, delayed: Any) -> sa.CTE:
    """Add to a row that is, as good as always, this connection's own; it is the last lock that the statement takes."""
    slot: Any = sa.func.pg_backend_pid() % sa.literal_column(str(SLOTS))
    t = tallies.c
    change = sa.select(_only(fence, "segment"), slot, ready, claimed, delayed).select_from(changed)
    added = postgresql.insert(tallies).from_select(
        ["segment", "slot", "ready", "claimed", "delayed"], change.having(_count_of_all > NOTHING)
    )
    sums = {name: t[name] + added.excluded[name] for name in ("ready", "claimed", "delayed")}
    return added.on_conflict_do_update(index_elements=[t.segment, t.slot], set_=sums).cte("tally")


def _counted(state: sa.ColumnElement[int], which: Any) -> Any:
    return -sa.func.count(sa.case((state == which, _ONE)))


def _beside(fence: sa.FromClause, found: Any) -> sa.FromClause:
    return fence.outerjoin(found, _TRUE)


class WarmStatements(Texts):
    def __init__(self) -> None:
        super().__init__("postgresql")
        self._define_post()
        self._define_taking()
        self._define_deletes()
        self._define_reads()
        # A commit that notifies waits for all others of the server that do. This one does not wait for the disk.
        relaxed = sa.func.set_config(*(sa.literal_column(text) for text in ("'synchronous_commit'", "'off'", "true")))
        told: Any = sa.func.pg_notify(sa.literal_column(f"'{CHANNEL}'"), param("uid", sa.Text))
        self.tell = self._text(sa.select(relaxed, told))

    def _define_post(self) -> None:
        f = fences.c
        fence = (
            sa.update(fences)
            .where(in_force)
            .values(
                next_sequence=f.next_sequence + param("count"),
                ready=f.ready + param("more_ready"),
                delayed=f.delayed + param("more_delayed"),
            )
            .returning(f.segment, f.next_sequence)
            .cte("fence")
        )
        arrays = {
            "state": postgresql.ARRAY(sa.SmallInteger),
            "due": postgresql.ARRAY(sa.Double),
            "expires": postgresql.ARRAY(sa.Double),
            "checksum": postgresql.ARRAY(sa.Text),
            "body": postgresql.ARRAY(sa.LargeBinary),
        }
        columns = [sa.column(name, array.item_type) for name, array in arrays.items()]
        drafts = (
            sa.func.unnest(*(sa.cast(param(f"each_{name}"), array) for name, array in arrays.items()))
            .table_valued(*columns, with_ordinality="place", name="draft")
            .render_derived()
        )
        sequence = fence.c.next_sequence - param("count") + drafts.c.place - _ONE
        values = {
            "segment": fence.c.segment,
            "sequence": sequence,
            "state": drafts.c.state,
            "due": drafts.c.due,
            "expires": drafts.c.expires,
            "created": sa.cast(now, sa.Double),
            "claim_count": NOTHING,
            "client_id": sa.cast(param("client_id"), sa.Text),
            "checksum": drafts.c.checksum,
            "body": drafts.c.body,
        }
        rows = sa.select(*values.values()).select_from(fence.join(drafts, _TRUE))
        stored = sa.insert(messages).inline().from_select(list(values), rows).cte("stored")
        answer = sa.select(fence.c.segment, fence.c.next_sequence).add_cte(stored)
        self.post = self._text(answer)
        # A text of its own, so that a post to a queue without subscribers pays nothing.
        self.post_and_note = self._text(answer.add_cte(_noted(fence)))

    def _define_taking(self) -> None:
        self.take = self._text(_claim(skipping=True, passing_over=False))
        self.take_waiting = self._text(_claim(skipping=False, passing_over=False))
        self.take_fresh = self._text(_claim(skipping=True, passing_over=True))
        self.take_fresh_waiting = self._text(_claim(skipping=False, passing_over=True))
        self.pop = self._text(_pop(skipping=True))
        self.pop_waiting = self._text(_pop(skipping=False))

    def _define_deletes(self) -> None:
        m = messages.c
        held = sa.and_(
            m.state == CLAIMED,
            m.sequence == param("sequence"),
            # Hidden from the planner, as ``alive`` is: the index that begins with them is a bad one here.
            m.claim_id + sa.literal_column("''") == param("claim_id"),
            m.due + NOTHING > now,
            alive(messages),
        )
        fence = _fence()
        segment = _only(fence, "segment")
        self.delete_held = self._text(_delete(fence, sa.and_(m.segment == segment, held)))
        one = numbered(segment, lambda number: number == param("sequence"), concurrent=True)
        self.delete_unclaimed = self._text(_delete(fence, sa.and_(one, alive(messages), claim_shown.is_(None))))
        several = numbered(segment, self._in_sequences, concurrent=True)
        self.delete_several = self._text(_delete_several(fence, several))

    def _in_sequences(self, number: Any) -> sa.ColumnElement[bool]:
        return self._among(number, "sequences")

    def _define_reads(self) -> None:
        self._lists = {}
        for claimed in (False, True):
            for delayed in (False, True):
                for excluding in (False, True):
                    self._lists[claimed, delayed, excluding] = self._text(_page(claimed, delayed, excluding))
        fence = _fence()
        several = numbered(_only(fence, "segment"), self._in_sequences, concurrent=True)
        found = sa.select(*SHOWN).where(several, alive(messages)).subquery("found")
        self.get = self._text(sa.select(*fence.c, *found.c).select_from(_beside(fence, found)))
        self.get_claim = self._text(_held())
        self.stats = self._text(_stats(patient=False))
        self.patient_stats = self._text(_stats(patient=True))

    def listing(self, *, claimed: bool, delayed: bool, excluding: bool) -> str:
        return self._lists[claimed, delayed, excluding]


def _noted(fence: sa.CTE) -> sa.CTE:
    """The post as it waits for its deliveries to be made."""
    note = {
        "uid": param("uid", sa.Text),
        "first": fence.c.next_sequence - param("count"),
        "due": sa.cast(now, sa.Double),
        "content": sa.cast(param("content"), sa.LargeBinary),
    }
    return sa.insert(outbox).inline().from_select(list(note), sa.select(*note.values())).cte("noted")


def _is_sealed(body: Any) -> sa.ColumnElement[bool]:
    first_byte: Any = sa.func.substr(body, _ONE, _ONE)
    is_sealed: sa.ColumnElement[bool] = first_byte == sa.literal_column(f"decode('{SEALED:02x}', 'hex')")
    return is_sealed


def _first(
    fence: sa.CTE, skipping: bool, *conditions: sa.ColumnElement[bool], sealed: sa.ColumnElement[bool] | None = None
) -> sa.CTE:
    """The first free messages, locked. None where messages are due: those have to ripen first."""
    undue = _only(fence, "segment", sa.not_(fence.c.due))
    found = first_free(undue, _only(fence, "ready_from"), *conditions)
    more = () if sealed is None else (sealed.label("sealed"),)
    found = found.with_only_columns(inner.c.id, inner.c.claim_count, *more)
    return found.with_for_update(skip_locked=skipping, key_share=True).cte("first")


def _left(fence: sa.CTE, taken: sa.CTE) -> sa.ColumnElement[bool]:
    """Whether nothing was taken though a message was free in the snapshot: somebody else has it locked."""
    other = messages.alias("other")
    free = _there(
        other,
        other.c.segment == _only(fence, "segment"),
        other.c.state == READY,
        other.c.sequence >= _only(fence, "ready_from"),
        alive(other),
    )
    return sa.case((_there(taken), sa.false()), else_=free)


def _claim(*, skipping: bool, passing_over: bool) -> sa.Select[Any]:
    """Lease the first free messages; none where one of them is worn out, unless those are passed over."""
    fence = _fence()
    fresh = inner.c.claim_count < param("max_claim_count")
    first = _first(fence, skipping, *((fresh,) if passing_over else ()))
    worn = sa.false() if passing_over else _there(first, first.c.claim_count >= param("max_claim_count"))
    taken = (
        sa.update(messages)
        .where(chosen_once(messages.c.id, sa.select(first.c.id)), sa.not_(worn))
        .values(LEASE)
        .returning(*SHOWN)
        .cte("taken")
    )
    lease = sa.select(
        _only(fence, "segment"), *(param(name) for name in ("new_claim_id", "ttl", "grace", "now", "end"))
    ).where(_there(taken))
    leased = sa.insert(claims).from_select(["segment", "claim_id", "ttl", "grace", "started", "expires"], lease)
    tally = _tally(fence, taken, -_count_of_all, _count_of_all, NOTHING)
    answer = sa.select(*fence.c, worn.label("worn"), _left(fence, taken).label("left"), *taken.c)
    return answer.select_from(_beside(fence, taken)).add_cte(leased.cte("leased"), tally)


def _pop(*, skipping: bool) -> sa.Select[Any]:
    """Remove the first free messages; none where one of them is sealed, which the column ``worn`` says then."""
    fence = _fence()
    first = _first(fence, skipping, sealed=_is_sealed(inner.c.body))
    sealed = _there(first, first.c.sealed)
    taken = (
        sa.delete(messages)
        .where(chosen_once(messages.c.id, sa.select(first.c.id)), sa.not_(sealed))
        .returning(*SHOWN)
        .cte("taken")
    )
    tally = _tally(fence, taken, -_count_of_all, NOTHING, NOTHING)
    answer = sa.select(*fence.c, sealed.label("worn"), _left(fence, taken).label("left"), *taken.c)
    return answer.select_from(_beside(fence, taken)).add_cte(tally)


def _delete(fence: sa.CTE, these: sa.ColumnElement[bool]) -> sa.Select[Any]:
    gone = sa.delete(messages).where(these).returning(messages.c.state).cte("gone")
    each = [_counted(gone.c.state, state) for state in (READY, CLAIMED, DELAYED)]
    return sa.select(fence.c.segment, _there(gone)).add_cte(_tally(fence, gone, *each))


def _delete_several(fence: sa.CTE, these: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Delete all, or none where one is not held by a live claim that may delete it. Rows are locked in one order."""
    m = messages.c
    found = (
        sa.select(m.id, m.state, claim_shown.label("holder"))
        .where(these, alive(messages))
        .order_by(m.sequence)
        .with_for_update(key_share=True)
        .cte("found")
    )
    holders = sa.cast(param("claim_ids"), postgresql.ARRAY(sa.Text))
    is_held = sa.func.coalesce(found.c.holder == sa.any_(holders), sa.false())
    refused = sa.and_(holders.is_not(None), sa.not_(is_held))
    bad = _there(found, refused)
    gone = (
        sa.delete(messages).where(chosen_once(m.id, sa.select(found.c.id)), sa.not_(bad)).returning(m.state).cte("gone")
    )
    each = [_counted(gone.c.state, state) for state in (READY, CLAIMED, DELAYED)]
    return sa.select(fence.c.segment, bad).add_cte(_tally(fence, gone, *each))


def _page(claimed: bool, delayed: bool, excluding: bool) -> sa.Select[Any]:
    fence = _fence()
    after = param("after", sa.BigInteger)
    after_ready = sa.func.greatest(after, _only(fence, "ready_from") - _ONE)
    place = {"of": _only(fence, "segment"), "after": after, "after_ready": after_ready}
    found = listing_of(claimed, delayed, excluding, **place, each_ends=True).subquery("page")
    return sa.select(*fence.c, *found.c).select_from(_beside(fence, found))


def _held() -> sa.Select[Any]:
    m, c = messages.c, claims.c
    fence = _fence()
    claim = (
        sa.select(c.ttl, c.grace, c.started, c.expires.label("held_until"))
        .where(c.segment == fence.c.segment, c.claim_id == param("claim"), c.expires > now)
        .lateral("claim")
    )
    held = (
        sa.select(*SHOWN)
        .where(
            m.segment == fence.c.segment,
            m.state != NOTHING,
            m.due == claim.c.held_until,
            m.claim_id == param("claim"),
            alive(messages),
        )
        .lateral("held")
    )
    return sa.select(*fence.c, claim.c.ttl, claim.c.grace, claim.c.started, *held.c).select_from(
        _beside(_beside(fence, claim), held)
    )


def _stats(*, patient: bool) -> sa.Select[Any]:
    fence = _fence()
    counted = counts(with_tallies=True, patient=patient).where(in_force).cte("counted")
    ends = []
    for name, newest in (("oldest", False), ("newest", True)):
        start = _only(fence, "ready_from") - _ONE
        # Where they were not counted, the ends are not looked for either.
        of = _only(fence, "segment", _there(counted, counted.c.free.is_not(None)))
        place = {"of": of, "after": NOTHING, "after_ready": start, "most": _ONE}
        ends.append(listing_of(claimed=True, newest_first=newest, **place, each_ends=True).subquery(name))
    everything = _beside(_beside(_beside(fence, counted), ends[0]), ends[1])
    return sa.select(*fence.c, *counted.c, *ends[0].c, *ends[1].c).select_from(everything)


@lru_cache
def warm_statements() -> WarmStatements:
    return WarmStatements()
