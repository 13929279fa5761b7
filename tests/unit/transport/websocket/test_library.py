# SPDX-License-Identifier: Apache-2.0
"""The undocumented parts of the library that ``protocol.py`` uses. A release that changes them fails here."""

from __future__ import annotations

import inspect

import pytest
from websockets.asyncio.connection import Connection
from websockets.asyncio.messages import Assembler
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.protocol import Protocol
from websockets.server import ServerProtocol
from websockets.streams import StreamReader


@pytest.mark.parametrize(
    "name", ["process_event", "send_data", "start_keepalive", "data_received", "pause_writing", "resume_writing"]
)
def test_methods_of_a_connection(name: str) -> None:
    assert inspect.isfunction(getattr(ServerConnection, name))


def test_a_connection_is_made_of_what_the_library_passes() -> None:
    assert "ping_interval" in inspect.signature(ServerConnection.__init__).parameters
    assert "create_connection" in inspect.signature(serve).parameters
    source = inspect.getsource(serve)
    assert "connection = create_connection(" in source
    assert "connection.start_keepalive()" in source


def test_attributes_of_a_connection() -> None:
    source = inspect.getsource(Connection.__init__)
    for name in ("paused", "close_timeout", "loop", "id"):
        assert f"self.{name}" in source
    assert "self.recv_messages = Assembler(" in inspect.getsource(Connection.connection_made)
    assert "self.transport = transport" in inspect.getsource(Connection.connection_made)


def test_the_function_that_resumes_reading_can_be_replaced() -> None:
    assembler = Assembler.maybe_resume
    assert "self.resume()" in inspect.getsource(assembler)
    assert "self.paused" in inspect.getsource(assembler)


def test_the_size_of_a_message_is_looked_at_for_each_frame() -> None:
    assert "self.max_message_size" in inspect.getsource(Protocol.parse)


def test_attributes_of_the_server() -> None:
    source = inspect.getsource(Server.__init__)
    for name in ("all_connections", "handler_tasks"):
        assert f"self.{name}" in source


def test_bytes_not_parsed_yet_can_be_counted() -> None:
    assert "self.buffer += data" in inspect.getsource(StreamReader.feed_data)
    assert "self.reader.feed_data(data)" in inspect.getsource(Protocol.receive_data)


def test_bytes_that_are_no_request_are_known_by_an_error() -> None:
    source = inspect.getsource(ServerProtocol.parse)
    for name in ("RequestLineTooLong", "HeaderLineTooLong, TooManyHeaders", "Exception"):
        assert f"except ({name})" in source or f"except {name}" in source
    assert source.count("self.handshake_exc = ") == 3
    assert "self.send_eof()" in inspect.getsource(ServerProtocol.send_response)


@pytest.mark.parametrize("name", ["fail", "send_ping"])
def test_methods_of_the_protocol(name: str) -> None:
    assert inspect.isfunction(getattr(Protocol, name))
