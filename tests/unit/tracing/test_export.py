# SPDX-License-Identifier: Apache-2.0
"""The buffer of spans: its bound, its thread, and receivers that are away or slow."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult

from tests.acceptance.server import wait_until
from tests.tracing import KeptSpans
from zaqar.tracing.export import FLUSH_SECONDS, BufferedProcessor


class Dropped:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self, number: int) -> None:
        self.count += number


def end_spans(processor: BufferedProcessor, names: Sequence[str]) -> None:
    for name in names:
        processor.on_end(ReadableSpan(name))


def names_of(kept: KeptSpans) -> list[str]:
    return [span.name for span in kept.spans]


def test_spans_are_exported_in_batches_without_an_end_of_the_process() -> None:
    kept, dropped = KeptSpans(), Dropped()
    processor = BufferedProcessor(kept, on_drop=dropped, batch=2, seconds=0.01)
    end_spans(processor, "abcde")
    wait_until(lambda: len(kept.spans) == 5)
    end_spans(processor, "f")
    wait_until(lambda: len(kept.spans) == 6)
    assert names_of(kept) == list("abcdef")
    assert dropped.count == 0
    processor.shutdown()


def test_a_half_full_buffer_is_exported_at_once() -> None:
    kept = KeptSpans()
    processor = BufferedProcessor(kept, on_drop=Dropped(), most=8, seconds=3600)
    end_spans(processor, "abcd")
    wait_until(lambda: names_of(kept) == list("abcd"))
    processor.shutdown()


def test_the_last_spans_are_exported_at_the_end_and_later_ones_are_ignored() -> None:
    kept = KeptSpans()
    processor = BufferedProcessor(kept, on_drop=Dropped(), seconds=3600)
    end_spans(processor, "ab")
    processor.shutdown()
    end_spans(processor, "c")
    processor.shutdown()
    assert names_of(kept) == ["a", "b"]


def test_a_receiver_that_does_not_answer_delays_no_span_and_the_oldest_are_dropped() -> None:
    kept, dropped = KeptSpans(), Dropped()
    processor = BufferedProcessor(kept, on_drop=dropped, most=10, batch=1, seconds=0.001)
    kept.is_open.clear()
    end_spans(processor, ["stuck"])
    wait_until(kept.is_waiting.is_set)
    # The exporter waits all the time. If a span waited for it, this would not return.
    end_spans(processor, [f"{number}" for number in range(100)])
    assert dropped.count == 90
    kept.is_open.set()
    wait_until(lambda: len(kept.spans) == 11)
    assert names_of(kept) == ["stuck", *(f"{number}" for number in range(90, 100))]
    processor.shutdown()


def test_a_receiver_that_does_not_answer_delays_the_end_by_about_a_second() -> None:
    class Silent(KeptSpans):
        def shutdown(self) -> None:
            """Let the export go on waiting."""

    kept = Silent()
    processor = BufferedProcessor(kept, on_drop=Dropped(), seconds=0.001)
    kept.is_open.clear()
    end_spans(processor, "a")
    wait_until(kept.is_waiting.is_set)
    began = time.monotonic()
    processor.shutdown()
    assert time.monotonic() - began >= FLUSH_SECONDS
    assert names_of(kept) == []
    kept.is_open.set()


@pytest.mark.parametrize("raises", [True, False])
def test_spans_that_cannot_be_delivered_are_dropped_and_counted(raises: bool) -> None:
    class Failing(KeptSpans):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            if self.result is SpanExportResult.FAILURE and raises:
                raise OSError("nothing listens")
            return super().export(spans)

    kept, dropped = Failing(result=SpanExportResult.FAILURE), Dropped()
    processor = BufferedProcessor(kept, on_drop=dropped, seconds=0.001)
    end_spans(processor, "ab")
    wait_until(lambda: dropped.count == 2)
    kept.result = SpanExportResult.SUCCESS
    end_spans(processor, "c")
    wait_until(lambda: names_of(kept) == ["c"])
    processor.shutdown()


@pytest.mark.child_process
# Python 3.12 warns of threads at a fork, which are the subject of this test.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_child_of_a_fork_has_its_own_thread_and_none_of_the_spans_of_its_parent() -> None:
    kept = KeptSpans()
    processor = BufferedProcessor(kept, on_drop=Dropped(), seconds=3600)
    end_spans(processor, "a")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        end_spans(processor, "b")
        processor.shutdown()
        os.write(writing, ",".join(names_of(kept)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert told.read() == "b"
    os.waitpid(child, 0)
    processor.shutdown()
    assert names_of(kept) == ["a"]
