# SPDX-License-Identifier: Apache-2.0
"""The SQL of a warm request: no query for the row of its queue, and the same few statements at any size."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.api.client import Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS
from tests.conformance.sqlalchemy.tracing import TRANSACTION_CONTROL


class Traced:
    """An application on SQLite, and every statement that SQLite runs for it."""

    def __init__(self, api: Api, seen: list[str]) -> None:
        self.api = api
        self._seen = seen

    def statements_of(self, operation: Callable[[], object]) -> list[str]:
        self._seen.clear()
        operation()
        return [statement for statement in self._seen if not statement.startswith(TRANSACTION_CONTROL)]


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    seen: list[str] = []

    def trace(connection: object, _: object) -> None:
        connection.set_trace_callback(seen.append)  # type: ignore[attr-defined]

    driver = DRIVERS["sqlite"]
    address = driver.prepare(tmp_path)
    sa.event.listen(sa.Engine, "connect", trace)
    try:
        api = Api(driver, address, clock=FakeClock())
        yield Traced(api, seen)
        api.close()
    finally:
        sa.event.remove(sa.Engine, "connect", trace)


def reads_queue_row(statement: str) -> bool:
    return re.search(r"\bqueues\b", statement) is not None


def test_the_first_request_reads_the_row_of_the_queue(traced: Traced) -> None:
    assert any(map(reads_queue_row, traced.statements_of(lambda: traced.api.send("q", 1))))


@pytest.mark.parametrize("messages", [10, 1000])
def test_warm_requests_do_not_read_the_row_of_the_queue(traced: Traced, messages: int) -> None:
    api = traced.api
    ids = [id_ for start in range(0, messages, 10) for id_ in api.send("q", *range(start, start + 10))]
    claim_id, _ = api.claim("q", limit=5)
    path = "/v2/queues/q/messages"
    operations: dict[str, tuple[int, Callable[[], object]]] = {
        "post 1": (2, lambda: api.send("q", 1)),
        "post 10": (11, lambda: api.send("q", *range(10))),
        "list": (2, lambda: api.get(f"{path}?echo=true")),
        "list all": (2, lambda: api.get(f"{path}?echo=true&include_claimed=true&include_delayed=true")),
        "get": (2, lambda: api.get(f"{path}/{ids[-1]}")),
        "get several": (2, lambda: api.get(f"{path}?ids={ids[-1]},{ids[-2]}")),
        "claim": (4, lambda: api.claim("q", limit=1)),
        "claim 5": (4, lambda: api.claim("q", limit=5)),
        "get claim": (3, lambda: api.get(f"/v2/queues/q/claims/{claim_id}")),
        "renew": (4, lambda: api.patch(f"/v2/queues/q/claims/{claim_id}", {"ttl": 60})),
        "delete held": (4, lambda: api.delete(f"{path}/{ids[0]}?claim_id={claim_id}")),
        "delete several": (4, lambda: api.delete(f"{path}?ids={ids[1]},{ids[2]}")),
        "release": (4, lambda: api.delete(f"/v2/queues/q/claims/{claim_id}")),
        "delete": (4, lambda: api.delete(f"{path}/{ids[-1]}")),
        "pop": (3, lambda: api.delete(f"{path}?pop=3")),
        "stats": (4, lambda: api.get("/v2/queues/q/stats")),
    }
    for name, (most, operation) in operations.items():
        statements = traced.statements_of(operation)
        listed = "\n".join(statements)
        assert statements, name
        assert not any(map(reads_queue_row, statements)), f"{name}:\n{listed}"
        assert len(statements) <= most, f"{name} takes {len(statements)}:\n{listed}"
