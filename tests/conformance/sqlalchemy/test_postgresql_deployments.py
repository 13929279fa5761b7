# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL behind PgBouncer, with TLS, and with a synchronous standby."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests import servers
from tests.conformance.all_operations import (
    assert_all_management_operations_work,
    assert_all_operations_work,
    assert_wakeups_work,
)
from tests.conformance.queue_client import QueueClient, at_once, bodies
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.management import SqlManagementStore
from zaqar.storage.sqlalchemy.store import SqlMessageStore

psycopg = pytest.importorskip("psycopg")

RUNS_WITH = "postgresql"
PAGE = (Path(__file__).parents[3] / "docs" / "stores" / "postgresql.rst").read_text()

OpenStore = Callable[..., SqlMessageStore]


@pytest.fixture
def open_store() -> Iterator[OpenStore]:
    """A message store at a URI, with more settings; closed after the test."""
    opened: list[SqlMessageStore] = []

    def open_it(uri: str, **settings: Any) -> SqlMessageStore:
        opened.append(SqlMessageStore.from_settings({"uri": uri, **settings}))
        return opened[-1]

    yield open_it
    for store in opened:
        store.close()


# -- PgBouncer in transaction mode ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pgbouncer() -> Iterator[servers.PgBouncer]:
    postgres = servers.shared("postgresql")
    pgbouncer = servers.own(lambda: servers.PgBouncer(postgres))
    yield pgbouncer
    pgbouncer.stop()


@pytest.fixture
def database() -> str:
    uri: str = servers.shared("postgresql").new_database()
    return uri


@pytest.fixture
def role_settings(
    pgbouncer: servers.PgBouncer, database: str, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> str:
    """The database, whose role has the settings that the warning at start demands."""
    with caplog.at_level(logging.WARNING, logger="zaqar"):
        open_store(pgbouncer.pooled(database), transaction_pooling=True).close()
    settings = re.findall(r'ALTER ROLE "zaqar" SET (\S+) = \'(\S+)\';', caplog.text)
    assert settings == re.findall(r"ALTER ROLE zaqar SET (\S+) = '?([^';\s]+)'?;", PAGE)
    caplog.clear()
    with psycopg.connect(database, autocommit=True) as connection:
        # Only for this database, because other tests use the same role.
        name = connection.info.dbname
        for setting, value in settings:
            connection.execute(f"ALTER ROLE zaqar IN DATABASE {name} SET {setting} = '{value}'")
    # The pooler has sessions that began before.
    with psycopg.connect(pgbouncer.uri.replace("/postgres", "/pgbouncer"), autocommit=True) as console:
        console.execute(f"RECONNECT {name}".encode(), prepare=False)
    return database


def test_all_operations_work_through_a_transaction_pooler(
    pgbouncer: servers.PgBouncer, role_settings: str, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    uri = pgbouncer.pooled(role_settings)
    with caplog.at_level(logging.WARNING, logger="zaqar"):
        stores = [open_store(uri, transaction_pooling=True) for _ in range(3)]
    assert caplog.text == ""
    posting, done = stores.pop(), threading.Event()

    def post_on() -> None:
        """Keep sessions of the server busy, so that they change hands."""
        orders = QueueClient(posting)
        while not done.is_set():
            orders.post("a")
            orders.claim(1)

    def use_all() -> None:
        try:
            for store in stores * 3:
                assert_all_operations_work(store)
        finally:
            done.set()

    at_once(use_all, *[post_on] * 4)
    management = SqlManagementStore.from_settings({"uri": uri, "transaction_pooling": True})
    assert_all_management_operations_work(management)
    management.close()


def test_each_transaction_may_come_to_another_session(pgbouncer: servers.PgBouncer, role_settings: str) -> None:
    database = Database.open(pgbouncer.pooled(role_settings), embedded=True, transaction_pooling=True)
    store = SqlMessageStore(database)
    orders = QueueClient(store)
    seen: set[int] = set()

    def post_often() -> None:
        for _ in range(20):
            orders.post("a")
            with database.write as connection:
                seen.add(connection.execute("SELECT pg_backend_pid()").fetchone()[0])

    at_once(*[post_often] * 8)
    assert 2 <= len(seen) <= 4, "sessions of the server: the pooler has four"
    assert orders.stats().free == 160
    store.close()


def test_a_schema_change_has_no_time_limit(pgbouncer: servers.PgBouncer, role_settings: str) -> None:
    database = Database.open(pgbouncer.pooled(role_settings), embedded=True, transaction_pooling=True)
    with database.change_schema() as connection:
        assert connection.scalar(sa.text("SELECT current_setting('statement_timeout')")) == "0"
    database.close()


def test_a_store_behind_a_pooler_works_again_when_the_server_is_back(open_store: OpenStore) -> None:
    postgres = servers.own(servers.Postgres)
    pgbouncer = servers.own(lambda: servers.PgBouncer(postgres))
    try:
        uri = pgbouncer.pooled(postgres.new_database())
        running = open_store(uri, transaction_pooling=True)
        orders = QueueClient(running)
        orders.post("a")
        postgres.kill()
        with pytest.raises(StoreUnavailable):
            orders.post("b")
        # It starts without the server, too.
        started = open_store(uri, transaction_pooling=True)
        with pytest.raises(StoreUnavailable):
            started.ping()
        postgres.start()
        for store in (running, started):
            _await(lambda store=store: _answers(store))  # type: ignore[misc]
        assert bodies(orders.listing())[:1] == ["a"]
        assert orders.post("c")
    finally:
        pgbouncer.stop()
        postgres.stop()


def _answers(store: SqlMessageStore) -> bool:
    with suppress(StoreUnavailable):
        store.ping()
        return True
    return False


def test_without_the_option_a_pooler_refuses_the_store(pgbouncer: servers.PgBouncer, database: str) -> None:
    with pytest.raises(StartupError, match="unsupported startup parameter: options"):
        SqlMessageStore.from_settings({"uri": pgbouncer.pooled(database)})


def test_listen_is_refused_behind_a_pooler() -> None:
    with pytest.raises(StartupError, match="listen must be false with transaction_pooling"):
        SqlMessageStore.from_settings({"uri": "postgresql://a@b/c", "listen": True, "transaction_pooling": True})


# -- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> servers.Certificates:
    return servers.own(lambda: servers.Certificates.make(tmp_path_factory.mktemp("tls"), "DNS:localhost"))


def test_all_operations_work_over_tls_with_a_checked_certificate(
    certificates: servers.Certificates, open_store: OpenStore, tmp_path: Path
) -> None:
    postgres = servers.own(lambda: servers.Postgres(certificates=certificates))
    checked = f"sslmode=verify-full&sslrootcert={certificates.certificate}"
    try:
        at = f"localhost:{postgres.program.port}/postgres"
        store = open_store(f"postgresql://zaqar@{at}?{checked}", listen=True)
        assert_all_operations_work(store)
        assert_wakeups_work(store)
        for refused in (
            f"postgresql://zaqar@{at}?{checked}".replace("localhost", "127.0.0.1"),
            f"postgresql://zaqar@{at}?sslmode=verify-full&sslrootcert={tmp_path / 'none'}",
        ):
            with pytest.raises(StoreUnavailable):
                open_store(refused).ping()
        with pytest.raises(StartupError, match=r"no pg_hba\.conf entry .* no encryption"):
            open_store(f"postgresql://zaqar@{at}?sslmode=disable")
    finally:
        postgres.stop()


# -- a synchronous standby --------------------------------------------------------------------------------------------


def test_no_acknowledged_message_is_lost_if_a_synchronous_standby_takes_over(open_store: OpenStore) -> None:
    primary = servers.own(lambda: servers.Postgres("-c", "synchronous_standby_names=*"))
    standby = None
    try:
        with psycopg.connect(primary.uri, autocommit=True) as connection:
            connection.execute("SET synchronous_commit = local")
            connection.execute("CREATE DATABASE zaqar")
        standby = servers.PostgresStandby(primary)
        ports = f"{primary.program.port},{standby.program.port}"
        hosts = f"host=127.0.0.1,127.0.0.1&port={ports}&target_session_attrs=read-write"
        store = open_store(f"postgresql://zaqar@/zaqar?{hosts}")
        assert "loss of the server while a synchronous standby lives" in store.durability()["survives"]
        orders = QueueClient(store)
        orders.post("first")

        # Without the standby no post is acknowledged, and reading works.
        standby.kill()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            orders.beside().post("in doubt")
        assert 3 < time.monotonic() - started < 10
        assert bodies(orders.listing()) == ["first"]
        standby.start()

        acknowledged: list[str] = []
        go_on = threading.Event()
        go_on.set()

        def post_on(client: QueueClient, number: int) -> None:
            for each in range(100_000):
                if not go_on.is_set():
                    return
                try:
                    client.post(f"{number}-{each}")
                except StoreUnavailable:
                    time.sleep(0.05)
                else:
                    acknowledged.append(f"{number}-{each}")

        clients = [orders.beside() for _ in range(3)]
        threads = [threading.Thread(target=post_on, args=(client, n)) for n, client in enumerate(clients)]
        for thread in threads:
            thread.start()
        _await(lambda: len(acknowledged) > 50)
        primary.kill()
        standby.promote()
        before = len(acknowledged)
        _await(lambda: len(acknowledged) > before + 50)
        go_on.clear()
        for thread in threads:
            thread.join()
        stored = {body for client in clients for body in bodies(client.listing())}
        assert set(acknowledged) <= stored
        assert bodies(orders.listing()) == ["first"]
    finally:
        if standby is not None:
            standby.stop()
        primary.stop()


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + servers.START_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
