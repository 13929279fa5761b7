# SPDX-License-Identifier: Apache-2.0
"""Connection parameters of PostgreSQL, and connections to a server that does not answer."""

from __future__ import annotations

import socket
import time

import pytest

from tests import servers
from tests.conformance.queue_client import new_queue
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.postgresql.connection import ConnectionParameters
from zaqar.storage.sqlalchemy.store import SqlMessageStore

RUNS_WITH = "postgresql"


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("postgresql://user:s3cret@db:5433/zaqar", "The PostgreSQL database zaqar at db:5433"),
        ("postgresql+psycopg://user:s3cret@db/zaqar?sslmode=require", "The PostgreSQL database zaqar at db"),
        ("postgresql://user:s3%40cret@/zaqar?host=/run/postgresql", "The PostgreSQL database zaqar at /run/postgresql"),
    ],
)
def test_a_database_is_named_without_its_password(uri: str, name: str) -> None:
    parameters = ConnectionParameters.of(uri)
    assert parameters.name == name
    assert "cret" not in repr(parameters)
    assert "cret" in parameters.conninfo


def test_a_plus_sign_in_the_uri_is_a_plus_sign_and_no_space() -> None:
    parameters = ConnectionParameters.of("postgresql://a+b:p+w%2B@/zaqar?host=/run/a+b&options=-c%20search_path%3Da+b")
    for part in ("user=a+b", "password=p+w+", "host=/run/a+b", "search_path=a+b"):
        assert part in parameters.conninfo


def test_options_go_to_the_library() -> None:
    parameters = ConnectionParameters.of(
        "postgresql://db/zaqar?sslmode=require&connect_timeout=1&options=-c%20work_mem%3D1MB"
    )
    assert "sslmode=require" in parameters.conninfo
    assert "work_mem=1MB" in parameters.conninfo
    assert "enable_seqscan=off" in parameters.conninfo


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("postgresql+psycopg2://u:s3cret@db/zaqar", "the URI begins with postgresql://"),
        ("postgresql+asyncpg://u:s3cret@db/zaqar", "the URI begins with postgresql://"),
        ("postgresql://u:s3cret@db/zaqar?nonsense=1", "invalid connection option"),
        ("postgresql://u:s3cret@db:port/zaqar", "is not of the form"),
        ("mysql://u:s3cret@db/zaqar", "not 'mysql'"),
    ],
)
def test_a_startup_error_does_not_show_the_password(uri: str, reason: str) -> None:
    with pytest.raises(StartupError) as caught:
        Database.open(uri, embedded=True)
    text = str(caught.value)
    assert reason in text
    assert "s3cret" not in text
    assert "\n" not in text


@pytest.mark.parametrize("place", ["127.0.0.1:1/zaqar", "/zaqar?host=/nowhere"])
def test_a_store_opens_while_its_server_is_away_and_its_operations_are_store_unavailable(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqlMessageStore.from_settings({"uri": f"postgresql://u:s3cret@{place}"})
    assert "is not available: connection" in caplog.text
    assert "s3cret" not in caplog.text
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            store.ping()
    store.close()


def test_waiting_for_a_server_that_does_not_answer_is_bounded() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        store = SqlMessageStore.from_settings({"uri": f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/zaqar"})
        with pytest.raises(StoreUnavailable):
            store.ping()
        assert time.monotonic() - started < 5
        store.close()


def test_a_store_that_opened_without_its_server_prepares_the_database_when_the_server_is_back() -> None:
    server = servers.own(servers.Postgres)
    uri = server.new_database()
    server.kill()
    try:
        store = SqlMessageStore.from_settings({"uri": uri})
        server.start()
        deadline = time.monotonic() + 30
        while True:
            try:
                store.queues.open(queue=new_queue(), now=0.0)
            except StoreUnavailable:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                break
        store.close()
    finally:
        server.stop()
