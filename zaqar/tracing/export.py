# SPDX-License-Identifier: Apache-2.0
"""Exports the spans of a process, without delaying the requests that end them.

The SDK's own ``BatchSpanProcessor`` has a thread that a fork loses and that stands still under gevent. So
:class:`BufferedProcessor` has its own. ``zaqar.tracing.spans`` makes it, and the SDK calls it. This module needs the
extra ``zaqar[otel]``.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_log = logging.getLogger(__name__)

FLUSH_SECONDS = 1.0
"""Time limit at the end of a process for the export of the last spans."""


class BufferedProcessor(SpanProcessor):
    """Keeps ended spans in a bounded buffer, from which a thread exports them. If it is full, the oldest is dropped.

    The thread begins with the first span of the process, and so after a fork. With gevent's patches it is a greenlet. A
    batch that the exporter could not deliver is dropped as well: the exporter has retried it by then.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        *,
        on_drop: Callable[[int], None],
        most: int = 2048,
        batch: int = 128,
        seconds: float = 2.0,
    ) -> None:
        """``on_drop`` gets the number of dropped spans.

        ``most``: spans in the buffer. ``batch``: spans of one export. ``seconds``: the time between two exports.
        """
        self._exporter = exporter
        self._on_drop = on_drop
        self._most = most
        self._batch = batch
        self._seconds = seconds
        self._begin()
        reference = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget(reference))

    def _begin(self) -> None:
        self._buffer: deque[ReadableSpan] = deque()
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._is_ended = False
        self._thread: threading.Thread | None = None

    def forget_parent(self) -> None:
        """Begin anew in the child of a fork: its parent exports the spans, and has the thread, which may hold locks."""
        self._begin()

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span that has ended. Called by the thread of the request, so it never waits for the exporter."""
        with self._lock:
            if self._is_ended:
                return
            is_full = len(self._buffer) >= self._most
            if is_full:
                self._buffer.popleft()
            self._buffer.append(span)
            wakes = len(self._buffer) * 2 >= self._most
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
                self._thread.start()
        if wakes and not self._woken.is_set():
            self._woken.set()
        if is_full:
            self._on_drop(1)

    def shutdown(self) -> None:
        """Export what is left, within FLUSH_SECONDS, and end. Spans that end later are ignored.

        Another call does nothing.
        """
        with self._lock:
            if self._is_ended:
                return
            self._is_ended = True
            thread = self._thread
        self._woken.set()
        if thread is not None:
            thread.join(FLUSH_SECONDS)
        # If the export still waits for the receiver, this ends its retries. The thread is a daemon, so a connection
        # that does not answer cannot keep the process from ending.
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Do nothing: the SDK would call it to wait for an export, but nothing here may wait for one."""
        return True

    def _run(self) -> None:
        while True:
            self._woken.wait(self._seconds)
            self._woken.clear()
            # Read before the export: a span that came before the end is then in the last export.
            is_ended = self._is_ended
            while batch := self._take():
                self._export(batch)
            if is_ended:
                return

    def _take(self) -> list[ReadableSpan]:
        with self._lock:
            return [self._buffer.popleft() for _ in range(min(self._batch, len(self._buffer)))]

    def _export(self, batch: list[ReadableSpan]) -> None:
        try:
            is_delivered = self._exporter.export(batch) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001, it is logged, and the next batch may succeed
            _log.warning("Spans cannot be exported.", exc_info=True)
            is_delivered = False
        if not is_delivered:
            self._on_drop(len(batch))


def _forget(reference: weakref.ref[BufferedProcessor]) -> None:
    processor = reference()
    if processor is not None:
        processor.forget_parent()
