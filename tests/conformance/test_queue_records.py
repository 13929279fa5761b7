# SPDX-License-Identifier: Apache-2.0
"""Part ``queue_records``: the management store decides which queues exist."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.conformance.queue_client import at_once, new_queue
from zaqar.model import QUEUE, TOPIC, Queue, QueueName
from zaqar.storage.base import ManagementStore

METADATA: dict[str, dict[str, Any]] = {
    "empty": {},
    "reserved": {"_default_message_ttl": 3600, "_dead_letter_queue": None, "_enable_encrypt_messages": False},
    "unicode": {"na\u00efve \u20ac \U0001f600": "\u0000 \u2028 \u00e9 e\u0301 \U0001f9d1\u200d\U0001f680"},
    "kinds": {"int": 1, "float": 1.5, "true": True, "false": False, "null": None, "text": "1", "list": [1, "1", None]},
    "nested": {"a": {"b": {"c": [{"d": []}, {}]}}},
    "numbers": {"max": 2**63 - 1, "min": -(2**63), "small": 1e-300, "large": 1.7976931348623157e308},
    "awkward keys": {"": 1, "a.b": 2, "$set": 3, "$a.b": {"$gt": ""}, "_id": 4, "a b": 5, "%s": 6, "'": 7, "\x00": 8},
    "large": {f"key{n}": "x" * 1000 for n in range(60)},
}


@pytest.fixture
def project() -> str:
    return f"project-{secrets.token_hex(6)}"


def found(management: ManagementStore, queue: Queue) -> Queue | None:
    return management.queue_records.get(project=queue.project, kind=queue.kind, name=queue.name)


def names(
    management: ManagementStore, project: str, *, after: str = "", limit: int = 100, kind: str = QUEUE
) -> list[str]:
    """As both listings have them."""
    listed = [
        queue.name
        for queue in management.queue_records.list_after(project=project, kind=kind, after=after, limit=limit)
    ]
    assert management.queue_records.list_names(project=project, kind=kind, after=after, limit=limit) == listed
    return listed


@pytest.mark.parametrize("metadata", METADATA.values(), ids=METADATA.keys())
def test_a_queue_comes_back_as_it_was_written(
    management: ManagementStore, project: str, metadata: dict[str, Any]
) -> None:
    queue = replace(new_queue(project=project), metadata=metadata, pool="fast", generation=3, notify=True)
    assert management.queue_records.create(queue=queue) == queue
    for back in (
        found(management, queue),
        *management.queue_records.list_after(project=project, kind=QUEUE, after="", limit=1),
    ):
        assert back == queue
        assert {key: type(value) for key, value in back.metadata.items()} == {
            key: type(value) for key, value in metadata.items()
        }


def test_get_of_an_absent_queue_is_none(management: ManagementStore, project: str) -> None:
    assert management.queue_records.get(project=project, kind=QUEUE, name="none") is None
    assert management.queue_records.list_after(project=project, kind=QUEUE, after="", limit=10) == []
    assert management.queue_records.count(project=project, kind=QUEUE) == 0


def test_a_change_to_the_copy_of_a_caller_changes_no_record(management: ManagementStore, project: str) -> None:
    metadata: dict[str, Any] = {"tags": ["a"]}
    queue = replace(new_queue(project=project), metadata=metadata)
    management.queue_records.create(queue=queue)
    metadata["tags"].append("b")
    back = found(management, queue)
    assert back is not None and back.metadata == {"tags": ["a"]}
    back.metadata["tags"].append("c")
    again = found(management, queue)
    assert again is not None and again.metadata == {"tags": ["a"]}


# -- create -----------------------------------------------------------------------------------------------------------


def test_a_second_create_returns_the_record_in_place(management: ManagementStore, project: str) -> None:
    first = replace(new_queue(project=project), metadata={"a": 1})
    second = replace(new_queue(project=project), metadata={"b": 2}, pool="other", notify=True)
    assert management.queue_records.create(queue=first) == first
    assert management.queue_records.create(queue=second) == first
    assert management.queue_records.create(queue=first) == first
    assert found(management, first) == first
    assert management.queue_records.count(project=project, kind=QUEUE) == 1


def test_of_concurrent_creations_exactly_one_succeeds(management: ManagementStore, project: str) -> None:
    answers: list[Queue] = []
    at_once(*[lambda: answers.append(management.queue_records.create(queue=new_queue(project=project)))] * 8)
    assert len(answers) == 8
    assert {queue.uid for queue in answers} == {
        management.queue_records.list_after(project=project, kind=QUEUE, after="", limit=9)[0].uid
    }
    assert management.queue_records.count(project=project, kind=QUEUE) == 1


def test_the_same_name_in_another_project_is_another_queue(management: ManagementStore, project: str) -> None:
    queues = [new_queue(project=other) for other in (project, project.upper(), project + " ", project + "\u00e9")]
    for queue in queues:
        assert management.queue_records.create(queue=queue) == queue
    for queue in queues:
        assert found(management, queue) == queue
        assert management.queue_records.count(project=queue.project, kind=QUEUE) == 1
    management.queue_records.delete(queue=queues[0])
    assert [found(management, queue) for queue in queues] == [None, *queues[1:]]


def test_names_differ_by_case(management: ManagementStore, project: str) -> None:
    lower, upper = new_queue("orders", project=project), new_queue("Orders", project=project)
    assert management.queue_records.create(queue=lower) == lower
    assert management.queue_records.create(queue=upper) == upper
    assert management.queue_records.count(project=project, kind=QUEUE) == 2


def test_a_queue_and_a_topic_can_have_the_same_name(management: ManagementStore, project: str) -> None:
    queue, topic = new_queue("news", project=project), new_queue("news", project=project, kind=TOPIC)
    assert management.queue_records.create(queue=queue) == queue
    assert management.queue_records.create(queue=topic) == topic
    assert found(management, queue) == queue
    assert found(management, topic) == topic
    management.queue_records.create(queue=new_queue("only-a-queue", project=project))
    assert names(management, project) == ["news", "only-a-queue"]
    assert names(management, project, kind=TOPIC) == ["news"]
    assert management.queue_records.count(project=project, kind=TOPIC) == 1
    management.queue_records.delete(queue=topic)
    assert found(management, topic) is None
    assert found(management, queue) == queue


def test_long_names_are_kept_whole(management: ManagementStore) -> None:
    project = secrets.token_hex(128)
    queues = [new_queue("n" * 63 + last, project=project) for last in "ab"]
    for queue in queues:
        assert management.queue_records.create(queue=queue) == queue
    assert names(management, project) == [queue.name for queue in queues]


# -- replace ----------------------------------------------------------------------------------------------------------


def test_a_replacement_needs_the_generation_before(management: ManagementStore, project: str) -> None:
    queue = replace(new_queue(project=project), metadata={"a": 1})
    management.queue_records.create(queue=queue)
    for generation in (0, 1, 3):
        assert not management.queue_records.replace(queue=replace(queue, generation=generation, metadata={"b": 2}))
    assert found(management, queue) == queue
    changed = replace(queue, generation=2, metadata={"c": 3}, pool="new", notify=True)
    assert management.queue_records.replace(queue=changed)
    assert found(management, queue) == changed
    assert not management.queue_records.replace(queue=changed)
    assert management.queue_records.replace(queue=replace(changed, generation=3, notify=False, pool=None))
    assert found(management, queue) == replace(changed, generation=3, notify=False, pool=None)


def test_a_replacement_may_skip_generations(management: ManagementStore, project: str) -> None:
    """After a restore from a backup a row overtakes its fence in one write."""
    queue = replace(new_queue(project=project), metadata={"a": 1}, generation=3)
    management.queue_records.create(queue=queue)
    far = replace(queue, generation=100_000, metadata={"b": 2})
    for other in (0, 2, 4, 99_999, 100_000):
        assert not management.queue_records.replace(queue=far, replaces=other)
    assert found(management, queue) == queue
    assert management.queue_records.replace(queue=far, replaces=3)
    assert found(management, queue) == far
    assert not management.queue_records.replace(queue=far, replaces=3)
    assert management.queue_records.replace(queue=replace(far, generation=100_001, pool="other"))
    back = found(management, queue)
    assert back is not None and (back.generation, back.pool) == (100_001, "other")


def test_a_replacement_needs_the_uid_in_place(management: ManagementStore, project: str) -> None:
    queue = new_queue(project=project)
    later = new_queue(project=project)
    assert not management.queue_records.replace(queue=replace(queue, generation=2))
    assert found(management, queue) is None
    management.queue_records.create(queue=queue)
    management.queue_records.delete(queue=queue)
    assert not management.queue_records.replace(queue=replace(queue, generation=2))
    management.queue_records.create(queue=later)
    assert not management.queue_records.replace(queue=replace(queue, generation=2, metadata={"old": True}))
    assert found(management, queue) == later


def test_of_concurrent_replacements_exactly_one_succeeds(management: ManagementStore, project: str) -> None:
    queue = new_queue(project=project)
    management.queue_records.create(queue=queue)
    answers: list[int] = []

    def replace_by(writer: int) -> None:
        if management.queue_records.replace(queue=replace(queue, generation=2, metadata={"writer": writer})):
            answers.append(writer)

    at_once(*(partial(replace_by, writer) for writer in range(8)))
    assert len(answers) == 1
    back = found(management, queue)
    assert back is not None and (back.generation, back.metadata) == (2, {"writer": answers[0]})


def test_no_concurrent_replacement_is_lost(management: ManagementStore, project: str) -> None:
    """Read, change, compare-and-set, again when somebody else was faster: as a PATCH does."""
    queue = replace(new_queue(project=project), metadata={"count": 0})
    management.queue_records.create(queue=queue)

    def add_five() -> None:
        added = 0
        while added < 5:
            now = found(management, queue)
            assert now is not None
            more = replace(now, generation=now.generation + 1, metadata={"count": now.metadata["count"] + 1})
            added += management.queue_records.replace(queue=more)

    at_once(*[add_five] * 4)
    back = found(management, queue)
    assert back is not None and (back.generation, back.metadata) == (21, {"count": 20})


# -- delete -----------------------------------------------------------------------------------------------------------


def test_a_deleted_queue_is_gone_and_its_name_free(management: ManagementStore, project: str) -> None:
    queue = new_queue(project=project)
    management.queue_records.create(queue=queue)
    management.queue_records.delete(queue=queue)
    assert found(management, queue) is None
    assert names(management, project) == []
    management.queue_records.delete(queue=queue)
    later = new_queue(project=project)
    assert management.queue_records.create(queue=later) == later


def test_delete_with_another_uid_deletes_nothing(management: ManagementStore, project: str) -> None:
    queue = new_queue(project=project)
    management.queue_records.create(queue=queue)
    management.queue_records.delete(queue=new_queue(project=project))
    assert found(management, queue) == queue
    management.queue_records.replace(queue=replace(queue, generation=2))
    management.queue_records.delete(queue=queue)
    assert found(management, queue) is None


# -- list -------------------------------------------------------------------------------------------------------------


def queue_name_of(queue: Queue) -> QueueName:
    return QueueName(queue.project, queue.kind, queue.name)


def test_queues_are_found_by_their_names(management: ManagementStore, project: str) -> None:
    """Only those, whole, each by its own name, in whatever order and whichever pool they are."""
    made = [
        replace(new_queue(name, project=project), metadata={"n": n}, pool="fast" if n else None, generation=n + 1)
        for n, name in enumerate(("orders", "Orders", "a-b_c.d", "x" * 64))
    ]
    made += [new_queue("orders", project=project, kind=TOPIC), new_queue("orders", project=f"{project}-2", notify=True)]
    for queue in made:
        management.queue_records.create(queue=queue)
    queue_names = [queue_name_of(queue) for queue in made]
    absent = [
        QueueName(project, TOPIC, "Orders"),
        QueueName(project, QUEUE, "orders-2"),
        QueueName("", QUEUE, "orders"),
    ]
    assert management.queue_records.find(names={*queue_names, *absent}) == dict(zip(queue_names, made, strict=True))
    assert management.queue_records.find(names=queue_names[1:3]) == dict(zip(queue_names[1:3], made[1:3], strict=True))
    assert management.queue_records.find(names=absent) == {}
    assert management.queue_records.find(names=[]) == {}
    management.queue_records.delete(queue=made[0])
    assert management.queue_records.find(names=queue_names[:2]) == {queue_names[1]: made[1]}


def test_a_queue_is_found_as_it_was_written(management: ManagementStore, project: str) -> None:
    for n, metadata in enumerate(METADATA.values()):
        management.queue_records.create(queue=replace(new_queue(f"q{n}", project=project), metadata=metadata))
    queue_names = [QueueName(project, QUEUE, f"q{n}") for n in range(len(METADATA))]
    found_now = management.queue_records.find(names=queue_names)
    assert [found_now[queue_name].metadata for queue_name in queue_names] == list(METADATA.values())


def test_five_hundred_names_are_found_in_one_call(management: ManagementStore, project: str) -> None:
    made = [
        management.queue_records.create(queue=new_queue(f"{'n' * 60}{n:03}", project=project))
        for n in range(0, 500, 100)
    ]
    queue_names = [QueueName(project, QUEUE, f"{'n' * 60}{n:03}") for n in range(500)]
    assert management.queue_records.find(names=queue_names) == {queue_name_of(queue): queue for queue in made}


def test_names_are_listed_by_code_point(management: ManagementStore, project: str) -> None:
    expected = ["-a", ".a", "0", "10", "9", "A", "B", "Z", "_", "a", "a-b", "a.b", "aB", "a_b", "ab", "b", "z"]
    assert expected == sorted(expected)
    for name in reversed(expected):
        management.queue_records.create(queue=new_queue(name, project=project))
    assert names(management, project) == expected
    for place, name in enumerate(expected):
        assert names(management, project, after=name) == expected[place + 1 :]


@pytest.mark.parametrize("size", [1, 2, 3, 10, 20])
def test_following_the_marker_lists_every_queue_once(management: ManagementStore, project: str, size: int) -> None:
    expected = sorted(f"q{n}" for n in range(23))
    for name in expected:
        management.queue_records.create(queue=new_queue(name, project=project))
    seen: list[str] = []
    while page := names(management, project, after=seen[-1] if seen else "", limit=size):
        assert len(page) <= size
        seen += page
        gone = management.queue_records.get(project=project, kind=QUEUE, name=page[-1])
        assert gone is not None
        management.queue_records.delete(queue=gone)
    assert seen == expected
    assert management.queue_records.count(project=project, kind=QUEUE) == 23 - -(-23 // size)


def test_a_marker_need_not_be_a_queue(management: ManagementStore, project: str) -> None:
    for name in ("a", "c"):
        management.queue_records.create(queue=new_queue(name, project=project))
    assert names(management, project, after="b") == ["c"]
    assert names(management, project, after="a-") == ["c"]
    assert names(management, project, after="\U0001f600") == []


def test_a_listing_shows_the_whole_queue(management: ManagementStore, project: str) -> None:
    queues = [replace(new_queue(f"q{n}", project=project), metadata={"n": n}, notify=bool(n % 2)) for n in range(3)]
    for queue in queues:
        management.queue_records.create(queue=queue)
    assert management.queue_records.list_after(project=project, kind=QUEUE, after="", limit=10) == queues


def test_the_management_store_answers_a_ping(management: ManagementStore) -> None:
    management.ping()
