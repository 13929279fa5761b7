# SPDX-License-Identifier: Apache-2.0
"""Nodes on MongoDB. A node and each note of a subscription are separate documents, so a crash may leave one of them."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from functools import partial

import pytest
from pymongo.collection import Collection

from tests import servers
from tests.conformance.mongodb.conftest import DATABASE
from tests.conformance.queue_client import at_once
from zaqar.storage.base import Node, NodeSubscription
from zaqar.storage.mongodb.management import MongoManagementStore
from zaqar.storage.mongodb.nodes import MongoNodes

NOW = 1_000_000.0


@pytest.fixture
def nodes(members: servers.MongoSet) -> Iterator[MongoNodes]:
    management = MongoManagementStore.from_settings({"uri": members.uri, "database": DATABASE})
    yield management.nodes  # type: ignore[misc]
    management.close()


def new_note() -> NodeSubscription:
    return NodeSubscription(secrets.token_hex(12), secrets.token_hex(12))


class Killed(Exception):
    pass


def test_a_note_left_by_a_crash_is_found_and_removed(nodes: MongoNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {name: secrets.token_hex(12) for name in ("gone", "live", "condemned")}
    left, kept = new_note(), new_note()
    for name in ("live", "condemned"):
        nodes.add(node=Node(ids[name], "m", "h", 1, "", NOW, b"k" * 32))
        assert nodes.note(node_id=ids[name], subscription=kept)
    assert nodes.condemn(node_id=ids["condemned"], now=NOW)

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        # The node was removed while it wrote the note, and its process is killed before it removes the note.
        dying.setattr(Collection, "delete_one", kill)
        with pytest.raises(Killed):
            nodes.note(node_id=ids["gone"], subscription=left)
    assert nodes.list_subscriptions(node_id=ids["gone"], limit=9) == [left]
    assert ids["gone"] not in nodes.list_expired(now=NOW, limit=100)

    at_once(*(nodes.condemn_forgotten for _ in range(4)))
    assert {ids["gone"], ids["condemned"]} <= set(nodes.list_expired(now=0.0, limit=100))
    assert nodes.get(node_id=ids["gone"]) is None
    assert nodes.condemn(node_id=ids["gone"], now=0.0)
    assert not nodes.renew(node_id=ids["gone"], expires=NOW + 20)
    assert not nodes.note(node_id=ids["gone"], subscription=new_note())
    # Other nodes are unchanged.
    found = nodes.get(node_id=ids["live"])
    assert found is not None
    assert found.expires == NOW
    assert nodes.list_subscriptions(node_id=ids["live"], limit=9) == [kept]
    for node_id in ids.values():
        nodes.remove(node_id=node_id)
        assert nodes.list_subscriptions(node_id=node_id, limit=9) == []
    nodes.condemn_forgotten()
    assert not set(ids.values()) & set(nodes.list_expired(now=NOW, limit=100))
    assert nodes.condemn(node_id=ids["gone"], now=NOW)


def test_condemn_forgotten_leaves_a_node_that_begins_alone(nodes: MongoNodes) -> None:
    ids = [secrets.token_hex(12) for _ in range(10)]

    def begin(node_id: str) -> None:
        nodes.add(node=Node(node_id, "m", "h", 1, "", NOW, b"k" * 32))
        for _ in range(10):
            assert nodes.note(node_id=node_id, subscription=new_note())

    def look() -> None:
        for _ in range(20):
            nodes.condemn_forgotten()

    at_once(look, look, *(partial(begin, node_id) for node_id in ids))
    for node_id in ids:
        assert nodes.get(node_id=node_id) is not None
        nodes.remove(node_id=node_id)
