# SPDX-License-Identifier: Apache-2.0
"""The trust task: a webhook with a token."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.clock import START
from tests.unit.notification.sink import OK, Answer, Sink, receiving, saying
from tests.unit.notification.subjects import a_conf, a_delivery, a_subscription
from zaqar.access.trust_answers import TrustGone, TrustRefused, TrustToken
from zaqar.errors import KeystoneUnavailable
from zaqar.model import SUBSCRIPTION_CONFIRMATION, Delivery
from zaqar.notification.senders.base import Outcome
from zaqar.notification.senders.trust import TrustSender
from zaqar.notification.senders.webhook import WebhookSender

UNAUTHORIZED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"


class Tokens:
    """Gives the tokens t1, t2, ...; the first one as it was ``known`` before."""

    def __init__(self, *, known: bool = False, errors: dict[int, Exception] | None = None) -> None:
        self.known = known
        self.errors = errors or {}
        self.asked: list[tuple[str, str]] = []
        self.dropped: list[str] = []

    async def token(self, trust_id: str, *, project: str) -> tuple[TrustToken, bool]:
        self.asked.append((trust_id, project))
        number = len(self.asked)
        if number in self.errors:
            raise self.errors[number]
        return TrustToken(f"t{number}", START + 3600, project, "ann", "ann", frozenset()), self.known and number == 1

    def drop(self, trust_id: str, token: TrustToken) -> None:
        self.dropped.append(token.value)


def in_turn(*answers: bytes) -> Answer:
    """Each request gets the next of these answers."""
    left = iter(answers)

    async def answer(writer: asyncio.StreamWriter) -> None:
        await saying(next(left))(writer)

    return answer


def send(
    options: dict[str, object],
    tokens: Tokens | None,
    *answers: bytes,
    delivery: Delivery | None = None,
) -> tuple[Outcome, Sink]:
    async def run() -> tuple[Outcome, Sink]:
        conf = a_conf(webhook_allowed_networks=["127.0.0.0/8"])
        sender = TrustSender(WebhookSender.from_conf(conf), tokens)
        async with receiving(in_turn(*(answers or (OK,)))) as sink:
            subscription = a_subscription("trust+" + sink.url, options=options)
            assert sender.target(subscription) == f"127.0.0.1:{sink.port}"
            outcome = await sender.send(delivery or a_delivery(), subscription, now=START)
            await sender.close()
            return outcome, sink

    return asyncio.run(run())


def test_a_token_of_the_trust_goes_with_the_request() -> None:
    headers = {"X_Auth_Token": "mine", "X-Other": "x", "X-Project-ID": "p1", "Client-ID": "c1"}
    tokens = Tokens()
    outcome, sink = send({"trust_id": "t", "post_headers": headers}, tokens)
    assert outcome.delivered
    (request,) = sink.requests
    assert request.headers["x-auth-token"] == "t1"
    assert request.headers["x-other"] == "x"
    assert request.headers["x-project-id"] == "p1"
    assert request.headers["client-id"] == "c1"
    assert "x_auth_token" not in request.headers
    assert tokens.asked == [("t", "p1")]


def test_the_body_is_that_of_openstack_zaqar() -> None:
    template = '{"messages": [{"body": "$zaqar_message$", "ttl": 60}]}'
    _, sink = send({"trust_id": "t", "post_data": template}, Tokens())
    message = {"body": {"n": 1}, "ttl": 300, "queue_name": "orders", "Message_Type": "Notification"}
    assert json.loads(sink.requests[0].body) == {"messages": [{"body": message, "ttl": 60}]}
    assert sink.requests[0].headers["webhook-id"].startswith(a_delivery().id)


def test_another_project_is_not_sent_though_it_was_stored() -> None:
    outcome, sink = send({"trust_id": "t", "post_headers": {"X-Project-ID": "p2"}}, Tokens())
    assert not outcome.delivered
    assert "X-Project-ID" in outcome.answer
    assert sink.connections == 0


def test_without_a_token_nothing_is_sent() -> None:
    for options, tokens in (({}, Tokens()), ({"trust_id": 1}, Tokens()), ({"trust_id": "t"}, None)):
        outcome, sink = send(options, tokens)
        assert not outcome.delivered and not outcome.postponed and not outcome.gone
        assert "trust" in outcome.answer
        assert sink.connections == 0


@pytest.mark.parametrize(
    ("error", "gone", "postponed"),
    [
        (TrustGone(), True, False),
        (TrustRefused("the user is disabled"), False, False),
        (KeystoneUnavailable(), False, True),
    ],
)
def test_the_outcome_for_each_answer_of_keystone(error: Exception, gone: bool, postponed: bool) -> None:
    outcome, sink = send({"trust_id": "t"}, Tokens(errors={1: error}))
    assert (outcome.delivered, outcome.gone, outcome.postponed) == (False, gone, postponed)
    assert outcome.reached is None
    assert not outcome.final
    assert sink.connections == 0


def test_a_token_that_is_not_accepted_is_replaced_once() -> None:
    tokens = Tokens(known=True)
    outcome, sink = send({"trust_id": "t"}, tokens, UNAUTHORIZED, OK)
    assert outcome.delivered
    assert [request.headers["x-auth-token"] for request in sink.requests] == ["t1", "t2"]
    assert len({request.headers["webhook-id"] for request in sink.requests}) == 1
    assert tokens.dropped == ["t1"]


def test_a_receiver_that_accepts_no_token_is_asked_twice_at_most() -> None:
    tokens = Tokens(known=True)
    outcome, sink = send({"trust_id": "t"}, tokens, UNAUTHORIZED, UNAUTHORIZED, OK)
    assert (outcome.delivered, outcome.status) == (False, 401)
    assert len(sink.requests) == 2


def test_a_token_that_is_new_is_not_replaced_at_once() -> None:
    tokens = Tokens()
    outcome, sink = send({"trust_id": "t"}, tokens, UNAUTHORIZED, OK)
    assert outcome.status == 401
    assert len(sink.requests) == 1
    assert tokens.dropped == ["t1"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [(TrustGone(), (None, True, False)), (KeystoneUnavailable(), (401, False, False))],
)
def test_the_outcome_if_keystone_fails_after_a_token_was_not_accepted(
    error: Exception, expected: tuple[int | None, bool, bool]
) -> None:
    outcome, _ = send({"trust_id": "t"}, Tokens(known=True, errors={2: error}), UNAUTHORIZED, OK)
    assert (outcome.status, outcome.gone, outcome.postponed) == expected


def test_a_token_follows_no_redirect() -> None:
    async def run() -> None:
        sender = TrustSender(WebhookSender.from_conf(a_conf(webhook_allowed_networks=["127.0.0.0/8"])), Tokens())
        async with receiving(saying(OK)) as other:
            moved = f"HTTP/1.1 307 Moved\r\nLocation: {other.url}\r\nContent-Length: 0\r\n\r\n".encode()
            async with receiving(saying(moved)) as sink:
                subscription = a_subscription("trust+" + sink.url, options={"trust_id": "t"})
                outcome = await sender.send(a_delivery(), subscription, now=START)
                assert (outcome.delivered, outcome.status) == (False, 307)
            assert other.connections == 0
        await sender.close()

    asyncio.run(run())


def test_a_confirmation_carries_a_token_too() -> None:
    delivery = a_delivery(b"{}", kind=SUBSCRIPTION_CONFIRMATION, number=0)
    outcome, sink = send({"trust_id": "t"}, Tokens(), delivery=delivery)
    assert outcome.delivered
    assert sink.requests[0].headers["x-auth-token"] == "t1"


def test_a_service_without_keystone_has_no_tokens() -> None:
    sender = TrustSender.from_conf(a_conf())
    outcome = asyncio.run(sender.send(a_delivery(), a_subscription("trust+http://192.0.2.1/"), now=START))
    assert not outcome.delivered
