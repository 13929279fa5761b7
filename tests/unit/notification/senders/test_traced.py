# SPDX-License-Identifier: Apache-2.0
"""The spans of attempts, for each kind of outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from tests.clock import START
from tests.tracing import SAMPLED, SPAN_ID, TRACE_ID, UNSAMPLED, KeptSpans, links_of, parent_of, span_id, trace_id
from tests.unit.notification.harness import BROKEN, FINE, SILENT, ScriptedSender
from tests.unit.notification.subjects import SUBSCRIPTION_ID, a_delivery, a_subscription
from zaqar import conf
from zaqar.model import Delivery
from zaqar.notification.senders.base import Outcome
from zaqar.notification.senders.traced import TracedSenders
from zaqar.tracing.spans import Tracing

WEBHOOK = "https://hooks.example:8443/planted-path?planted-query"


class Attempt:
    """Makes attempts with a sender that answers as a test says."""

    def __init__(self) -> None:
        configuration = conf.load([], default_config_files=[])
        configuration.set_override("enabled", True, "tracing")
        self.kept = KeptSpans()
        tracing = Tracing.from_conf(configuration, "notifier", None, make_exporter=lambda: self.kept)
        assert tracing is not None
        self.tracing = tracing
        self.sender = ScriptedSender()
        self.sent: list[Delivery] = []
        self.senders = TracedSenders({"https": self.sender, "mailto": self.sender}, tracing)

    async def make(self, outcome: Any, *, subscriber: str = WEBHOOK, now: float = START, **changes: Any) -> Outcome:
        def answer(delivery: Delivery) -> Any:
            self.sent.append(delivery)
            return outcome

        self.sender.answers[SUBSCRIPTION_ID] = answer
        subscription = a_subscription(subscriber, options={"secret": "planted-secret"})
        delivery = a_delivery(b'"planted-body"', **{"trace": SAMPLED, **changes})
        return await self.senders.send(delivery, subscription, now=now)

    def spans(self) -> list[ReadableSpan]:
        self.tracing.close()
        return self.kept.spans


@pytest.fixture
def attempt() -> Iterator[Attempt]:
    attempt = Attempt()
    yield attempt
    attempt.tracing.close()


def test_an_attempt_is_a_child_of_the_post_and_the_parent_of_the_receiver(attempt: Attempt) -> None:
    assert asyncio.run(attempt.make(FINE, tries=2, request_id="req-1")) is FINE
    (span,) = attempt.spans()
    assert (span.name, span.kind.name) == ("POST", "CLIENT")
    assert (trace_id(span), parent_of(span), links_of(span)) == (TRACE_ID, SPAN_ID, [])
    assert [delivery.trace for delivery in attempt.sent] == [f"00-{TRACE_ID}-{span_id(span)}-01"]
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.response.status_code": 204,
        "server.address": "hooks.example",
        "server.port": 8443,
        "messaging.system": "zaqar",
        "messaging.destination.name": "orders",
        "messaging.destination.subscription.name": SUBSCRIPTION_ID,
        "messaging.message.id": attempt.sent[0].id,
        "zaqar.project.id": "p1",
        "zaqar.request.id": "req-1",
        "zaqar.delivery.try": 3,
        "zaqar.subscriber.scheme": "https",
    }
    assert "planted" not in span.to_json()


def test_an_attempt_after_an_hour_has_a_trace_of_its_own_and_a_link(attempt: Attempt) -> None:
    asyncio.run(attempt.make(FINE, now=START + 3601))
    (span,) = attempt.spans()
    assert (parent_of(span), links_of(span)) == (None, [SPAN_ID])
    assert trace_id(span) != TRACE_ID
    assert [delivery.trace for delivery in attempt.sent] == [f"00-{trace_id(span)}-{span_id(span)}-01"]


@pytest.mark.parametrize("trace", [None, UNSAMPLED, f"{UNSAMPLED} a=1"])
def test_a_message_that_is_not_sampled_has_no_span_and_keeps_its_context(attempt: Attempt, trace: str | None) -> None:
    asyncio.run(attempt.make(FINE, trace=trace))
    assert [delivery.trace for delivery in attempt.sent] == [trace]
    assert attempt.spans() == []


@pytest.mark.parametrize(
    ("outcome", "error"),
    [(BROKEN, "500"), (SILENT, "connect"), (Outcome(False, None, "", reached=False, failure="timeout"), "timeout")],
)
def test_a_failure_is_an_error_with_its_type(attempt: Attempt, outcome: Outcome, error: str) -> None:
    asyncio.run(attempt.make(outcome))
    (span,) = attempt.spans()
    assert span.status.status_code is StatusCode.ERROR
    assert (span.attributes or {})["error.type"] == error


@pytest.mark.parametrize(
    "outcome", [Outcome(False, None, "", reached=None, postponed=True), Outcome(False, None, "", waits=True)]
)
def test_an_attempt_that_was_not_made_has_no_span(attempt: Attempt, outcome: Outcome) -> None:
    asyncio.run(attempt.make(outcome))
    assert attempt.spans() == []


def test_an_attempt_that_is_cancelled_has_a_span(attempt: Attempt) -> None:
    async def play() -> None:
        under_way = asyncio.create_task(attempt.make(asyncio.Event().wait()))
        while not attempt.sent:
            await asyncio.sleep(0)
        under_way.cancel()
        with pytest.raises(asyncio.CancelledError):
            await under_way

    asyncio.run(play())
    (span,) = attempt.spans()
    assert (span.attributes or {})["error.type"] == "cancelled"


def test_a_mail_has_a_span_without_an_address(attempt: Attempt) -> None:
    asyncio.run(attempt.make(FINE, subscriber="mailto://planted@example.org"))
    (span,) = attempt.spans()
    assert span.name == "send mailto"
    assert "server.address" not in (span.attributes or {})
    assert "planted" not in span.to_json()
