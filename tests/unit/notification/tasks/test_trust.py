# SPDX-License-Identifier: Apache-2.0
"""The trust task: a webhook with a token."""

from __future__ import annotations

import asyncio

from tests.clock import START
from tests.unit.notification.sink import OK, Sink, receiving, saying
from tests.unit.notification.subjects import a_conf, a_delivery, a_subscription
from zaqar.notification.tasks.base import Outcome
from zaqar.notification.tasks.trust import TrustTask, TrustTokens
from zaqar.notification.tasks.webhook import WebhookTask


class Tokens:
    async def token(self, trust_id: str) -> str | None:
        return f"token of {trust_id}" if trust_id == "t1" else None


def send(options: dict[str, object], tokens: TrustTokens | None = None) -> tuple[Outcome, Sink]:
    async def run() -> tuple[Outcome, Sink]:
        conf = a_conf(webhook_allowed_networks=["127.0.0.0/8"])
        task = TrustTask(WebhookTask.from_conf(conf), tokens) if tokens else TrustTask.from_conf(conf)
        async with receiving(saying(OK)) as sink:
            subscription = a_subscription("trust+" + sink.url, options=options)
            assert task.target(subscription) == f"127.0.0.1:{sink.port}"
            outcome = await task.send(a_delivery(), subscription, now=START)
            await task.close()
            return outcome, sink

    return asyncio.run(run())


def test_a_token_of_the_trust_goes_with_the_request() -> None:
    outcome, sink = send({"trust_id": "t1", "post_headers": {"X_Auth_Token": "mine", "X-Other": "x"}}, Tokens())
    assert outcome.delivered
    (request,) = sink.requests
    assert request.headers["x-auth-token"] == "token of t1"
    assert request.headers["x-other"] == "x"
    assert "x_auth_token" not in request.headers


def test_without_a_token_nothing_is_sent() -> None:
    for options in ({"trust_id": "t2"}, {}):
        outcome, sink = send(options, Tokens())
        assert not outcome.delivered
        assert "trust" in outcome.answer
        assert sink.connections == 0


def test_a_service_without_keystone_has_no_tokens() -> None:
    outcome, sink = send({"trust_id": "t1"})
    assert not outcome.delivered
    assert sink.connections == 0
