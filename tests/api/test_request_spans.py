# SPDX-License-Identifier: Apache-2.0
"""The spans of requests over HTTP."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from tests.api.client import ALICE, PLANTED, Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS
from tests.tracing import SAMPLED, SPAN_ID, TRACE_ID, UNSAMPLED, KeptSpans, links_of, parent_of, span_id, trace_id
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.logs import context as log_context
from zaqar.tracing import spans as spans_module
from zaqar.tracing.spans import MOST_LINKS, Tracing
from zaqar.transport.websocket.replies import Reply
from zaqar.transport.websocket.session import Session, Sessions

MESSAGES = "/v2/queues/q/messages"

MakeTraced = Callable[..., Api]


@pytest.fixture
def kept() -> KeptSpans:
    return KeptSpans()


@pytest.fixture
def make_traced(tmp_path: Path, kept: KeptSpans, monkeypatch: pytest.MonkeyPatch) -> Any:
    from_conf = Tracing.from_conf
    monkeypatch.setattr(
        spans_module.Tracing,
        "from_conf",
        lambda conf, part, recorder: from_conf(conf, part, recorder, make_exporter=lambda: kept),
    )
    made = []

    def make(**options: Any) -> Api:
        driver = DRIVERS["memory"]
        settings = {"state_dir": str(tmp_path), "tracing__enabled": True, **options}
        made.append(Api(driver, driver.prepare(tmp_path), clock=FakeClock(), **settings))
        return made[-1]

    yield make
    for api in made:
        api.close()


def exported(api: Api, kept: KeptSpans) -> list[ReadableSpan]:
    """All spans so far. Nothing is exported after this."""
    assert api.parts.tracing is not None
    api.parts.tracing.close()
    return kept.spans


def post(api: Api, *bodies: object, **headers: str) -> None:
    messages = [{"body": body, "ttl": 60} for body in bodies]
    assert api.post(MESSAGES, {"messages": messages}, headers=dict(headers)).status_code == 201


def traces_of(api: Api) -> list[str | None]:
    listed = api.get(f"{MESSAGES}?echo=true&include_trace=true", headers={"traceparent": UNSAMPLED}).json["messages"]
    return [message.get("trace", {}).get("traceparent") for message in listed]


def test_a_sampled_post_has_a_span_whose_context_its_messages_keep(make_traced: MakeTraced, kept: KeptSpans) -> None:
    api = make_traced()
    post(api, "one", "two", traceparent=SAMPLED, tracestate="rojo=1")
    listed = api.get(f"{MESSAGES}?echo=true&include_trace=true", headers={"traceparent": UNSAMPLED}).json["messages"]
    (span,) = exported(api, kept)
    assert (span.name, span.kind.name) == ("POST /v2/queues/{queue_name}/messages", "SERVER")
    assert (trace_id(span), parent_of(span)) == (TRACE_ID, SPAN_ID)
    own = {"traceparent": f"00-{TRACE_ID}-{span_id(span)}-01", "tracestate": "rojo=1"}
    assert [message["trace"] for message in listed] == [own, own]
    attributes = dict(span.attributes or {})
    assert attributes.pop("zaqar.request.id", "").startswith("req-")
    assert attributes == {
        "http.request.method": "POST",
        "http.route": "/v2/queues/{queue_name}/messages",
        "http.response.status_code": 201,
        "messaging.system": "zaqar",
        "messaging.destination.name": "q",
        "messaging.operation.type": "send",
        "messaging.operation.name": "post",
        "zaqar.project.id": api.project,
    }


def test_a_request_that_is_not_sampled_has_no_span_and_keeps_its_context(
    make_traced: MakeTraced, kept: KeptSpans
) -> None:
    api = make_traced(tracing__root_ratio=1.0)
    post(api, 1, traceparent=UNSAMPLED)
    assert traces_of(api) == [UNSAMPLED]
    assert exported(api, kept) == []


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (1.0, 1)])
@pytest.mark.parametrize("traceparent", [None, "nonsense"])
def test_without_a_valid_context_the_ratio_decides(
    make_traced: MakeTraced, kept: KeptSpans, ratio: float, count: int, traceparent: str | None
) -> None:
    api = make_traced(tracing__root_ratio=ratio)
    headers = {} if traceparent is None else {"traceparent": traceparent, "tracestate": "rojo=1"}
    post(api, 1, **headers)
    stored = traces_of(api)
    spans = exported(api, kept)
    assert [parent_of(span) for span in spans] == [None] * count
    assert stored == ([f"00-{trace_id(span)}-{span_id(span)}-01" for span in spans] or [None])


def test_claims_lists_and_pops_are_linked_to_the_traces_of_their_messages(
    make_traced: MakeTraced, kept: KeptSpans
) -> None:
    api = make_traced()
    for number in range(2):
        post(api, number, traceparent=SAMPLED)
    post(api, "without")
    other = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    api.get(f"{MESSAGES}?echo=true", headers=other)
    api.post("/v2/queues/q/claims?limit=1", headers=other)
    api.delete(f"{MESSAGES}?pop=5", headers=other)
    api.post("/v2/queues/q/claims", headers=other)
    first, second, listed, claimed, popped, empty = exported(api, kept)
    ids = [span_id(first), span_id(second)]
    assert [links_of(span) for span in (listed, claimed, popped, empty)] == [ids, ids[:1], ids[1:], []]
    shown = [
        ((span.attributes or {})["messaging.operation.name"], (span.attributes or {})["messaging.batch.message_count"])
        for span in (listed, claimed, popped, empty)
    ]
    assert shown == [("list", 3), ("claim", 1), ("pop", 2), ("claim", 0)]
    assert {trace_id(span) for span in (listed, claimed, popped, empty)} == {"a" * 32}


def test_a_span_has_few_links(make_traced: MakeTraced, kept: KeptSpans) -> None:
    api = make_traced(transport__max_messages_per_page=30)
    post(api, *range(25), traceparent=SAMPLED)
    api.get(f"{MESSAGES}?echo=true&limit=30", headers={"traceparent": SAMPLED})
    _, listed = exported(api, kept)
    assert len(listed.links) == MOST_LINKS
    assert (listed.attributes or {})["messaging.batch.message_count"] == 25


def test_a_failure_of_the_service_is_an_error_and_one_of_the_client_is_none(
    make_traced: MakeTraced, kept: KeptSpans, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_traced()
    headers: dict[str, str | None] = {"traceparent": SAMPLED}
    api.get("/nothing/here", headers=headers)
    api.get(f"{MESSAGES}/{'0' * 36}", headers=headers)
    api.get("/livez", headers=headers)

    def refuse(*_: object, **__: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(type(api.parts.messages), "post", refuse)
    api.post(MESSAGES, {"messages": []}, headers=headers)
    *by_client, by_service = exported(api, kept)
    assert {span.status.status_code for span in by_client} == {StatusCode.UNSET}
    assert [span.name for span in by_client] == ["GET", "GET /v2/queues/{queue_name}/messages/{message_id}"]
    assert by_service.status.status_code is StatusCode.ERROR
    assert (by_service.attributes or {})["error.type"] == "503"


def test_no_span_has_a_body_a_token_or_a_query(make_traced: MakeTraced, kept: KeptSpans) -> None:
    api = make_traced()
    post(api, "planted-body", traceparent=SAMPLED)
    api.get(f"{MESSAGES}?echo=true&marker=planted-query", headers={"traceparent": SAMPLED})
    spans = exported(api, kept)
    assert len(spans) == 2
    for span in spans:
        text = span.to_json()
        assert PLANTED not in text
        assert "planted" not in text


def test_records_of_the_log_have_the_ids_of_the_span(make_traced: MakeTraced, kept: KeptSpans) -> None:
    api = make_traced()
    api.get(MESSAGES, headers={"traceparent": SAMPLED})
    details = log_context.details.get()
    (span,) = exported(api, kept)
    assert details == {"trace_id": TRACE_ID, "span_id": span_id(span)}
    api.get(MESSAGES)
    assert log_context.details.get() == {}


def send_frame(api: Api, session: Session, action: str, traceparent: str, **body: object) -> Reply:
    headers = {"Client-ID": ALICE, "X-Project-ID": api.project, "traceparent": traceparent}
    frame = json.dumps({"action": action, "headers": headers, "body": {"queue_name": "q", **body}})
    return session.answer(session.read(frame))


def test_frames_of_the_websocket_api_have_spans_too(
    make_traced: MakeTraced, kept: KeptSpans, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = make_traced()
    session = Sessions().open(api.parts, "c" * 32)
    messages = [{"body": "planted-body", "ttl": 60}]
    assert send_frame(api, session, "message_post", SAMPLED, messages=messages).status == 201
    assert send_frame(api, session, "message_post", UNSAMPLED, messages=messages).status == 201
    stored = traces_of(api)
    assert send_frame(api, session, "claim_get", SAMPLED, claim_id="0" * 24).status == 404

    def refuse(*_: object, **__: object) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(type(api.parts.messages), "post", refuse)
    assert send_frame(api, session, "message_post", SAMPLED, messages=messages).status == 503
    posted, absent, failed = exported(api, kept)
    assert [span.name for span in kept.spans] == ["message_post", "claim_get", "message_post"]
    assert (posted.kind.name, trace_id(posted), parent_of(posted)) == ("SERVER", TRACE_ID, SPAN_ID)
    assert stored == [f"00-{TRACE_ID}-{span_id(posted)}-01", UNSAMPLED]
    attributes = dict(posted.attributes or {})
    assert attributes.pop("zaqar.request.id")
    assert attributes == {
        "messaging.system": "zaqar",
        "messaging.destination.name": "q",
        "messaging.operation.type": "send",
        "messaging.operation.name": "post",
        "zaqar.project.id": api.project,
        "zaqar.reply.status": 201,
    }
    assert absent.status.status_code is StatusCode.UNSET
    assert failed.status.status_code is StatusCode.ERROR


def test_a_frame_that_waits_has_one_span_that_ends_with_its_reply(make_traced: MakeTraced, kept: KeptSpans) -> None:
    api = make_traced()
    session = Sessions().open(api.parts, "c" * 32)
    headers = {"Client-ID": ALICE, "X-Project-ID": api.project, "traceparent": SAMPLED}
    frame = json.dumps({"action": "claim_create", "headers": headers, "body": {"queue_name": "q", "wait": 5}})
    request = session.read(frame)
    assert session.answer(request).pending is not None
    assert session.answer(request).pending is not None
    assert session.end_wait(request).status == 204
    (span,) = exported(api, kept)
    assert (span.attributes or {})["zaqar.reply.status"] == 204


def test_a_missing_library_ends_the_start_in_one_sentence(
    make_traced: MakeTraced, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "zaqar.tracing.spans")
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    with pytest.raises(StartupError) as failed:
        make_traced()
    assert str(failed.value) == "[tracing] enabled: pip install 'zaqar[otel]', as there is no opentelemetry.context."


def test_nothing_of_tracing_is_installed_if_it_is_off(make_traced: MakeTraced) -> None:
    api = make_traced(tracing__enabled=False)
    assert api.parts.tracing is None
    assert type(Sessions().open(api.parts, "c" * 32)) is Session
    post(api, 1, traceparent=SAMPLED)
    assert traces_of(api) == [SAMPLED]
