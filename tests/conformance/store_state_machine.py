# SPDX-License-Identifier: Apache-2.0
"""The hypothesis state machine of test_random_operations: rules for two queues, and invariants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.clock import START, TICK
from tests.conformance.queue_client import ALL, new_claim_id, new_queue
from tests.conformance.test_fences import OPERATIONS
from zaqar.errors import StaleQueue, ZaqarError
from zaqar.model import Claim, DeadLetters, Draft, Message, Queue
from zaqar.storage.base import MessageStore

SIDES = st.sampled_from([0, 0, 0, 1])
"""Which of the two queues; the second one is also the dead letter queue of the first, and the other way round."""

PICK = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4, 7])
"""Chooses among what is known at the moment, mostly among the first."""


LIVES = st.lists(
    st.tuples(st.sampled_from([3600, 600, 120, 60]), st.sampled_from([0, 0, 0, 10, 60, 90])), min_size=1, max_size=4
)
"""TTL and delay of each draft of a post."""

REACHED = (
    "claim took some",
    "claim found nothing",
    "claim moved dead letters",
    "claim renewed",
    "claim ended by the clock",
    "message deleted",
    "message deleted with its claim",
    "message popped",
    "message expired",
    "delay ended by the clock",
    "several deleted",
    "refused ClaimOver",
    "refused Forbidden",
    "refused NotFound",
    "refused StaleQueue",
    "refused QueueDropped",
)
"""What a walk must have come across, or it has shown nothing."""


@dataclass(frozen=True)
class Refused:
    """What is compared of an error: its type, and the queue where it is about one."""

    error: type[ZaqarError]
    uid: str | None


def outcome(operation: Callable[[], Any]) -> Any:
    try:
        return operation()
    except ZaqarError as error:
        return Refused(type(error), getattr(error, "uid", None))


class StoreStateMachine(RuleBasedStateMachine):
    """Drives the store and, where there is one, the model side by side on two queues."""

    def __init__(self, store: MessageStore, model: MessageStore | None, reached: Counter[str]) -> None:
        super().__init__()
        self.reached = reached
        self.stores = [store] if model is None else [store, model]
        self.now = START
        self.queues = [new_queue("first"), new_queue("second")]
        self.stale: list[Queue] = [new_queue("never-opened")]
        self.claim_ids = ["nonsense"]
        self.timers: set[float] = set()
        self.posted = 0
        self.steps = 0
        self.free = self.held = 0
        """How many messages of both queues are so, as of the last step."""
        self.alive: dict[bytes, float] = {}
        """Bodies that must still be there, and until when at least."""
        self.gone: set[bytes] = set()
        for queue in self.queues:
            self.ask("queues.open", queue=queue)

    def teardown(self) -> None:
        for queue in self.queues:
            self.stores[0].queues.drop(queue=queue, now=self.now)

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Do it on each store at the same time of the clock; the answer, which must be the same."""
        answers = [outcome(partial(attrgetter(operation)(store), now=self.now, **arguments)) for store in self.stores]
        assert all(answer == answers[0] for answer in answers), f"{operation}{arguments}: {answers[0]} != {answers[1]}"
        if isinstance(answers[0], Refused):
            self.reached[f"refused {answers[0].error.__name__}"] += 1
        return answers[0]

    def everything(self, side: int) -> list[Message]:
        found: list[Message] = self.ask(
            "messages.list_after",
            queue=self.queues[side],
            after=0,
            limit=ALL,
            include_claimed=True,
            include_delayed=True,
        )
        return found

    def lost(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self.gone.add(message.body)
            self.alive.pop(message.body, None)

    # -- messages ----------------------------------------------------------------------------------------------------

    @initialize(lives=LIVES)
    def begin(self, lives: list[tuple[int, int]]) -> None:
        self.post(0, [*lives, (3600, 0), (3600, 0), (3600, 0)], "a")

    @rule(side=SIDES, lives=LIVES, client=st.sampled_from("ab"))
    def post(self, side: int, lives: list[tuple[int, int]], client: str) -> None:
        drafts = []
        for ttl, delay in lives:
            self.posted += 1
            drafts.append(Draft(str(self.posted).encode(), ttl, delay, checksum=str(ttl) if delay else None))
            self.alive[drafts[-1].body] = self.now + ttl
            self.timers |= {self.now + ttl, self.now + delay}
        self.ask("messages.post", queue=self.queues[side], drafts=drafts, client_id=client)

    @precondition(lambda self: self.free or self.held)
    @rule(
        side=SIDES,
        after=st.integers(0, 12),
        limit=st.integers(1, 5),
        client=st.sampled_from([None, "a", "b"]),
        claimed=st.booleans(),
        delayed=st.booleans(),
    )
    def list_messages(
        self, side: int, after: int, limit: int, client: str | None, claimed: bool, delayed: bool
    ) -> None:
        page = self.ask(
            "messages.list_after",
            queue=self.queues[side],
            after=after,
            limit=limit,
            exclude_client=client,
            include_claimed=claimed,
            include_delayed=delayed,
        )
        assert len(page) <= limit
        assert all(message.sequence > after and message.client_id != client for message in page)

    @precondition(lambda self: self.free or self.held)
    @rule(side=SIDES, sequences=st.lists(st.integers(1, 12), max_size=6))
    def get_messages(self, side: int, sequences: list[int]) -> None:
        got = self.ask("messages.get", queue=self.queues[side], sequences=sequences)
        assert got == [message for message in self.everything(side) if message.sequence in sequences]

    @precondition(lambda self: self.free or self.held)
    @rule(side=SIDES, pick=PICK, claim=st.none() | PICK)
    def delete_message(self, side: int, pick: int, claim: int | None) -> None:
        there = self.everything(side)
        sequence = there[pick % len(there)].sequence if there else pick
        claim_id = None if claim is None else self.claim_id(side, claim)
        answer = self.ask("messages.delete", queue=self.queues[side], sequence=sequence, claim_id=claim_id)
        if answer is None:
            self.reached["message deleted"] += bool(there)
            self.lost([message for message in there if message.sequence == sequence])

    @precondition(lambda self: self.held)
    @rule(side=SIDES, pick=PICK)
    def delete_with_its_claim(self, side: int, pick: int) -> None:
        held = [message for message in self.everything(side) if message.claim_id is not None]
        if held:
            message = held[pick % len(held)]
            arguments = {"sequence": message.sequence, "claim_id": message.claim_id}
            assert self.ask("messages.delete", queue=self.queues[side], **arguments) is None
            self.reached["message deleted with its claim"] += 1
            self.lost([message])

    @precondition(lambda self: self.free or self.held)
    @rule(side=SIDES, places=st.sets(st.integers(0, 5), max_size=4), claims=st.none() | st.lists(PICK, max_size=3))
    def delete_messages(self, side: int, places: set[int], claims: list[int] | None) -> None:
        there = self.everything(side)
        chosen = [message for place, message in enumerate(there) if place in places]
        sequences = [message.sequence for message in chosen] + [99] * (5 in places)
        claim_ids = None if claims is None else [self.claim_id(side, pick) for pick in claims]
        answer = self.ask("messages.delete_many", queue=self.queues[side], sequences=sequences, claim_ids=claim_ids)
        if answer is None:
            self.reached["several deleted"] += len(chosen) > 1
            self.lost(chosen)

    @precondition(lambda self: self.held)
    @rule(side=SIDES, pick=PICK)
    def delete_a_whole_claim(self, side: int, pick: int) -> None:
        claim_id = self.claim_id(side, pick)
        held = [message for message in self.everything(side) if message.claim_id == claim_id]
        sequences = [message.sequence for message in held]
        assert (
            self.ask("messages.delete_many", queue=self.queues[side], sequences=sequences, claim_ids=[claim_id]) is None
        )
        self.lost(held)

    @precondition(lambda self: self.free)
    @rule(side=SIDES, limit=st.integers(1, 3))
    def pop(self, side: int, limit: int) -> None:
        free = self.ask("messages.list_after", queue=self.queues[side], after=0, limit=limit)
        assert self.ask("messages.pop", queue=self.queues[side], limit=limit) == free
        self.reached["message popped"] += bool(free)
        self.lost(free)

    # -- claims ------------------------------------------------------------------------------------------------------

    def claim_id(self, side: int, pick: int) -> str:
        """First the claims that hold messages of this queue, then the latest of either queue, then no claim at all."""
        live = {message.claim_id: None for message in self.everything(side) if message.claim_id is not None}
        known = [*live, *reversed(self.claim_ids)]
        return known[min(pick, len(known) - 1)]

    @precondition(lambda self: self.free)
    @rule(
        side=SIDES,
        limit=st.integers(1, 4),
        ttl=st.sampled_from([600, 120, 60]),
        grace=st.sampled_from([60, 300]),
        deaths=st.sampled_from([None, (1, None), (1, 600), (2, None), (2, 60), (3, None)]),
    )
    def claim(self, side: int, limit: int, ttl: int, grace: int, deaths: tuple[int, int | None] | None) -> None:
        claim = Claim(new_claim_id(), ttl, grace, self.now)
        rules = None if deaths is None else DeadLetters(self.queues[1 - side], *deaths)
        free = self.ask("messages.list_after", queue=self.queues[side], after=0, limit=ALL)
        result = self.ask("claims.claim", queue=self.queues[side], claim=claim, limit=limit, dead_letters=rules)
        taken = result.messages
        living = [message for message in free if deaths is None or message.claim_count < deaths[0]]
        assert [message.body for message in taken] == [message.body for message in living[:limit]]
        self.reached["claim took some" if taken else "claim found nothing"] += 1
        if taken:
            self.claim_ids.append(claim.id)
            self.timers |= {claim.expires, claim.expires + grace}
        if rules is not None:
            moved = [message for message in self.everything(1 - side) if message.origin is not None]
            self.reached["claim moved dead letters"] += any(message.body in self.alive for message in moved)
            self.alive.update({message.body: message.expires for message in moved})

    @precondition(lambda self: self.free)
    @rule(side=SIDES, limit=st.integers(1, 4))
    def claim_and_release(self, side: int, limit: int) -> None:
        """What a consumer that fails does; without it few messages would be claimed often enough to die."""
        self.claim(side, limit, 60, 60, None)
        self.ask("claims.release", queue=self.queues[side], claim_id=self.claim_ids[-1])

    @precondition(lambda self: self.held)
    @rule(side=SIDES, pick=PICK)
    def get_claim(self, side: int, pick: int) -> None:
        claim_id = self.claim_id(side, pick)
        answer = self.ask("claims.get", queue=self.queues[side], claim_id=claim_id)
        held = [message for message in self.everything(side) if message.claim_id == claim_id]
        assert isinstance(answer, Refused) or answer[1] == held
        assert not (isinstance(answer, Refused) and held)

    @precondition(lambda self: self.held)
    @rule(
        side=SIDES,
        pick=PICK,
        ttl=st.none() | st.sampled_from([60, 90, 200]),
        grace=st.none() | st.sampled_from([60, 600]),
    )
    def renew_claim(self, side: int, pick: int, ttl: int | None, grace: int | None) -> None:
        claim_id = self.claim_id(side, pick)
        answer = self.ask("claims.renew", queue=self.queues[side], claim_id=claim_id, ttl=ttl, grace=grace)
        if answer is None:
            self.reached["claim renewed"] += 1
            claim, _ = self.ask("claims.get", queue=self.queues[side], claim_id=claim_id)
            assert claim.started == self.now
            self.timers |= {claim.expires, claim.expires + claim.grace}

    @precondition(lambda self: self.held)
    @rule(side=SIDES, pick=PICK)
    def release_claim(self, side: int, pick: int) -> None:
        claim_id = self.claim_id(side, pick)
        assert self.ask("claims.release", queue=self.queues[side], claim_id=claim_id) is None
        assert claim_id not in [message.claim_id for message in self.everything(side)]

    # -- the queue ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.steps >= 30)
    @rule(side=SIDES, drop=st.booleans())
    def start_over(self, side: int, drop: bool) -> None:
        self.steps = 0
        old = self.queues[side]
        self.lost(self.everything(side))
        if drop:
            self.ask("queues.drop", queue=old)
            self.ask("queues.open", queue=old)
            self.stale.append(old)
            self.queues[side] = new_queue(old.name)
            self.ask("queues.open", queue=self.queues[side])
        else:
            self.ask("queues.purge", queue=old)
        assert self.everything(side) == []

    @rule(side=SIDES)
    def raise_generation(self, side: int) -> None:
        old = self.queues[side]
        self.stale.append(old)
        self.queues[side] = replace(old, generation=old.generation + 1)
        assert self.ask("queues.open", queue=self.queues[side]) == old.generation + 1
        assert self.ask("queues.open", queue=old) == old.generation + 1

    @precondition(lambda self: len(self.stale) > 1)
    @rule(pick=PICK, operation=st.sampled_from(sorted(OPERATIONS)))
    def act_on_a_stale_queue(self, pick: int, operation: str) -> None:
        queue = self.stale[-1 - pick % len(self.stale)]
        self.reached["refused StaleQueue"] += 1
        for store in self.stores:
            assert outcome(partial(OPERATIONS[operation], store, queue, self.now)) == Refused(StaleQueue, queue.uid)

    # -- the store and the clock -------------------------------------------------------------------------------------

    @rule()
    def sweep(self) -> None:
        for store in self.stores:
            while store.sweep(now=self.now, limit=50).removed:
                pass

    @rule(seconds=st.sampled_from([TICK, 1, 29, 60]))
    def advance(self, seconds: float) -> None:
        self.advance_to(self.now + seconds)

    @rule(pick=st.integers(0, 2), offset=st.sampled_from([-TICK, 0.0, TICK]))
    def advance_to_a_timer(self, pick: int, offset: float) -> None:
        ahead = sorted(moment + offset for moment in self.timers if moment + offset > self.now)
        if ahead:
            self.advance_to(ahead[min(pick, len(ahead) - 1)])

    def advance_to(self, moment: float) -> None:
        before = {message.body: message for side in (0, 1) for message in self.everything(side)}
        plain = self.plain_bodies()
        self.now = moment
        self.look_at_positions()  # before the listings, which may move messages that are due
        after = {message.body: message for side in (0, 1) for message in self.everything(side)}
        for body, message in before.items():
            self.reached["message expired"] += body not in after
            if body in after and message.claim_id is not None:
                self.reached["claim ended by the clock"] += after[body].claim_id is None
        hidden = {body for body, message in before.items() if message.claim_id is None} - plain
        self.reached["delay ended by the clock"] += len(hidden & self.plain_bodies())

    def plain_bodies(self) -> set[bytes]:
        plain = [self.ask("messages.list_after", queue=queue, after=0, limit=ALL) for queue in self.queues]
        return {message.body for messages in plain for message in messages}

    # -- what always holds -------------------------------------------------------------------------------------------

    def look_at_positions(self) -> None:
        uids = [queue.uid for queue in self.queues]
        answers = [store.queues.positions(uids=uids, now=self.now) for store in self.stores]
        seen, model = answers[0], answers[-1]
        for side, uid in enumerate(uids):
            plain = self.ask("messages.list_after", queue=self.queues[side], after=0, limit=1)
            last, free, due = seen[uid]
            assert (last, free) == (model[uid].last, bool(plain))
            # It may also be that of a message that expires before it.
            assert due is None or due > self.now
            assert model[uid].next_due is None or (due is not None and due <= model[uid].next_due)

    @invariant()
    def what_always_holds(self) -> None:
        self.steps += 1
        self.look_at_positions()
        there = [self.everything(side) for side in (0, 1)]
        self.each_queue_is_in_order_and_its_statistics_are_true(there)
        self.nothing_is_lost_doubled_or_back_from_the_dead(there)

    def each_queue_is_in_order_and_its_statistics_are_true(self, there: list[list[Message]]) -> None:
        self.free = self.held = 0
        for side, everything in enumerate(there):
            sequences = [message.sequence for message in everything]
            assert sequences == sorted(set(sequences))
            assert all(
                message.expires > self.now and message.queue_uid == self.queues[side].uid for message in everything
            )
            plain = self.ask("messages.list_after", queue=self.queues[side], after=0, limit=ALL)
            held = [message for message in everything if message.claim_id is not None]
            assert all(message in everything and message.claim_id is None for message in plain)
            assert {message.claim_id for message in held} <= set(self.claim_ids)
            self.free += len(plain)
            self.held += len(held)
            counted = sorted(plain + held, key=lambda message: message.sequence)
            stats = self.ask("queues.stats", queue=self.queues[side])
            assert (stats.free, stats.claimed) == (len(plain), len(held))
            assert [stats.oldest, stats.newest] == ([counted[0], counted[-1]] if counted else [None, None])

    def nothing_is_lost_doubled_or_back_from_the_dead(self, there: list[list[Message]]) -> None:
        bodies = [message.body for messages in there for message in messages]
        assert len(bodies) == len(set(bodies))
        assert not self.gone & set(bodies)
        assert {body for body, until in self.alive.items() if self.now < until} <= set(bodies)
