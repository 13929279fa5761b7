# SPDX-License-Identifier: Apache-2.0
"""Waiting requests are woken when their clients close. tests/acceptance shows it with real servers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from zaqar.transport.wsgi.client_watch import ClientWatch

SECONDS = 60.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the end of the server, and that of the client."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def of(ours: socket.socket) -> dict[str, Any]:
    return {"gunicorn.socket": ours}


def test_a_client_that_goes_away_wakes_its_request_and_no_other(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    watch, woken, other = ClientWatch(), threading.Event(), threading.Event()
    other_ours, other_theirs = socket.socketpair()
    with other_ours, other_theirs:
        ends = [watch.add(of(ours), woken.set), watch.add(of(other_ours), other.set)]
        theirs.sendall(b"the next request")
        watch.step()
        assert not woken.is_set(), "its next request is no end"
        theirs.close()
        assert woken.wait(SECONDS)
        assert not other.is_set()
        for end in ends:
            end()
        other_theirs.close()
        watch.step()
        assert not other.is_set(), "it waits no more"
    assert not watch.is_needed()


def test_a_socket_that_its_owner_closed_counts_as_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, _ = pair
    watch, woken = ClientWatch(), threading.Event()
    end = watch.add(of(ours), woken.set)
    ours.close()
    assert woken.wait(SECONDS)
    end()
    watch.add(of(ours), woken.set)()
    assert not watch.is_needed()


def test_a_server_that_shows_no_socket_is_not_watched() -> None:
    watch = ClientWatch()
    watch.add({}, lambda: None)
    assert not watch.is_needed()
