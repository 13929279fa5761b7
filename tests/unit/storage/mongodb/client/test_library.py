# SPDX-License-Identifier: Apache-2.0
"""Private attributes of pymongo that ``client`` and the tests use: a release that changes one of them fails here."""

from __future__ import annotations

import inspect

import pymongo
from pymongo import monitoring
from pymongo.client_session import ClientSession
from pymongo.command_cursor import CommandCursor, RawBatchCommandCursor


def test_a_session_can_be_reset_and_starts_another_transaction() -> None:
    """``transactions`` ends a transaction on the server itself, and then resets the session."""
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient("mongodb://127.0.0.1:1/", connect=False)
    with client, client.start_session(causal_consistency=False) as session:
        session.start_transaction()
        assert session.in_transaction
        session._transaction.reset()
        assert not session.in_transaction
        session.start_transaction()
        session._transaction.reset()


def test_the_number_of_a_transaction_grows_with_each_start() -> None:
    """So what may be left of the last transaction on the server is ended by the next one."""
    assert "self._start_retryable_write()" in inspect.getsource(ClientSession.start_transaction)
    assert "inc_transaction_id()" in inspect.getsource(ClientSession._start_retryable_write)


def test_the_await_time_of_a_cursor_is_read_for_each_batch() -> None:
    """``change_stream`` sets it before each one."""
    assert issubclass(RawBatchCommandCursor, CommandCursor)
    assert "self._max_await_time_ms = max_await_time_ms" in inspect.getsource(CommandCursor.__init__)
    assert "self._max_await_time_ms" in inspect.getsource(CommandCursor._refresh)


def test_a_pool_of_connections_tells_how_many_are_used_and_idle() -> None:
    """For ``ReplicaSet.connections``, which asks no server."""
    client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient("mongodb://127.0.0.1:1/?maxPoolSize=7")
    with client:
        (server,) = client._topology._servers.values()
        assert (server.pool.active_sockets, len(server.pool.conns)) == (0, 0)
        assert client.options.pool_options.max_pool_size == 7


def test_a_listener_of_commands_can_be_removed() -> None:
    """For the tests, which count commands."""
    assert isinstance(monitoring._LISTENERS.command_listeners, list)
