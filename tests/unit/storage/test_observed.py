# SPDX-License-Identifier: Apache-2.0
"""A store that is observed answers as before, and each call is counted and timed."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.conformance.queue_client import QueueClient, bodies
from tests.unit.metrics.test_recorder import series_of
from zaqar.errors import StaleQueue, StoreUnavailable
from zaqar.metrics.families import STORE_CONNECTIONS, STORE_DURATION
from zaqar.metrics.recorder import Recorder
from zaqar.model import DeadLetters
from zaqar.storage.base import ManagementStore, MessageStore
from zaqar.storage.memory.management import MemoryManagementStore
from zaqar.storage.memory.store import MemoryMessageStore
from zaqar.storage.observed import observe


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    recorder = Recorder(tmp_path, "api")
    yield recorder
    recorder.close()


@pytest.fixture
def orders(recorder: Recorder) -> QueueClient:
    return QueueClient(observe(MemoryMessageStore(), "default", recorder))


def counted(folder: Path) -> dict[str, float]:
    """The counters by name, without those of calls."""
    found = series_of(folder)
    return {series.family.name: series.cells[0] for series in found if series.family is not STORE_DURATION}


def calls(folder: Path) -> dict[str, float]:
    """The number of calls by operation."""
    found = [series for series in series_of(folder) if series.family is STORE_DURATION]
    assert {series.labels[0] for series in found} == {"default"}
    return {series.labels[1]: sum(series.cells[:-1]) for series in found}


def test_what_messages_go_through_is_counted(orders: QueueClient, tmp_path: Path) -> None:
    orders.post("12345", "123", "1", "2", "3")
    claim_id, _ = orders.claim(2)
    orders.renew(claim_id)
    orders.delete(1, claim_id)
    orders.release(claim_id)
    orders.pop(1)
    orders.delete_many(3, 4)
    assert bodies(orders.listing()) == ["3"]
    assert counted(tmp_path) == {
        "zaqar_messages_posted": 5,
        "zaqar_posted_bytes": 11,
        "zaqar_messages_claimed": 2,
        "zaqar_claim_renewals": 1,
        "zaqar_claims_released": 1,
        "zaqar_messages_popped": 1,
        "zaqar_messages_deleted": 3,
    }
    assert calls(tmp_path) == {
        "queues.open": 1,
        "messages.post": 1,
        "claims.claim": 1,
        "claims.renew": 1,
        "messages.delete": 1,
        "claims.release": 1,
        "messages.pop": 1,
        "messages.delete_many": 1,
        "messages.list_after": 1,
    }


def test_dead_letters_and_expired_messages_are_counted(orders: QueueClient, tmp_path: Path) -> None:
    dead = orders.beside("dead-letters")
    orders.post("a")
    orders.post("b", ttl=60)
    orders.claim_and_release(1, times=1)
    orders.claim(1, dead_letters=DeadLetters(dead.queue, 1))
    orders.clock.advance(600)
    assert orders.store.sweep(now=orders.now, limit=10).expired == 1
    found = counted(tmp_path)
    assert (found["zaqar_messages_dead_lettered"], found["zaqar_messages_expired"]) == (1, 1)


def test_a_call_that_fails_is_counted_by_kind_and_raises_as_before(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryMessageStore()

    class ReadTimeout(Exception):
        pass

    def fail(cause: Exception | None) -> NoReturn:
        raise StoreUnavailable from cause

    monkeypatch.setattr(store.messages, "post", lambda **_: fail(ConnectionError()))
    monkeypatch.setattr(store.messages, "pop", lambda **_: fail(ReadTimeout()))
    orders = QueueClient(observe(store, "default", recorder))
    orders.queue = orders.raise_generation()
    with pytest.raises(StaleQueue):
        orders.listing()
    with pytest.raises(StoreUnavailable):
        orders.post("a")
    with pytest.raises(StoreUnavailable):
        orders.pop()
    kinds = {
        series.labels: series.cells[0] for series in series_of(tmp_path) if series.family.name == "zaqar_store_errors"
    }
    assert kinds == {("default", "unavailable"): 1, ("default", "timeout"): 1}
    found = counted(tmp_path)
    assert found["zaqar_stale_queue_retries"] == 1
    assert "zaqar_messages_posted" not in found
    assert calls(tmp_path)["messages.post"] == 1


@pytest.mark.parametrize(
    ("contract", "store"), [(MessageStore, MemoryMessageStore), (ManagementStore, MemoryManagementStore)]
)
def test_every_method_of_the_contract_is_there_and_is_counted(contract: Any, store: Any, recorder: Recorder) -> None:
    """A part that is added to the contract is observed without a change here."""
    bare, observed = store(), observe(store(), "default", recorder)
    parts = [name for name, hint in contract.__annotations__.items() if "ClassVar" not in str(hint)]
    assert parts
    for part in parts:
        for name, _ in inspect.getmembers(getattr(bare, part), callable):
            if not name.startswith("_"):
                method = getattr(getattr(observed, part), name)
                assert method.__qualname__ == "_timed.<locals>.call", f"{part}.{name}"


class PooledStore(MemoryMessageStore):
    def connections(self) -> dict[str, int]:
        return {"used": 2, "idle": 3, "max": 5}


def test_the_connections_of_a_store_that_is_gone_are_not_shown_any_more(recorder: Recorder, tmp_path: Path) -> None:
    store = observe(PooledStore(), "default", recorder)
    store.ping()
    recorder.sample()
    assert connections(tmp_path) == {("default", "used"): 2, ("default", "idle"): 3}
    del store
    gc.collect()
    recorder.sample()
    assert connections(tmp_path) == {("default", "used"): 0, ("default", "idle"): 0}


def test_a_store_that_is_opened_again_takes_the_place_of_the_one_before(recorder: Recorder, tmp_path: Path) -> None:
    stores = [observe(PooledStore(), "default", recorder) for _ in range(3)]
    stores[-1].ping()
    stores[:-1] = []
    gc.collect()
    recorder.sample()
    assert connections(tmp_path) == {("default", "used"): 2, ("default", "idle"): 3}
    assert len(recorder._sources) == 1


def connections(folder: Path) -> dict[tuple[str, ...], float]:
    return {each.labels: each.cells[0] for each in series_of(folder) if each.family is STORE_CONNECTIONS}
