# SPDX-License-Identifier: Apache-2.0
"""SQLite on a disk that becomes full: posts are refused early, and operations that free space still work."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.drivers import DRIVERS
from tests.conformance.notifier_client import NotifierClient, deliveries_of
from tests.conformance.queue_client import QueueClient, new_queue
from zaqar.errors import StoreUnavailable
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.sqlite.database import SqliteDatabase
from zaqar.storage.sqlalchemy.store import SqlMessageStore

CAPACITY, RESERVE = 20 * 2**20, 8 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={CAPACITY}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def database(disk: Path) -> Iterator[SqliteDatabase]:
    database = Database.open(DRIVERS["sqlite"].prepare(disk), embedded=True)
    assert isinstance(database, SqliteDatabase)
    database.reserve = RESERVE
    yield database
    database.close()


@pytest.fixture
def orders(database: SqliteDatabase) -> QueueClient:
    return QueueClient(SqlMessageStore(database))


def batch_of(size: int) -> int:
    """How many messages are posted or deleted in one step, which stay within the size that the API accepts."""
    return max(1, min(200, 1_000_000 // (size + 1000)))


def fill(orders: QueueClient, size: int) -> list[int]:
    """Post until a post is refused. Returns the numbers of the messages."""
    numbers: list[int] = []
    texts = ["x" * size] * batch_of(size)
    while True:
        try:
            numbers += orders.post(*texts)
        except StoreUnavailable:
            return numbers


@pytest.mark.parametrize("size", [10, 2_000, 200_000])
def test_deletes_and_claims_work_while_posts_are_refused(
    orders: QueueClient, database: SqliteDatabase, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    numbers = fill(orders, size)
    assert "its disk is nearly full" in caplog.text
    assert "Traceback" not in caplog.text
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            orders.post("x" * size)
    claim_id, held = orders.claim(20)
    assert [message.sequence for message in held] == numbers[:20]
    orders.renew(claim_id, ttl=300)
    orders.delete(held[0].sequence, claim_id)
    orders.delete_many(*(message.sequence for message in held[1:4]), claim_ids=[claim_id])
    orders.release(claim_id)
    assert [message.sequence for message in orders.pop(3)] == numbers[4:7]
    left = numbers[7:]
    assert [message.sequence for message in orders.listing(limit=10)] == left[:10]
    for start in range(0, len(left) // 2, batch_of(size)):
        orders.delete_many(*left[start : start + batch_of(size)])
    assert orders.post("x" * size) == [numbers[-1] + 1], "there is room again"


def test_a_queue_that_fills_a_disk_is_emptied_and_filled_again(orders: QueueClient) -> None:
    """The file does not shrink, so posts reuse its free pages, and the reserve of the disk stays as large as it was."""
    counts = []
    for round_ in range(6):
        numbers = fill(orders, 3_000)
        counts.append(len(numbers))
        if round_ % 2:
            orders.purge()
        else:
            for start in range(0, len(numbers), batch_of(3_000)):
                orders.delete_many(*numbers[start : start + batch_of(3_000)])
        while orders.store.sweep(now=orders.now, limit=1000).removed:
            pass
    assert min(counts[1:]) > counts[0] / 2, counts


def test_no_deliveries_are_made_on_a_full_disk(orders: QueueClient, database: SqliteDatabase) -> None:
    orders.queue = new_queue(notify=True)
    orders.open()
    notifier = NotifierClient(orders.store, orders.clock)
    orders.post("x" * 10_000)
    (posted,) = notifier.take_posted()
    numbers = fill(orders, 10_000)
    with pytest.raises(StoreUnavailable):
        notifier.expand(posted, deliveries_of(posted, *(f"s{n}" for n in range(100))))
    for start in range(0, len(numbers), 50):
        orders.delete_many(*numbers[start : start + 50])
    notifier.expand(posted, deliveries_of(posted, *(f"s{n}" for n in range(10))))
    notifier.drain()
