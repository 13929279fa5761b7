# SPDX-License-Identifier: Apache-2.0
"""Spans of OpenTelemetry. ``zaqar.app`` makes one :class:`Tracing` for a process if ``[tracing] enabled`` is on.

The middleware of HTTP, the sessions of WebSocket and the senders of notifications begin and end spans with it. Without
it they are not installed. This module needs the extra ``zaqar[otel]``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from multiprocessing.util import Finalize
from random import random

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from oslo_config import cfg

from zaqar.errors import StartupError
from zaqar.metrics.families import SPANS_DROPPED
from zaqar.metrics.recorder import Recorder
from zaqar.tracing.attributes import ERROR_TYPE
from zaqar.tracing.context import is_sampled, tracestate_of
from zaqar.tracing.export import BufferedProcessor

MOST_LINKS = 20
"""Links of one span to the traces of messages. Further messages of a claim or a page have none."""

CHILD_SECONDS = 3600.0
"""Age of a message up to which its deliveries belong to its trace. A later one begins a trace of its own, with a link:
few tools can show a trace that goes on for days.
"""

Attributes = Mapping[str, str | int]


class OpenSpan:
    """A span that has begun. It is exported only if :meth:`end` is called. One thread at a time may use it.

    ``trace`` is the trace context of this span, as :mod:`zaqar.tracing.context` writes it.
    """

    __slots__ = ("_span", "received", "trace")

    def __init__(self, span: Span, tracestate: str) -> None:
        self._span = span
        self.received: int | None = None
        """The number of messages that the request returned; None if it asked for none."""
        own = span.get_span_context()
        parent = f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags & 1:02x}"
        self.trace = f"{parent} {tracestate}" if tracestate else parent

    @property
    def trace_id(self) -> str:
        return self.trace[3:35]

    @property
    def span_id(self) -> str:
        return self.trace[36:52]

    def receive(self, traces: Iterable[str | None]) -> None:
        """Note that the request returns messages with these trace contexts. The first ones become links."""
        count = links = 0
        for trace in traces:
            count += 1
            if trace is not None and links < MOST_LINKS:
                links += 1
                self._span.add_link(_remote(trace))
        self.received = count

    def end(self, name: str, attributes: Attributes, *, error: str | None = None) -> None:
        """End the span under its final name. ``error`` is a short word if it failed, such as a status code."""
        span = self._span
        span.update_name(name)
        span.set_attributes(attributes)
        if error is not None:
            span.set_attribute(ERROR_TYPE, error)
            span.set_status(Status(StatusCode.ERROR))
        span.end()


class Tracing:
    """Begins the spans of a process. Threads and greenlets may share it, and it may be made before a fork."""

    def __init__(self, provider: TracerProvider, *, root_ratio: float | None) -> None:
        """``root_ratio``: see ``[tracing] root_ratio``; None if the sampler of ``provider`` decides."""
        self._provider = provider
        self._tracer = provider.get_tracer("zaqar", version("zaqar"))
        self._root_ratio = root_ratio
        # The provider ends with atexit, which child processes of multiprocessing, such as the workers of granian, do
        # not run before Python 3.13. They run this.
        self._at_exit = Finalize(None, provider.shutdown, exitpriority=0)

    @classmethod
    def from_conf(
        cls,
        conf: cfg.ConfigOpts,
        part: str,
        recorder: Recorder | None,
        *,
        make_exporter: Callable[[], SpanExporter] = OTLPSpanExporter,
    ) -> Tracing | None:
        """Return None if tracing is off. ``part`` is the kind of the process, such as "api".

        Raises StartupError if a variable ``OTEL_*`` has no valid value.
        """
        if not conf.tracing.enabled or _is_off_by_variable():
            return None

        def count_dropped(number: int) -> None:
            if recorder is not None:
                recorder.add(SPANS_DROPPED, (), number)

        processor = BufferedProcessor(
            make_exporter(),
            on_drop=count_dropped,
            most=_variable("OTEL_BSP_MAX_QUEUE_SIZE", 2048),
            batch=_variable("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 128),
            seconds=_variable("OTEL_BSP_SCHEDULE_DELAY", 2000) / 1000,
        )
        resource = Resource({SERVICE_NAME: f"zaqar-{part}", "service.version": version("zaqar")})
        # What the variables say wins, but the SDK gives every process a name, so "unknown_service" does not.
        named = Resource.create()
        if str(named.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = named.merge(resource)
        else:
            resource = resource.merge(named)
        has_sampler = bool(os.environ.get("OTEL_TRACES_SAMPLER"))
        provider = TracerProvider(
            # None: the SDK makes the sampler that the variable names.
            sampler=None if has_sampler else ParentBased(ALWAYS_ON),
            resource=resource,
        )
        provider.add_span_processor(processor)
        return cls(provider, root_ratio=None if has_sampler else conf.tracing.root_ratio)

    def begin_request(self, trace: str | None) -> OpenSpan | None:
        """Begin the span of a request that came with the trace context ``trace``. None if it is not traced."""
        if trace is not None:
            # If the caller does not sample its trace, do nothing at all: a span costs 8 us even if it is not recorded.
            return self._begin(SpanKind.SERVER, parent=trace) if is_sampled(trace) else None
        if self._root_ratio is not None and random() >= self._root_ratio:  # noqa: S311, no secret
            return None
        span = self._begin(SpanKind.SERVER)
        return span if is_sampled(span.trace) else None

    def begin_attempt(self, trace: str | None, *, age: float) -> OpenSpan | None:
        """Begin the span of an attempt to deliver a message with this trace context. None if it is not traced.

        ``age`` is that of the message in seconds.
        """
        if trace is None or not is_sampled(trace):
            return None
        if age <= CHILD_SECONDS:
            return self._begin(SpanKind.CLIENT, parent=trace)
        return self._begin(SpanKind.CLIENT, link=trace)

    def _begin(self, kind: SpanKind, *, parent: str | None = None, link: str | None = None) -> OpenSpan:
        # Not the context of the thread: the parent is the caller's span, and none of this process.
        context = Context() if parent is None else set_span_in_context(NonRecordingSpan(_remote(parent)), Context())
        links = None if link is None else [Link(_remote(link))]
        span = self._tracer.start_span("zaqar", context, kind, links=links)
        return OpenSpan(span, "" if parent is None else tracestate_of(parent))

    def close(self) -> None:
        """Export the last spans, in about a second at most. The end of the process does so as well."""
        self._at_exit.cancel()
        self._provider.shutdown()


def _remote(trace: str) -> SpanContext:
    # The tracestate is passed on as text. The SDK would parse it, and log what it cannot parse.
    return SpanContext(int(trace[3:35], 16), int(trace[36:52], 16), is_remote=True, trace_flags=_flags(trace))


def _flags(trace: str) -> TraceFlags:
    return TraceFlags(int(trace[53:55], 16))


def _is_off_by_variable() -> bool:
    values = [os.environ.get(name, "").strip().lower() for name in ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER")]
    return values[0] == "true" or values[1] == "none"


def _variable(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not int(text):
        raise StartupError(f"{name}: must be a positive whole number, not '{text}'.")
    return int(text)
