# SPDX-License-Identifier: Apache-2.0
"""Opening a database, its errors, threads and forks."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.conformance.queue_client import QueueClient, at_once, bodies, new_queue
from tests.conformance.sqlalchemy.tracing import traced
from tests.forks import in_a_fork
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.sqlalchemy.client.database import Database
from zaqar.storage.sqlalchemy.management import SqlManagementStore
from zaqar.storage.sqlalchemy.store import SqlMessageStore

# -- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("sqlite:///{}/missing/zaqar.db", "{}/missing/zaqar.db cannot be opened: {}/missing is not a directory."),
        ("sqlite:///{}/file/zaqar.db", "{}/file/zaqar.db cannot be opened: {}/file is not a directory."),
        ("sqlite:///{}", "{} cannot be opened: unable to open database file."),
        ("sqlite:///{}/file", "{}/file cannot be opened: file is not a database."),
        ("mysql://user:secret@host/zaqar", "Of SQL databases this release can use sqlite and postgresql, not 'mysql'."),
        ("sqlite://host/zaqar.db", "is sqlite:///path, without a host or options."),
        ("sqlite:///zaqar.db?mode=ro", "is sqlite:///path, without a host or options."),
        ("sqlite:///file:zaqar.db", "is sqlite:///path, without a host or options."),
        (
            "nonsense",
            "The URI of the database is not of the form sqlite:///path or postgresql://user:password@host/database.",
        ),
        (
            "sqlite://host:port/zaqar.db",
            "The URI of the database is not of the form sqlite:///path or postgresql://user:password@host/database.",
        ),
        ("", "The URI of the database is not of the form sqlite:///path or postgresql://user:password@host/database."),
    ],
)
def test_a_database_that_cannot_be_opened_is_a_startup_error_of_one_sentence(
    tmp_path: Path, address: str, sentence: str
) -> None:
    (tmp_path / "file").write_text("plain text, and long enough to have the header of a database" * 20)
    with pytest.raises(StartupError) as caught:
        Database.open(address.format(tmp_path), embedded=True)
    text = str(caught.value)
    assert text.endswith(sentence.replace("{}", str(tmp_path)))
    assert "secret" not in text
    assert "\n" not in text


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o007, 0o077])
@pytest.mark.parametrize("mode", [None, 0o644, 0o666, 0o660])
def test_the_files_of_a_database_are_private(tmp_path: Path, umask: int, mode: int | None) -> None:
    """With any umask, for new files and for files that an earlier release made with ``mode``."""
    path, folder_mode = tmp_path / "zaqar.db", stat.S_IMODE(tmp_path.stat().st_mode)
    address = f"sqlite:///{path}"
    before = os.umask(umask)
    try:
        if mode is not None:
            Database.open(address, embedded=True).close()
            for each in tmp_path.iterdir():
                each.chmod(mode)
        databases = [Database.open(address, embedded=True) for _ in range(2)]
        for database in databases:
            with database.write as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
        for database in databases:
            database.close()
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["zaqar.db", "zaqar.db-wal", "zaqar.db-shm", "zaqar.db.lock"], 0o600)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == folder_mode


def test_opening_a_file_that_is_not_a_database_does_not_change_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("plain text, and long enough to have the header of a database" * 20)
    path.chmod(0o644)
    with pytest.raises(StartupError, match="not a database"):
        Database.open(f"sqlite:///{path}", embedded=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def as_nobody(work: Callable[[], None]) -> int:
    """Run it in a child process without the rights of root, for whom no file is read-only. Returns its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65_534)
                os.setuid(65_534)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def open_folder(path: Path) -> None:
    """Let every user reach a folder of pytest, which creates folders for one user only."""
    for folder in (path, *path.parents[:3]):
        if folder.owner() == Path("/proc/self").owner() and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)


@pytest.mark.parametrize("what", ["directory", "database", "lock file"])
def test_a_startup_error_names_the_file_that_is_read_only(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    path = folder / "zaqar.db"
    if what != "directory":
        made = Database.open(f"sqlite:///{path}", embedded=True)
        made.prepare()
        made.close()
        for file in folder.iterdir():
            file.chmod(0o666)
    open_folder(tmp_path)
    {"directory": folder, "database": path, "lock file": Path(f"{path}.lock")}[what].chmod(
        0o555 if what == "directory" else 0o444
    )
    if what != "directory":
        folder.chmod(0o777)

    def open_it() -> None:
        with pytest.raises(StartupError) as caught:
            Database.open(f"sqlite:///{path}", embedded=True)
        text = str(caught.value)
        assert text.startswith(f"The SQLite database {path} cannot be opened: ")
        assert {
            "directory": f"{folder} cannot be written to",
            "database": f"{path} cannot be written to",
            "lock file": f"Permission denied ({path}.lock)",
        }[what] in text

    assert as_nobody(open_it) == 0


def test_an_old_sqlite_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setattr(sqlite3.dbapi2, "sqlite_version", "3.34.1")
    with pytest.raises(StartupError, match=r"SQLite 3\.34\.1 is too old: 3\.35\.0 or later is needed\."):
        Database.open(uri, embedded=True)


@pytest.mark.parametrize("synchronous", ["NORMAL", "FULL", "EXTRA"])
def test_durability_reports_the_setting_of_the_connection(
    open_database: Callable[..., Database], synchronous: str
) -> None:
    database = open_database(synchronous=synchronous)
    database.prepare()
    assert SqlMessageStore(database).durability() == {
        "store": "sqlite",
        "journal_mode": "wal",
        "synchronous": synchronous,
        "survives": "process crash" if synchronous == "NORMAL" else "process crash and power cut",
    }


@pytest.mark.parametrize("synchronous", ["OFF", "full", ""])
def test_an_unsupported_value_of_synchronous_is_refused(uri: str, synchronous: str) -> None:
    with pytest.raises(StartupError, match="NORMAL, FULL or EXTRA"):
        Database.open(uri, embedded=True, synchronous=synchronous)


def test_both_stores_can_share_a_database(database: Database) -> None:
    management, messages = SqlManagementStore(database), SqlMessageStore(database)
    queue = new_queue()
    assert management.queue_records.create(queue=queue) == queue
    assert QueueClient(messages, queue=queue).post("a") == [1]
    management.ping()
    messages.ping()
    management.close()
    messages.close()


def test_a_symbolic_link_leads_to_the_same_lock_file(database: Database, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    linked = Database.open(f"sqlite:///{tmp_path}/link/zaqar.db", embedded=True)
    assert linked.path == database.path
    linked.close()


# -- in memory --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["sqlite:///:memory:", "sqlite://", "sqlite:///"])
def test_threads_can_share_a_database_in_memory(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    database = Database.open(address, embedded=False)
    database.prepare()
    orders = QueueClient(SqlMessageStore(database))
    at_once(*[lambda: orders.post("a", "b")] * 8, *[orders.list_everything] * 4)
    assert [message.sequence for message in orders.listing()] == list(range(1, 17))
    assert "nothing" in orders.store.durability()["survives"]
    orders.drop()
    database.close()
    assert list(tmp_path.iterdir()) == []


def test_two_databases_in_memory_share_nothing() -> None:
    first, second = (Database.open("sqlite:///:memory:", embedded=True) for _ in range(2))
    first.prepare()
    assert not sa.inspect(second.engine).get_table_names()
    first.close()
    second.close()


# -- errors -----------------------------------------------------------------------------------------------------------


def test_an_error_of_the_library_is_store_unavailable_and_the_store_recovers(
    database: Database, orders: QueueClient
) -> None:
    orders.post("a")
    with database.change_schema() as connection:
        connection.execute(sa.text("ALTER TABLE messages RENAME TO elsewhere"))
    for operation in (lambda: orders.post("b"), orders.listing, orders.claim, orders.stats, orders.volume):
        with pytest.raises(StoreUnavailable) as caught:
            operation()
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert "elsewhere" not in str(caught.value)
        assert "no such table" not in str(caught.value)
    with database.change_schema() as connection:
        connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO messages"))
    assert orders.post("b") == [2]
    assert bodies(orders.listing()) == ["a", "b"]


def test_a_post_on_a_full_disk_stores_nothing_and_uses_no_number(
    orders: QueueClient, open_database: Callable[..., Database]
) -> None:
    orders.post("before")
    small = open_database()

    def limit(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 40")

    small.close_idle()
    sa.event.listen(small.engine, "connect", limit)
    cramped = QueueClient(SqlMessageStore(small), queue=orders.queue)
    with pytest.raises(StoreUnavailable) as caught:
        cramped.post("x" * 1_000_000)
    assert "full" in str(caught.value.__cause__)
    assert orders.post("after") == [2]
    assert bodies(orders.listing()) == ["before", "after"]


def test_an_unavailable_database_is_used_again_when_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    database = Database.open(f"sqlite:///{folder}/zaqar.db", embedded=True, patience=0.2)
    database.prepare()
    orders = QueueClient(SqlMessageStore(database))
    orders.post("a")
    database.close_idle()
    folder.rename(tmp_path / "away")
    for operation in (lambda: orders.post("b"), orders.listing, orders.store.ping):
        with pytest.raises(StoreUnavailable):
            operation()
    (tmp_path / "away").rename(folder)
    assert orders.post("b") == [2]
    assert bodies(orders.listing()) == ["a", "b"]
    database.close()


def test_no_post_is_acknowledged_after_the_file_was_removed(database: Database, orders: QueueClient) -> None:
    """An open file outlives its name: a write to it would be lost when the process ends."""
    orders.post("before")
    path = Path(database.path or "")
    away = path.with_suffix(".away")
    path.rename(away)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            orders.post("lost")
        with pytest.raises(StoreUnavailable):
            orders.listing()
        with pytest.raises(StoreUnavailable):
            orders.store.ping()
    assert not path.exists()
    away.rename(path)
    orders.post("after")
    assert bodies(orders.listing()) == ["before", "after"]


def test_a_file_that_replaces_the_database_is_used_from_then_on(
    database: Database, orders: QueueClient, open_database: Callable[..., Database]
) -> None:
    orders.post("in both")
    path = Path(database.path or "")
    copy = path.with_suffix(".copy")
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
    source.close()
    target.close()
    orders.post("in the first")
    database.close_idle()
    copy.rename(path)
    orders.post("in the second")
    orders.post("and again")
    expected = ["in both", "in the second", "and again"]
    assert bodies(orders.listing()) == expected
    assert bodies(QueueClient.listing(orders)) == expected
    database.close_idle()
    assert bodies(orders.listing()) == expected


def test_connections_are_reused(database: Database, orders: QueueClient) -> None:
    with traced(database):
        for _ in range(5):
            orders.post("a")
            orders.listing()
        assert len(database.idle) == 1


# -- forks ------------------------------------------------------------------------------------------------------------


def test_a_child_inherits_no_connection(database: Database, orders: QueueClient) -> None:
    orders.post("a")
    assert database.idle
    parent = {Path(f"/proc/self/fd/{database.turn.lock_file}").readlink()}

    def work() -> None:
        assert database.idle == []
        assert parent == {Path(f"/proc/self/fd/{database.turn.lock_file}").readlink()}
        assert orders.post("b") == [2]

    assert in_a_fork(work) == 0
    assert bodies(orders.listing()) == ["a", "b"]
    assert orders.post("c") == [3]


def test_parent_and_child_have_separate_locks(orders: QueueClient, open_database: Callable[..., Database]) -> None:
    """If they shared the lock file, unlocking it in the child would end the turn of the parent."""
    hasty = open_database(patience=0.2)

    def work() -> None:
        with pytest.raises(StoreUnavailable), hasty.write:
            pass

    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(write)
            os.read(read, 1)  # until the parent has the turn
            work()
            status = 0
        finally:
            os._exit(status)
    os.close(read)
    with hasty.write:
        os.close(write)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    orders.post("a")


def test_a_process_can_fork_while_its_threads_write(database: Database, orders: QueueClient) -> None:
    done = threading.Event()
    posted: list[int] = []

    def write_on() -> None:
        while not done.is_set():
            posted.extend(orders.post("parent"))

    threads = [threading.Thread(target=write_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        statuses = [in_a_fork(lambda: orders.post("child") and None) for _ in range(5)]
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert statuses == [0] * 5
    everything = orders.listing()
    assert [message.sequence for message in everything] == list(range(1, len(posted) + 6))
    assert bodies(everything).count("child") == 5
    with database.read() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_database_in_memory_is_copied_by_a_fork() -> None:
    database = Database.open("sqlite:///:memory:", embedded=True)
    database.prepare()
    orders = QueueClient(SqlMessageStore(database))
    orders.post("a")

    def work() -> None:
        assert orders.post("b") == [2]

    assert in_a_fork(work) == 0
    assert bodies(orders.listing()) == ["a"]
    database.close()


def test_the_connections_of_the_process_are_counted(database: Database, store: SqlMessageStore) -> None:
    orders = QueueClient(store)
    orders.post("a")
    assert store.connections() == {"used": 0, "idle": 1}
    with database.read(), database.read():
        assert store.connections() == {"used": 2, "idle": 0}
        with database.write:
            assert store.connections() == {"used": 3, "idle": 0}
    assert store.connections() == {"used": 0, "idle": 3}
    with pytest.raises(StoreUnavailable), database.write as connection:
        connection.execute("SELECT nonsense")
    assert store.connections() == {"used": 0, "idle": 2}
    store.close()
    assert store.connections() == {"used": 0, "idle": 0}
