# SPDX-License-Identifier: Apache-2.0
"""Builds the service from its configuration. This is the only module that names concrete drivers and parts.

The transports, the notifier and the commands call :func:`build`; the notifier then calls :func:`build_notifier`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from oslo_config import cfg

from zaqar import conf as configuration
from zaqar import entry_points
from zaqar.access import extra_specs
from zaqar.access.extra_specs import ExtraSpecs
from zaqar.access.http_server import count_workers
from zaqar.access.keystone import TokenValidator, check_strategy
from zaqar.access.signed_urls import SignedUrls
from zaqar.access.trusts import RequestTrusts, open_trustee
from zaqar.clock import Clock, system_clock
from zaqar.context import Context
from zaqar.encryption import keys as encryption_keys
from zaqar.encryption.messages import MessageKeys
from zaqar.errors import StartupError
from zaqar.ipc.wakeup_socket import WakeupSender
from zaqar.limits import Limits
from zaqar.logs import repeats
from zaqar.metrics.families import WAITING_CLIENTS
from zaqar.metrics.recorder import Recorder
from zaqar.model import QUEUE, QueueName
from zaqar.notification import failed_deliveries
from zaqar.notification.bounds import Bounds
from zaqar.notification.node_removal import NodeRemoval
from zaqar.notification.notifier import Notifier
from zaqar.notification.senders.base import Sender
from zaqar.notification.senders.connection import ConnectionSender
from zaqar.notification.webhook_targets import WebhookTargetPolicy
from zaqar.quotas.quotas import Quotas
from zaqar.quotas.settings import QuotaSettings
from zaqar.quotas.unified_limits import configure_library
from zaqar.schemas.subscribers import CONNECTION_SCHEME
from zaqar.service.bodies import Bodies
from zaqar.service.catalog import CatalogChanges
from zaqar.service.claims import Claims
from zaqar.service.connection_subscriptions import ConnectionSubscriptions
from zaqar.service.deliveries import Deliveries
from zaqar.service.flavors import Flavors
from zaqar.service.health import Health
from zaqar.service.messages import Messages
from zaqar.service.pools import Pools
from zaqar.service.project_limits import ProjectLimits
from zaqar.service.queues import Queues
from zaqar.service.readiness import Readiness
from zaqar.service.staged.pipelines import Pipelines
from zaqar.service.streams import Streams
from zaqar.service.subscriptions import Subscriptions
from zaqar.storage.base import ManagementStore, MessageStore
from zaqar.storage.observed import DEFAULT, MANAGEMENT, observe
from zaqar.storage.pools import Placement, PoolPlacement, StoreRef
from zaqar.storage.registry import DriverRegistry, open_management_store, open_message_store
from zaqar.waiting.hub import Hub
from zaqar.waiting.registry import Registry
from zaqar.waiting.waiters import Kind, Located

if TYPE_CHECKING:
    from zaqar.policies import Authorizer
    from zaqar.tracing.spans import Tracing

S = TypeVar("S", MessageStore, ManagementStore)

API, WEBSOCKET = "api", "websocket"
_SERVING = (API, WEBSOCKET)
"""The kinds of processes that serve clients. Only they have access rules and limits for tenants."""

NOTIFIER = "zaqar.notification.notifier"
"""The stage that wakes notifiers. Without it in ``message_pipeline`` no message is notified."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a running service, for transports and commands."""

    conf: cfg.ConfigOpts
    clock: Clock
    limits: Limits
    recorder: Recorder | None
    """None if nothing is counted."""
    tracing: Tracing | None
    """None if no spans are made."""
    quotas: Quotas
    keys: MessageKeys
    rules: Authorizer | None
    """The access rules; None in a process that serves no requests."""
    tokens: TokenValidator | None
    """None if callers are not authenticated."""
    management: ManagementStore
    placement: Placement
    queues: Queues
    messages: Messages
    claims: Claims
    hub: Hub
    streams: Streams
    subscriptions: Subscriptions
    connection_subscriptions: ConnectionSubscriptions
    deliveries: Deliveries
    pools: Pools
    flavors: Flavors
    health: Health
    readiness: Readiness
    signed_urls: SignedUrls
    pipelines: Pipelines
    extra_specs: ExtraSpecs

    @property
    def project_limits(self) -> ProjectLimits:
        """Shows the limits of a project."""
        return ProjectLimits(
            quotas=self.quotas, management=self.management, hub=self.hub, limits=self.limits, clock=self.clock
        )

    @property
    def authorizer(self) -> Authorizer:
        """The access rules, for a process that serves requests."""
        if self.rules is None:
            raise AssertionError("this process was built without access rules")
        return self.rules

    def stores(self) -> Iterator[MessageStore]:
        """Yield every message store in use, opened. Raises StoreUnavailable if a store cannot be opened."""
        return (store_ref.store for store_ref in self.placement.stores_in_use())

    def close(self) -> None:
        """Export the last spans, and close all stores."""
        if self.tracing is not None:
            self.tracing.close()
        self.quotas.close()
        self.placement.close()
        self.management.close()
        if self.recorder is not None:
            repeats.count_in(None)
            self.recorder.close()


def build(
    conf: cfg.ConfigOpts,
    *,
    part: str = API,
    clock: Clock = system_clock,
    management: ManagementStore | None = None,
    messages: MessageStore | None = None,
    recorder: Recorder | None = None,
) -> Parts:
    """Build all below a transport. ``part`` is the kind of this process: only "api" and "websocket" have access rules.

    A reload passes the open stores and the recorder. Raises StartupError if this configuration cannot be used.
    """
    _check(conf)
    tokens, keys = TokenValidator(conf, clock) if conf.auth_strategy else None, encryption_keys.load(conf)
    limits, rules = Limits.from_conf(conf), _load_rules(conf) if part in _SERVING else None
    pipelines, (recorder, tracing) = Pipelines.from_conf(conf, clock), _make_watchers(conf, part, recorder)
    drivers, management, placement = _open_stores(conf, recorder, management, messages)
    common: dict[str, Any] = {"management": management, "placement": placement, "limits": limits, "clock": clock}
    common["quotas"] = _make_quotas(conf, part, recorder, common)
    queues = pipelines.make_queues(**common, no_encryption=keys.refusal)
    changes, wake = CatalogChanges(management, placement), _make_wakeup_sender(conf).wake
    catalog: dict[str, Any] = {"management": management, "changes": changes, "drivers": drivers}
    hub, health = _make_hub(conf, queues, common, recorder), _make_health(common, tokens)
    reading: dict[str, Any] = {"queues": queues, "bodies": _make_bodies(keys, limits), "clock": clock, "hub": hub}
    subscribing = {**common, **_settings_of_subscriptions(conf), "queues": queues, "wake_notifiers": wake}
    subscriptions = pipelines.make_subscriptions(**subscribing)
    of_process: dict[str, Any] = {"conf": conf, "recorder": recorder, "tracing": tracing, "keys": keys}
    return Parts(
        **common,
        **of_process,
        rules=rules,
        tokens=tokens,
        queues=queues,
        messages=pipelines.make_messages(limits=limits, quotas=common["quotas"], **reading),
        claims=pipelines.make_claims(limits=limits, recorder=recorder, **reading),
        hub=hub,
        streams=pipelines.make_streams(**reading),
        subscriptions=subscriptions,
        connection_subscriptions=pipelines.make_for_connections(subscriptions, management, queues, limits, clock),
        deliveries=Deliveries(subscriptions=subscriptions, placement=placement, clock=clock, wake_notifiers=wake),
        pools=Pools(**catalog),
        flavors=Flavors(**catalog),
        health=health,
        readiness=_make_readiness(conf, health, hub),
        signed_urls=SignedUrls.from_conf(conf),
        pipelines=pipelines,
        extra_specs=_make_extra_specs(),
    )


def _make_quotas(conf: cfg.ConfigOpts, part: str, recorder: Recorder | None, common: dict[str, Any]) -> Quotas:
    if part not in _SERVING:
        return Quotas()
    settings = QuotaSettings.from_conf(conf, workers=count_workers() if part == API else 1)
    if settings.from_keystone:
        configure_library(conf)
    return Quotas.make(
        settings,
        management=common["management"],
        placement=common["placement"],
        clock=common["clock"],
        recorder=recorder,
    )


def _load_rules(conf: cfg.ConfigOpts) -> Authorizer:
    # Import here: oslo.policy and the libraries that it needs take a fifth of the start of a process, and the notifier
    # and the sweeper do without.
    from zaqar.policies import Authorizer

    return Authorizer(conf)


_TRACED = (*_SERVING, "notifier")
"""The kinds of processes that make spans."""


def _make_watchers(conf: cfg.ConfigOpts, part: str, before: Recorder | None) -> tuple[Recorder | None, Tracing | None]:
    """The objects that count, and that make spans; None each if it is off.

    After a reload the recorder ``before`` goes on: a second one would show its gauges again.
    """
    recorder = before or (Recorder(configuration.metrics_dir(conf), part) if conf.metrics.bind else None)
    repeats.count_in(recorder)
    if not conf.tracing.enabled or part not in _TRACED:
        return recorder, None
    try:
        # Import here: the library is an extra, and takes time and memory.
        from zaqar.tracing.spans import Tracing
    except ImportError as exc:
        raise StartupError(f"[tracing] enabled: pip install 'zaqar[otel]', as there is no {exc.name}.") from exc
    return recorder, Tracing.from_conf(conf, part, recorder)


def _make_wakeup_sender(conf: cfg.ConfigOpts) -> WakeupSender:
    return WakeupSender(configuration.notifiers_dir(conf))


_WAITING = {Kind.TAKER: "claim", Kind.FREE_READER: "list", Kind.READER: "stream"}
"""The labels of waiting clients in metrics. A pop waits like a claim."""


def _sample_waiting(registry: Registry, recorder: Recorder) -> None:
    for kind, count in registry.count_by_kind().items():
        recorder.set(WAITING_CLIENTS, (_WAITING[kind],), count)


def _make_health(common: dict[str, Any], tokens: TokenValidator | None) -> Health:
    return Health(
        management=common["management"], placement=common["placement"], clock=common["clock"], keystone=tokens
    )


def _make_readiness(conf: cfg.ConfigOpts, health: Health, hub: Hub) -> Readiness:
    disable_file = conf.healthcheck.disable_by_file_path
    return Readiness(
        ping=health.ping,
        is_draining=lambda: hub.registry.is_draining,
        drain_file=configuration.drain_file(conf),
        disable_file=Path(disable_file) if disable_file else None,
        includes_store=conf.readiness_includes_store,
    )


def _make_bodies(keys: MessageKeys, limits: Limits) -> Bodies:
    return Bodies(keys, enable_checksum=limits.enable_checksum)


def _settings_of_subscriptions(conf: cfg.ConfigOpts) -> dict[str, Any]:
    return {
        "target_policy": WebhookTargetPolicy(conf.notification.webhook_allowed_networks),
        "notifying": NOTIFIER in conf.storage.message_pipeline,
        "require_confirmation": conf.notification.require_confirmation,
        "trusts": RequestTrusts.from_conf(conf),
    }


def _make_hub(conf: cfg.ConfigOpts, queues: Queues, common: dict[str, Any], recorder: Recorder | None) -> Hub:
    management: ManagementStore = common["management"]
    placement: Placement = common["placement"]

    def remembered(queue_name: QueueName) -> Located | None:
        resolved = queues.remembered(queue_name)
        return None if resolved is None else Located(resolved.queue.uid, resolved.store_ref)

    def find_queues(names: Collection[QueueName]) -> dict[QueueName, Located]:
        found = management.queue_records.find(names=names)
        return {queue_name: Located(queue.uid, placement.store_of(queue)) for queue_name, queue in found.items()}

    hub = Hub(
        folder=configuration.waiters_dir(conf),
        remembered=remembered,
        find_queues=find_queues,
        clock=common["clock"],
        limits=common["limits"],
    )
    if recorder is not None:
        recorder.add_source(partial(_sample_waiting, hub.registry), key=WAITING_CLIENTS)
    return hub


def build_notifier(parts: Parts) -> Notifier:
    """Make the part that sends notifications, on the stores of ``parts``.

    Raises StartupError if it cannot work with this configuration.
    """

    own_messages = parts.messages.without_stages()

    def post_dead_letter(project: str, queue: str, raw: bytes, *, encrypt: bool, trace: str | None) -> None:
        caller = Context(project, failed_deliveries.CLIENT_ID, trace=trace)
        own_messages.post(caller, QueueName(project, QUEUE, queue), raw, encrypt=encrypt)

    def find_store(project: str, queue: str) -> StoreRef | None:
        resolved = parts.queues.find(QueueName(project, QUEUE, queue), create=False)
        return None if resolved is None else resolved.store_ref

    trustee = open_trustee(parts.conf)
    notifier = Notifier(
        management=parts.management,
        placement=parts.placement,
        clock=parts.clock,
        keys=parts.keys,
        senders={**_make_senders(parts.conf), CONNECTION_SCHEME: ConnectionSender(parts.management.nodes)},
        bounds=Bounds.from_conf(parts.conf),
        end_subscription=parts.subscriptions.end,
        find_store=find_store,
        post_dead_letter=post_dead_letter,
        delete_trust=None if trustee is None else trustee.delete,
        node_removal=NodeRemoval(
            parts.management.nodes, parts.connection_subscriptions.remove_of_node, clock=parts.clock
        ),
        recorder=parts.recorder,
        tracing=parts.tracing,
    )
    if parts.recorder is not None:
        parts.recorder.add_source(notifier.sample)
    return notifier


def _make_senders(conf: cfg.ConfigOpts) -> dict[str, Sender]:
    """Make the senders of the allowed subscriber types, by scheme. Schemes with the same class share one object."""
    group = "zaqar.notification.tasks"
    made: dict[type[Sender], Sender] = {}
    senders = {}
    allowed = {scheme.lower() for scheme in conf.transport.subscriber_types}
    for scheme in sorted(set(entry_points.installed(group)).intersection(allowed)):
        plugin = entry_points.load(group, scheme)
        if not (isinstance(plugin, type) and issubclass(plugin, Sender)):
            raise StartupError(
                f"The entry point '{scheme}' of {group} is not a subclass of {Sender.__module__}.Sender."
            )
        if plugin not in made:
            made[plugin] = plugin.from_conf(conf)
        senders[scheme] = made[plugin]
    return senders


def _make_extra_specs() -> ExtraSpecs:
    group = extra_specs.GROUP
    return ExtraSpecs({scheme: entry_points.load(group, scheme) for scheme in entry_points.installed(group)})


def _check(conf: cfg.ConfigOpts) -> None:
    check_strategy(conf)
    if conf.notification.require_confirmation and not conf.signed_url.secret_key:
        raise StartupError("[signed_url] secret_key: must be set if [notification] require_confirmation is on.")


def _observe(recorder: Recorder | None, store: S, name: str) -> S:
    return store if recorder is None else observe(store, name, recorder)


def _open_stores(
    conf: cfg.ConfigOpts,
    recorder: Recorder | None,
    management: ManagementStore | None,
    messages: MessageStore | None,
) -> tuple[DriverRegistry, ManagementStore, Placement]:
    opened = partial(_observe, recorder)
    drivers = DriverRegistry(conf, opened)
    management = management or opened(open_management_store(conf), MANAGEMENT)
    if not conf.pooling:
        return drivers, management, Placement(messages or opened(open_message_store(conf), DEFAULT))
    placement = PoolPlacement(
        management=management,
        drivers=drivers,
        # With pools the configured store may hold no queue. It is opened at first use only.
        configured=lambda: messages or opened(open_message_store(conf), DEFAULT),
        virtual=conf["pooling:catalog"].enable_virtual_pool,
    )
    return drivers, management, placement
