# SPDX-License-Identifier: Apache-2.0
"""The change stream reports changes by other clients of the store, and ends when it is closed or its server is lost."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.errors import AutoReconnect

from tests import servers
from tests.conformance.mongodb.test_transactions import recorded
from tests.conformance.queue_client import QueueClient
from zaqar.errors import StoreUnavailable
from zaqar.storage.base import Wakeups
from zaqar.storage.mongodb.client import change_stream
from zaqar.storage.mongodb.housekeeping import MAX_SKIPPED
from zaqar.storage.mongodb.store import MongoMessageStore

ROOT = Path(__file__).parents[3]
PATIENCE = 30.0
LEAST_SHARE = 0.5


@contextmanager
def opened(uri: str, **settings: Any) -> Iterator[MongoMessageStore]:
    store = MongoMessageStore.from_settings({"uri": uri, "change_stream": True, **settings})
    yield store
    store.close()


@contextmanager
def listening_to(store: MongoMessageStore) -> Iterator[Wakeups]:
    wakeups = store.wakeups()
    assert wakeups is not None
    yield wakeups
    wakeups.close()


@pytest.fixture
def other(members: servers.MongoSet) -> Iterator[QueueClient]:
    """A queue as another process sees it, in a database of its own."""
    store = MongoMessageStore.from_settings({"uri": members.uri, "database": f"stream_{secrets.token_hex(4)}"})
    yield QueueClient(store)
    store.core.replica_set.connection.client.drop_database(store.core.replica_set.name)
    store.close()


@pytest.fixture
def store(members: servers.MongoSet, other: QueueClient) -> Iterator[MongoMessageStore]:
    """The store of the process that waits."""
    with opened(members.uri, database=name_of(other)) as store:
        yield store


@pytest.fixture
def wakeups(store: MongoMessageStore) -> Iterator[Wakeups]:
    with listening_to(store) as wakeups:
        yield wakeups


def name_of(orders: QueueClient) -> str:
    assert isinstance(orders.store, MongoMessageStore)
    return orders.store.core.replica_set.name


def received(wakeups: Wakeups, last: QueueClient) -> list[str]:
    """The uids that are reported before a post to ``last``, which is made now."""
    last.post("the last")
    uids: list[str] = []
    end = time.monotonic() + PATIENCE
    while last.queue.uid not in uids:
        assert time.monotonic() < end, "nothing is reported"
        uids += wakeups.receive(1.0)
    return uids[: uids.index(last.queue.uid)]


def test_without_the_option_there_is_no_change_stream(other: QueueClient) -> None:
    assert other.store.wakeups() is None


def test_a_post_is_reported(other: QueueClient, wakeups: Wakeups) -> None:
    second = other.beside("second")
    other.post("a", "b")
    second.post("a", delay=60)
    assert received(wakeups, other.beside("last")) == [other.queue.uid, second.queue.uid]


def test_posts_that_come_together_are_reported_once(other: QueueClient, wakeups: Wakeups) -> None:
    for _ in range(20):
        other.post("a")
    last = other.beside("last")
    last.post("a")
    assert len(received(wakeups, last)) < 20


def test_a_release_is_reported_if_a_client_waits_for_the_queue(
    other: QueueClient, store: MongoMessageStore, wakeups: Wakeups
) -> None:
    unknown = other.beside("unknown")
    for orders in (other, unknown):
        orders.post("a")
    assert list(store.queues.positions(uids=[other.queue.uid], now=other.now)) == [other.queue.uid]
    received(wakeups, other.beside("before"))
    for orders in (unknown, other):
        claim_id, _ = orders.claim()
        orders.release(claim_id)
    assert received(wakeups, other.beside("last")) == [other.queue.uid]


def test_a_release_after_a_purge_is_reported(other: QueueClient, store: MongoMessageStore, wakeups: Wakeups) -> None:
    store.queues.positions(uids=[other.queue.uid], now=other.now)
    other.purge()
    store.queues.positions(uids=[other.queue.uid], now=other.now)
    other.post("a")
    claim_id, _ = other.claim()
    received(wakeups, other.beside("before"))
    other.release(claim_id)
    assert received(wakeups, other.beside("last")) == [other.queue.uid]


def test_claims_deletions_and_purges_are_not_reported(
    other: QueueClient, store: MongoMessageStore, wakeups: Wakeups
) -> None:
    store.queues.positions(uids=[other.queue.uid], now=other.now)
    numbers = other.post(*["a"] * 5)
    received(wakeups, other.beside("before"))
    claim_id, (first,) = other.claim(1)
    other.renew(claim_id)
    other.delete(first.sequence, claim_id)
    other.delete(numbers[-1])
    other.pop(1)
    other.purge()
    assert received(wakeups, other.beside("last")) == []


def test_housekeeping_of_positions_is_not_reported(
    other: QueueClient, store: MongoMessageStore, wakeups: Wakeups
) -> None:
    other.post(*["a"] * (MAX_SKIPPED + 1), ttl=60)
    received(wakeups, other.beside("before"))
    other.clock.advance(60)
    store.queues.positions(uids=[other.queue.uid], now=other.now)
    assert received(wakeups, other.beside("last")) == []


def test_a_post_costs_the_same_while_a_process_listens(members: servers.MongoSet) -> None:
    with recorded() as commands, opened(members.uri, database="own_tests") as store, listening_to(store):
        orders = QueueClient(store)
        orders.post("a")
        assert commands.of(lambda: orders.post("b")) == ["update", "commitTransaction"]


# -- its end ----------------------------------------------------------------------------------------------------------


def test_the_server_gets_the_time_to_wait(members: servers.MongoSet) -> None:
    with recorded() as commands, opened(members.uri, database="own_tests") as store, listening_to(store) as wakeups:
        for seconds, milliseconds in ((0.05, 50), (0.0, 1)):
            assert commands.of(lambda seconds=seconds: wakeups.receive(seconds))[0] == "getMore"  # type: ignore[misc]
            assert commands.last["getMore"]["maxTimeMS"] in range(1, milliseconds + 1)


def test_closing_the_stream_in_another_thread_ends_a_wait(members: servers.MongoSet, store: MongoMessageStore) -> None:
    wakeups = store.wakeups()
    assert wakeups is not None
    ends: list[type[BaseException]] = []

    def wait() -> None:
        with pytest.raises(StoreUnavailable) as caught:
            wakeups.receive(3600)
        ends.append(caught.type)

    thread = threading.Thread(target=wait)
    thread.start()
    while not wakeups._receiving.locked():  # type: ignore[attr-defined]
        time.sleep(0.01)
    wakeups.close()
    wakeups.close()
    thread.join(PATIENCE)
    assert ends == [StoreUnavailable]
    with pytest.raises(StoreUnavailable):
        wakeups.receive(0)
    assert cursors(members, store) == 0, "the cursor is still open on the server"


def test_closing_the_stream_closes_its_cursor_on_the_server(
    members: servers.MongoSet, store: MongoMessageStore
) -> None:
    with listening_to(store) as wakeups:
        wakeups.receive(0)
        assert cursors(members, store) == 1
    assert cursors(members, store) == 0


def test_dropping_the_database_ends_the_stream(store: MongoMessageStore, wakeups: Wakeups) -> None:
    store.core.replica_set.connection.client.drop_database(store.core.replica_set.name)
    with pytest.raises(StoreUnavailable):
        wakeups.receive(3600)


def cursors(members: servers.MongoSet, store: MongoMessageStore) -> int:
    """The store's open cursors on the primary that no command uses at the moment."""
    idle = {"type": "idleCursor", "ns": {"$regex": f"^{store.core.replica_set.name}[.]"}}
    with pymongo.MongoClient[dict[str, Any]](members.uri) as client:
        return len(list(client.admin.aggregate([{"$currentOp": {"idleCursors": True}}, {"$match": idle}])))


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own() -> Iterator[servers.MongoSet]:
    """A replica set that these tests may kill."""
    members = servers.own(lambda: servers.MongoSet(1, "--setParameter", "enableTestCommands=1"))
    yield members
    members.stop()


def test_a_server_that_is_killed_ends_the_stream_and_a_new_one_works(
    own: servers.MongoSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    (member,) = own.members
    with opened(own.uri) as store:
        with listening_to(store) as wakeups:
            orders = QueueClient(store)
            received(wakeups, orders)
            member.kill()
            with pytest.raises(StoreUnavailable):
                wakeups.receive(3600)
        with monkeypatch.context() as patched:
            patched.setattr(change_stream, "STEP_TIMEOUT", 0.3)
            with pytest.raises(StoreUnavailable):
                store.wakeups()
        member.start()
        own.await_primary()
        with listening_to(store) as wakeups:
            assert received(wakeups, orders) == []


def test_a_step_down_leaves_the_stream_working_or_ends_it(own: servers.MongoSet) -> None:
    with opened(own.uri) as store, listening_to(store) as wakeups:
        orders = QueueClient(store)
        received(wakeups, orders)
        client = pymongo.MongoClient[dict[str, Any]](own.uri, directConnection=True)
        with client, suppress(AutoReconnect):  # it may close all connections
            client.admin.command({"replSetStepDown": 1, "force": True})
        own.await_primary()
        try:
            assert received(wakeups, orders) == []
        except StoreUnavailable:
            with listening_to(store) as following:
                assert received(following, orders) == []


def test_a_server_that_does_not_answer_ends_the_stream(own: servers.MongoSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_stream, "ANSWER_SECONDS", 0.25)
    (member,) = own.members
    with opened(own.uri) as store, listening_to(store) as wakeups:
        member.signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable):
                wakeups.receive(3600)
            wakeups.close()
        finally:
            member.signal(signal.SIGCONT)


def test_the_log_has_a_warning_if_the_user_may_not_open_a_stream(
    own: servers.MongoSet, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(own.uri) as store, pymongo.MongoClient[dict[str, Any]](own.uri) as client:
        QueueClient(store)
        refuse = {"failCommands": ["aggregate"], "errorCode": 13, "appName": store.core.replica_set.application}
        client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 1}, "data": refuse})
        assert store.wakeups() is None
        assert store.wakeups() is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "may not open a change stream" in caplog.text


WORKER = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from tests.conformance.queue_client import QueueClient
from tests.greenlets import ProgressMeter
from zaqar.storage.mongodb.store import MongoMessageStore

store = MongoMessageStore.from_settings({"uri": sys.argv[1], "database": "stream_gevent", "change_stream": True})
wakeups = store.wakeups()
orders = QueueClient(store)
pulse = ProgressMeter()
post = gevent.spawn_later(0.6, orders.post, "a")
uids = wakeups.receive(30)
assert uids == [orders.queue.uid], uids
share = pulse.share()
post.get()
gevent.spawn_later(0.3, wakeups.close)
try:
    wakeups.receive(3600)
except Exception as exc:
    print(type(exc).__name__)
store.close()
print(share)
"""


def test_under_gevent_other_greenlets_run_while_one_waits(members: servers.MongoSet) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WORKER, members.uri],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr
    error, share = ended.stdout.split()
    assert error == "StoreUnavailable"
    assert float(share) > LEAST_SHARE, "other greenlets could not run meanwhile"
