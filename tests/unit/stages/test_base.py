# SPDX-License-Identifier: Apache-2.0
"""Stages: when hooks are called, in which order and with which arguments, and the effect of a refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from oslo_config import cfg

from tests.unit.workers import CALLER, QUEUE_NAME, Cluster
from zaqar import conf
from zaqar.context import Context
from zaqar.errors import ClientError, Conflict, Forbidden, InvalidInput, StaleQueue, StartupError
from zaqar.model import Draft, Queue
from zaqar.stages.base import Stage
from zaqar.stages.operations import MESSAGES
from zaqar.stages.published.adapters import make_stage


def check_stage(name: str, plugin: object, loaded: cfg.ConfigOpts) -> Stage:
    return make_stage("message_pipeline", name, plugin, resource=MESSAGES, conf=loaded, clock=lambda: 0.0, keywords={})


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


class Note(Stage):
    """Records its calls, and adds its name to each body."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.log = log

    def before_post(self, context: Context, queue: Queue, drafts: Sequence[Draft]) -> Sequence[Draft]:
        self.log.append(f"before {self.name} {context.client_id} {queue.name} {[d.body.decode() for d in drafts]}")
        return tuple(replace(draft, body=draft.body[:-1] + self.name.encode() + b'"') for draft in drafts)

    def after_post(self, context: Context, queue: Queue, ids: Sequence[str]) -> None:
        assert all(id_.startswith(queue.uid) for id_ in ids)
        self.log.append(f"after {self.name} {context.client_id} {queue.name} {len(ids)}")


class Refuse(Stage):
    def __init__(self, error: Exception, *, after: bool = False) -> None:
        self.error = error
        self.after = after

    def before_post(self, context: Context, queue: Queue, drafts: Sequence[Draft]) -> Sequence[Draft]:
        if not self.after:
            raise self.error
        return drafts

    def after_post(self, context: Context, queue: Queue, ids: Sequence[str]) -> None:
        if self.after:
            raise self.error


class Run(Stage):
    """Runs a function between the stages and the store."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)

    def before_post(self, context: Context, queue: Queue, drafts: Sequence[Draft]) -> Sequence[Draft]:
        if self.steps:
            self.steps.pop(0)()
        return drafts


def test_stages_run_in_order(cluster: Cluster) -> None:
    cluster.worker().post("")
    log: list[str] = []
    worker = cluster.worker(Note("1", log), Note("2", log))
    assert len(worker.post("a", "b")) == 2
    assert log == [
        """before 1 producer orders ['"a"', '"b"']""",
        """before 2 producer orders ['"a1"', '"b1"']""",
        "after 1 producer orders 2",
        "after 2 producer orders 2",
    ]
    assert worker.bodies() == ["", "a12", "b12"]


def test_a_stage_without_hooks_changes_nothing(cluster: Cluster) -> None:
    worker = cluster.worker(Stage(), Stage())
    worker.post("a")
    assert worker.bodies() == ["a"]


def test_a_stage_may_drop_and_add_drafts(cluster: Cluster) -> None:
    class Double(Stage):
        def before_post(self, context: Context, queue: Queue, drafts: Sequence[Draft]) -> Sequence[Draft]:
            return [*drafts[1:], *drafts]

    worker = cluster.worker(Double())
    assert len(worker.post("a", "b", "c")) == 5
    assert worker.bodies() == ["b", "c", "a", "b", "c"]


@pytest.mark.parametrize("error", [Forbidden("no"), InvalidInput("messages[0].body", "no"), Conflict("no")], ids=repr)
@pytest.mark.parametrize("exists", [True, False])
def test_a_refusal_stores_nothing_and_makes_no_queue(cluster: Cluster, error: ClientError, exists: bool) -> None:
    if exists:
        cluster.worker().post("before")
    log: list[str] = []
    worker = cluster.worker(Note("1", log), Refuse(error), Note("3", log))
    cluster.forget_counts()
    with pytest.raises(type(error)) as caught:
        worker.post("a")
    assert caught.value is error
    assert not any("3" in line or "after" in line for line in log)
    assert "messages.post" not in cluster.fences.calls
    assert (cluster.row() is not None) == exists
    assert worker.bodies() == (["before"] if exists else [])


def test_refused_input_reaches_no_stage(cluster: Cluster) -> None:
    log: list[str] = []
    worker = cluster.worker(Note("1", log))
    for raw in (b"{", b'{"messages":[]}', b'{"messages":[{"body":1,"ttl":1}]}'):
        with pytest.raises(InvalidInput):
            worker.messages.post(CALLER, QUEUE_NAME, raw)
    assert log == []


def test_a_retried_post_passes_the_stages_again_with_the_new_queue(cluster: Cluster) -> None:
    """The first drafts were made for a deleted queue. Only the last ones are stored."""
    other = cluster.worker()
    other.post("old")
    generations: list[int] = []

    class See(Stage):
        def before_post(self, context: Context, queue: Queue, drafts: Sequence[Draft]) -> Sequence[Draft]:
            generations.append(queue.generation)
            return drafts

    log: list[str] = []
    patch = b'[{"op":"add","path":"/metadata/a","value":1}]'
    worker = cluster.worker(See(), Run(lambda: other.queues.patch(QUEUE_NAME, patch)), Note("n", log))
    assert len(worker.post("new")) == 1
    assert generations == [1, 2]
    assert [line.split()[0] for line in log] == ["before", "before", "after"]
    assert worker.bodies() == ["old", "newn"]


def error_of_a_stage_that_posts(uid: str) -> Exception:
    """Make the error of a stage that uses a store itself."""
    return StaleQueue(uid)


@pytest.mark.parametrize("make", [error_of_a_stage_that_posts, lambda uid: InvalidInput("x", "no"), RuntimeError])
def test_an_error_of_an_after_hook_neither_repeats_nor_fails_a_post(
    cluster: Cluster, make: Callable[[str], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Stored messages are acknowledged even then, because a client would post them again."""
    cluster.worker().post("a")
    row = cluster.row()
    assert row is not None
    for error in (make(row.uid), make("f" * 24)):
        cluster.forget_counts()
        caplog.clear()
        assert len(cluster.worker(Refuse(error, after=True)).post("b")) == 1
        assert cluster.fences.calls["messages.post"] == 1
        (record,) = caplog.records
        assert record.message == f"A stage failed after the operation: {__name__}.Refuse.after_post"
        assert record.exc_info is not None
        assert record.exc_info[1] is error
    assert cluster.worker().bodies() == ["a", "b", "b"]


# -- plug-ins --------------------------------------------------------------------------------------------------------


def test_a_subclass_is_a_stage() -> None:
    class Mine(Stage):
        pass

    loaded = conf.load([], default_config_files=[])
    assert type(check_stage("mine", Mine, loaded)) is Mine
    assert type(check_stage("base", Stage, loaded)) is Stage


def test_a_stage_reads_the_configuration_once_at_start() -> None:
    class Mine(Stage):
        @classmethod
        def from_conf(cls, conf: cfg.ConfigOpts) -> Mine:
            made = cls()
            made.retention = conf.notification.delivery_retention
            return made

        retention = 0

    made = check_stage("mine", Mine, conf.load([], default_config_files=[]))
    assert isinstance(made, Mine)
    assert made.retention == 259_200


@pytest.mark.parametrize("plugin", [object, int, "Stage", None, Stage(), lambda: Stage()], ids=range(6))
def test_an_object_that_is_no_stage_stops_the_start(plugin: object) -> None:
    with pytest.raises(
        StartupError,
        match=r"^\[storage\] message_pipeline: 'mine' is neither a subclass of zaqar\.stages\.base\.Stage, nor .* "
        r"the methods bulk_delete, bulk_get, delete, get, list, pop, post\.$",
    ):
        check_stage("mine", plugin, conf.load([], default_config_files=[]))
