# SPDX-License-Identifier: Apache-2.0
"""The metrics whose values are asked at each scrape, and not counted by processes. The collectors use them."""

from __future__ import annotations

from zaqar.metrics.families import Counter, Family, Gauge

_WORKER = ("part", "worker")

# The names that client libraries of all languages have for these.
CPU = Counter("process_cpu_seconds", "CPU time of a process, in user and system mode.", _WORKER)
MEMORY = Gauge("process_resident_memory_bytes", "Memory that a process occupies.", _WORKER)
OPEN_FILES = Gauge("process_open_fds", "Open files, sockets and pipes of a process.", _WORKER)
STARTED = Gauge("process_start_time_seconds", "When a process began, in seconds since the epoch.", _WORKER)
RESTARTS = Counter(
    "zaqar_process_restarts",
    "Processes that have ended without being told to: killed, crashed, or stuck for too long.",
    ("part",),
)

STORE_UP = Gauge("zaqar_store_up", "1 if a store answers within 5 seconds, otherwise 0.", ("store",))
MESSAGES = Gauge("zaqar_messages", "Messages in all queues of a store.", ("store", "state"))
OLDEST_MESSAGE = Gauge(
    "zaqar_oldest_message_age_seconds", "Age of the oldest free or claimed message of a store.", ("store",)
)
DELIVERIES = Gauge("zaqar_deliveries", "Deliveries to subscribers that a store keeps.", ("store", "state"))
OLDEST_DELIVERY = Gauge(
    "zaqar_oldest_waiting_delivery_age_seconds", "Age of the oldest delivery that waits.", ("store",)
)

_QUEUE = ("project", "queue")
QUEUE_MESSAGES = Gauge("zaqar_queue_messages", "Messages in a queue.", (*_QUEUE, "state"))
QUEUE_OLDEST_MESSAGE = Gauge(
    "zaqar_queue_oldest_message_age_seconds", "Age of the oldest free or claimed message of a queue.", _QUEUE
)
QUEUE_POSTED = Counter("zaqar_queue_posted_messages", "Messages that were ever posted to a queue.", _QUEUE)

OF_PROCESSES: tuple[Family, ...] = (CPU, MEMORY, OPEN_FILES, STARTED, RESTARTS)
OF_STORES: tuple[Family, ...] = (STORE_UP, MESSAGES, OLDEST_MESSAGE, DELIVERIES, OLDEST_DELIVERY)
OF_QUEUES: tuple[Family, ...] = (QUEUE_MESSAGES, QUEUE_OLDEST_MESSAGE, QUEUE_POSTED)
"""The metrics of each page, in their order."""
