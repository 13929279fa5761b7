# SPDX-License-Identifier: Apache-2.0
"""The one place where the parts meet: configuration in, running parts out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from oslo_config import cfg

from zaqar import plugins
from zaqar.clock import Clock, system_clock
from zaqar.conf import sqlalchemy_uri
from zaqar.errors import StartupError
from zaqar.limits import Limits
from zaqar.policies import Authorizer
from zaqar.service.claims import Claims
from zaqar.service.health import Health
from zaqar.service.messages import Messages
from zaqar.service.queues import Queues
from zaqar.stages.base import check_stage
from zaqar.storage.base import ManagementStore, MessageStore
from zaqar.storage.placement import Placement


@dataclass(frozen=True, slots=True)
class Parts:
    """What a transport or a command works with."""

    conf: cfg.ConfigOpts
    limits: Limits
    authorizer: Authorizer
    management: ManagementStore
    placement: Placement
    queues: Queues
    messages: Messages
    claims: Claims
    health: Health

    def stores(self) -> Iterator[MessageStore]:
        return self.placement.stores()

    def close(self) -> None:
        for store in self.stores():
            store.close()
        self.management.close()


def build(
    conf: cfg.ConfigOpts,
    *,
    clock: Clock = system_clock,
    management: ManagementStore | None = None,
    messages: MessageStore | None = None,
) -> Parts:
    """Everything below a transport, as configured; a store that is passed in is used instead of the configured one.

    Raises StartupError, one sentence for the operator, where the configuration cannot be served.
    """
    if conf.auth_strategy:
        raise StartupError(f"[DEFAULT] auth_strategy: '{conf.auth_strategy}' is not available in this release.")
    if conf.pooling:
        raise StartupError("[DEFAULT] pooling: pools are not available in this release.")
    limits = Limits.from_conf(conf)
    authorizer = Authorizer(conf)
    stages = [check_stage(name, plugins.load("zaqar.storage.stages", name)) for name in conf.storage.message_pipeline]
    management = management or _open_store(conf, "management_store", "zaqar.control.storage")
    messages = messages or _open_store(conf, "message_store", "zaqar.data.storage")
    placement = Placement(messages)
    queues = Queues(management=management, placement=placement, limits=limits, clock=clock)
    return Parts(
        conf=conf,
        limits=limits,
        authorizer=authorizer,
        management=management,
        placement=placement,
        queues=queues,
        messages=Messages(queues=queues, limits=limits, clock=clock, stages=stages),
        claims=Claims(queues=queues, limits=limits, clock=clock),
        health=Health(management=management, placement=placement, clock=clock),
    )


def _open_store(conf: cfg.ConfigOpts, which: str, namespace: str) -> Any:
    """The store that ``[drivers] <which>`` names, made from the options of ``[drivers:<which>:<name>]``."""
    name = conf.drivers[which]
    store = plugins.load(namespace, name)
    group = f"drivers:{which}:{name}"
    # A driver of somebody else's may have no options here.
    settings = dict(conf[group]) if group in conf else {}
    if name == "sqlalchemy":
        settings["uri"], settings["embedded"] = sqlalchemy_uri(conf, which)
    return store.from_settings(settings)
