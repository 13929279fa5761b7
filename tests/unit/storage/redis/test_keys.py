# SPDX-License-Identifier: Apache-2.0
"""Names of keys, and the slots they fall into."""

from __future__ import annotations

import re

import pytest
import redis.crc

from zaqar.storage.redis.keys import OUTBOX_KEYS, QUEUE_KEYS, SLOTS, QueueKeys, slot_of

UID = "0123456789abcdef01234567"


@pytest.mark.parametrize("tag", [b"", b"a", b"123456789", UID.encode(), b"queue/%7Bx%7D"])
def test_slots_are_those_of_redis(tag: bytes) -> None:
    assert slot_of(tag) == redis.crc.key_slot(tag)


def test_on_one_server_scripts_get_the_fence() -> None:
    keys = QueueKeys(cluster=False)
    assert keys.of(UID) == (b"zaqar:{0123456789abcdef01234567}:fence",)
    assert keys.of(UID) is keys.of(UID)
    assert keys.registry(0) == (b"zaqar:queues", b"zaqar:agenda")


def test_in_a_cluster_they_get_every_key_and_all_lie_in_one_slot() -> None:
    keys = QueueKeys(cluster=True).of(UID)
    assert len(keys) == len(set(keys)) == 16
    assert {redis.crc.key_slot(key) for key in keys} == {slot_of(UID.encode())}
    assert [key.rpartition(b":")[2] for key in keys[:14]] == list(QUEUE_KEYS)
    assert keys[14:] == QueueKeys(cluster=True).registry(slot_of(UID.encode()))


def test_every_slot_has_a_registry_of_its_own() -> None:
    keys = QueueKeys(cluster=True)
    found = [keys.registry(slot) for slot in range(SLOTS)]
    assert len({key for pair in found for key in pair}) == 2 * SLOTS
    for slot in (0, 1, 8191, 12_345, SLOTS - 1):
        assert {redis.crc.key_slot(key) for key in found[slot]} == {slot}
        assert all(re.fullmatch(rb"zaqar:\{[0-9a-f]+\}:(queues|agenda)", key) for key in found[slot])


@pytest.mark.parametrize("cluster", [False, True])
def test_what_is_kept_in_memory_is_bounded(cluster: bool) -> None:
    keys = QueueKeys(cluster=cluster)
    for number in range(10_000):
        keys.of(f"{number:024x}")
        keys.outbox_of(f"{number:024x}")
    assert 0 < len(keys._queues) <= 4096
    assert 0 < len(keys._outboxes) <= 4096


def test_on_one_server_scripts_of_the_outbox_get_the_posts() -> None:
    keys = QueueKeys(cluster=False)
    assert keys.outbox_of(UID) == (b"zaqar:{0123456789abcdef01234567}:posts",)
    assert keys.posts_of(UID) == ()
    assert keys.outbox(0) == (b"zaqar:posted", b"zaqar:due", b"zaqar:turns", b"zaqar:kept")


def test_in_a_cluster_they_get_every_key_of_the_outbox() -> None:
    keys = QueueKeys(cluster=True)
    found = keys.outbox_of(UID)
    assert len(found) == len(set(found)) == 17
    assert set(found) & set(keys.of(UID)) == {found[16]} == {keys.of(UID)[0]}, "the fence"
    assert {redis.crc.key_slot(key) for key in found} == {slot_of(UID.encode())}
    assert [key.rpartition(b":")[2] for key in found[:12]] == list(OUTBOX_KEYS)
    assert found[12:16] == keys.outbox(slot_of(UID.encode()))
    assert [key.rpartition(b":")[2] for key in keys.posts_of(UID)] == [b"posts", b"posts_free", b"posted"]
