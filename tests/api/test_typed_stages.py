# SPDX-License-Identifier: Apache-2.0
"""The typed hooks: every operation calls them with the caller, and every result leads to a defined answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gevent
import pytest

from tests.api.client import ALICE, Api
from tests.api.marks import on_one_store
from tests.api.test_stages import MAIL, PIPELINES
from tests.conformance.drivers import Driver
from zaqar import app
from zaqar.context import Context
from zaqar.errors import Conflict, NotFound, StageFailed
from zaqar.model import QUEUE, TOPIC, Draft, Message, Queue, QueueName
from zaqar.service.nodes import Nodes
from zaqar.service.staged import pipelines
from zaqar.stages.base import Done, Stage
from zaqar.stages.operations import (
    MESSAGES,
    REQUESTS,
    CreateClaim,
    CreateQueue,
    CreateSubscription,
    DeleteMessages,
    GetMessages,
    HeldClaim,
    ListMessages,
    ListQueues,
    ListSubscriptions,
    PopMessages,
    PurgeQueue,
    RenewClaim,
    Request,
    RotateSecret,
    UpdateQueue,
    UpdateSubscription,
)
from zaqar.stages.pipeline import Pipeline

Hook = Callable[..., Any]
WithStages = Callable[..., Api]

pytestmark = on_one_store


@pytest.fixture
def with_stages(make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch) -> WithStages:
    """Makes an application with these stages in every pipeline."""

    def make(*stages: Stage) -> Api:
        monkeypatch.setattr(pipelines, "_load", lambda *_: Pipeline(stages, resource=_[3]))
        return make_api(notification__webhook_allowed_networks=["192.0.2.0/24"])

    return make


def stage_of(before: Hook | None = None, after: Hook | None = None) -> Stage:
    """A stage with the same two hooks for each operation. They do not see the queue that the hooks of a post get."""
    hooks: dict[str, Hook] = {}
    for name in ("post", *(request.operation for request in REQUESTS)):
        if before is not None:
            hooks[f"before_{name}"] = lambda self, context, *request: before(context, request[-1])
        if after is not None:
            hooks[f"after_{name}"] = lambda self, context, request, result: after(context, request, result)
    made: Stage = type("Made", (Stage,), hooks)()
    return made


class EveryOperation:
    """One request for each operation, on a queue with a message, a claim and a subscription."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._patch: dict[str, Any] = {"op": "add", "path": "/metadata/b", "value": 2}

    def prepare(self) -> None:
        api = self.api
        self.message, self.other = api.send("q", 1, 2)
        self.claim, _ = api.claim("q", limit=1)
        result = api.post("/v2/queues/q/subscriptions", {"subscriber": "http://192.0.2.1/hook"})
        self.subscription = result.json["subscription_id"]

    def requests(self) -> dict[str, Callable[[], Any]]:
        api, path = self.api, "/v2/queues/q"
        messages, claim = f"{path}/messages", f"{path}/claims/{self.claim}"
        subscription = f"{path}/subscriptions/{self.subscription}"
        admin = {"X-Roles": "admin"}
        return {
            "create_queue": lambda: api.put("/v2/queues/new"),
            "get_queue": lambda: api.get(path),
            "update_queue": lambda: api.patch_queue("q", self._patch),
            "list_queues": lambda: api.get("/v2/queues"),
            "queue_stats": lambda: api.get(f"{path}/stats"),
            "post": lambda: api.post(messages, {"messages": [{"body": 1}]}),
            "list_messages": lambda: api.get(f"{messages}?echo=true"),
            "get_message": lambda: api.get(f"{messages}/{self.other}"),
            "get_messages": lambda: api.get(f"{messages}?ids={self.other}"),
            "get_claim": lambda: api.get(claim),
            "renew_claim": lambda: api.patch(claim, {"ttl": 70}),
            "release_claim": lambda: api.delete(claim),
            "create_claim": lambda: api.post(f"{path}/claims?limit=1"),
            "delete_message": lambda: api.delete(f"{messages}/{self.other}"),
            "delete_messages": lambda: api.delete(f"{messages}?ids={self.other}"),
            "pop_messages": lambda: api.delete(f"{messages}?pop=1"),
            "create_subscription": lambda: api.post(f"{path}/subscriptions", {"subscriber": MAIL}),
            "get_subscription": lambda: api.get(subscription),
            "list_subscriptions": lambda: api.get(f"{path}/subscriptions"),
            "update_subscription": lambda: api.patch(subscription, {"ttl": 90}),
            "confirm_subscription": lambda: api.put(f"{subscription}/confirm", {"confirmed": True}, headers=admin),
            "rotate_secret": lambda: api.post(f"{subscription}/rotate_secret"),
            "delete_subscription": lambda: api.delete(subscription),
            "purge_queue": lambda: api.post(f"{path}/purge"),
            "delete_queue": lambda: api.delete(path),
        }


class ReplaceableHooks:
    """Hooks that do nothing until a test replaces them."""

    def __init__(self) -> None:
        self.before: Hook = lambda context, request: request
        self.after: Hook = lambda context, request, result: None
        self.stage = stage_of(
            lambda context, request: self.before(context, request),
            lambda context, request, result: self.after(context, request, result),
        )


@pytest.fixture
def replaceable_hooks() -> ReplaceableHooks:
    return ReplaceableHooks()


@pytest.fixture
def every_operation(with_stages: WithStages, replaceable_hooks: ReplaceableHooks) -> EveryOperation:
    every_operation = EveryOperation(with_stages(replaceable_hooks.stage))
    every_operation.prepare()
    return every_operation


def test_every_operation_has_both_hooks(every_operation: EveryOperation, replaceable_hooks: ReplaceableHooks) -> None:
    seen: list[tuple[str, Context, Any, Any]] = []

    def before(context: Context, request: Any) -> Any:
        seen.append(("before", context, request, None))
        return request

    replaceable_hooks.before = before
    replaceable_hooks.after = lambda context, request, result: seen.append(("after", context, request, result))
    kinds = {request.operation: request for request in REQUESTS}
    requests = every_operation.requests()
    assert set(requests) == {"post", *kinds}
    for name, send in requests.items():
        seen.clear()
        result = send()
        assert result.status_code < 300, (name, result.text)
        assert [entry[0] for entry in seen] == ["before", "after"], name
        for _, context, request, _ in seen:
            assert context.project == every_operation.api.project, name
            assert context.client_id == ALICE.replace("-", ""), name
            assert context.request_id.startswith("req-"), name
            if name == "post":
                continue
            assert type(request) is kinds[name]
            assert request.queue_name == QueueName(every_operation.api.project, QUEUE, request.queue_name.name)
            assert request.queue_name.name == {"create_queue": "new", "list_queues": ""}.get(name, "q")
        if name != "post":
            answer, kind = seen[-1][3], kinds[name].result
            if isinstance(kind, list):
                assert answer, name
                assert all(isinstance(each, kind[0]) for each in answer), name
            else:
                assert answer is None if kind is None else isinstance(answer, kind), name


def test_a_refusal_by_a_stage_is_the_answer_and_nothing_is_stored(
    every_operation: EveryOperation, replaceable_hooks: ReplaceableHooks
) -> None:
    ends: list[object] = []

    def refuse(context: Context, request: Any) -> Any:
        raise Conflict("Not today.")

    replaceable_hooks.before, replaceable_hooks.after = refuse, lambda context, request, result: ends.append(request)
    for name, send in every_operation.requests().items():
        result = send()
        assert (result.status_code, result.json) == (409, {"title": "Conflict", "description": "Not today."}), name
    assert ends == []
    replaceable_hooks.before = lambda context, request: request
    assert every_operation.api.counts("q") == (1, 1, 2)
    assert [queue["name"] for queue in every_operation.api.get("/v2/queues").json["queues"]] == ["q"]
    assert len(every_operation.api.get("/v2/queues/q/subscriptions").json["subscriptions"]) == 1


def boundless() -> Any:
    while True:
        yield 1


NOTHING_OF_A_STAGE = {
    "None": lambda: None,
    "an object": object,
    "a generator": boundless,
    "Done with an object": lambda: Done(object()),
    "Done with a generator": lambda: Done(boundless()),
}


@pytest.mark.parametrize("make", NOTHING_OF_A_STAGE.values(), ids=NOTHING_OF_A_STAGE.keys())
def test_a_wrong_result_of_a_stage_is_503_and_logged(
    every_operation: EveryOperation,
    replaceable_hooks: ReplaceableHooks,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[], object],
) -> None:
    """The answer is 503, and the log names the hook. An operation without a result ignores the returned value."""
    replaceable_hooks.before = lambda context, request: make()
    kinds = {request.operation: request for request in REQUESTS}
    for name, send in every_operation.requests().items():
        caplog.clear()
        result = send()
        if isinstance(make(), Done) and name in kinds and kinds[name].result is None:
            assert result.status_code == 204, name
            continue
        assert result.status_code == 503, name
        (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
        assert record.message.startswith("A stage failed: ")
        assert ".Made." in record.message
    replaceable_hooks.before = lambda context, request: request
    assert every_operation.api.counts("q") == (1, 1, 2)


def test_an_after_hook_that_fails_changes_no_answer(
    every_operation: EveryOperation, replaceable_hooks: ReplaceableHooks, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(context: Context, request: Any, result: Any) -> None:
        raise Conflict("too late")

    expected = dict.fromkeys(("renew_claim", "release_claim"), 204)
    replaceable_hooks.after = fail
    for name, send in every_operation.requests().items():
        caplog.clear()
        result = send()
        assert result.status_code < 300, (name, result.text)
        assert result.status_code == expected.get(name, result.status_code)
        messages = [each.message for each in caplog.records if each.levelname == "ERROR"]
        assert len(messages) == 1, name
        assert messages[0].startswith("A stage failed after the operation: "), name
    assert every_operation.api.get("/v2/queues").json["queues"][0]["name"] == "new"


@pytest.mark.parametrize("error", [gevent.Timeout, gevent.GreenletExit, KeyboardInterrupt])
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_exception_that_ends_the_worker_passes_through(
    every_operation: EveryOperation, replaceable_hooks: ReplaceableHooks, error: type[BaseException], when: str
) -> None:
    def end(*_: object) -> Any:
        raise error

    setattr(replaceable_hooks, when, end)
    for send in every_operation.requests().values():
        with pytest.raises(error):
            send()


# -- changes are checked -----------------------------------------------------------------------------------------------

SELF: dict[str, Any] = {}
SELF["self"] = SELF

BAD_CHANGES: dict[str, tuple[str, type[Request], dict[str, Any]]] = {
    "metadata with NaN": ("create_queue", CreateQueue, {"metadata": {"a": float("nan")}}),
    "metadata with a set": ("create_queue", CreateQueue, {"metadata": {"a": {1}}}),
    "metadata in a circle": ("create_queue", CreateQueue, {"metadata": SELF}),
    "metadata with a lone surrogate": ("create_queue", CreateQueue, {"metadata": {"a": "\ud800"}}),
    "metadata that break a rule": ("create_queue", CreateQueue, {"metadata": {"_default_message_ttl": 1}}),
    "metadata that are too large": ("create_queue", CreateQueue, {"metadata": {"a": "x" * 70_000}}),
    "metadata that are a list": ("create_queue", CreateQueue, {"metadata": [1]}),
    "a patch that breaks a rule": ("update_queue", UpdateQueue, {"metadata": {"_max_claim_count": "x"}}),
    "a patch with bytes": ("update_queue", UpdateQueue, {"metadata": {"a": b"x"}}),
    "a listing without a limit": ("list_queues", ListQueues, {"limit": 10**9}),
    "a listing by a bad expression": ("list_queues", ListQueues, {"name": "("}),
    "a listing with a bad marker": ("list_queues", ListQueues, {"marker": "no name!"}),
    "a purge of other things": ("purge_queue", PurgeQueue, {"resource_types": ("everything",)}),
    "a page of messages without a limit": ("list_messages", ListMessages, {"limit": 10**9}),
    "a marker that is a number": ("list_messages", ListMessages, {"marker": 7}),
    "ids that are numbers": ("get_messages", GetMessages, {"message_ids": (1, 2)}),
    "no ids": ("delete_messages", DeleteMessages, {"message_ids": ()}),
    "claims that are text": ("delete_messages", DeleteMessages, {"claim_ids": "abc"}),
    "a pop of nothing": ("pop_messages", PopMessages, {"limit": 0}),
    "a pop of a truth": ("pop_messages", PopMessages, {"limit": True}),
    "a claim that is too short": ("create_claim", CreateClaim, {"ttl": 1}),
    "a claim that is text": ("create_claim", CreateClaim, {"ttl": "60"}),
    "a claim of too many": ("create_claim", CreateClaim, {"limit": 10**6}),
    "a renewal of no length": ("renew_claim", RenewClaim, {"ttl": -1}),
    "a subscriber that is no URI": ("create_subscription", CreateSubscription, {"subscriber": "nobody"}),
    "options that are a list": ("create_subscription", CreateSubscription, {"options": [1]}),
    "a subscription without an end": ("update_subscription", UpdateSubscription, {"ttl": 10**15}),
    "a page of subscriptions without a limit": ("list_subscriptions", ListSubscriptions, {"limit": 10**9}),
    "a secret that never goes": ("rotate_secret", RotateSecret, {"grace": 10**9}),
    "another queue": ("get_messages", GetMessages, {"queue_name": QueueName("other", QUEUE, "q")}),
    "another kind": ("pop_messages", PopMessages, {"queue_name": QueueName("other", TOPIC, "q")}),
}


@pytest.mark.parametrize(("operation", "kind", "changes"), BAD_CHANGES.values(), ids=BAD_CHANGES.keys())
def test_an_invalid_change_by_a_stage_is_503_and_not_400(
    every_operation: EveryOperation,
    replaceable_hooks: ReplaceableHooks,
    operation: str,
    kind: type[Request],
    changes: dict[str, Any],
) -> None:
    def change(context: Context, request: Any) -> Any:
        return replace(request, **changes) if type(request) is kind else request

    replaceable_hooks.before = change
    result = every_operation.requests()[operation]()
    assert result.status_code == 503, result.text
    replaceable_hooks.before = lambda context, request: request
    assert every_operation.api.counts("q") == (1, 1, 2)
    assert [queue["name"] for queue in every_operation.api.get("/v2/queues").json["queues"]] == ["q"]
    assert "b" not in every_operation.api.get("/v2/queues/q").json


def test_a_valid_change_by_a_stage_takes_effect(
    every_operation: EveryOperation, replaceable_hooks: ReplaceableHooks
) -> None:
    changes: dict[type[Request], dict[str, Any]] = {
        CreateQueue: {"metadata": {"owner": "stage"}},
        UpdateQueue: {"metadata": {"only": "this"}},
        ListMessages: {"limit": 1, "include_claimed": True},
        CreateClaim: {"ttl": 200, "limit": 3},
        RenewClaim: {"ttl": 222},
        CreateSubscription: {"ttl": 999},
        PurgeQueue: {"resource_types": ("subscriptions",)},
    }
    replaceable_hooks.before = lambda context, request: replace(request, **changes.get(type(request), {}))
    api, requests = every_operation.api, every_operation.requests()
    requests["create_queue"]()
    assert api.get("/v2/queues/new").json["owner"] == "stage"
    assert requests["update_queue"]().json["only"] == "this"
    assert "b" not in api.get("/v2/queues/q").json
    assert len(requests["list_messages"]().json["messages"]) == 1
    requests["renew_claim"]()
    assert api.get(f"/v2/queues/q/claims/{every_operation.claim}").json["ttl"] == 222
    id_ = requests["create_subscription"]().json["subscription_id"]
    assert api.get(f"/v2/queues/q/subscriptions/{id_}").json["ttl"] == 999
    requests["purge_queue"]()
    assert api.counts("q") == (1, 1, 2)
    assert api.get("/v2/queues/q/subscriptions").json["subscriptions"] == []


BAD_DRAFTS: dict[str, Callable[[list[Draft]], Any]] = {
    "no JSON": lambda drafts: [replace(drafts[0], body=b"{")],
    "NaN": lambda drafts: [replace(drafts[0], body=b"NaN")],
    "text": lambda drafts: [replace(drafts[0], body="1")],
    "too deep": lambda drafts: [replace(drafts[0], body=b"[" * 200 + b"]" * 200)],
    "not UTF-8": lambda drafts: [replace(drafts[0], body=b'"\xff"')],
    "a TTL of 1": lambda drafts: [replace(drafts[0], ttl=1)],
    "a TTL that is text": lambda drafts: [replace(drafts[0], ttl="60")],
    "a TTL that is true": lambda drafts: [replace(drafts[0], ttl=True)],
    "a delay of years": lambda drafts: [replace(drafts[0], delay=10**9)],
    "too large": lambda drafts: [replace(drafts[0], body=b'"' + b"x" * 300_000 + b'"')],
    "too many": lambda drafts: drafts * 300_000,
    "other things": lambda drafts: [*drafts, "x"],
    "ids that break a header": lambda drafts: Done(["a\r\nX-Evil: 1"]),
}


@pytest.mark.parametrize("make", BAD_DRAFTS.values(), ids=BAD_DRAFTS.keys())
def test_invalid_drafts_of_a_stage_are_not_stored(
    every_operation: EveryOperation, replaceable_hooks: ReplaceableHooks, make: Callable[[list[Draft]], Any]
) -> None:
    replaceable_hooks.before = lambda context, drafts: make(drafts) if isinstance(drafts, list) else drafts
    assert every_operation.api.post("/v2/queues/q/messages", {"messages": [{"body": 1}]}).status_code == 503
    assert every_operation.api.counts("q") == (1, 1, 2)


def test_a_checksum_is_computed_from_the_stored_body(
    make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Double(Stage):
        def before_post(self, context: Context, queue: Queue, drafts: Sequence[Draft]) -> Sequence[Draft]:
            return [*drafts, *(replace(draft, body=b'"other"', checksum="forged") for draft in drafts)]

    monkeypatch.setattr(pipelines, "_load", lambda *_: Pipeline([Double()], resource=_[3]))
    staged = make_api(enable_checksum=True)
    staged.send("q", "first")
    monkeypatch.undo()
    plain = make_api(enable_checksum=True)
    plain.send("q", "first", "other")
    checksums = [
        [message["checksum"] for message in api.get("/v2/queues/q/messages?echo=true").json["messages"]]
        for api in (staged, plain)
    ]
    assert checksums[0] == checksums[1]


# -- ending ------------------------------------------------------------------------------------------------------------


def test_a_stage_may_end_an_operation(with_stages: WithStages) -> None:
    ends: list[object] = []

    class End(Stage):
        def before_create_claim(self, context: Context, request: CreateClaim) -> CreateClaim | Done[HeldClaim]:
            raise NotFound("No claims here.")

        def before_list_messages(self, context: Context, request: ListMessages) -> Done[Sequence[Message]]:
            return Done([])

        def after_list_messages(self, context: Context, request: ListMessages, result: Sequence[Message]) -> None:
            ends.append(result)

    api = with_stages(End())
    api.send("q", 1)
    assert api.bodies("q") == []
    assert ends == []
    assert api.post("/v2/queues/q/claims").status_code == 404


def test_dead_letters_of_deliveries_pass_no_stage(
    with_stages: WithStages, replaceable_hooks: ReplaceableHooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(context: Context, request: Any) -> Any:
        raise Conflict("Not today.")

    api = with_stages(replaceable_hooks.stage)
    replaceable_hooks.before = refuse

    class Parts(dict[str, Any]):
        """The arguments of a notifier, in its place."""

        def sample(self, recorder: object) -> None:
            return

    monkeypatch.setattr(app, "Notifier", Parts)
    notifier: Any = app.build_notifier(api.parts)
    raw = b'{"messages": [{"body": "given up"}]}'
    notifier["post_dead_letter"](api.project, "letters", raw, encrypt=False, trace=None)
    assert api.post("/v2/queues/letters/messages", raw=raw).status_code == 409
    replaceable_hooks.before = lambda context, request: request
    assert api.bodies("letters") == ["given up"]


def test_stages_see_plain_bodies_of_encrypted_queues(
    make_api: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, bytes]] = []

    class See(Stage):
        def before_post(self, context: Context, queue: Queue, drafts: Sequence[Draft]) -> Sequence[Draft]:
            seen.extend(("post", draft.body) for draft in drafts)
            return [replace(draft, body=b'"changed"') for draft in drafts]

        def after_list_messages(self, context: Context, request: ListMessages, result: Sequence[Message]) -> None:
            seen.extend(("list", message.body) for message in result)

        def after_create_claim(self, context: Context, request: CreateClaim, result: HeldClaim) -> None:
            seen.extend(("claim", message.body) for message in result.messages)

        def before_create_queue(self, context: Context, request: CreateQueue) -> CreateQueue:
            return replace(request, metadata={"_enable_encrypt_messages": True})

    monkeypatch.setattr(pipelines, "_load", lambda *_: Pipeline([See()], resource=_[3]))
    api = make_api(transport__message_encryption_key="a long text that is the key of this test")
    assert api.put("/v2/queues/q").status_code == 201
    (id_,) = api.send("q", "secret")
    assert api.bodies("q") == ["changed"]
    assert [message["body"] for message in api.claim("q")[1]] == ["changed"]
    assert seen == [("post", b'"secret"'), ("list", b'"changed"'), ("claim", b'"changed"')]
    known = api.parts.queues.find(QueueName(api.project, QUEUE, "q"), create=False)
    assert known is not None
    (stored,) = known.store_ref.store.messages.get(queue=known.queue, sequences=[int(id_[-12:], 16)], now=api.clock.now)
    assert b"changed" not in stored.body
    # A topic cannot be encrypted. If a stage asks for it, the client is not blamed.
    assert api.put("/v2/topics/t").status_code == 503


@pytest.mark.parametrize("path", ["messages", "subscriptions"])
def test_a_queue_created_by_a_post_passes_the_stages_of_a_creation(
    every_operation: EveryOperation, replaceable_hooks: ReplaceableHooks, path: str
) -> None:
    seen: list[tuple[str, bool]] = []

    def before(context: Context, request: Any) -> Any:
        if type(request) is not CreateQueue:
            return request
        assert context.client_id == ALICE.replace("-", "")
        return replace(request, metadata={"implied": request.implied})

    def after(context: Context, request: Any, result: Any) -> None:
        if type(request) is CreateQueue:
            seen.append((request.queue_name.name, result))

    replaceable_hooks.before, replaceable_hooks.after = before, after
    api = every_operation.api
    body = {"messages": [{"body": 1}]} if path == "messages" else {"subscriber": MAIL}
    for _ in range(2):
        assert api.post(f"/v2/queues/implied/{path}", body).status_code == 201
    assert seen == [("implied", True)]
    assert api.get("/v2/queues/implied").json["implied"] is True
    api.put("/v2/queues/explicit")
    assert api.get("/v2/queues/explicit").json["implied"] is False


@pytest.mark.parametrize("path", ["messages", "subscriptions"])
def test_a_refused_post_or_subscription_creates_nothing(
    every_operation: EveryOperation, replaceable_hooks: ReplaceableHooks, path: str
) -> None:
    def refuse(context: Context, request: Any) -> Any:
        if isinstance(request, list | CreateSubscription):
            raise Conflict("Not today.")
        return replace(request, metadata={"a": 1}) if isinstance(request, CreateQueue) else request

    replaceable_hooks.before = refuse
    body = {"messages": [{"body": 1}]} if path == "messages" else {"subscriber": MAIL}
    assert every_operation.api.post(f"/v2/queues/implied/{path}", body).status_code == 409
    assert [queue["name"] for queue in every_operation.api.get("/v2/queues").json["queues"]] == ["q"]


def test_a_pipeline_has_only_the_hooks_of_its_resource(driver: Driver) -> None:
    made = stage_of(before=lambda context, request: request)
    pipeline = Pipeline([made], resource=MESSAGES)
    assert pipeline.has(ListMessages)
    assert not pipeline.has(CreateQueue)
    assert not Pipeline([Stage()], resource=MESSAGES)


def test_the_fixture_names_all_pipelines(with_stages: WithStages) -> None:
    pipelines = with_stages(stage_of(before=lambda context, request: request)).parts.pipelines
    assert all(getattr(pipelines, f"{name}s") for name in PIPELINES)
    assert pipelines.want_caller


def test_the_subscription_of_a_connection_passes_the_stages(
    with_stages: WithStages, replaceable_hooks: ReplaceableHooks
) -> None:
    """Stages see the connection as clients do. They may change ``ttl`` and ``options``, but not the subscriber."""
    api = with_stages(replaceable_hooks.stage)
    service, queue_name = api.parts.connection_subscriptions, QueueName(api.project, QUEUE, "q")
    service.serve_as(Nodes(api.parts.management, api.clock).begin(path="", host="h", port=1).id)
    seen: list[Any] = []

    def change(context: Context, request: Any) -> Any:
        seen.append(request)
        return replace(request, ttl=999) if isinstance(request, CreateSubscription) else request

    replaceable_hooks.before = change
    id_ = service.create(Context(api.project, ALICE), queue_name, b'{"ttl": 60}', "f00d")
    assert seen[0] == CreateSubscription(queue_name, "websocket:f00d", 60, {})
    replaceable_hooks.before = lambda context, request: request
    found = api.get(f"/v2/queues/q/subscriptions/{id_}").json
    assert (found["ttl"], found["subscriber"]) == (999, "websocket:f00d")
    replaceable_hooks.before = lambda context, request: replace(request, subscriber=MAIL)
    with pytest.raises(StageFailed):
        service.create(Context(api.project, ALICE), queue_name, b"{}", "beef")
