# SPDX-License-Identifier: Apache-2.0
"""Published plug-ins in each pipeline: the calls that they get, their changes, and the use of their results."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import plugins
from tests.api.client import ALICE, JSON_PATCH, Api
from tests.api.marks import on_one_store
from tests.conformance.drivers import Driver
from zaqar.context import Context
from zaqar.errors import StartupError
from zaqar.model import QueueName

SOURCE = (Path(plugins.__file__).parent / "published.py").read_text()
CLASSES = (
    *("Recorder", "TakesKeywordsOnly", "TakesNothing", "Undeletable", "Mutator", "SubscriptionMutator", "Ender"),
    *("QueueEnder", "ClaimEnder", "SubscriptionEnder", "Raiser", "Exits", "FailsAtLoad", "make_recorder"),
    *("Reader", "Hostile"),
)
PIPELINES = ("queue", "topic", "message", "claim", "subscription")
MAIL = "mailto:ann@example.net"

Stages = Callable[..., Api]


@pytest.fixture
def with_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_api: Callable[..., Api]) -> Stages:
    """Makes an application with plug-ins in its pipelines: ``with_stages(queue=["Recorder"])``."""
    points = {"zaqar.storage.stages": {f"acme.{name}": f"acme_published:{name}" for name in CLASSES}}
    folder = plugins.install(tmp_path / "site", points, {"acme_published.py": SOURCE})
    plugins.put_on_path(folder, monkeypatch)

    def make(**pipelines: list[str]) -> Api:
        options = {
            f"storage__{name}_pipeline": [f"acme.{each}" for each in stages] for name, stages in pipelines.items()
        }
        return make_api(**options)

    return make


def calls_of() -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """The calls of all recorders since this function was called last."""
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = sys.modules["acme_published"].CALLS
    seen = [*calls]
    calls.clear()
    return seen


# -- how they are called ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["queue", "topic"])
def test_queue_stages_are_called_with_the_documented_arguments(with_stages: Stages, kind: str) -> None:
    api = with_stages(**{kind: ["Recorder"]})
    project, path = api.project, f"/v2/{kind}s"
    assert api.put(f"{path}/q", {"color": "red"}).status_code == 201
    assert api.get(f"{path}/q").json["color"] == "red"
    patch = [{"op": "add", "path": "/metadata/size", "value": 1}]
    assert api.patch(f"{path}/q", patch, headers={"Content-Type": JSON_PATCH}).status_code == 200
    assert api.get(f"{path}/q/stats").status_code == 200
    assert [queue["name"] for queue in api.get(f"{path}?limit=3&detailed=true&marker=a").json[f"{kind}s"]] == ["q"]
    assert api.get(f"{path}?name=%5Ex&color=red").json[f"{kind}s"] == []
    assert api.post(f"{path}/implied/messages", {"messages": [{"body": 1}]}).status_code == 201
    assert api.post(f"{path}/implied/messages", {"messages": [{"body": 1}]}).status_code == 201
    assert api.post(f"{path}/asked/subscriptions", {"subscriber": MAIL}).status_code == 201
    assert api.delete(f"{path}/q").status_code == 204
    assert calls_of() == [
        ("create", ("q",), {"metadata": {"color": "red"}, "project": project}),
        ("get", ("q",), {"project": project}),
        ("set_metadata", ("q", {"color": "red", "size": 1}, project), {}),
        ("stats", ("q",), {"project": project}),
        (
            "list",
            (),
            {"project": project, "kfilter": {}, "marker": "a", "limit": 3, "detailed": True, "name": None},
        ),
        (
            "list",
            (),
            {
                "project": project,
                "kfilter": {"color": "red"},
                "marker": None,
                "limit": 10,
                "detailed": False,
                "name": "^x",
            },
        ),
        ("create", ("implied",), {"project": project}),
        ("create", ("asked",), {"project": project}),
        ("delete", ("q",), {"project": project}),
    ]
    # The other kind has a pipeline of its own.
    other = "topic" if kind == "queue" else "queue"
    api.put(f"/v2/{other}s/q")
    assert calls_of() == []


def test_message_stages_are_called_with_the_documented_arguments(with_stages: Stages) -> None:
    api = with_stages(message=["Recorder"])
    project, path = api.project, "/v2/queues/q/messages"
    # The stages run once more for a post that finds its queue missing or changed.
    api.put("/v2/queues/q")
    messages = [{"body": {"n": 1}, "ttl": 90}, {"body": "late", "ttl": 91, "delay": 5}]
    first, second = (href.rpartition("/")[2] for href in api.post(path, {"messages": messages}).json["resources"])
    assert api.get(f"{path}?limit=3&echo=true&marker={first}").status_code == 200
    assert api.get(f"{path}/{first}").json["body"] == {"n": 1}
    assert api.get(f"{path}?ids={first},{second}").status_code == 200
    assert api.delete(f"{path}/{first}").status_code == 204
    assert api.delete(f"{path}?ids={first},{second}").status_code == 204
    assert api.delete(f"{path}?pop=2").status_code == 200
    client = uuid.UUID(ALICE)
    (post, *others) = calls_of()
    assert post == ("post", ("q",), {"messages": messages, "project": project, "client_uuid": client})
    assert type(post[2]["client_uuid"]) is uuid.UUID
    listing = {"marker": first, "limit": 3, "echo": True, "include_claimed": False, "include_delayed": False}
    assert others == [
        ("list", ("q",), {"project": project, "client_uuid": client, **listing}),
        ("get", ("q", first), {"project": project}),
        ("bulk_get", ("q",), {"message_ids": [first, second], "project": project}),
        ("delete", ("q",), {"message_id": first, "project": project, "claim": None}),
        ("bulk_delete", ("q",), {"message_ids": [first, second], "project": project, "claim_ids": None}),
        ("pop", ("q",), {"project": project, "limit": 2}),
    ]


def test_claim_stages_are_called_with_the_documented_arguments(with_stages: Stages) -> None:
    api = with_stages(claim=["Recorder"])
    api.send("q", 1)
    claim_id, held = api.claim("q", limit=4, ttl=100, grace=70)
    assert [message["body"] for message in held] == [1]
    path = f"/v2/queues/q/claims/{claim_id}"
    assert api.get(path).json["ttl"] == 100
    assert api.patch(path, {"ttl": 200}).status_code == 204
    assert api.get(path).json["ttl"] == 200
    assert api.delete(path).status_code == 204
    named = {"claim_id": claim_id, "project": api.project}
    assert calls_of() == [
        ("create", ("q",), {"metadata": {"ttl": 100, "grace": 70}, "project": api.project, "limit": 4}),
        ("get", ("q",), named),
        ("update", ("q",), {**named, "metadata": {"ttl": 200}}),
        ("get", ("q",), named),
        ("delete", ("q",), named),
    ]


def test_subscription_stages_are_called_with_the_documented_arguments(with_stages: Stages) -> None:
    api = with_stages(subscription=["Recorder"])
    project, path = api.project, "/v2/queues/q/subscriptions"
    body = {"subscriber": MAIL, "ttl": 600, "options": {"subject": "news"}}
    id_ = api.post(path, body).json["subscription_id"]
    assert api.get(f"{path}/{id_}").status_code == 200
    assert len(api.get(f"{path}?limit=5").json["subscriptions"]) == 1
    assert api.patch(f"{path}/{id_}", {"ttl": 700}).status_code == 204
    assert api.put(f"{path}/{id_}/confirm", {"confirmed": True}, headers={"X-Roles": "admin"}).status_code == 204
    assert api.delete(f"{path}/{id_}").status_code == 204
    assert calls_of() == [
        ("create", ("q", MAIL, 600, {"subject": "news"}), {"project": project}),
        ("get", ("q", id_), {"project": project}),
        ("list", ("q",), {"project": project, "marker": None, "limit": 5}),
        ("update", ("q", id_), {"project": project, "ttl": 700}),
        ("confirm", ("q", id_), {"project": project, "confirmed": True}),
        ("delete", ("q", id_), {"project": project}),
    ]


@on_one_store
@pytest.mark.parametrize(
    ("stage", "takes_keywords"), [("Recorder", True), ("TakesKeywordsOnly", True), ("TakesNothing", False)]
)
def test_message_stages_are_instantiated_with_keywords(with_stages: Stages, stage: str, takes_keywords: bool) -> None:
    api = with_stages(message=[stage])
    ((args, keywords),) = sys.modules["acme_published"].MADE
    assert args == ()
    assert set(keywords) == (
        {"subscription_controller", "queue_controller", "max_notifier_workers", "require_confirmation"}
        if takes_keywords
        else set()
    )
    assert len(api.send("q", 1)) == 1
    assert api.bodies("q") == [1]


@on_one_store
@pytest.mark.parametrize("pipeline", ["queue", "topic", "claim", "subscription"])
def test_only_message_stages_are_instantiated_with_keywords(with_stages: Stages, pipeline: str) -> None:
    with_stages(**{pipeline: ["Recorder", "make_recorder"]})
    assert sys.modules["acme_published"].MADE == [((), {}), ((), {})]


@pytest.mark.parametrize("kind", ["queue", "topic"])
def test_message_stages_can_read_the_queue_and_its_subscriptions(with_stages: Stages, kind: str) -> None:
    # The stages of the other pipelines are not called.
    api = with_stages(message=["Reader"], **{kind: ["QueueEnder"], "subscription": ["SubscriptionEnder"]})
    path = f"/v2/{kind}s/q"
    plain = api.parts.queues
    queue_name = QueueName(api.project, kind, "q")
    type(plain).__mro__[1].create(plain, queue_name, b'{"owner": "ann"}')
    assert api.post(f"{path}/messages", {"messages": [{"body": 1}]}).status_code == 201
    subscriptions = api.parts.subscriptions
    type(subscriptions).__mro__[1].create(
        subscriptions, Context(api.project, ""), queue_name, json.dumps({"subscriber": MAIL}).encode()
    )
    assert api.post(f"{path}/messages", {"messages": [{"body": 2}]}).status_code == 201
    seen = {"owner": "ann", "exists": True}
    bodies = [message["body"] for message in api.get(f"{path}/messages?echo=true").json["messages"]]
    assert bodies == [{**seen, "subscribers": []}, {**seen, "subscribers": [MAIL]}]


# -- changes ---------------------------------------------------------------------------------------------------------


def test_messages_that_a_stage_changes_in_place_are_stored_changed(with_stages: Stages) -> None:
    api = with_stages(message=["Mutator"])
    spelled = '{"messages": [{"body": {"a": 1.50}, "ttl": 60}, {"body": "drop me"}, {"body": [1, 2.0]}]}'
    result = api.post("/v2/queues/q/messages", raw=spelled.encode())
    assert len(result.json["resources"]) == 2
    text = api.get("/v2/queues/q/messages?echo=true").text
    assert f'"body":{{"a":1.5,"seen_by":"{ALICE}"}}' in text
    # A body that the stage did not change is stored as the bytes that came in.
    assert '"body":[1, 2.0]' in text
    assert api.post("/v2/queues/q/messages", {"messages": [{"body": "hurry", "ttl": 60}]}).status_code == 201
    assert api.get("/v2/queues/q/messages?echo=true").json["messages"][-1]["ttl"] == 77


def test_a_post_whose_messages_a_stage_removes_creates_nothing(with_stages: Stages) -> None:
    api = with_stages(message=["Mutator"])
    result = api.post("/v2/queues/q/messages", {"messages": [{"body": "drop me"}]})
    assert (result.status_code, result.json) == (201, {"resources": []})
    assert api.get("/v2/queues").json["queues"] == []


def test_metadata_that_a_stage_changes_in_place_are_stored_changed(with_stages: Stages) -> None:
    api = with_stages(queue=["Mutator"], claim=["Mutator"], subscription=["SubscriptionMutator"])
    assert api.put("/v2/queues/q", {"a": 1}).status_code == 201
    assert api.patch_queue("q", {"op": "add", "path": "/metadata/b", "value": 2}).json["changed"] is True
    stored = api.get("/v2/queues/q").json
    assert {name: stored[name] for name in ("a", "b", "owner", "changed")} == {
        "a": 1,
        "b": 2,
        "owner": 99,
        "changed": True,
    }
    api.send("q", 1)
    claim_id, _ = api.claim("q", ttl=100)
    assert api.get(f"/v2/queues/q/claims/{claim_id}").json["ttl"] == 99
    assert api.patch(f"/v2/queues/q/claims/{claim_id}", {"ttl": 200}).status_code == 204
    assert api.get(f"/v2/queues/q/claims/{claim_id}").json["ttl"] == 111
    api.post("/v2/queues/q/subscriptions", {"subscriber": MAIL, "options": {"from": "a@b.example"}})
    (subscription,) = api.get("/v2/queues/q/subscriptions").json["subscriptions"]
    assert subscription["options"] == {"from": "a@b.example", "subject": "added"}


# -- answers ---------------------------------------------------------------------------------------------------------


@on_one_store
def test_the_documented_example_works(with_stages: Stages, capsys: pytest.CaptureFixture[str]) -> None:
    api = with_stages(queue=["Undeletable"])
    for name in ("ledger", "other"):
        assert api.put(f"/v2/queues/{name}").status_code == 201
    assert capsys.readouterr().out.splitlines() == [f"{api.project} creates {name}" for name in ("ledger", "other")]
    for name in ("ledger", "other"):
        assert api.delete(f"/v2/queues/{name}").status_code == 204
    assert [queue["name"] for queue in api.get("/v2/queues").json["queues"]] == ["ledger"]


@on_one_store
def test_a_message_stage_can_answer_the_request(with_stages: Stages) -> None:
    # The stage after it is not called.
    api = with_stages(message=["Ender", "Raiser"])
    path = "/v2/queues/q/messages"
    result = api.post(path, {"messages": [{"body": 1}, {"body": 2}]})
    assert result.json == {"resources": [f"{path}/own-0", f"{path}/own-1"]}
    assert result.headers["Location"] == f"{path}?ids=own-0,own-1"
    own = {"ttl": 60, "age": 5, "body": {"own": True}}
    assert api.get(f"{path}/x").json == {"id": "x", "href": f"{path}/x", **own}
    assert [message["id"] for message in api.get(f"{path}?ids=x,y").json["messages"]] == ["x", "y"]
    listed = api.get(f"{path}?limit=3").json
    assert [message["body"] for message in listed["messages"]] == [0, 1, 2]
    assert "marker=2" in listed["links"][0]["href"]
    (popped,) = api.delete(f"{path}?pop=1").json["messages"]
    assert popped == {"id": "popped", "ttl": 60, "age": 0, "body": 1, "claim_id": None, "claim_count": 3}
    assert api.delete(f"{path}/x").status_code == 204
    assert api.delete(f"{path}?ids=x").status_code == 204
    assert api.get("/v2/queues").json["queues"] == []


@on_one_store
def test_a_queue_stage_can_answer_the_request(with_stages: Stages) -> None:
    api = with_stages(queue=["QueueEnder"])
    assert api.put("/v2/queues/new").status_code == 201
    assert api.put("/v2/queues/old").status_code == 204
    assert api.get("/v2/queues/q").json == {"own": "q"}
    stats = api.get("/v2/queues/q/stats").json["messages"]
    assert (stats["free"], stats["claimed"], stats["total"]) == (2, 1, 3)
    assert stats["oldest"]["age"] == 9
    listed = api.get("/v2/queues?limit=2&detailed=true").json
    assert [(queue["name"], queue["metadata"]["n"]) for queue in listed["queues"]] == [("own0", 0), ("own1", 1)]
    assert "marker=own1" in listed["links"][0]["href"]
    assert api.delete("/v2/queues/q").status_code == 204
    # None of these resources exists, and a post cannot create the claim or message.
    assert api.patch_queue("new", {"op": "add", "path": "/metadata/b", "value": 2}).status_code == 404
    assert api.post("/v2/queues/new/messages", {"messages": [{"body": 1}]}).status_code == 404
    assert api.post("/v2/queues/new/subscriptions", {"subscriber": MAIL}).status_code == 404


@on_one_store
def test_a_claim_stage_can_answer_the_request(with_stages: Stages) -> None:
    api = with_stages(claim=["ClaimEnder"])
    result = api.post("/v2/queues/q/claims", {"ttl": 90, "grace": 60})
    assert (result.status_code, result.headers["Location"]) == (201, "/v2/queues/q/claims/claim-1")
    (message,) = result.json["messages"]
    assert message["href"] == "/v2/queues/q/messages/m?claim_id=claim-1"
    assert (message["body"], message["ttl"]) == ("claimed", 90)
    held = api.get("/v2/queues/q/claims/any").json
    assert held == {"age": 7, "ttl": 120, "href": "/v2/queues/q/claims/any", "messages": []}
    assert api.patch("/v2/queues/q/claims/any", {"ttl": 90}).status_code == 204
    assert api.delete("/v2/queues/q/claims/any").status_code == 204


@on_one_store
def test_a_subscription_stage_can_answer_the_request(with_stages: Stages) -> None:
    api = with_stages(subscription=["SubscriptionEnder"])
    path = "/v2/queues/q/subscriptions"
    assert api.post(path, {"subscriber": MAIL}).json == {"subscription_id": "sub-1"}
    assert api.get(f"{path}/x").json["id"] == "x"
    assert [each["id"] for each in api.get(path).json["subscriptions"]] == ["a", "b"]
    assert api.patch(f"{path}/x", {"ttl": 90}).status_code == 204
    assert api.put(f"{path}/x/confirm", {"confirmed": True}, headers={"X-Roles": "admin"}).status_code == 204
    assert api.delete(f"{path}/x").status_code == 204
    assert api.get("/v2/queues").json["queues"] == []


# -- errors ----------------------------------------------------------------------------------------------------------


def requests_of(api: Api) -> dict[str, Callable[[], Any]]:
    """One request for each hook, by the pipeline that it passes."""
    messages, claims, subscriptions = (f"/v2/queues/q/{name}" for name in ("messages", "claims", "subscriptions"))
    admin = {"X-Roles": "admin"}
    patch: dict[str, Any] = {"op": "add", "path": "/metadata/b", "value": 2}
    return {
        "queue create": lambda: api.put("/v2/queues/new"),
        "queue get": lambda: api.get("/v2/queues/q"),
        "queue set_metadata": lambda: api.patch_queue("q", patch),
        "queue delete": lambda: api.delete("/v2/queues/q"),
        "queue stats": lambda: api.get("/v2/queues/q/stats"),
        "queue list": lambda: api.get("/v2/queues"),
        "queue implied": lambda: api.post("/v2/queues/new/messages", {"messages": [{"body": 1}]}),
        "topic create": lambda: api.put("/v2/topics/new"),
        "message post": lambda: api.post(messages, {"messages": [{"body": 1}]}),
        "message list": lambda: api.get(messages),
        "message get": lambda: api.get(f"{messages}/x"),
        "message bulk_get": lambda: api.get(f"{messages}?ids=x"),
        "message delete": lambda: api.delete(f"{messages}/x"),
        "message bulk_delete": lambda: api.delete(f"{messages}?ids=x"),
        "message pop": lambda: api.delete(f"{messages}?pop=1"),
        "claim create": lambda: api.post(claims),
        "claim get": lambda: api.get(f"{claims}/x"),
        "claim update": lambda: api.patch(f"{claims}/x", {"ttl": 60}),
        "claim delete": lambda: api.delete(f"{claims}/x"),
        "subscription create": lambda: api.post(subscriptions, {"subscriber": MAIL}),
        "subscription get": lambda: api.get(f"{subscriptions}/x"),
        "subscription list": lambda: api.get(subscriptions),
        "subscription update": lambda: api.patch(f"{subscriptions}/x", {"ttl": 60}),
        "subscription delete": lambda: api.delete(f"{subscriptions}/x"),
        "subscription confirm": lambda: api.put(f"{subscriptions}/x/confirm", {"confirmed": True}, headers=admin),
    }


@on_one_store
@pytest.mark.parametrize("stage", ["Raiser", "Exits"])
def test_any_exception_of_a_stage_is_503_and_changes_nothing(
    driver: Driver,
    make_api: Callable[..., Api],
    with_stages: Stages,
    caplog: pytest.LogCaptureFixture,
    stage: str,
) -> None:
    api = with_stages(**{name: [stage] for name in PIPELINES})
    plain = make_api()
    plain.project = api.project
    if not driver.shared:
        # Workers share the same object of a store that cannot be opened twice.
        plain.parts.queues._management = api.parts.management
        plain.parts.queues._placement = plain.parts.queues._cache._placement = api.parts.placement
    plain.send("q", 1)
    for name, send in requests_of(api).items():
        caplog.clear()
        result = send()
        assert (result.status_code, result.headers["Retry-After"]) == (503, "1"), name
        assert result.json == {
            "title": "Service unavailable",
            "description": "The request cannot be served at the moment. Please try again.",
        }
        (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
        assert record.message.startswith(f"A stage failed: the published plug-in 'acme.{stage}'.before_"), name
        assert record.exc_info, name
    assert [queue["name"] for queue in plain.get("/v2/queues").json["queues"]] == ["q"]
    assert plain.bodies("q") == [1]


def endless() -> Iterator[Any]:
    while True:
        yield {"id": "x", "name": "x", "body": 1}


def deep() -> list[Any]:
    nested: list[Any] = []
    for _ in range(5_000):
        nested = [nested]
    return nested


HOSTILE: dict[str, Callable[[], Any]] = {
    "an object": object,
    "text": lambda: "x" * 100,
    "a number": lambda: 10**400,
    "an endless iterator": endless,
    "an endless iterator of endless ones": lambda: (endless() for _ in endless()),
    "a list of half a surrogate pair": lambda: [{"id": "\ud800", "name": "\ud800", "body": "\ud800"}],
    "a dict with NaN": lambda: {"id": "x", "body": float("nan"), "messages": {"free": float("nan")}},
    "a dict with a large number": lambda: {"id": "x", "body": 2**70, "messages": {"free": 2**70}},
    "a dict of objects": lambda: {object(): object()},
    "a dict that is old": lambda: {
        "id": "x",
        "body": 1,
        "age": 2**52,
        "subscriber": MAIL,
        "messages": {"oldest": {"age": 2**52}, "newest": {"age": 2**52}},
    },
    "a deep list": deep,
    "a pair": lambda: ("a\r\nX-Evil: 1", endless()),
    "three": lambda: (1, 2, 3),
    "a class": lambda: dict,
}


@on_one_store
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_result_of_a_stage_breaks_the_service(with_stages: Stages, make: Callable[[], Any]) -> None:
    """The answer is a sensible one or 503. It is never another 5xx, and no worker hangs."""
    api = with_stages(**{name: ["Hostile"] for name in PIPELINES})
    plugin: Any = sys.modules["acme_published"].Hostile
    plugin.answer = staticmethod(lambda: None)
    api.send("q", 1)
    plugin.answer = staticmethod(make)
    for name, send in requests_of(api).items():
        result = send()
        assert result.status_code in (200, 201, 204, 404, 409, 503), (name, result.text)
        assert "X-Evil" not in result.headers, name
        if result.text:
            json.loads(result.text)
    plugin.answer = staticmethod(lambda: None)
    assert api.bodies("q") == [1]


@on_one_store
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_stage_that_cannot_be_loaded_stops_the_start(with_stages: Stages, pipeline: str) -> None:
    with pytest.raises(
        StartupError,
        match=rf"^\[storage\] {pipeline}_pipeline: 'acme\.FailsAtLoad' cannot be made: RuntimeError: no licence\.$",
    ):
        with_stages(**{pipeline: ["FailsAtLoad"]})
    with pytest.raises(
        StartupError,
        match=rf"^\[storage\] {pipeline}_pipeline: there is no stage 'acme\.absent'; installed: .*acme\.Ender",
    ):
        with_stages(**{pipeline: ["absent"]})
