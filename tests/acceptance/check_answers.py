# SPDX-License-Identifier: Apache-2.0
"""Checks the answers that the service gave to its working clients against the messages that are left."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict

from tests.acceptance.working_clients import Lease, Recorder, WorkingClients

LEAST_BETWEEN = 5
"""The least number of messages that are deleted between two kills, so that slow and fast machines do the same work."""
PATIENCE_SECONDS = 150.0


def wait_for_progress(clients: WorkingClients, pause: float = 0.5) -> None:
    """Let the clients work for a moment, and until some of them have made progress."""
    time.sleep(pause)
    before = len(clients.recorder.deleted)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(clients.recorder.deleted) < before + LEAST_BETWEEN:
        assert time.monotonic() < deadline, "the service does not recover"
        time.sleep(0.05)


def check_all_answers(clients: WorkingClients, *, all_came: bool = False) -> None:
    """Compare the answers that the clients got with the messages that are there now.

    Either all answers have come, or the test has interrupted some requests.
    """
    recorder = clients.recorder
    assert recorder.wrong_answers == [], recorder.wrong_answers[:10]
    if all_came:
        assert recorder.lost_answers == [], recorder.lost_answers[:10]
    else:
        assert recorder.lost_answers, "no request was interrupted"
    left = {queue: list(clients.all_messages(queue)) for queue in ("work", "news", "once")}
    for queue, messages in left.items():
        bodies = [message["body"] for message in messages]
        _check_known_and_whole(recorder, queue, bodies, [message["id"] for message in messages])
        _check_order_of_each_producer(bodies)
    _check_work(recorder, [message["id"] for message in left["work"]])
    _check_leases(recorder)
    _check_pops(recorder, [message["id"] for message in left["once"]], all_came=all_came)
    _check_reader(recorder, [message["body"] for message in left["news"]])
    _check_statistics(clients, left["work"])


def _check_known_and_whole(recorder: Recorder, queue: str, bodies: list[str], ids: list[str]) -> None:
    """No body is invented or doubled, ids are those of the answers, a post without an answer is whole or absent."""
    assert len(set(bodies)) == len(bodies)
    id_of = {
        body: id_
        for name, posted, ids in recorder.posted
        if name == queue
        for body, id_ in zip(posted, ids, strict=True)
    }
    maybe = [set(posted) for name, posted in recorder.maybe_posted if name == queue]
    unknown = {body for body, id_ in zip(bodies, ids, strict=True) if id_of.get(body, id_) != id_}
    assert unknown == set()
    assert set(bodies) <= id_of.keys() | set().union(*maybe)
    if queue == "news":
        assert all(batch <= set(bodies) or not batch & set(bodies) for batch in maybe)


def _check_order_of_each_producer(bodies: list[str]) -> None:
    numbers: dict[str, list[int]] = defaultdict(list)
    for body in bodies:
        producer, _, number = body.rpartition("-")
        numbers[producer].append(int(number))
    for of_one in numbers.values():
        assert of_one == sorted(of_one)


def _check_work(recorder: Recorder, left: list[str]) -> None:
    """An acknowledged message is there until its delete was acknowledged, and then it is not."""
    posted = {id_ for queue, _, ids in recorder.posted if queue == "work" for id_ in ids}
    deleted = {id_ for id_, _ in recorder.deleted}
    assert len(deleted) == len(recorder.deleted), "a message was deleted twice under a claim"
    assert deleted & set(left) == set()
    assert posted - deleted - set(recorder.maybe_deleted) <= set(left)


def _check_leases(recorder: Recorder) -> None:
    """No message was under two live claims, and none was claimed after its delete was acknowledged."""
    gone = dict(recorder.deleted)
    by_message: dict[str, list[Lease]] = defaultdict(list)
    for lease in sorted(recorder.leases, key=lambda lease: lease.begun):
        by_message[lease.message_id].append(lease)
        assert lease.asked < gone.get(lease.message_id, float("inf"))
    for leases in by_message.values():
        for earlier, later in itertools.pairwise(leases):
            assert earlier.over <= later.begun, (earlier, later)


def _check_pops(recorder: Recorder, left: list[str], *, all_came: bool) -> None:
    """Each message was popped at most once, and not seen again. If all answers have come, the other ones are left."""
    popped = [id_ for id_, _ in recorder.popped]
    assert popped
    assert len(set(popped)) == len(popped)
    assert set(popped) & set(left) == set()
    if all_came:
        posted = {id_ for queue, _, ids in recorder.posted if queue == "once" for id_ in ids}
        assert posted == {*popped, *left}


def _check_reader(recorder: Recorder, left: list[str]) -> None:
    """The client that followed ``next`` from the start saw each stored message once, in order."""
    assert recorder.pages == left
    assert {body for queue, bodies, _ in recorder.posted if queue == "news" for body in bodies} <= set(left)


def _check_statistics(clients: WorkingClients, left: list[dict[str, str]]) -> None:
    client = clients.client()
    answer = client.ask("GET", "/v2/queues/work/stats")
    client.close()
    assert answer is not None
    counts = answer[1]["messages"]
    claimed = sum("claim_id=" in message["href"] for message in left)
    assert (counts["free"], counts["claimed"], counts["total"]) == (len(left) - claimed, claimed, len(left))
