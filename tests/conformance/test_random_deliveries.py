# SPDX-License-Identifier: Apache-2.0
"""Parts ``outbox``, ``deliveries`` and ``delivery_log``: random calls have the same results as the memory driver.

If the contract leaves open which deliveries are taken, the test takes all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.clock import START, TICK, FakeClock
from tests.conformance.drivers import Driver
from tests.conformance.notifier_client import (
    LEASE,
    NotifierClient,
    SubscriptionBacklog,
    deliveries_of,
    new_subscription_id,
)
from tests.conformance.queue_client import new_queue
from tests.conformance.test_delivery_order import is_held
from tests.conformance.test_sweep import sweep_clean
from zaqar.model import DEAD, DONE, WAITING, Attempt, Delivery, Draft, Posted, PostPosition
from zaqar.storage.base import MessageStore
from zaqar.storage.memory import MemoryMessageStore

OWNERS = st.sampled_from(["a", "b"])
SIDES = st.sampled_from([0, 1])
PICK = st.integers(0, 7)
PICKS = st.lists(PICK, min_size=1, max_size=5)
STEPS = st.sampled_from([TICK, 1.0, LEASE - TICK, LEASE, 30.0, 60.0])
REMEMBERED = 8
POSITIONS = [PostPosition("", "a", 1), PostPosition("", "a", 2), PostPosition("a", "", 0)]


class DeliveryMachine(RuleBasedStateMachine):
    """Drives the store and the model side by side: two queues with two subscriptions each."""

    def __init__(self, store: MessageStore) -> None:
        super().__init__()
        self.clock = FakeClock(START)
        self.outboxes = [NotifierClient(store, self.clock), NotifierClient(MemoryMessageStore(), self.clock)]
        self.queues = [new_queue(name, notify=True) for name in ("first", "second")]
        self.ids = [SubscriptionBacklog(self.outboxes[0]).subscription_id for _ in range(4)]
        self.given_out = [0, 0]
        """The last number of each queue."""
        self.posts: list[Posted] = []
        """Taken at some time, the latest first. They may be forgotten by now."""
        self.taken: list[Delivery] = []
        """Likewise deliveries, with the owner they had and as they were."""

    @initialize()
    def begin(self) -> None:
        self.outboxes[0].drain()
        sweep_clean(self.outboxes[0].store, self.clock.now)
        for notifier in self.outboxes:
            for queue in self.queues:
                notifier.store.queues.open(queue=queue, now=self.clock.now)

    def teardown(self) -> None:
        self.outboxes[0].drain()
        for queue in self.queues:
            self.outboxes[0].store.queues.drop(queue=queue, now=self.clock.now)

    def backlogs(self, place: int) -> list[SubscriptionBacklog]:
        """All four, of one of the stores."""
        return [
            SubscriptionBacklog(self.outboxes[place], self.queues[n // 2].uid, id_) for n, id_ in enumerate(self.ids)
        ]

    def same(self, answers: Sequence[object]) -> None:
        assert answers[0] == answers[1]

    # -- posts -------------------------------------------------------------------------------------------------------

    @rule(side=SIDES, delays=st.lists(st.sampled_from([0, 0, 30]), min_size=1, max_size=3))
    def post(self, side: int, delays: list[int]) -> None:
        drafts = [Draft(b"%d" % n, 3600, delay) for n, delay in enumerate(delays)]
        now = self.clock.now
        answers = [
            notifier.store.messages.post(queue=self.queues[side], drafts=drafts, client_id="c", now=now)
            for notifier in self.outboxes
        ]
        self.same(answers)
        self.given_out[side] = answers[1][-1]

    @rule(owner=OWNERS)
    def take_posted(self, owner: str) -> None:
        answers = [notifier.take_all_posted(owner) for notifier in self.outboxes]
        for queue in self.queues:
            self.same([[posted for posted in posts if posted.queue_uid == queue.uid] for posts in answers])
        self.posts = [*answers[1], *self.posts][:REMEMBERED]

    @rule(
        pick=PICK,
        some=st.sets(SIDES, min_size=1),
        to=st.sampled_from([None, None, *POSITIONS]),
        until=st.sampled_from([0.0, LEASE, 60.0]),
        owner=st.sampled_from([None, "a", "b"]),
    )
    def expand(self, pick: int, some: set[int], to: PostPosition | None, until: float, owner: str | None) -> None:
        if not self.posts:
            return
        posted = self.posts[pick % len(self.posts)]
        # Of a queue that was dropped since, nothing is stored, whichever subscriptions its deliveries are for.
        side = [*(queue.uid for queue in self.queues), posted.queue_uid].index(posted.queue_uid) % 2
        made = deliveries_of(posted, *(self.ids[2 * side + n] for n in some))
        if owner is not None:
            made = [replace(each, owner=owner, due=self.clock.now + LEASE) for each in made]
        end = self.clock.now + until
        answers = [notifier.expand(posted, made, to=to, until=end) for notifier in self.outboxes]
        self.same(answers)
        if to is not None:
            # So that the machine can go on from there; if it was refused it is a late notifier.
            self.posts = [replace(posted, position=to), *self.posts][:REMEMBERED]
        if owner is not None and answers[1]:
            self.taken = [*made, *self.taken][:REMEMBERED]

    # -- deliveries --------------------------------------------------------------------------------------------------

    @rule(which=st.sampled_from(range(4)), state=st.sampled_from([WAITING, WAITING, DONE, DEAD]), number=PICK)
    def put(self, which: int, state: str, number: int) -> None:
        for place in (0, 1):
            delivery = self.backlogs(place)[which].new(number)
            if state != WAITING:
                delivery = replace(delivery, state=state, keep_until=self.clock.now + 60)
            self.outboxes[place].put(delivery)

    @rule(owner=OWNERS, most=st.sampled_from([1, 3, 100]))
    def take_all(self, owner: str, most: int) -> None:
        """All, in turns. Those that are due at the same time may come in any order."""
        answers = [notifier.take_all(owner, most_of_one=most) for notifier in self.outboxes]
        self.same([sorted(taken, key=lambda each: each.key) for taken in answers])
        self.taken = [*answers[1], *self.taken][:REMEMBERED]

    @rule(owner=OWNERS, which=st.sampled_from(range(4)), limit=st.sampled_from([1, 2]))
    def take_the_first_of_one(self, owner: str, which: int, limit: int) -> None:
        now = self.clock.now
        due = [each.due for each in self.backlogs(1)[which].listing(WAITING) if each.due <= now]
        if len(due) != len(set(due)):
            return
        others = [id_ for id_ in self.ids if id_ != self.ids[which]]
        answers = [notifier.take(owner, limit=limit, without=others) for notifier in self.outboxes]
        self.same(answers)
        self.taken = [*answers[1], *self.taken][:REMEMBERED]

    @rule(picks=PICKS, owner=OWNERS, later=st.sampled_from([2.0, LEASE, 60.0]))
    def extend(self, picks: list[int], owner: str, later: float) -> None:
        chosen = self.chosen(picks)
        for notifier in self.outboxes:
            notifier.extend(chosen, self.clock.now + later, owner=owner)

    @rule(pick=PICK, step=st.sampled_from([TICK, 5.0]), late=st.booleans())
    def advance_one(self, pick: int, step: float, late: bool) -> None:
        """One that was read now, or earlier and may be due at another time by now."""
        for chosen in self.chosen([pick]):
            stored = self.outboxes[1].get(chosen.key)
            due = chosen.due if late or stored is None else stored.due
            answers = [notifier.advance(chosen, {chosen.number: (due, due - step)}) for notifier in self.outboxes]
            # What was dropped is out of reach, but may still be there.
            if chosen.subscription_id in self.ids:
                self.same(answers)

    @rule(picks=PICKS, owner=OWNERS, verdict=st.sampled_from([DONE, DEAD, WAITING, "discard", "hand back"]))
    def settle(self, picks: list[int], owner: str, verdict: str) -> None:
        attempt = Attempt(self.clock.now, 500, 0.5, verdict)
        chosen = [replace(each, attempts=(*each.attempts, attempt)) for each in self.chosen(picks)]
        for notifier in self.outboxes:
            if verdict == WAITING:
                notifier.retry_at(self.clock.now + 30, chosen, owner=owner)
            elif verdict == "hand back":
                notifier.retry_at(self.clock.now, chosen, owner=owner)
            elif verdict == "discard":
                notifier.discard(chosen, owner=owner)
            else:
                notifier.settle_as(verdict, chosen, owner=owner, kept=60)

    def chosen(self, picks: list[int]) -> list[Delivery]:
        """Of what was taken lately, each key once: two words about one delivery in one call mean nothing."""
        found = [self.taken[pick] for pick in picks if pick < len(self.taken)]
        return list({each.key: each for each in found}.values())

    @rule(which=st.sampled_from(range(4)), numbers=PICKS)
    def resend(self, which: int, numbers: list[int]) -> None:
        self.same([self.backlogs(place)[which].resend(*numbers) for place in (0, 1)])

    @rule(which=st.sampled_from(range(4)))
    def resend_dead(self, which: int) -> None:
        counted = [0, 0]
        for place in (0, 1):
            while some := self.backlogs(place)[which].resend_dead(2):
                counted[place] += some
        self.same(counted)

    @rule(which=st.sampled_from(range(4)))
    def drop_subscription(self, which: int) -> None:
        """What was taken of it goes on to be settled, and its posts to be expanded for the one that follows it."""
        uid = self.queues[which // 2].uid
        for notifier in self.outboxes:
            notifier.store.delivery_log.drop(queue_uid=uid, subscription_ids=[self.ids[which]], now=self.clock.now)
        self.ids[which] = new_subscription_id()

    @rule(side=SIDES)
    def drop_queue(self, side: int) -> None:
        """Likewise, with both its subscriptions."""
        old, self.queues[side] = self.queues[side], new_queue("again", notify=True)
        self.given_out[side] = 0
        for notifier in self.outboxes:
            notifier.store.queues.drop(queue=old, now=self.clock.now)
            notifier.store.queues.open(queue=self.queues[side], now=self.clock.now)
        self.ids[2 * side : 2 * side + 2] = [new_subscription_id(), new_subscription_id()]

    @rule(step=STEPS)
    def advance(self, step: float) -> None:
        """A settled delivery may be shown until it is swept, so that is done when its time has come."""
        self.clock.advance(step)
        for notifier in self.outboxes:
            sweep_clean(notifier.store, self.clock.now)

    @invariant()
    def the_same_is_stored_and_counted(self) -> None:
        for backlog, model in zip(self.backlogs(0), self.backlogs(1), strict=True):
            there = model.listing()
            assert backlog.listing() == there
            states = Counter(each.state for each in there)
            assert backlog.counts() == model.counts() == (states[WAITING], states[DEAD])
            assert all(backlog.get(each.number) == each for each in there[:2])

    @invariant()
    def the_same_holds_what_comes_after_it(self) -> None:
        for n, backlogs in enumerate(zip(self.backlogs(0), self.backlogs(1), strict=True)):
            last = self.given_out[n // 2]
            for number in {(last + 1) // 2, last} - {0}:
                self.same([is_held(backlog, number) for backlog in backlogs])
                self.same([is_held(backlog, number, self.clock.now + LEASE) for backlog in backlogs])


def test_random_calls_of_notifiers_have_the_results_of_the_memory_driver(
    driver: Driver, messages: MessageStore
) -> None:
    # With a server each step is many round trips, and finds come early: the first examples are the same everywhere.
    examples = 60 if driver.server is None else 4 if driver.server == "mongodb" else 10
    run_state_machine_as_test(
        lambda: DeliveryMachine(messages),  # type: ignore[arg-type]
        settings=settings(max_examples=examples, stateful_step_count=40),
    )
