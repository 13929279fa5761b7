# SPDX-License-Identifier: Apache-2.0
"""Addresses of PostgreSQL, and connections to what does not answer. Needs no server."""

from __future__ import annotations

import socket
import time

import pytest

from zaqar.errors import StartupError
from zaqar.storage.sqlalchemy.connection import Database

pytest.importorskip("psycopg")

from zaqar.storage.sqlalchemy.postgresql_link import Address


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("postgresql://user:s3cret@db:5433/zaqar", "The PostgreSQL database zaqar at db:5433"),
        ("postgresql+psycopg://user:s3cret@db/zaqar?sslmode=require", "The PostgreSQL database zaqar at db"),
        ("postgresql://user:s3%40cret@/zaqar?host=/run/postgresql", "The PostgreSQL database zaqar at /run/postgresql"),
    ],
)
def test_an_address_is_called_without_its_password(uri: str, name: str) -> None:
    address = Address.of(uri)
    assert address.name == name
    assert "cret" not in repr(address)
    assert "cret" in address.parameters


def test_options_go_to_the_library() -> None:
    address = Address.of("postgresql://db/zaqar?sslmode=require&connect_timeout=1&options=-c%20work_mem%3D1MB")
    assert "sslmode=require" in address.parameters
    assert "work_mem=1MB" in address.parameters
    assert "enable_seqscan=off" in address.parameters


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("postgresql+psycopg2://u:s3cret@db/zaqar", "the URI begins with postgresql://"),
        ("postgresql+asyncpg://u:s3cret@db/zaqar", "the URI begins with postgresql://"),
        ("postgresql://u:s3cret@db/zaqar?nonsense=1", "invalid connection option"),
        ("postgresql://u:s3cret@db:port/zaqar", "is not of the form"),
        ("mysql://u:s3cret@db/zaqar", "not 'mysql'"),
        ("postgresql://u:s3cret@127.0.0.1:1/zaqar", "cannot be opened: connection failed"),
        ("postgresql://u:s3cret@/zaqar?host=/nowhere", "cannot be opened: connection"),
    ],
)
def test_what_cannot_be_opened_is_said_without_the_password(uri: str, reason: str) -> None:
    with pytest.raises(StartupError) as caught:
        Database.open(uri, embedded=True)
    text = str(caught.value)
    assert reason in text
    assert "s3cret" not in text
    assert "\n" not in text


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(StartupError, match="cannot be opened"):
            Database.open(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/zaqar", embedded=True)
        assert time.monotonic() - started < 5
