# SPDX-License-Identifier: Apache-2.0
"""A pipeline: the order of its stages, the requests that they pass on, and which stages it accepts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from zaqar import conf
from zaqar.context import Context, caller_in, current
from zaqar.errors import StageFailed, StartupError
from zaqar.model import QUEUE, QueueName
from zaqar.stages.base import Done, Stage
from zaqar.stages.operations import CLAIMS, MESSAGES, QUEUES, CreateClaim, CreateQueue, DeleteQueue, GetQueue
from zaqar.stages.pipeline import Changed, Pipeline
from zaqar.stages.published.adapters import make_stage

QUEUE_NAME = QueueName("shop", QUEUE, "orders")
CALLER = Context("shop", "producer")


class Sign(Stage):
    """Adds its name to the metadata, and records its ``after_`` calls."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    def before_create_queue(self, context: Context, request: CreateQueue) -> CreateQueue | Done[bool]:
        if self.name == "end":
            return Done(False)
        return replace(request, metadata={**request.metadata, self.name: len(request.metadata)})

    def after_create_queue(self, context: Context, request: CreateQueue, result: bool) -> None:
        self.log.append(f"{self.name} {list(request.metadata)} {result}")


def run(*names: str) -> tuple[bool, list[Changed[CreateQueue]], list[str]]:
    log: list[str] = []
    served: list[Changed[CreateQueue]] = []

    def act(wanted: Changed[CreateQueue]) -> bool:
        served.append(wanted)
        return True

    pipeline = Pipeline([Sign(name, log) for name in names], resource=QUEUES)
    return pipeline.run(CALLER, CreateQueue(QUEUE_NAME, {}), act), served, log


def test_each_stage_gets_the_request_of_the_previous_stage() -> None:
    result, ((request, by_stages),), log = run("one", "two")
    assert result is True
    assert by_stages
    assert request.metadata == {"one": 0, "two": 1}
    assert log == ["one ['one', 'two'] True", "two ['one', 'two'] True"]


def test_done_skips_later_stages_and_the_store() -> None:
    assert run("one", "end", "two") == (False, [], [])


def test_an_operation_without_hooks_runs_directly() -> None:
    pipeline = Pipeline([Sign("one", [])], resource=QUEUES)
    assert not pipeline.has(DeleteQueue)
    request = GetQueue(QUEUE_NAME)
    wanted = pipeline.run(CALLER, request, lambda wanted: wanted)
    assert wanted == Changed(request, by_stages=False)


def test_a_change_in_place_is_detected() -> None:
    class InPlace(Stage):
        def before_create_queue(self, context: Context, request: CreateQueue) -> CreateQueue:
            metadata: Any = request.metadata
            metadata["a"] = True
            return request

    pipeline = Pipeline([InPlace()], resource=QUEUES)
    # 1 and True are equal in Python, but different JSON.
    for metadata, changed in (({"a": 1}, True), ({"a": True}, False), ({}, True)):
        wanted = pipeline.run_before(CALLER, CreateQueue(QUEUE_NAME, metadata))
        assert isinstance(wanted, Changed)
        assert wanted.by_stages is changed


def test_another_address_is_refused() -> None:
    class Redirect(Stage):
        def before_get_queue(self, context: Context, request: GetQueue) -> GetQueue:
            return GetQueue(QUEUE_NAME._replace(project="other"))

    with pytest.raises(StageFailed):
        Pipeline([Redirect()], resource=QUEUES).run_before(CALLER, GetQueue(QUEUE_NAME))


# -- which stages a pipeline takes -------------------------------------------------------------------------------------


class OfClaims(Stage):
    def before_create_claim(self, context: Context, request: CreateClaim) -> CreateClaim:
        return request


class OfBoth(OfClaims):
    def after_post(self, context: Context, queue: object, ids: object) -> None:
        return


class NoStage(Stage):
    @classmethod
    def from_conf(cls, conf: Any) -> Any:
        return object()


def make(plugin: object, resource: str) -> Stage:
    loaded = conf.load([], default_config_files=[])
    return make_stage(
        "x_pipeline", "acme", plugin, resource=resource, conf=loaded, clock=lambda: 0.0, keywords={"a": 1}
    )


@pytest.mark.parametrize(
    ("plugin", "resource"), [(OfClaims, CLAIMS), (OfBoth, CLAIMS), (OfBoth, MESSAGES), (Stage, QUEUES)]
)
def test_a_stage_with_hooks_of_the_resource_or_without_hooks_is_accepted(plugin: type[Stage], resource: str) -> None:
    assert type(make(plugin, resource)) is plugin


@pytest.mark.parametrize(
    ("plugin", "resource", "words"),
    [
        (OfClaims, QUEUES, "has hooks, but none for queues."),
        (OfBoth, QUEUES, "has hooks, but none for queues."),
        (NoStage, QUEUES, "has a from_conf() that does not return a stage."),
        (object, QUEUES, "nor does it make an object with one of the methods create, delete, get,"),
        ("text", QUEUES, "nor does it make an object"),
    ],
)
def test_a_stage_without_hooks_of_the_resource_stops_the_start(plugin: object, resource: str, words: str) -> None:
    with pytest.raises(StartupError) as caught:
        make(plugin, resource)
    assert str(caught.value).startswith("[storage] x_pipeline: 'acme' ")
    assert words in str(caught.value)


# -- who asks ----------------------------------------------------------------------------------------------------------


def test_the_current_caller_is_used_only_in_its_own_project() -> None:
    token = current.set(CALLER)
    try:
        assert caller_in("shop") is CALLER
        assert caller_in("other") == Context("other", "")
    finally:
        current.reset(token)
    assert caller_in("shop") == Context("shop", "")
