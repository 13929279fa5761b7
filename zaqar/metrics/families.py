# SPDX-License-Identifier: Apache-2.0
"""The name, type, labels and help of each metric that processes count. ``recorder`` and ``collector`` use them.

Names and units follow the conventions of Prometheus (https://prometheus.io/docs/practices/naming/). The value of a
label comes from a bounded set, such as the templates of routes or the names of pools: never a queue, a project, an id
or a URL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

OTHER = "other"
"""The label of everything that has no name of its own, such as the paths that are no route."""

REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
DELIVERY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LAG_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 3600.0)
"""Upper bounds of buckets, in seconds."""


# eq=False: families are keys of dictionaries on the hot path, and comparing them by identity is fastest.
@dataclass(frozen=True, eq=False, slots=True)
class Family:
    """A metric. ``name`` is without the suffix ``_total``, which only counters get when they are shown."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """The number of cells of one series."""
        return 1


@dataclass(frozen=True, eq=False, slots=True)
class Counter(Family):
    """A number that only grows."""


@dataclass(frozen=True, eq=False, slots=True)
class Gauge(Family):
    """A number that goes up and down. It ends with its process; the values of several processes are added up."""


@dataclass(frozen=True, eq=False, slots=True)
class Histogram(Family):
    """Counts of values by size. Its cells: one for each bucket, one for larger values, and the sum of all values."""

    buckets: tuple[float, ...] = REQUEST_BUCKETS

    @property
    def size(self) -> int:
        return len(self.buckets) + 2


BUILD_INFO = Gauge(
    "zaqar_build_info", "1 for each version of the service that runs on the host.", ("version", "python", "server")
)
HTTP_REQUESTS = Counter("zaqar_http_requests", "Answered requests.", ("method", "route", "code"))
HTTP_DURATION = Histogram(
    "zaqar_http_request_duration_seconds",
    "Time from a request to its answer, without the time in which it waited for messages.",
    ("method", "route"),
)
IN_PROGRESS = Gauge("zaqar_http_requests_in_progress", "Requests that are being carried out.")
WAITING_CLIENTS = Gauge("zaqar_waiting_clients", "Clients that wait for messages.", ("kind",))

WEBSOCKET_REQUESTS = Counter("zaqar_websocket_requests", "Answered frames.", ("action", "code"))
WEBSOCKET_DURATION = Histogram(
    "zaqar_websocket_request_duration_seconds",
    "Time from a frame to its answer, without the time in which it waited for messages.",
    ("action",),
)
WEBSOCKET_CONNECTIONS = Gauge("zaqar_websocket_connections", "Open WebSocket connections.")

MESSAGES_POSTED = Counter("zaqar_messages_posted", "Messages that were stored by posts.")
POSTED_BYTES = Counter("zaqar_posted_bytes", "Bytes of the bodies of posted messages, as stored.")
MESSAGES_CLAIMED = Counter("zaqar_messages_claimed", "Messages that were leased to claims.")
MESSAGES_DELETED = Counter("zaqar_messages_deleted", "Messages that clients asked to delete.")
MESSAGES_POPPED = Counter("zaqar_messages_popped", "Messages that were popped.")
MESSAGES_EXPIRED = Counter("zaqar_messages_expired", "Expired messages that a sweep has removed, some time after.")
MESSAGES_DEAD_LETTERED = Counter("zaqar_messages_dead_lettered", "Messages that moved to a dead letter queue.")
CLAIMS = Counter("zaqar_claims", "Requests for a claim, by outcome.", ("outcome",))
CLAIM_RENEWALS = Counter("zaqar_claim_renewals", "Claims that were renewed.")
CLAIMS_RELEASED = Counter("zaqar_claims_released", "Claims that were released.")
STALE_QUEUE_RETRIES = Counter(
    "zaqar_stale_queue_retries", "Operations that were repeated because the cached queue was stale."
)

DELIVERY_ATTEMPTS = Counter(
    "zaqar_delivery_attempts", "Attempts to deliver a message to a subscriber.", ("scheme", "outcome")
)
DELIVERY_DURATION = Histogram(
    "zaqar_delivery_attempt_duration_seconds", "Duration of an attempt to deliver.", ("scheme",), DELIVERY_BUCKETS
)
DELIVERIES_SETTLED = Counter("zaqar_deliveries_settled", "Deliveries that came to an end.", ("outcome",))
DELIVERY_LAG = Histogram(
    "zaqar_delivery_lag_seconds",
    "Time from a post to the first attempt, a delay included.",
    (),
    LAG_BUCKETS,
)
DELIVERIES_IN_FLIGHT = Gauge("zaqar_deliveries_in_flight", "Deliveries that are being attempted.")
NOTIFIER_SLOTS = Gauge("zaqar_notifier_slots", "Deliveries that may be attempted at a time.")

STORE_DURATION = Histogram(
    "zaqar_store_operation_duration_seconds", "Duration of a call to a store.", ("store", "operation")
)
STORE_ERRORS = Counter("zaqar_store_errors", "Calls to a store that failed, by kind.", ("store", "kind"))
STORE_CONNECTIONS = Gauge("zaqar_store_connections", "Connections to a store.", ("store", "state"))
STORE_CONNECTIONS_MAX = Gauge("zaqar_store_connections_max", "Limit of the connections to a store.", ("store",))

THROTTLED = Counter("zaqar_throttled", "Requests that a limit refused or delayed.", ("limit",))
LOG_SUPPRESSED = Counter("zaqar_log_records_suppressed", "Log records that equal ones had made superfluous.")
SPANS_DROPPED = Counter("zaqar_spans_dropped", "Spans that were not exported because the buffer was full.")


class Families:
    """All families by name."""

    by_name: ClassVar[dict[str, Family]] = {
        family.name: family for family in list(globals().values()) if isinstance(family, Family)
    }
