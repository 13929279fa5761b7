# SPDX-License-Identifier: Apache-2.0
"""Wake-ups over LISTEN: they come for operations that make messages available and for no others."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from tests.conformance.drivers import DRIVERS
from tests.conformance.queue_client import QueueClient, new_queue
from zaqar import conf as configuration
from zaqar.errors import StaleQueue, StartupError, StoreUnavailable
from zaqar.model import DeadLetters, Message, Origin
from zaqar.storage.base import MessageStore, Wakeups
from zaqar.storage.registry import open_message_store
from zaqar.storage.sqlalchemy.store import SqlMessageStore

if TYPE_CHECKING:
    from zaqar.storage.sqlalchemy.postgresql.core import PostgresqlFenceQueries
    from zaqar.storage.sqlalchemy.postgresql.database import PostgresqlDatabase
    from zaqar.storage.sqlalchemy.postgresql.wakeups import PostgresqlWakeups

psycopg = pytest.importorskip("psycopg")

RUNS_WITH = "postgresql"

SOON = 30.0
"""Seconds in which a wake-up certainly comes."""

LISTENERS = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND datname = current_database()"


def open_store(address: str, *, listen: bool) -> MessageStore:
    return SqlMessageStore.from_settings({"uri": address, "listen": listen})


def queries_of(store: MessageStore) -> PostgresqlFenceQueries:
    return cast("PostgresqlFenceQueries", cast("SqlMessageStore", store)._core._sql)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return DRIVERS["postgresql"].prepare(tmp_path)


@pytest.fixture
def store(address: str) -> Iterator[MessageStore]:
    store = open_store(address, listen=True)
    yield store
    store.close()


@pytest.fixture
def orders(store: MessageStore) -> Iterator[QueueClient]:
    orders = QueueClient(store)
    yield orders
    orders.drop()


@pytest.fixture
def wakeups(address: str) -> Iterator[Wakeups]:
    """The wake-ups of another process, whose store has connections of its own."""
    other = open_store(address, listen=True)
    wakeups = other.wakeups()
    assert wakeups is not None
    yield wakeups
    wakeups.close()
    other.close()


@pytest.fixture
def admin(address: str) -> Iterator[Any]:
    with psycopg.connect(address.replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


def uids_before(wakeups: Wakeups, last: QueueClient) -> list[str]:
    """The uids that came before that of a post to ``last``, which follows all earlier wake-ups."""
    last.post("the last one")
    told: list[str] = []
    deadline = time.monotonic() + SOON
    while last.queue.uid not in told:
        assert time.monotonic() < deadline
        told += wakeups.receive(1.0)
    assert told.pop() == last.queue.uid
    return told


def test_a_post_sends_a_wakeup(orders: QueueClient, wakeups: Wakeups) -> None:
    orders.post("a")
    assert wakeups.receive(SOON) == [orders.queue.uid]
    assert wakeups.receive(0) == []


def test_a_post_to_a_queue_with_subscribers_sends_a_wakeup(store: MessageStore, wakeups: Wakeups) -> None:
    orders = QueueClient(store, queue=new_queue(notify=True))
    orders.post("a")
    assert wakeups.receive(SOON) == [orders.queue.uid]
    orders.drop()


def test_a_release_sends_a_wakeup(orders: QueueClient, wakeups: Wakeups) -> None:
    orders.post("a", "b")
    claim_id, _ = orders.claim(1)
    assert uids_before(wakeups, orders.beside()) == [orders.queue.uid]
    orders.release(claim_id)
    assert wakeups.receive(SOON) == [orders.queue.uid]


def test_dead_letters_send_a_wakeup_for_their_queue(orders: QueueClient, wakeups: Wakeups) -> None:
    dead = orders.beside("dead")
    orders.post("a")
    orders.claim_and_release(1, times=1)
    uids_before(wakeups, orders.beside())
    orders.claim(dead_letters=DeadLetters(dead.queue, 1))
    assert uids_before(wakeups, orders.beside()) == [dead.queue.uid]
    origin = Origin("orders", f"{orders.queue.uid}{1:012x}", 1)
    dead_letter = Message(
        orders.queue.uid, 1, b"x", orders.now, orders.now + 60, "producer", claim_count=1, origin=origin
    )
    dead.store.dead_letters.receive(queue=dead.queue, messages=[dead_letter], now=orders.now)
    assert uids_before(wakeups, orders.beside()) == [dead.queue.uid]


def test_an_operation_that_makes_no_message_available_sends_no_wakeup(orders: QueueClient, wakeups: Wakeups) -> None:
    orders.post("a", "b", "c")
    uids_before(wakeups, orders.beside())
    claim_id, held = orders.claim(1)
    orders.renew(claim_id, ttl=300)
    orders.delete(held[0].sequence, claim_id)
    orders.pop(1)
    orders.list_everything()
    orders.stats()
    stale = orders.raise_generation()
    with pytest.raises(StaleQueue):
        orders.store.messages.post(queue=stale, drafts=[], client_id="c", now=orders.now)
    orders.purge()
    assert uids_before(wakeups, orders.beside()) == []


def test_each_of_many_posts_wakes_once_for_each_queue(orders: QueueClient, wakeups: Wakeups) -> None:
    others = [orders.beside(f"other-{n}") for n in range(5)]
    for _ in range(3):
        for other in others:
            other.post("x")
    assert set(uids_before(wakeups, orders)) == {other.queue.uid for other in others}


def test_each_listener_receives_a_wakeup(orders: QueueClient, store: MessageStore, wakeups: Wakeups) -> None:
    mine = store.wakeups()
    assert mine is not None
    orders.post("a")
    assert mine.receive(SOON) == wakeups.receive(SOON) == [orders.queue.uid]
    mine.close()


def test_no_wakeup_is_sent_or_received_unless_listen_is_set(
    address: str, wakeups: Wakeups, orders: QueueClient
) -> None:
    silent = open_store(address, listen=False)
    assert silent.wakeups() is None
    quiet = QueueClient(silent)
    quiet.post("a")
    claim_id, _ = quiet.claim()
    quiet.release(claim_id)
    assert uids_before(wakeups, orders) == []
    quiet.drop()
    silent.close()


def test_a_post_whose_wakeup_fails_is_stored_once(
    store: MessageStore, orders: QueueClient, wakeups: Wakeups, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(queries_of(store), "wake_waiting", "SELECT 1 / 0, %(uid)s::text")
        assert orders.post("a") == [1]
        claim_id, _ = orders.claim()
        orders.release(claim_id)
    assert [message.sequence for message in orders.listing()] == [1]
    assert uids_before(wakeups, orders.beside()) == []


def test_a_wakeup_does_not_wait_for_the_disk_but_later_statements_do(store: MessageStore, orders: QueueClient) -> None:
    database = cast("PostgresqlDatabase", cast("SqlMessageStore", store)._database)
    ask = "SELECT current_setting('synchronous_commit')"
    with database.write as connection:
        connection.execute(queries_of(store).wake_waiting, {"uid": orders.queue.uid})
        assert connection.execute(ask).fetchone() == ("off",)
    orders.post("a")
    with database.autocommit() as connection:
        assert connection.execute(ask).fetchone() == ("on",)


# -- the connection ---------------------------------------------------------------------------------------------------


def test_a_lost_connection_is_store_unavailable(wakeups: Wakeups, admin: Any, orders: QueueClient) -> None:
    ((pid,),) = admin.execute(LISTENERS).fetchall()
    timer = threading.Timer(0.2, lambda: admin.execute("SELECT pg_terminate_backend(%s)", [pid]))
    timer.start()
    with pytest.raises(StoreUnavailable):
        wakeups.receive(SOON)
    timer.join()
    with pytest.raises(StoreUnavailable):
        wakeups.receive(0)
    orders.post("a")  # other connections go on
    wakeups.close()


def test_a_close_in_another_thread_ends_a_wait(wakeups: Wakeups, admin: Any) -> None:
    ended: list[object] = []

    def receive() -> None:
        try:
            ended.append(wakeups.receive(600))
        except StoreUnavailable as exc:
            ended.append(exc)

    waiting = threading.Thread(target=receive, daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    wakeups.close()
    waiting.join(SOON)
    assert [type(each) for each in ended] == [StoreUnavailable]
    deadline = time.monotonic() + SOON
    while admin.execute(LISTENERS).fetchall():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_connection_may_be_closed_twice(wakeups: Wakeups) -> None:
    wakeups.close()
    wakeups.close()
    with pytest.raises(StoreUnavailable):
        wakeups.receive(SOON)


def test_a_server_that_is_away_is_store_unavailable() -> None:
    store = open_store("postgresql://u@127.0.0.1:1/zaqar", listen=True)
    with pytest.raises(StoreUnavailable):
        store.wakeups()
    store.close()


def test_a_child_leaves_the_connection_to_its_parent(wakeups: Wakeups, orders: QueueClient) -> None:
    child = os.fork()
    if child == 0:
        ended = 1
        try:
            wakeups.receive(0)
        except StoreUnavailable:
            wakeups.close()
            ended = 0
        finally:
            os._exit(ended)
    assert os.waitpid(child, 0)[1] == 0
    poll = select.poll()
    poll.register(cast("PostgresqlWakeups", wakeups)._close_signal, select.POLLIN)
    assert poll.poll(0) == []  # closing it in the child ends no wait in the parent
    orders.post("a")
    assert wakeups.receive(SOON) == [orders.queue.uid]


WORKER = """
from gevent import monkey
monkey.patch_all()
import sys
import gevent
from zaqar.errors import StoreUnavailable
from zaqar.storage.sqlalchemy.store import SqlMessageStore

wakeups = SqlMessageStore.from_settings({"uri": sys.argv[1], "listen": True}).wakeups()
others = 0

def work():
    global others
    while True:
        others += 1
        gevent.sleep(0.01)

def receive():
    try:
        wakeups.receive(60)
    except StoreUnavailable:
        return "closed"

gevent.spawn(work)
assert wakeups.receive(0.5) == []
waiting = gevent.spawn(receive)
gevent.sleep(0.2)
wakeups.close()
assert waiting.get(timeout=30) == "closed"
assert others > 10, others
"""


def test_waiting_for_wakeups_does_not_block_the_worker(address: str) -> None:
    ended = subprocess.run([sys.executable, "-c", WORKER, address], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr


# -- the option -------------------------------------------------------------------------------------------------------


def test_listen_is_an_option_of_the_message_store(address: str) -> None:
    conf = configuration.load(default_config_files=[])
    group = "drivers:message_store:sqlalchemy"
    conf.set_override("message_store", "sqlalchemy", "drivers")
    conf.set_override("uri", address, group)
    for listen in (False, True):
        conf.set_override("listen", listen, group)
        store = open_message_store(conf)
        wakeups = store.wakeups()
        assert (wakeups is not None) == listen
        if wakeups is not None:
            wakeups.close()
        store.close()


def test_sqlite_cannot_listen(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"^listen of \[drivers:message_store:sqlalchemy\].* SQLite .*LISTEN\.$"):
        open_store(f"sqlite:///{tmp_path}/zaqar.db", listen=True)
    store = open_store(f"sqlite:///{tmp_path}/zaqar.db", listen=False)
    assert store.wakeups() is None
    store.close()
