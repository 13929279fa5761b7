# SPDX-License-Identifier: Apache-2.0
"""Which spans are made, the variables OTEL_*, and what happens without the library."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tracing import SAMPLED, SPAN_ID, TRACE_ID, UNSAMPLED, KeptSpans, links_of, parent_of, trace_id
from tests.unit.metrics.test_recorder import series_of
from zaqar import conf
from zaqar.errors import StartupError
from zaqar.metrics.families import SPANS_DROPPED
from zaqar.metrics.recorder import Recorder
from zaqar.tracing.context import is_sampled, tracestate_of
from zaqar.tracing.spans import CHILD_SECONDS, Tracing


def make(kept: KeptSpans, *, recorder: Recorder | None = None, **options: object) -> Tracing | None:
    configuration = conf.load([])
    for name, value in {"enabled": True, **options}.items():
        configuration.set_override(name, value, "tracing")
    return Tracing.from_conf(configuration, "api", recorder, make_exporter=lambda: kept)


def made(kept: KeptSpans, **options: object) -> Tracing:
    tracing = make(kept, **options)
    assert tracing is not None
    return tracing


def test_the_parts_of_a_context() -> None:
    assert is_sampled(SAMPLED)
    assert not is_sampled(UNSAMPLED)
    assert is_sampled(f"{SAMPLED[:-2]}ff a=1")
    assert [tracestate_of(each) for each in (SAMPLED, f"{SAMPLED} a=1,b=2")] == ["", "a=1,b=2"]


def test_tracing_is_off_unless_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert make(KeptSpans(), enabled=False) is None
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert make(KeptSpans()) is None
    monkeypatch.delenv("OTEL_TRACES_EXPORTER")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert make(KeptSpans()) is None


def test_only_sampled_requests_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    tracing = made(KeptSpans(), root_ratio=0.0)
    begun: list[object] = []
    monkeypatch.setattr(tracing, "_tracer", None)
    monkeypatch.setattr(tracing, "_begin", lambda *args, **_: begun.append(args))
    assert tracing.begin_request(UNSAMPLED) is None
    assert tracing.begin_request(None) is None
    assert tracing.begin_attempt(UNSAMPLED, age=0.0) is None
    assert tracing.begin_attempt(None, age=0.0) is None
    assert begun == []
    tracing.begin_request(SAMPLED)
    assert len(begun) == 1
    tracing.close()


def test_the_ratio_is_that_of_the_requests_without_a_context() -> None:
    tracing = made(KeptSpans(), root_ratio=0.5)
    traced = sum(tracing.begin_request(None) is not None for _ in range(400))
    # The probability of a count outside of these bounds is below 1e-20.
    assert 100 < traced < 300
    tracing.close()


def test_the_variable_for_the_sampler_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    tracing = made(KeptSpans(), root_ratio=1.0)
    assert tracing.begin_request(None) is None
    assert tracing.begin_request(SAMPLED) is not None
    tracing.close()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    tracing = made(KeptSpans(), root_ratio=0.0)
    assert tracing.begin_request(None) is not None
    tracing.close()


@pytest.mark.parametrize(
    ("variables", "name"),
    [
        ({}, "zaqar-api"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=ours,deployment.environment.name=test"}, "ours"),
    ],
)
def test_the_variables_name_the_service(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], name: str) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    kept = KeptSpans()
    tracing = made(kept)
    span = tracing.begin_request(SAMPLED)
    assert span is not None
    span.end("GET", {})
    tracing.close()
    attributes = kept.spans[0].resource.attributes
    assert attributes["service.name"] == name
    assert "service.version" in attributes
    assert ("deployment.environment.name" in attributes) == ("OTEL_RESOURCE_ATTRIBUTES" in variables)


@pytest.mark.parametrize("text", ["many", "0", "-1", "2.5"])
def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", text)
    with pytest.raises(StartupError, match=r"^OTEL_BSP_MAX_QUEUE_SIZE: must be a positive whole number"):
        make(KeptSpans())


def test_late_deliveries_begin_a_trace_with_a_link() -> None:
    kept = KeptSpans()
    tracing = made(kept)
    for age in (0.0, CHILD_SECONDS, CHILD_SECONDS + 1):
        span = tracing.begin_attempt(f"{SAMPLED} a=1", age=age)
        assert span is not None
        assert is_sampled(span.trace)
        assert tracestate_of(span.trace) == ("a=1" if age <= CHILD_SECONDS else "")
        span.end("POST", {})
    tracing.close()
    *children, root = kept.spans
    assert [(trace_id(span), parent_of(span), links_of(span)) for span in children] == [(TRACE_ID, SPAN_ID, [])] * 2
    assert parent_of(root) is None
    assert trace_id(root) != TRACE_ID
    assert links_of(root) == [SPAN_ID]


def test_dropped_spans_are_counted_in_the_metrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    # So the first export begins when the buffer is half full.
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    kept, recorder = KeptSpans(), Recorder(tmp_path, "api")
    tracing = made(kept, recorder=recorder)
    kept.is_open.clear()

    def end_span() -> None:
        span = tracing.begin_request(SAMPLED)
        assert span is not None
        span.end("GET", {})

    end_span()
    end_span()
    kept.is_waiting.wait()
    for _ in range(10):
        end_span()
    (series,) = [each for each in series_of(tmp_path) if each.family is SPANS_DROPPED]
    assert series.cells[0] == 6
    tracing.close()
    recorder.close()
