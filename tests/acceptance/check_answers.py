# SPDX-License-Identifier: Apache-2.0
"""Whether everything that the service answered to a crowd holds."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict

from tests.acceptance.working_clients import Crowd, Lease, Ledger

LEAST_BETWEEN = 5
"""Messages deleted between two kills, so that a slow machine gets as far as a fast one."""
PATIENCE_SECONDS = 60.0


def await_progress(crowd: Crowd, pause: float = 0.5) -> None:
    """Let the clients work for a moment, and until some of them got on."""
    time.sleep(pause)
    before = len(crowd.ledger.deleted)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(crowd.ledger.deleted) < before + LEAST_BETWEEN:
        assert time.monotonic() < deadline, "the service does not come back"
        time.sleep(0.05)


def settle_accounts(crowd: Crowd) -> None:
    """Compare what the clients were told with what is there now."""
    ledger = crowd.ledger
    assert ledger.wrong_answers == []
    assert ledger.lost_answers, "nobody was disturbed"
    left = {queue: list(crowd.everything(queue)) for queue in ("work", "news", "once")}
    for queue, messages in left.items():
        bodies = [message["body"] for message in messages]
        _check_known_and_whole(ledger, queue, bodies, [message["id"] for message in messages])
        _check_order_of_each_producer(bodies)
    _check_work(ledger, [message["id"] for message in left["work"]])
    _check_leases(ledger)
    _check_pops(ledger, [message["id"] for message in left["once"]])
    _check_reader(ledger, [message["body"] for message in left["news"]])
    _check_statistics(crowd, left["work"])


def _check_known_and_whole(ledger: Ledger, queue: str, bodies: list[str], ids: list[str]) -> None:
    """Nothing was made up or doubled, ids are those of the answers, and a post without an answer is whole or absent."""
    assert len(set(bodies)) == len(bodies)
    id_of = {
        body: id_ for name, posted, ids in ledger.posted if name == queue for body, id_ in zip(posted, ids, strict=True)
    }
    maybe = [set(posted) for name, posted in ledger.maybe_posted if name == queue]
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


def _check_work(ledger: Ledger, left: list[str]) -> None:
    """What was acknowledged is there until its delete was acknowledged, and then it is not."""
    posted = {id_ for queue, _, ids in ledger.posted if queue == "work" for id_ in ids}
    deleted = {id_ for id_, _ in ledger.deleted}
    assert len(deleted) == len(ledger.deleted), "a message was deleted twice under a claim"
    assert deleted & set(left) == set()
    assert posted - deleted - set(ledger.maybe_deleted) <= set(left)


def _check_leases(ledger: Ledger) -> None:
    """No message was under two live claims, and none was handed out after its delete was acknowledged."""
    gone = dict(ledger.deleted)
    by_message: dict[str, list[Lease]] = defaultdict(list)
    for lease in sorted(ledger.leases, key=lambda lease: lease.begun):
        by_message[lease.message_id].append(lease)
        assert lease.asked < gone.get(lease.message_id, float("inf"))
    for leases in by_message.values():
        for earlier, later in itertools.pairwise(leases):
            assert earlier.over <= later.begun, (earlier, later)


def _check_pops(ledger: Ledger, left: list[str]) -> None:
    """Popped at most once, and not seen again."""
    popped = [id_ for id_, _ in ledger.popped]
    assert popped
    assert len(set(popped)) == len(popped)
    assert set(popped) & set(left) == set()


def _check_reader(ledger: Ledger, left: list[str]) -> None:
    """Whoever followed ``next`` from the start saw what is there, all of it, once, in order."""
    assert ledger.pages == left
    assert {body for queue, bodies, _ in ledger.posted if queue == "news" for body in bodies} <= set(left)


def _check_statistics(crowd: Crowd, left: list[dict[str, str]]) -> None:
    client = crowd.client()
    answer = client.ask("GET", "/v2/queues/work/stats")
    client.close()
    assert answer is not None
    counts = answer[1]["messages"]
    claimed = sum("claim_id=" in message["href"] for message in left)
    assert (counts["free"], counts["claimed"], counts["total"]) == (len(left) - claimed, claimed, len(left))
