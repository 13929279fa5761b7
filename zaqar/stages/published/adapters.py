# SPDX-License-Identifier: Apache-2.0
"""Makes a stage from the object of an entry point: one of our stages, or an adapter around a published plug-in.

``zaqar/service/staged/pipelines.py`` calls it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from oslo_config import cfg

from zaqar.clock import Clock
from zaqar.entry_points import is_from_outside
from zaqar.errors import StartupError, ZaqarError
from zaqar.stages.base import Stage
from zaqar.stages.operations import CLAIMS, MESSAGES, QUEUES, REQUESTS, SUBSCRIPTIONS
from zaqar.stages.published.base import PublishedStage
from zaqar.stages.published.claims import PublishedClaimStage
from zaqar.stages.published.messages import PublishedMessageStage
from zaqar.stages.published.queues import PublishedQueueStage
from zaqar.stages.published.subscriptions import PublishedSubscriptionStage

ADAPTERS: Mapping[str, type[PublishedStage]] = {
    QUEUES: PublishedQueueStage,
    MESSAGES: PublishedMessageStage,
    CLAIMS: PublishedClaimStage,
    SUBSCRIPTIONS: PublishedSubscriptionStage,
}


def make_stage(
    option: str,
    name: str,
    plugin: object,
    *,
    resource: str,
    conf: cfg.ConfigOpts,
    clock: Clock,
    keywords: Mapping[str, Any],
) -> Stage:
    """Make a stage for the pipeline of ``option``. OpenStack Zaqar passes ``keywords`` to its stages in that pipeline.

    Raises StartupError, with the option and the entry point, if the plug-in is no stage or cannot be made.
    """
    place = f"[storage] {option}: '{name}'"
    try:
        if isinstance(plugin, type) and issubclass(plugin, Stage):
            stage = plugin.from_conf(conf)
        else:
            stage = ADAPTERS[resource](name, _instance(plugin, keywords), clock)
    except ZaqarError:
        raise
    except BaseException as exc:
        if is_from_outside(exc):
            raise
        raise StartupError(f"{place} cannot be made: {type(exc).__name__}: {exc}.") from exc
    if not isinstance(stage, Stage):
        raise StartupError(f"{place} has a from_conf() that does not return a stage.")
    if isinstance(stage, PublishedStage):
        if stage.is_empty:
            raise StartupError(
                f"{place} is neither a subclass of zaqar.stages.base.Stage, nor does it make an object with one of the "
                f"methods {', '.join(stage.names())}."
            )
    elif type(stage) is not Stage and not _fits(stage, resource):
        raise StartupError(f"{place} has hooks, but none for {resource}.")
    return stage


def _instance(plugin: object, keywords: Mapping[str, Any]) -> object:
    """Make the object of a published plug-in: with the keywords if it accepts them, otherwise without arguments."""
    if not callable(plugin):
        return plugin
    factory: Callable[..., object] = plugin
    if keywords and _takes(factory, keywords):
        return factory(**keywords)
    return factory()


def _takes(factory: Callable[..., object], keywords: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(factory).bind(**keywords)
    except (TypeError, ValueError):
        return False
    return True


def _fits(stage: Stage, resource: str) -> bool:
    """Whether the stage has a hook of the resource, or no hook at all."""
    hooks = {"before_post": MESSAGES, "after_post": MESSAGES}
    for request in REQUESTS:
        hooks[f"before_{request.operation}"] = hooks[f"after_{request.operation}"] = request.resource
    had = {of for hook, of in hooks.items() if stage.has(hook)}
    return not had or resource in had
