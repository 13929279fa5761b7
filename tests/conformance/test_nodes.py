# SPDX-License-Identifier: Apache-2.0
"""Part ``nodes``: which processes hold WebSocket connections, and which subscriptions their connections have."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest

from tests.clock import START, TICK
from tests.conformance.queue_client import ALL, at_once
from zaqar.storage.base import ManagementStore, Node, NodeStore, NodeSubscription

LEASE = 20.0
ROUNDS = 12
"""How often a test has threads meet."""


def new_subscription() -> NodeSubscription:
    return NodeSubscription(secrets.token_hex(12), secrets.token_hex(12))


@dataclass
class Nodes:
    """The nodes that one test makes."""

    store: NodeStore
    made: list[Node] = field(default_factory=list)

    def add(self, **fields: Any) -> Node:
        given = {"machine": "m1", "host": "10.0.0.1", "port": 9002, "socket": "/run/zaqar/a.sock", "expires": START}
        node = Node(**{"id": secrets.token_hex(16), "key": secrets.token_bytes(32), **given, **fields})
        self.store.add(node=node)
        self.made.append(node)
        return node

    def add_condemned(self) -> Node:
        node = self.add()
        assert self.store.condemn(node_id=node.id, now=START)
        return node

    def get(self, node: Node) -> Node | None:
        return self.store.get(node_id=node.id)

    def renew(self, node: Node, expires: float = START + LEASE) -> bool:
        return self.store.renew(node_id=node.id, expires=expires)

    def condemn(self, node: Node, now: float = START) -> bool:
        return self.store.condemn(node_id=node.id, now=now)

    def over(self, now: float = START, limit: int = ALL) -> list[str]:
        return self.store.list_expired(now=now, limit=limit)

    def note(self, node: Node, *subscriptions: NodeSubscription) -> bool:
        return all(self.store.note(node_id=node.id, subscription=each) for each in subscriptions)

    def noted(self, node: Node, limit: int = ALL) -> list[NodeSubscription]:
        return sorted(self.store.list_subscriptions(node_id=node.id, limit=limit))

    def forget(self, node: Node, *subscriptions: NodeSubscription) -> None:
        self.store.forget(node_id=node.id, subscriptions=subscriptions)

    def remove(self, node: Node) -> None:
        self.store.remove(node_id=node.id)


@pytest.fixture
def nodes(management: ManagementStore) -> Iterator[Nodes]:
    nodes = Nodes(management.nodes)
    yield nodes
    for node in nodes.made:
        nodes.remove(node)
    assert nodes.over(START + 1e9) == []


# -- a node -----------------------------------------------------------------------------------------------------------


def test_a_node_comes_back_as_it_was_added(nodes: Nodes) -> None:
    key = bytes(range(256))
    node = nodes.add(
        machine="m\u00e4chine /{}", host="::1", port=0, socket="/\u00f6 {x}", expires=START + 1 / 3, key=key
    )
    assert nodes.get(node) == node
    other = nodes.add()
    assert nodes.get(node) == node
    assert nodes.get(other) == other


def test_an_absent_node_is_none_and_counts_as_condemned(nodes: Nodes) -> None:
    absent = replace(nodes.add(), id=secrets.token_hex(16))
    assert nodes.get(absent) is None
    assert not nodes.renew(absent)
    assert nodes.get(absent) is None
    assert nodes.condemn(absent)
    assert not nodes.note(absent, new_subscription())
    assert nodes.noted(absent) == []
    nodes.forget(absent, new_subscription())
    nodes.remove(absent)
    assert absent.id not in nodes.over(START + 1e9)


def test_a_lease_that_is_over_can_be_renewed(nodes: Nodes) -> None:
    node = nodes.add(expires=START)
    assert nodes.get(node) == node
    assert nodes.over(START + 100) == [node.id]
    assert nodes.renew(node, START + 200)
    assert nodes.get(node) == replace(node, expires=START + 200)
    assert nodes.over(START + 100) == []


def test_a_lease_can_be_ended(nodes: Nodes) -> None:
    node = nodes.add(expires=START + LEASE)
    assert not nodes.condemn(node, START + TICK)
    assert nodes.renew(node, START + TICK)
    assert nodes.over(START + TICK) == [node.id]
    assert nodes.condemn(node, START + TICK)


def test_only_a_lease_that_is_over_is_condemned(nodes: Nodes) -> None:
    node = nodes.add(expires=START + LEASE)
    assert not nodes.condemn(node, START + LEASE - TICK)
    assert nodes.get(node) == node
    assert nodes.renew(node, START + 2 * LEASE)
    assert not nodes.condemn(node, START + LEASE)
    assert nodes.condemn(node, START + 2 * LEASE)


def test_a_condemned_node_stays_condemned(nodes: Nodes) -> None:
    node = nodes.add_condemned()
    assert not nodes.renew(node, START + 1e6)
    assert nodes.get(node) is None
    assert nodes.condemn(node, START - 1e6)
    assert nodes.over(START - 1e6) == [node.id]
    nodes.store.add(node=replace(node, expires=START + 1e6))
    assert nodes.get(node) is None
    assert nodes.over(START - 1e6) == [node.id]


def test_a_node_that_is_added_once_more_is_left_as_it_is(nodes: Nodes) -> None:
    """A driver repeats an addition of which it does not know whether it took effect."""
    node = nodes.add(expires=START + LEASE)
    subscription = new_subscription()
    assert nodes.note(node, subscription)
    nodes.store.add(node=node)
    assert nodes.get(node) == node
    assert nodes.noted(node) == [subscription]


def test_expired_nodes_are_listed_in_order(nodes: Nodes) -> None:
    made = [nodes.add(expires=START + seconds * TICK) for seconds in (3, 1, 2, 4)]
    assert nodes.over(START) == []
    assert nodes.over(START + 3 * TICK) == [made[1].id, made[2].id, made[0].id]
    assert nodes.over(START + 3 * TICK, limit=2) == [made[1].id, made[2].id]
    assert nodes.condemn(made[0], START + 3 * TICK)
    assert nodes.over(START + 3 * TICK) == [made[0].id, made[1].id, made[2].id]
    assert nodes.over(START + 3 * TICK, limit=1) == [made[0].id]


def test_a_removed_node_is_absent(nodes: Nodes) -> None:
    gone, kept = nodes.add_condemned(), nodes.add_condemned()
    nodes.remove(gone)
    assert nodes.over() == [kept.id]
    assert not nodes.renew(gone)
    assert nodes.condemn(gone)


def test_a_live_node_can_be_removed(nodes: Nodes) -> None:
    node = nodes.add(expires=START + LEASE)
    nodes.note(node, new_subscription())
    nodes.remove(node)
    assert nodes.get(node) is None
    assert nodes.noted(node) == []
    assert not nodes.renew(node)
    assert not nodes.note(node, new_subscription())


def test_the_repr_of_a_node_hides_its_key(nodes: Nodes) -> None:
    node = nodes.add(key=b"secret-key-of-a-node")
    found = nodes.get(node)
    assert found is not None
    assert found.key == node.key
    assert "secret" not in repr(found) + str(found)


# -- subscriptions ----------------------------------------------------------------------------------------------------


def test_subscriptions_are_those_of_one_node(nodes: Nodes) -> None:
    node, other = nodes.add(), nodes.add()
    first, second, third = sorted(new_subscription() for _ in range(3))
    beside = NodeSubscription(first.queue_uid, third.subscription_id)
    assert nodes.note(node, first, second, beside)
    assert nodes.note(other, second, third)
    assert nodes.noted(node) == sorted([first, second, beside])
    assert nodes.noted(other) == [second, third]
    nodes.forget(node, second, third, new_subscription())
    assert nodes.noted(node) == sorted([first, beside])
    nodes.forget(node, first)
    assert nodes.noted(node) == [beside]
    assert nodes.noted(other) == [second, third]
    nodes.forget(node)
    assert nodes.noted(node) == [beside]


def test_a_subscription_may_be_noted_again(nodes: Nodes) -> None:
    node, subscription = nodes.add(), new_subscription()
    assert nodes.note(node, subscription)
    assert nodes.note(node, subscription)
    assert nodes.noted(node) == [subscription]
    nodes.forget(node, subscription)
    assert nodes.noted(node) == []
    assert nodes.note(node, subscription)
    assert nodes.noted(node) == [subscription]


def test_many_subscriptions_are_listed_in_parts(nodes: Nodes) -> None:
    node = nodes.add()
    left = {new_subscription() for _ in range(501)}
    for each in left:
        assert nodes.note(node, each)
    assert nodes.condemn(node)
    assert len(nodes.noted(node, 7)) == 7
    while some := nodes.noted(node, 500):
        assert left.issuperset(some)
        left -= set(some)
        nodes.forget(node, *some)
    assert left == set()


def test_subscriptions_of_a_condemned_node_can_be_listed_and_forgotten_but_not_noted(nodes: Nodes) -> None:
    node = nodes.add()
    first, second = sorted(new_subscription() for _ in range(2))
    nodes.note(node, first, second)
    assert nodes.condemn(node)
    assert not nodes.note(node, new_subscription())
    assert not nodes.note(node, first)
    assert nodes.noted(node) == [first, second]
    nodes.forget(node, first)
    assert nodes.noted(node) == [second]
    nodes.remove(node)
    assert nodes.noted(node) == []


def test_a_node_whose_lease_is_over_can_still_note(nodes: Nodes) -> None:
    """Nobody has decided yet that it is gone, and whoever does so sees the note."""
    node, subscription = nodes.add(expires=START - 100), new_subscription()
    assert nodes.note(node, subscription)
    assert nodes.condemn(node)
    assert nodes.noted(node) == [subscription]


# -- at the same moment -----------------------------------------------------------------------------------------------


def test_a_node_is_either_renewed_or_condemned(nodes: Nodes) -> None:
    """Of a renewal and condemnations of a lease that is over, all at the same moment, only one kind succeeds."""
    outcomes = set()
    for _ in range(ROUNDS):
        node = nodes.add(expires=START)
        renewed: list[bool] = []
        condemned: list[bool] = []

        def renew(node: Node = node, renewed: list[bool] = renewed) -> None:
            renewed.append(nodes.renew(node))

        def condemn(node: Node = node, condemned: list[bool] = condemned) -> None:
            condemned.append(nodes.condemn(node))

        at_once(renew, condemn, renew, condemn)
        assert len(set(renewed)) == len(set(condemned)) == 1
        assert renewed[0] is not condemned[0]
        assert (nodes.get(node) is None) is condemned[0]
        assert nodes.renew(node) is renewed[0]
        outcomes.add(renewed[0])
    assert outcomes <= {True, False}


def test_no_renewal_succeeds_after_a_condemnation(nodes: Nodes) -> None:
    """Each renewal ends the lease at once, so that condemnations may succeed between any two of them."""
    for _ in range(ROUNDS):
        node = nodes.add(expires=START)
        answers: list[str] = []

        def renew_on(node: Node = node, answers: list[str] = answers) -> None:
            for _ in range(50):
                began = len(answers)
                if not nodes.renew(node, START):
                    break
                if "condemned" in answers[:began]:
                    answers.append("renewed")

        def condemn(node: Node = node, answers: list[str] = answers) -> None:
            assert nodes.condemn(node, START)
            answers.append("condemned")

        at_once(renew_on, renew_on, condemn, condemn)
        assert answers == ["condemned", "condemned"]


def test_a_caller_that_condemns_a_node_sees_every_note(nodes: Nodes) -> None:
    """A note that succeeds is in the list that is read after the condemnation; one that does not is in none."""
    refused = 0
    for _ in range(ROUNDS):
        node = nodes.add(expires=START)
        noted: list[NodeSubscription] = []
        seen: list[NodeSubscription] = []

        def note_on(node: Node = node, noted: list[NodeSubscription] = noted) -> None:
            for _ in range(50):
                subscription = new_subscription()
                if not nodes.note(node, subscription):
                    return
                noted.append(subscription)

        def condemn(node: Node = node, seen: list[NodeSubscription] = seen) -> None:
            for _ in range(3):
                nodes.noted(node)
            assert nodes.condemn(node)
            seen += nodes.noted(node)

        at_once(note_on, note_on, note_on, condemn)
        assert set(noted) <= set(seen)
        assert nodes.noted(node) == sorted(noted)
        refused += not nodes.note(node, new_subscription())
    assert refused == ROUNDS


@pytest.mark.parametrize("condemned", [True, False])
def test_a_node_that_is_removed_leaves_nothing(nodes: Nodes, condemned: bool) -> None:
    for _ in range(ROUNDS):
        node = nodes.add(expires=START)

        def note_on(node: Node = node) -> None:
            while nodes.note(node, new_subscription()):
                pass

        def remove(node: Node = node) -> None:
            nodes.noted(node)
            if condemned:
                assert nodes.condemn(node)
            nodes.remove(node)

        at_once(note_on, note_on, remove)
        assert nodes.noted(node) == []


def test_concurrent_callers_can_forget_the_same_subscriptions(nodes: Nodes) -> None:
    node = nodes.add()
    all_of_them = [new_subscription() for _ in range(60)]
    nodes.note(node, *all_of_them)
    at_once(*(partial(nodes.forget, node, *all_of_them[part :: part + 1][::-1]) for part in range(4)))
    assert nodes.noted(node) == []
