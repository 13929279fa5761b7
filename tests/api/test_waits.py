# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for messages over HTTP: claims, pages and pops, from one worker.

Each test waits until another thread has done something, and not for a time. Only a wait that times out takes a second.
"""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from falcon import testing

from tests.api.client import ALICE, BOB, Api
from tests.api.test_common import assert_error
from tests.conformance.drivers import DRIVERS
from zaqar.encryption.messages import MessageKeys
from zaqar.errors import StoreUnavailable
from zaqar.model import QUEUE, Draft, Message, QueueName
from zaqar.service.staged import pipelines
from zaqar.stages.base import Done, Stage
from zaqar.stages.operations import CreateClaim, HeldClaim, ListMessages, PopMessages, ReleaseClaim
from zaqar.stages.pipeline import Pipeline
from zaqar.transport.wsgi.app import make_app
from zaqar.transport.wsgi.waits import WaitSlots
from zaqar.waiting.registry import Waiter

pytestmark = pytest.mark.parametrize(
    "driver", [DRIVERS["memory"], DRIVERS["sqlite"]], ids=["memory", "sqlite"], indirect=True, scope="session"
)

LONG = 20
"""Seconds for which clients ask to wait. Each wait ends earlier."""

MOST_CALLS = 4
"""The most store calls after a post, with twenty clients that wait. The look once a second may add some."""

CLAIM, LIST, POP = ("POST", "claims?"), ("GET", "messages?echo=true&"), ("DELETE", "messages?pop=10&")
ALL = pytest.mark.parametrize(("method", "path"), [CLAIM, LIST, POP], ids=["claim", "list", "pop"])


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(50) as pool:
        yield pool


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.002)


_tried: set[Waiter] = set()
"""Waiters that have ended an attempt."""


@pytest.fixture(autouse=True)
def note_attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    finish = Waiter.finish

    def noted(waiter: Waiter, **keywords: bool) -> None:
        finish(waiter, **keywords)
        _tried.add(waiter)

    monkeypatch.setattr(Waiter, "finish", noted)
    yield
    _tried.clear()


def wait_until_all_have_looked(api: Api) -> None:
    """Wait until all waiters of queue "q" have ended the attempt that is due when they join."""
    queue = api.parts.hub.registry._queues[QueueName(api.project, QUEUE, "q")]
    wait_until(lambda: queue.turn is None and queue.readers.keys() <= _tried)


class Clients:
    """Clients that wait, each in a thread, in the order in which they were started."""

    def __init__(self, api: Api, pool: ThreadPoolExecutor) -> None:
        self._api = api
        self._pool = pool

    def start(self, method: str, path: str, **kwargs: Any) -> Future[testing.Result]:
        """Send a request. Returns when the client waits."""
        registry = self._api.parts.hub.registry
        before = registry.waiting
        future = self._pool.submit(self._api.request, method, path, **kwargs)
        wait_until(lambda: registry.waiting > before or future.done())
        assert not future.done(), future.result().text
        return future


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    """An application for one test, because the test drains its hub and counts its waiters."""
    return make_api()


@pytest.fixture
def clients(api: Api, pool: ThreadPoolExecutor) -> Clients:
    return Clients(api, pool)


def bodies(result: testing.Result) -> list[Any]:
    if result.status_code == 204:
        return []
    assert result.status_code in (200, 201), result.text
    return [message["body"] for message in result.json["messages"]]


# -- answers of a waiting request --------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("kind", ["queues", "topics"])
def test_a_post_ends_the_wait_of_a_request(api: Api, clients: Clients, method: str, path: str, kind: str) -> None:
    """The queue need not exist before the wait."""
    if (kind, path) == ("topics", CLAIM[1]):
        return  # Topics have no claims.
    waiting = clients.start(method, f"/v2/{kind}/q/{path}wait={LONG}")
    posted = api.post(f"/v2/{kind}/q/messages", {"messages": [{"body": 1, "ttl": 300}]})
    assert posted.status_code == 201
    result = waiting.result()
    assert bodies(result) == [1]
    assert "Retry-After" not in result.headers
    assert api.parts.hub.registry.waiting == 0


@ALL
def test_existing_messages_are_answered_as_without_wait(api: Api, method: str, path: str) -> None:
    api.send("q", 1, 2)
    began = time.monotonic()
    assert bodies(api.request(method, f"/v2/queues/q/{path}wait={LONG}")) == [1, 2]
    assert time.monotonic() - began < LONG


@ALL
def test_the_answer_after_a_time_out_is_that_without_wait(api: Api, method: str, path: str) -> None:
    began = time.monotonic()
    waited = api.request(method, f"/v2/queues/q/{path}wait=1")
    assert time.monotonic() - began >= 1
    plain = api.request(method, f"/v2/queues/q/{path}")
    assert (waited.status_code, waited.text) == (plain.status_code, plain.text)
    assert set(waited.headers) == set(plain.headers)


def test_the_answer_with_messages_is_that_without_wait(api: Api, clients: Clients) -> None:
    """A claim has the same headers and length, and its messages the same members."""
    waiting = clients.start("POST", f"/v2/queues/q/claims?limit=1&wait={LONG}", body={"ttl": 100, "grace": 60})
    api.send("q", 1, 2)
    waited = waiting.result()
    plain = api.post("/v2/queues/q/claims?limit=1", {"ttl": 100, "grace": 60})
    assert set(waited.headers) == set(plain.headers)
    assert int(waited.headers["Content-Length"]) == len(waited.content)
    assert [set(each) for each in waited.json["messages"]] == [set(each) for each in plain.json["messages"]]
    claim = api.get(waited.headers["Location"])
    assert claim.json["ttl"] == 100
    assert [message["body"] for message in claim.json["messages"]] == [1]


def test_the_ttl_of_a_claim_starts_when_it_is_made(api: Api, clients: Clients) -> None:
    waiting = clients.start("POST", f"/v2/queues/q/claims?wait={LONG}", body={"ttl": 60, "grace": 60})
    api.clock.now += 30
    api.send("q", 1)
    location = waiting.result().headers["Location"]
    assert api.get(location).json["age"] == 0
    api.clock.now += 59
    assert api.get(location).status_code == 200
    api.clock.now += 1
    assert api.get(location).status_code == 404


def test_a_release_ends_the_wait_of_a_claim_and_of_a_page(api: Api, clients: Clients) -> None:
    api.send("q", 1)
    claim, _ = api.claim("q")
    page = clients.start("GET", f"/v2/queues/q/messages?echo=true&wait={LONG}")
    waiting = clients.start("POST", f"/v2/queues/q/claims?wait={LONG}")
    assert api.delete(f"/v2/queues/q/claims/{claim}").status_code == 204
    assert bodies(waiting.result()) == [1]
    # The page is read before or after the second claim, so it shows the message or waits on.
    api.send("q", 2)
    assert bodies(page.result())[-1] in (1, 2)


# -- the parameter ----------------------------------------------------------------------------------------------------


@ALL
def test_a_bad_value_is_refused_and_nothing_is_taken(api: Api, method: str, path: str) -> None:
    api.send("q", 1)
    for value in ("-1", "21", "1.5", "x", "9" * 5000, "1e1", "%D9%A1", "%201", "true"):
        assert_error(api.request(method, f"/v2/queues/q/{path}wait={value}"), 400, "wait")
    assert api.counts("q") == (1, 0, 1)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("value", ["0", "5"])
def test_wait_is_refused_together_with_ids(api: Api, method: str, value: str) -> None:
    (id_,) = api.send("q", 1)
    assert_error(api.request(method, f"/v2/queues/q/messages?ids={id_}&wait={value}"), 400, "wait")
    assert api.counts("q") == (1, 0, 1)


@ALL
def test_a_wait_of_zero_or_an_empty_value_does_not_wait(api: Api, method: str, path: str) -> None:
    for query in ("wait=0", "wait="):
        assert bodies(api.request(method, f"/v2/queues/q/{path}{query}")) == []


@ALL
def test_waiting_can_be_switched_off(make_api: Callable[..., Api], method: str, path: str) -> None:
    api = make_api(transport__max_wait=0)
    assert_error(api.request(method, f"/v2/queues/q/{path}wait=1"), 400, "wait")
    assert bodies(api.request(method, f"/v2/queues/q/{path}wait=0")) == []


@ALL
def test_a_bad_request_is_refused_before_the_wait(api: Api, pool: ThreadPoolExecutor, method: str, path: str) -> None:
    field, query = ("marker", "marker=x") if method == "GET" else ("limit", "limit=0")
    if method == "DELETE":
        path, field, query = "messages?", "pop", "pop=0"
    assert_error(api.request(method, f"/v2/queues/q/{path}{query}&wait={LONG}"), 400, field)
    if method == "POST":
        assert_error(api.request(method, f"/v2/queues/q/{path}wait={LONG}", body={"ttl": 1}), 400, "ttl")


def test_links_repeat_the_wait(api: Api, clients: Clients) -> None:
    """A client that follows the links reads the existing messages and then waits at the end."""
    api.send("q", 1, 2)
    page = api.get("/v2/queues/q/messages?echo=true&limit=1&wait=20")
    (link,) = page.json["links"]
    assert parse_qs(urlsplit(link["href"]).query)["wait"] == ["20"]
    page = api.get(link["href"])
    assert bodies(page) == [2]
    (link,) = page.json["links"]
    waiting = clients.start("GET", link["href"])
    api.send("q", 3)
    assert bodies(waiting.result()) == [3]
    assert "wait" not in api.get("/v2/queues/q/messages?echo=true").json["links"][0]["href"]


# -- distribution of messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path"), [CLAIM, POP], ids=["claim", "pop"])
def test_claims_and_pops_are_served_in_their_order(api: Api, clients: Clients, method: str, path: str) -> None:
    path = path.replace("10", "1").replace("claims?", "claims?limit=1&")
    waiting = [clients.start(method, f"/v2/queues/q/{path}wait={LONG}") for _ in range(5)]
    for number in range(5):
        api.send("q", number)
        assert bodies(waiting[number].result()) == [number]
    assert not any(bodies(api.request(method, f"/v2/queues/q/{path}")) for _ in range(2))


def test_one_post_serves_several_waiters_in_turn(api: Api, clients: Clients) -> None:
    waiting = [clients.start("POST", f"/v2/queues/q/claims?limit=2&wait={LONG}") for _ in range(3)]
    api.send("q", *range(6))
    assert [bodies(each.result()) for each in waiting] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(("method", "path"), [CLAIM, POP], ids=["claim", "pop"])
def test_a_post_causes_one_attempt_and_not_one_for_each_waiter(
    api: Api, clients: Clients, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = [clients.start(method, f"/v2/queues/q/{path}wait={LONG}") for _ in range(20)]
    wait_until_all_have_looked(api)
    calls = count_calls(api, monkeypatch, "claims.claim", "messages.pop")
    api.send("q", 1)
    assert bodies(waiting[0].result()) == [1]
    assert not any(each.done() for each in waiting[1:])
    api.parts.hub.drain()
    assert [bodies(each.result()) for each in waiting[1:]] == [[]] * 19
    assert len(calls) <= MOST_CALLS


def count_calls(api: Api, monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """Count the calls of these methods of the message store, such as "claims.claim", from now on."""
    store, calls = api.parts.placement.all_stores()[0].store, []
    for name in names:
        part_name, method = name.split(".")
        part = getattr(store, part_name)
        original = getattr(part, method)

        def counted(_name: str = name, _original: Any = original, **arguments: Any) -> Any:
            calls.append(_name)
            return _original(**arguments)

        monkeypatch.setattr(part, method, counted)
    return calls


def test_one_read_serves_all_readers(api: Api, clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = [clients.start("GET", f"/v2/queues/q/messages?echo=true&wait={LONG}") for _ in range(20)]
    calls = count_calls(api, monkeypatch, "messages.list_after")
    api.send("q", 1)
    assert [bodies(each.result()) for each in waiting] == [[1]] * 20
    assert len(calls) <= MOST_CALLS


def test_readers_get_no_messages_of_their_own_unless_they_ask(api: Api, clients: Clients) -> None:
    own = clients.start("GET", f"/v2/queues/q/messages?wait={LONG}", client=ALICE)
    other = clients.start("GET", f"/v2/queues/q/messages?wait={LONG}", client=BOB)
    echoed = clients.start("GET", f"/v2/queues/q/messages?echo=true&wait={LONG}", client=ALICE)
    api.send("q", 1, client=ALICE)
    assert bodies(other.result()) == [1]
    assert bodies(echoed.result()) == [1]
    api.send("q", 2, client=BOB)
    assert bodies(own.result()) == [2]


@pytest.mark.parametrize("own", [1, 2, 3])
def test_own_messages_take_no_room_on_a_page(api: Api, clients: Clients, own: int) -> None:
    """The client's own messages are fewer than a page, as many as a page, or more."""
    waiting = clients.start("GET", f"/v2/queues/q/messages?limit=2&wait={LONG}", client=ALICE)
    api.send("q", *["own"] * own, client=ALICE)
    assert not waiting.done()
    api.send("q", "a", "b", "c", client=BOB)
    result = waiting.result()
    # Each post wakes the reader, so it may have read before all were stored. But it never skips a message.
    assert bodies(result) == ["a", "b"]


@pytest.mark.parametrize("included", ["include_claimed=true", "include_claimed=true&include_delayed=true"])
def test_readers_of_claimed_messages_see_them(api: Api, clients: Clients, included: str) -> None:
    """A page without claimed messages waits until they are free."""
    api.send("q", 1)
    claim, _ = api.claim("q")
    without = clients.start("GET", f"/v2/queues/q/messages?echo=true&wait={LONG}")
    assert bodies(api.get(f"/v2/queues/q/messages?echo=true&{included}&wait={LONG}")) == [1]
    assert not without.done()
    api.delete(f"/v2/queues/q/claims/{claim}")
    assert bodies(without.result()) == [1]


def test_a_page_shows_no_message_before_its_delay_is_over(api: Api, clients: Clients) -> None:
    without = clients.start("GET", f"/v2/queues/q/messages?echo=true&wait={LONG}")
    with_delayed = clients.start("GET", f"/v2/queues/q/messages?echo=true&include_delayed=true&wait={LONG}")
    api.send("q", "delayed", delay=5)
    assert bodies(with_delayed.result()) == ["delayed"]
    assert not without.done()
    api.send("q", "now")
    assert bodies(without.result()) == ["now"]


# -- limits -----------------------------------------------------------------------------------------------------------


@ALL
def test_waiters_beyond_the_limit_are_answered_at_once(
    make_api: Callable[..., Api], pool: ThreadPoolExecutor, method: str, path: str
) -> None:
    api = make_api(transport__max_waiting_clients=3, transport__max_waiting_clients_per_project=2)
    clients = Clients(api, pool)
    waiting = [clients.start(method, f"/v2/queues/q/{path}wait={LONG}") for _ in range(2)]
    began = time.monotonic()
    for queue in ("q", "another"):
        refused = api.request(method, f"/v2/queues/{queue}/{path}wait={LONG}")
        assert bodies(refused) == []
        assert refused.headers["Retry-After"] == "1"
    assert time.monotonic() - began < LONG
    # Another project has its own limit, up to the limit of the process.
    waiting.append(clients.start(method, f"/v2/queues/q/{path}wait={LONG}", headers={"X-Project-ID": "other"}))
    refused = api.request(method, f"/v2/queues/q/{path}wait={LONG}", headers={"X-Project-ID": "third"})
    assert (bodies(refused), refused.headers["Retry-After"]) == ([], "1")
    # A request that may not wait is answered like a request without ``wait``.
    api.send("another", 1)
    served = api.request(method, f"/v2/queues/another/{path}wait={LONG}")
    assert (bodies(served), "Retry-After" in served.headers) == ([1], False)
    api.parts.hub.drain()
    assert [bodies(each.result()) for each in waiting] == [[]] * 3


@ALL
def test_a_drain_answers_all_waiters_and_admits_no_more(api: Api, clients: Clients, method: str, path: str) -> None:
    waiting = [clients.start(method, f"/v2/queues/q/{path}wait={LONG}") for _ in range(10)]
    api.parts.hub.drain()
    answers = [each.result() for each in waiting]
    assert [(bodies(each), each.headers["Retry-After"]) for each in answers] == [([], "1")] * 10
    late = api.request(method, f"/v2/queues/q/{path}wait={LONG}")
    assert (bodies(late), late.headers["Retry-After"]) == ([], "1")
    api.send("q", 1)
    assert bodies(api.request(method, f"/v2/queues/q/{path}wait={LONG}")) == [1]


@pytest.mark.parametrize(("threads", "most"), [(1, 0), (3, 2)])
def test_a_server_with_a_thread_for_each_request_keeps_one_thread_free(
    api: Api, pool: ThreadPoolExecutor, threads: int, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        api._client = testing.TestClient(make_app(api.parts, WaitSlots(lambda: threads)))
        clients = Clients(api, pool)
        waiting = [clients.start("POST", f"/v2/queues/q/claims?wait={LONG}") for _ in range(most)]
        refused = api.post(f"/v2/queues/q/claims?wait={LONG}")
    assert (refused.status_code, refused.headers["Retry-After"]) == (204, "1")
    assert f"a worker has {threads}. At most {most} requests" in caplog.text
    api.send("q", 1)
    for each in waiting[:1]:
        assert bodies(each.result()) == [1]
    api.parts.hub.drain()
    for each in waiting[1:]:
        assert bodies(each.result()) == []


def test_a_thread_waits_for_five_seconds_at_most(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zaqar.transport.wsgi.waits.THREAD_SECONDS", 0.1)
    api._client = testing.TestClient(make_app(api.parts, WaitSlots(lambda: 2)))
    began = time.monotonic()
    result = api.post(f"/v2/queues/q/claims?wait={LONG}")
    assert (result.status_code, "Retry-After" in result.headers) == (204, False)
    assert 0.1 <= time.monotonic() - began < LONG


# -- clients that disconnect ------------------------------------------------------------------------------------------


@ALL
def test_a_disconnected_client_gets_no_message(
    api: Api, clients: Clients, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = threading.Event()
    monkeypatch.setattr("zaqar.transport.wsgi.waits.is_client_gone", lambda _: gone.is_set())
    waiting = clients.start(method, f"/v2/queues/q/{path}wait={LONG}")
    wait_until_all_have_looked(api)
    gone.set()
    api.send("q", 1)
    assert bodies(waiting.result()) == []
    assert api.counts("q") == (1, 0, 1)


def test_the_next_waiter_is_served_if_the_first_is_disconnected(
    api: Api, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone: set[str] = set()
    monkeypatch.setattr("zaqar.transport.wsgi.waits.is_client_gone", lambda env: env["HTTP_CLIENT_ID"] in gone)
    first = clients.start("POST", f"/v2/queues/q/claims?wait={LONG}", client=ALICE)
    second = clients.start("POST", f"/v2/queues/q/claims?wait={LONG}", client=BOB)
    wait_until_all_have_looked(api)
    gone.add(ALICE)
    api.send("q", 1)
    assert bodies(second.result()) == [1]
    assert bodies(first.result()) == []


def go_away_with_a_claim(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client disconnects after the claim was made and before its answer is written."""
    monkeypatch.setattr("zaqar.transport.wsgi.waits.is_client_gone", lambda _: api.counts("q")[1] > 0)


def test_a_claim_whose_answer_is_not_written_is_released(
    api: Api, clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_away_with_a_claim(api, monkeypatch)
    waiting = clients.start("POST", f"/v2/queues/q/claims?wait={LONG}")
    api.send("q", 1)
    assert waiting.result().status_code == 201
    assert api.counts("q") == (1, 0, 1)
    monkeypatch.undo()
    assert bodies(api.post("/v2/queues/q/claims")) == [1]


def test_a_release_fails_quietly_if_the_store_is_away(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable

    go_away_with_a_claim(api, monkeypatch)
    api.send("q", 1)
    store = api.parts.placement.all_stores()[0].store
    monkeypatch.setattr(store.claims, "release", away)
    assert bodies(api.post(f"/v2/queues/q/claims?wait={LONG}")) == [1]
    assert api.counts("q") == (0, 1, 1)


# -- stages, and unreadable messages ----------------------------------------------------------------------------------


class Recorder(Stage):
    """Records the calls of its hooks. Its hook answers a pop of one message itself."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def before_create_claim(self, context: Any, request: CreateClaim) -> CreateClaim:
        self.seen.append("before")
        return request

    def after_create_claim(self, context: Any, request: CreateClaim, result: HeldClaim) -> None:
        self.seen.append([message.body for message in result.messages])

    def before_release_claim(self, context: Any, request: ReleaseClaim) -> ReleaseClaim:
        self.seen.append("release")
        return request

    def before_list_messages(self, context: Any, request: ListMessages) -> ListMessages:
        self.seen.append("before")
        return request

    def after_list_messages(self, context: Any, request: ListMessages, result: Sequence[Message]) -> None:
        self.seen.append([message.body for message in result])

    def before_pop_messages(self, context: Any, request: PopMessages) -> PopMessages | Done[list[Message]]:
        self.seen.append("before")
        return Done([]) if request.limit == 1 else request

    def after_pop_messages(self, context: Any, request: PopMessages, result: Sequence[Message]) -> None:
        self.seen.append([message.body for message in result])


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(pipelines, "_load", lambda *_: Pipeline([recorder], resource=_[3]))
    return recorder


@ALL
def test_stages_are_called_once_for_a_waiting_request(
    recorder: Recorder, make_api: Callable[..., Api], pool: ThreadPoolExecutor, method: str, path: str
) -> None:
    api = make_api()
    waiting = Clients(api, pool).start(method, f"/v2/queues/q/{path}wait={LONG}")
    assert recorder.seen == ["before"]
    api.parts.hub.freed(api.parts.queues.ensure(QueueName(api.project, QUEUE, "q")).queue)
    api.send("q", 1)
    assert bodies(waiting.result()) == [1]
    assert recorder.seen == ["before", [b"1"]]
    recorder.seen.clear()
    waiting = Clients(api, pool).start(method, f"/v2/queues/empty/{path}wait={LONG}")
    api.parts.hub.drain()
    assert bodies(waiting.result()) == []
    assert recorder.seen == ["before", []]


def test_a_stage_that_answers_ends_the_wait_before_it_begins(recorder: Recorder, make_api: Callable[..., Api]) -> None:
    api = make_api()
    api.send("q", 1)
    assert bodies(api.delete(f"/v2/queues/q/messages?pop=1&wait={LONG}")) == []
    assert recorder.seen == ["before"]
    assert api.counts("q") == (1, 0, 1)


def test_a_claim_released_by_the_service_passes_no_stage(
    recorder: Recorder, make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_api()
    go_away_with_a_claim(api, monkeypatch)
    api.send("q", 1)
    assert bodies(api.post(f"/v2/queues/q/claims?wait={LONG}")) == [1]
    assert api.counts("q") == (1, 0, 1)
    assert recorder.seen == ["before", [b"1"]]


@pytest.mark.parametrize(("method", "path"), [CLAIM, POP], ids=["claim", "pop"])
def test_an_unreadable_message_does_not_end_the_wait(
    make_api: Callable[..., Api], pool: ThreadPoolExecutor, method: str, path: str
) -> None:
    api = make_api(transport__message_encryption_key="base64:" + base64.b64encode(bytes(32)).decode())
    assert api.put("/v2/queues/q", {"_enable_encrypt_messages": True}).status_code == 201
    # The worker that waits does not have the key of the worker that posts until the test gives it.
    keys, api.parts.messages._bodies._keys = api.parts.messages._bodies._keys, MessageKeys([b"x" * 32])
    clients = Clients(api, pool)
    waiting = clients.start(method, f"/v2/queues/q/{path}wait={LONG}")
    poster = MessageKeys([b"y" * 32])
    api.parts.messages._bodies._keys = poster
    known = api.parts.queues.ensure(QueueName(api.project, QUEUE, "q"))
    sealed = poster.seal(b'"lost"', queue_uid=known.queue.uid, project=api.project, now=api.clock.now)
    api.parts.messages._bodies._keys = keys
    known.store_ref.store.messages.post(
        queue=known.queue, drafts=[Draft(sealed, 300, 0)], client_id=ALICE, now=api.clock.now
    )
    api.parts.hub.received(known.queue, known.store_ref)
    api.send("q", "read")
    assert bodies(waiting.result()) == ["read"]
