# SPDX-License-Identifier: Apache-2.0
"""Every option of our own, by group."""

from oslo_config import cfg

from zaqar.conf import (
    access,
    cors,
    default,
    drivers,
    drivers_management_store_mongodb,
    drivers_management_store_redis,
    drivers_management_store_sqlalchemy,
    drivers_message_store_mongodb,
    drivers_message_store_redis,
    drivers_message_store_sqlalchemy,
    drivers_transport_websocket,
    drivers_transport_wsgi,
    notification,
    oslo_middleware,
    pooling_catalog,
    profiler,
    profiler_jaeger,
    profiler_otlp,
    signed_url,
    storage,
    transport,
    trustee,
)

_GROUPS = (
    access,
    cors,
    default,
    drivers,
    drivers_management_store_mongodb,
    drivers_management_store_redis,
    drivers_management_store_sqlalchemy,
    drivers_message_store_mongodb,
    drivers_message_store_redis,
    drivers_message_store_sqlalchemy,
    drivers_transport_websocket,
    drivers_transport_wsgi,
    notification,
    oslo_middleware,
    pooling_catalog,
    profiler,
    profiler_jaeger,
    profiler_otlp,
    signed_url,
    storage,
    transport,
)

_OF_LIBRARIES = (trustee,)
"""Groups that a library registers when it is used. They are here for the sample and the documentation."""


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """(group, options), as oslo-config-generator asks for them."""
    return [*list_own_opts(), *((module.GROUP, list(module.OPTS)) for module in _OF_LIBRARIES)]


def list_own_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """The same without those that a library registers."""
    return [(module.GROUP, list(module.OPTS)) for module in _GROUPS]
