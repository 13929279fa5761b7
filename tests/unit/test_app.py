# SPDX-License-Identifier: Apache-2.0
"""Building the service: the parts, and the configurations that stop the start."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg
from stevedore import _cache as stevedore_cache
from stevedore.extension import ExtensionManager

from tests.clock import FakeClock
from tests.unit.workers import CALLER, QUEUE_NAME, Cluster
from zaqar import app, conf
from zaqar.errors import StartupError
from zaqar.storage.memory import MemoryManagementStore, MemoryMessageStore

POST = b'{"messages":[{"body":"a"}]}'


def configured(**options: Any) -> cfg.ConfigOpts:
    """A configuration without files; ``group__option`` sets an option of a group."""
    configuration = conf.load([], default_config_files=[])
    for name, value in options.items():
        group, _, option = name.rpartition("__")
        configuration.set_override(option, value, group or None)
    return configuration


def build(**options: Any) -> app.Parts:
    return app.build(
        configured(**options), clock=FakeClock(), management=MemoryManagementStore(), messages=MemoryMessageStore()
    )


def test_build_connects_the_parts() -> None:
    clock, management, store = FakeClock(), MemoryManagementStore(), MemoryMessageStore()
    parts = app.build(configured(transport__default_message_ttl=77), clock=clock, management=management, messages=store)
    assert parts.limits.default_message_ttl == 77
    (id_,) = parts.messages.post(CALLER, QUEUE_NAME, POST)
    page = parts.messages.get(QUEUE_NAME, id_)
    assert (page.now, page.messages[0].ttl) == (clock.now, 77)
    assert len(parts.claims.prepare(QUEUE_NAME, b"", limit=1).answer_now().messages) == 1
    assert parts.queues.stats(QUEUE_NAME)[0].claimed == 1
    assert parts.health.report()["message_volume"]["claimed"] == 1
    assert management.queue_records.count(project="shop", kind="queue") == 1
    assert (parts.management, list(parts.stores())) == (management, [store])


def test_a_store_that_is_passed_in_is_used_instead_of_the_configured_one() -> None:
    management, store = MemoryManagementStore(), MemoryMessageStore()
    options = configured(drivers__management_store="none such", drivers__message_store="none such")
    parts = app.build(options, clock=FakeClock(), management=management, messages=store)
    parts.messages.post(CALLER, QUEUE_NAME, POST)
    assert (parts.management, list(parts.stores())) == (management, [store])
    assert management.queue_records.count(project=QUEUE_NAME.project, kind=QUEUE_NAME.kind) == 1
    assert store.volume(now=parts.clock()).total == 1


def test_two_builds_share_nothing() -> None:
    one, two = build(), build()
    one.messages.post(CALLER, QUEUE_NAME, POST)
    assert two.queues.stats(QUEUE_NAME)[0].total == 0


def test_every_store_is_closed_once() -> None:
    cluster = Cluster()
    parts = app.build(configured(), management=cluster.management, messages=cluster.store)
    parts.close()
    assert (cluster.rows.calls["close"], cluster.fences.calls["close"]) == (1, 1)


# -- what stops the start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"auth_strategy": "keystne"}, ["[DEFAULT] auth_strategy", "'keystne'"]),
        ({"transport__default_message_ttl": 59}, ["[transport] default_message_ttl", "59"]),
        ({"transport__max_message_ttl": 100}, ["[transport] default_message_ttl", "max_message_ttl"]),
        ({"storage__message_pipeline": ["absent"]}, ["[storage] message_pipeline", "'absent'"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_unusable_configuration_gives_one_sentence(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(StartupError) as caught:
        build(**options)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("which", ["management_store", "message_store"])
@pytest.mark.parametrize("name", ["mongo", "none such", ""])
def test_a_driver_that_is_not_installed_stops_the_start(which: str, name: str) -> None:
    passed_in: dict[str, Any] = (
        {"messages": MemoryMessageStore()} if which == "management_store" else {"management": MemoryManagementStore()}
    )
    with pytest.raises(
        StartupError, match=rf"^\[drivers\] {which}: there is no driver '{name}'; installed: .*sqlalchemy"
    ):
        app.build(configured(**{f"drivers__{which}": name}), **passed_in)


# -- plug-ins --------------------------------------------------------------------------------------------------------

PLUGINS = """
from dataclasses import replace
from zaqar.stages.base import Stage

class One(Stage):
    letter = b"1"

    def before_post(self, context, queue, drafts):
        return [replace(draft, body=draft.body[:-1] + self.letter + b'"') for draft in drafts]

class Two(One):
    letter = b"2"

def function():
    return One()

class Alike:
    before_post = One.before_post
    after_post = One.after_post
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, str]], None]:
    """Install a package with a module and entry points of a group on sys.path, like pip."""

    def install(source: str, stages: dict[str, str]) -> None:
        info = tmp_path / "acme-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        lines = [f"{name} = acme_stages:{target}" for name, target in stages.items()]
        (info / "entry_points.txt").write_text("\n".join(["[zaqar.storage.stages]", *lines, ""]))
        (tmp_path / "acme_stages.py").write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(tmp_path))
        # The caches of stevedore are for another path.
        monkeypatch.setattr(ExtensionManager, "ENTRY_POINT_CACHE", {})
        monkeypatch.setattr(stevedore_cache._c, "_disable_caching", True)
        monkeypatch.delitem(sys.modules, "acme_stages", raising=False)

    return install


def test_stages_act_in_the_order_of_the_option(install: Callable[[str, dict[str, str]], None]) -> None:
    install(PLUGINS, {"acme.one": "One", "acme.two": "Two"})
    for pipeline, body in ((["acme.one", "acme.two"], b'"a12"'), (["acme.two", "acme.one"], b'"a21"'), ([], b'"a"')):
        parts = build(storage__message_pipeline=pipeline)
        (id_,) = parts.messages.post(CALLER, QUEUE_NAME, POST)
        assert parts.messages.get(QUEUE_NAME, id_).messages[0].body == body


@pytest.mark.parametrize("target", ["function", "Alike"])
def test_a_plug_in_that_is_no_stage_stops_the_start(
    install: Callable[[str, dict[str, str]], None], target: str
) -> None:
    install(PLUGINS, {"acme": target})
    with pytest.raises(StartupError, match=r"^\[storage\] message_pipeline: 'acme' is neither a subclass of"):
        build(storage__message_pipeline=["acme"])


@pytest.mark.parametrize(
    ("source", "words"), [("import absent_module", "absent_module"), ("", "One"), ("1/0", "ZeroDivision")]
)
def test_a_plug_in_that_cannot_be_imported_stops_the_start(
    install: Callable[[str, dict[str, str]], None], source: str, words: str
) -> None:
    install(source, {"acme": "One"})
    with pytest.raises(
        StartupError, match=r"^\[storage\] message_pipeline: the stage 'acme' cannot be loaded"
    ) as caught:
        build(storage__message_pipeline=["acme"])
    assert words in str(caught.value)
