# SPDX-License-Identifier: Apache-2.0
"""Checks that readers of a queue saw all posted messages, in order, and repetitions only if they are unavoidable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.acceptance.stream_readers import Connection, Reader

NUMBER_LENGTH = 12
"""The length of the number of a message at the end of its id."""

CLOCK_SECONDS = 0.01
"""The largest difference between two clocks of a host."""


@dataclass
class Posts:
    """The posts of the writers. ``not_before`` is the earliest time at which a delayed body may be seen."""

    not_before: dict[tuple[int, int], float] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    """Ids for which a delete was requested."""


@dataclass
class Run:
    """The messages that the readers have seen, and the messages that were in the queue at the end."""

    readers: list[Reader]
    posts: Posts
    left: dict[str, Any]
    """The bodies of the messages by their ids, in order."""

    def connections(self) -> Iterator[tuple[Reader, Connection]]:
        for reader in self.readers:
            for connection in reader.connections:
                yield reader, connection


def missing(readers: Sequence[Reader], left: dict[str, Any]) -> dict[str, list[str]]:
    """By the name of the reader, the messages that it should have seen and has not."""
    found = {}
    for reader in readers:
        begin = "" if reader.from_start else reader.connections[0].position or ""
        if lacking := [id_ for id_ in left if id_ > begin and id_ not in reader.ids]:
            found[reader.name] = lacking
    return found


def number_of(id_: str) -> int:
    return int(id_[-NUMBER_LENGTH:], 16)


def is_delayed(body: Any) -> bool:
    return bool(body["delay"])


def no_message_is_lost(run: Run) -> None:
    assert run.posts.acknowledged - run.posts.deleted <= run.left.keys()


def each_reader_sees_each_message(run: Run) -> None:
    """Each reader has seen each message that was stored the whole time, as it was posted."""
    assert missing(run.readers, run.left) == {}
    for _, connection in run.connections():
        assert all(run.left.get(seen.id, seen.body) == seen.body for seen in connection.seen)


def messages_come_in_order(run: Run) -> None:
    """Each reader first sees messages without a delay in the order of their numbers, deleted ones as well.

    So a reader that has passed the number of a deleted message does not get it when it resumes at an earlier marker.
    """
    for reader in run.readers:
        first = list(
            dict.fromkeys(seen.id for each in reader.connections for seen in each.seen if not is_delayed(seen.body))
        )
        # With the connections on which both were seen, as a failure here is rare.
        late = {
            (number_of(id_), number_of(before)): [
                (number, each.start, seen.marker, seen.at)
                for number, each in enumerate(reader.connections)
                for seen in each.seen
                if seen.id in (id_, before)
            ]
            for before, id_ in pairwise(first)
            if id_ < before
        }
        assert late == {}, (reader.name, reader.is_websocket, late)


def delayed_messages_come_when_they_are_due(run: Run) -> None:
    early = [
        seen
        for _, connection in run.connections()
        for seen in connection.seen
        if is_delayed(seen.body) and seen.at < run.posts.not_before[seen.body["w"], seen.body["n"]] - CLOCK_SECONDS
    ]
    assert early == []


def a_connection_repeats_nothing(run: Run) -> None:
    """A connection sends each message after its marker once."""
    for reader, connection in run.connections():
        ids = [seen.id for seen in connection.seen]
        assert len(set(ids)) == len(ids), reader.name
        assert connection.start is None or all(id_ > connection.start for id_ in ids), reader.name


def markers_grow(run: Run) -> None:
    """A marker is never behind the previous one, nor after its own message unless that one was held back."""
    for reader, connection in run.connections():
        markers = [seen.marker for seen in connection.seen]
        assert markers == sorted(markers), reader.name
        assert all(seen.marker <= seen.id or is_delayed(seen.body) for seen in connection.seen), reader.name


def a_marker_is_behind_only_while_a_message_is_held_back(run: Run) -> None:
    """If a reader that is cut now would see messages again, the first of them is a delayed message."""
    bodies = {number_of(id_): body for id_, body in run.left.items()}
    for reader, connection in run.connections():
        for seen in connection.seen:
            if seen.marker < seen.id:
                held = bodies.get(number_of(seen.marker) + 1)
                assert held is None or is_delayed(held), f"{reader.name}: {seen}"


CHECKS = (
    no_message_is_lost,
    each_reader_sees_each_message,
    messages_come_in_order,
    delayed_messages_come_when_they_are_due,
    a_connection_repeats_nothing,
    markers_grow,
    a_marker_is_behind_only_while_a_message_is_held_back,
)
