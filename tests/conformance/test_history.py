# SPDX-License-Identifier: Apache-2.0
"""Promises 1 to 6 in a history: 32 clients work on one store, then judges check all that they have recorded.

Sixteen post, eight claim and pop, eight follow the marker, four to a process. ``ZAQAR_HISTORY_SECONDS`` says for how
many seconds instead of 20; the whole suite takes 10.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import pytest

from tests.conformance import history
from tests.conformance.drivers import Driver
from tests.conformance.history import Lease, Post, Record, Release, Renewal, Signal, Stage
from tests.conformance.processes import FORK_SERVER
from tests.conformance.queue_client import ALL, new_claim_id, new_queue
from zaqar.model import Claim
from zaqar.storage.base import MessageStore

Role = Callable[[Stage, MessageStore, int], Record]

PRODUCERS, WORKERS, READERS = 16, 8, 8
TO_A_PROCESS = 4


def seconds_for(driver: Driver) -> float:
    if not driver.shared:
        return 2.0
    return float(os.environ.get("ZAQAR_HISTORY_SECONDS", "20"))


@dataclass
class History:
    """The records of all processes, and what was left in the end."""

    records: list[Record]
    left: list[str]

    @property
    def posts(self) -> list[Post]:
        return [post for record in self.records for post in record.posts]

    @property
    def leases(self) -> list[Lease]:
        return [lease for record in self.records for lease in record.leases]


# -- the judgement ----------------------------------------------------------------------------------------------------


def each_post_has_its_own_numbers(history: History) -> None:
    """Numbers of a queue are contiguous from 1, in a row within a post, and no two posts share one."""
    for queue in ("work", "news"):
        posts = [post for post in history.posts if post.queue == queue]
        for post in posts:
            assert post.sequences == list(range(post.sequences[0], post.sequences[0] + len(post.bodies)))
        numbers = sorted(number for post in posts for number in post.sequences)
        assert numbers == list(range(1, len(numbers) + 1))


def each_message_is_consumed_once(history: History) -> None:
    """Nothing acknowledged was lost, nothing was worked on twice, and nothing came from nowhere."""
    posted = Counter(body for post in history.posts if post.queue == "work" for body in post.bodies)
    ended = Counter(body for record in history.records for body in record.consumed) + Counter(history.left)
    late = {body for record in history.records for body in record.late}
    assert {body for body in posted - ended if body not in late} == set(), "lost"
    assert ended - posted == Counter(), "consumed twice, or never posted"
    assert late <= posted.keys(), "never posted"


def no_message_is_under_two_live_claims(history: History) -> None:
    """Of any two claims of a message one had ended or was being released before the call for the other returned.

    Which of the two came first is not in the record, and nothing follows from the times the claims were made with:
    a claim may wait for its turn while another process, with a later time, finds that the one before it is over.
    """
    ends = {lease.claim_id: lease.ends for lease in history.leases}
    for record in history.records:
        ends.update((renewal.claim_id, renewal.ends) for renewal in record.renewals)
    released = {release.claim_id: release.called for record in history.records for release in record.releases}

    def after(first: Lease, second: Lease) -> bool:
        return second.returned >= min(ends[first.claim_id], released.get(first.claim_id, float("inf")))

    by_message: dict[int, list[Lease]] = defaultdict(list)
    for lease in history.leases:
        for sequence in lease.sequences:
            by_message[sequence].append(lease)
    for sequence, leases in by_message.items():
        for one, other in combinations(leases, 2):
            assert after(one, other) or after(other, one), f"message {sequence} under {one} and {other}"


def a_claim_is_in_order(history: History) -> None:
    """Each claim gives ascending numbers, so what one producer posted comes out in its order."""
    body_of = {
        number: body
        for post in history.posts
        if post.queue == "work"
        for number, body in zip(post.sequences, post.bodies, strict=True)
    }
    for lease in history.leases:
        assert lease.sequences == sorted(set(lease.sequences))
        assert lease.bodies == [body_of[number] for number in lease.sequences]


def producers_are_in_order(history: History) -> None:
    for queue in ("work", "news"):
        for producer in range(PRODUCERS):
            mine = [post for post in history.posts if (post.queue, post.producer) == (queue, producer)]
            numbers = [number for post in mine for number in post.sequences]
            assert numbers == sorted(numbers)


def readers_skip_nothing_and_repeat_nothing(history: History) -> None:
    expected = sorted(
        (number, body)
        for post in history.posts
        if post.queue == "news"
        for number, body in zip(post.sequences, post.bodies, strict=True)
    )
    readers = [record for record in history.records if record.pages]
    assert len(readers) == READERS
    for record in readers:
        assert record.read == expected
        assert all(given <= size for size, given in record.pages)


def statistics_are_true_at_each_moment(history: History) -> None:
    """Nobody takes from the news, so it always holds as many messages as the number of its newest."""
    for record in history.records:
        assert all(total == newest for total, newest in record.totals)
        assert record.totals == sorted(record.totals)


JUDGEMENT: list[Callable[[History], None]] = [
    each_post_has_its_own_numbers,
    each_message_is_consumed_once,
    no_message_is_under_two_live_claims,
    a_claim_is_in_order,
    producers_are_in_order,
    readers_skip_nothing_and_repeat_nothing,
    statistics_are_true_at_each_moment,
]


# -- the run ----------------------------------------------------------------------------------------------------------


def crew(driver: Driver) -> tuple[Executor, Signal]:
    """The processes, or threads for a store that lives in one process, and the signal that ends their work."""
    size = PRODUCERS + WORKERS + READERS
    process_count = size // TO_A_PROCESS
    if not driver.shared:
        ended = threading.Event()
        return ThreadPoolExecutor(
            process_count, initializer=history.enter, initargs=(threading.Barrier(size), ended)
        ), ended
    written = FORK_SERVER.Event()
    enter = partial(history.enter, FORK_SERVER.Barrier(size), written)
    return ProcessPoolExecutor(process_count, mp_context=FORK_SERVER, initializer=enter), written


def drain(store: MessageStore, stage: Stage) -> list[str]:
    """What is left on the work queue when every claim is long over."""
    now = time.time() + 10_000
    left: list[str] = []
    while True:
        claim = Claim(new_claim_id(), 60, 60, now)
        taken = store.claims.claim(queue=stage.work, claim=claim, limit=500, now=now).messages
        if not taken:
            return left
        store.messages.delete_many(
            queue=stage.work, sequences=[message.sequence for message in taken], claim_ids=[claim.id], now=now
        )
        left += [message.body.decode() for message in taken]


def start(pool: Executor, role: Role, stage: Stage, indices: range) -> list[Future[list[Record]]]:
    parts = [indices[n : n + TO_A_PROCESS] for n in range(0, len(indices), TO_A_PROCESS)]
    return [pool.submit(history.run_threads, role, stage, part) for part in parts]


def test_a_history_of_many_processes(driver: Driver, address: str, messages: MessageStore) -> None:
    shared = None if driver.shared else messages
    stage = Stage(driver.name, address, new_queue("work"), new_queue("news"), seconds_for(driver), shared)
    for queue in (stage.work, stage.news):
        messages.queues.open(queue=queue, now=time.time())
    pool, written = crew(driver)
    with pool:
        others = [
            *start(pool, history.work, stage, range(100, 100 + WORKERS)),
            *start(pool, history.read, stage, range(200, 200 + READERS)),
        ]
        producers = start(pool, history.produce, stage, range(PRODUCERS))
        try:
            records = [record for batch in producers for record in batch.result()]
        finally:
            written.set()
        records += [record for batch in others for record in batch.result()]
    story = History(records, drain(messages, stage))
    for judge in JUDGEMENT:
        judge(story)
    assert len(story.posts) > 20 * PRODUCERS
    assert len(story.leases) > 5 * WORKERS
    for queue in (stage.work, stage.news):
        messages.queues.drop(queue=queue, now=time.time())


# -- the judgement finds what it is for -------------------------------------------------------------------------------


def good_history() -> History:
    posts = [
        Post("work", 0, ["0.0", "0.1"], [1, 2]),
        Post("work", 1, ["1.0"], [3]),
        Post("news", 0, ["0.0"], [1]),
        Post("news", 1, ["1.0", "1.1"], [2, 3]),
    ]
    worker = Record(
        leases=[
            Lease("a", 160.0, 105.0, [1, 2], ["0.0", "0.1"]),
            Lease("b", 250.0, 190.0, [1], ["0.0"]),
            Lease("c", 170.0, 110.0, [2], ["0.1"]),
        ],
        renewals=[Renewal("a", 180.0)],
        releases=[Release("a", 106.0)],
        consumed=["0.0", "0.1"],
    )
    seen = [(1, "0.0"), (2, "1.0"), (3, "1.1")]
    readers = [Record(read=list(seen), pages=[(3, 3), (9, 0)], totals=[(1, 1), (3, 3)]) for _ in range(READERS)]
    return History([Record(posts=posts), worker, *readers], left=["1.0"])


def test_a_good_history_is_found_good() -> None:
    for judge in JUDGEMENT:
        judge(good_history())


def lose_one(history: History) -> None:
    history.left.clear()


def consume_twice(history: History) -> None:
    history.left.append("0.0")


def dream_one_up_late(history: History) -> None:
    history.records[1].late.append("9.9")


def dream_one_up(history: History) -> None:
    history.left.append("9.9")


def claim_too_early(history: History) -> None:
    worker = history.records[1]
    worker.releases.clear()


def ignore_a_renewal(history: History) -> None:
    worker = history.records[1]
    worker.releases.clear()
    worker.leases[2] = replace(worker.leases[2], returned=179.0)


def release_too_late(history: History) -> None:
    history.records[1].releases[0] = Release("a", 111.0)


def skip_one(history: History) -> None:
    del history.records[-1].read[1]


def repeat_one(history: History) -> None:
    history.records[-1].read.append((3, "1.1"))


def swap_two(history: History) -> None:
    read = history.records[-1].read
    read[0], read[1] = read[1], read[0]


def leave_a_gap(history: History) -> None:
    history.records[0].posts[1] = Post("work", 1, ["1.0"], [4])


def number_two_alike(history: History) -> None:
    history.records[0].posts[1] = Post("work", 1, ["1.0"], [2])


def claim_out_of_order(history: History) -> None:
    history.records[1].leases[0] = Lease("a", 160.0, 105.0, [2, 1], ["0.1", "0.0"])


def post_out_of_order(history: History) -> None:
    history.records[0].posts.insert(0, Post("work", 1, ["1.1"], [4]))


def miscount(history: History) -> None:
    history.records[-1].totals[0] = (0, 1)


FAULTS = [
    (lose_one, each_message_is_consumed_once),
    (consume_twice, each_message_is_consumed_once),
    (dream_one_up, each_message_is_consumed_once),
    (dream_one_up_late, each_message_is_consumed_once),
    (claim_too_early, no_message_is_under_two_live_claims),
    (ignore_a_renewal, no_message_is_under_two_live_claims),
    (release_too_late, no_message_is_under_two_live_claims),
    (skip_one, readers_skip_nothing_and_repeat_nothing),
    (repeat_one, readers_skip_nothing_and_repeat_nothing),
    (swap_two, readers_skip_nothing_and_repeat_nothing),
    (leave_a_gap, each_post_has_its_own_numbers),
    (number_two_alike, each_post_has_its_own_numbers),
    (claim_out_of_order, a_claim_is_in_order),
    (post_out_of_order, producers_are_in_order),
    (miscount, statistics_are_true_at_each_moment),
]


@pytest.mark.parametrize(("spoil", "judge"), FAULTS, ids=[spoil.__name__ for spoil, _ in FAULTS])
def test_a_fault_is_found(spoil: Callable[[History], None], judge: Callable[[History], None]) -> None:
    story = good_history()
    spoil(story)
    with pytest.raises(AssertionError):
        judge(story)


def test_nothing_is_left_after_a_drain(messages: MessageStore) -> None:
    stage = Stage("", "", new_queue(), new_queue(), 0, messages)
    messages.queues.open(queue=stage.work, now=time.time())
    assert drain(messages, stage) == []
    assert messages.messages.list_after(queue=stage.work, after=0, limit=ALL, now=time.time()) == []
    messages.queues.drop(queue=stage.work, now=time.time())
