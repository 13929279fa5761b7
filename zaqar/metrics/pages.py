# SPDX-License-Identifier: Apache-2.0
"""The pages of the exporter: the metrics in the formats of prometheus_client, and the liveness of background parts.

``exporter`` imports this module only when its process serves, because prometheus_client takes time and memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.registry import Collector

from zaqar.clock import Clock
from zaqar.errors import StoreUnavailable
from zaqar.metrics.collector import HostCollector
from zaqar.metrics.exporter import Answerer, Reply, Request, refuse
from zaqar.metrics.retirement import read_all
from zaqar.metrics.store_collectors import ANSWER_SECONDS, MOST_QUEUES, QueueCollector, StoreCollector
from zaqar.storage.base import ManagementStore
from zaqar.storage.pools import Placement, StoreRef

_SILENT_SECONDS = 30.0
_WATCHED = frozenset({"sweeper", "notifier"})
"""Parts that report at least every few seconds that they are alive."""


class Stores(NamedTuple):
    """What the pages about stores ask. A reload may replace the stores, so they are looked up at each use."""

    management_label: str
    management: Callable[[], ManagementStore]
    placement: Callable[[], Placement]
    label_of: Callable[[StoreRef], str]


def make_pages(folder: Path, clock: Clock, stores: Stores | None, *, shows_queues: bool) -> dict[str, Answerer]:
    """The pages by path. ``stores`` is None if this process cannot see the messages of the others."""
    pages: dict[str, Answerer] = {"/metrics": _page_of(HostCollector(folder)), "/livez": _Liveness(folder, clock)}
    if stores is not None:
        pages["/metrics/store"] = _page_of(
            StoreCollector(
                management=(stores.management_label, lambda: _answers(stores)),
                stores=lambda: {stores.label_of(each): each for each in stores.placement().stores_in_use()},
                clock=clock,
            )
        )
        if shows_queues:
            pages["/metrics/queues"] = _QueuesPage(stores, clock)
    return pages


def _answers(stores: Stores) -> bool:
    stores.management().ping()
    return True


def _page_of(collector: Collector) -> Answerer:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    application = make_wsgi_app(registry)

    def answer(request: Request) -> Reply:
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
            started.append((status, headers))

        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            "HTTP_ACCEPT": request.accept,
            "HTTP_ACCEPT_ENCODING": request.accept_encoding,
        }
        body = b"".join(application(environ, start))
        ((status, headers),) = started
        others = tuple(header for header in headers if header[0] != "Content-Type")
        return Reply(int(status.split()[0]), body, dict(headers)["Content-Type"], others)

    return answer


class _Liveness:
    """Answers whether the background parts of this host make progress."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder = folder
        self._clock = clock

    def __call__(self, request: Request) -> Reply:
        now = self._clock()
        # A process may have several files; the newest heartbeat counts.
        last: dict[tuple[str, int], float] = {}
        for each in read_all(self._folder).running:
            if each.part in _WATCHED:
                key = (each.part, each.pid)
                last[key] = max(last.get(key, 0.0), each.heartbeat)
        silent = [
            f"The {part} (process {pid}) has not reported for {now - heartbeat:.0f} s."
            for (part, pid), heartbeat in sorted(last.items())
            if now - heartbeat > _SILENT_SECONDS
        ]
        return refuse(503, "\n".join(silent)) if silent else Reply(200, b"ok\n")


class _QueuesPage:
    """Answers with the numbers of single queues. One request at a time, because each may ask for many queues."""

    def __init__(self, stores: Stores, clock: Clock) -> None:
        self._stores = stores
        self._clock = clock
        self._busy = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        given = parse_qs(request.query, keep_blank_values=True)
        project, limit = given.get("project", []), given.get("limit", [str(MOST_QUEUES)])
        if len(project) != 1:
            return refuse(400, "Give one project: /metrics/queues?project=ID")
        if (
            len(limit) != 1
            or not limit[0].isascii()
            or not limit[0].isdigit()
            or not 0 < int(limit[0][:5]) <= MOST_QUEUES
        ):
            return refuse(400, f"limit is a number from 1 to {MOST_QUEUES}.")
        if not self._busy.acquire(blocking=False):
            return refuse(503, "Another request for queues is being answered.")
        collector = QueueCollector(
            management=self._stores.management(),
            placement=self._stores.placement(),
            clock=self._clock,
            project=project[0],
            names=given.get("name", []),
            limit=int(limit[0]),
            until=time.monotonic() + ANSWER_SECONDS,
        )
        return self._answer(_page_of(collector), request)

    def _answer(self, page: Answerer, request: Request) -> Reply:
        """Make the page in a thread, which holds the lock until it has ended, perhaps long after this answer."""
        made: Future[Reply] = Future()

        def make() -> None:
            try:
                made.set_result(page(request))
            except Exception as exc:  # noqa: BLE001, raised below
                made.set_exception(exc)
            finally:
                self._busy.release()

        threading.Thread(target=make, name="numbers of queues", daemon=True).start()
        try:
            return made.result(ANSWER_SECONDS)
        except (TimeoutError, StoreUnavailable):
            return refuse(503, f"A store has not answered within {ANSWER_SECONDS:g} s. limit= asks for fewer queues.")
