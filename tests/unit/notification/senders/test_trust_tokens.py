# SPDX-License-Identifier: Apache-2.0
"""Tokens of trusts: remembered, asked for once, and never waited for long."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from tests.clock import FakeClock
from zaqar.access.trust_answers import TrustGone, TrustRefused, TrustToken
from zaqar.errors import KeystoneUnavailable
from zaqar.notification.senders import trust_tokens
from zaqar.notification.senders.trust_tokens import (
    EARLY_SECONDS,
    REFUSED_SECONDS,
    REQUESTS,
    REQUESTS_OF_A_PROJECT,
    WAITING,
    WAITING_OF_A_PROJECT,
    TrustTokens,
)

PATIENCE = 0.3


class Keystone:
    """Answers as it is told; the project of a trust is the part of its id before the dash."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.tokens = TrustTokens(self.fetch, self.clock, patience=PATIENCE)
        self.error: Exception | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.asked: list[str] = []
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self._lock = threading.Lock()

    def fetch(self, trust_id: str) -> TrustToken:
        project = trust_id.partition("-")[0]
        with self._lock:
            self.asked.append(trust_id)
            number = len(self.asked)
            self.under_way[project] += 1
            for name, count in ((project, self.under_way[project]), ("all", self.under_way.total())):
                self.most[name] = max(self.most[name], count)
        try:
            assert self.may_answer.wait(30)
            if self.error is not None:
                raise self.error
            return TrustToken(f"t{number}", self.clock() + 3600, project, "ann", "ann", frozenset())
        finally:
            with self._lock:
                self.under_way[project] -= 1

    async def get(self, trust_id: str, project: str | None = None) -> str:
        token, _ = await self.tokens.token(trust_id, project=project or trust_id.partition("-")[0])
        return token.value


@pytest.fixture
def keystone() -> Iterator[Keystone]:
    keystone = Keystone()
    yield keystone
    # Threads that a test has left waiting.
    keystone.may_answer.set()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def asked(keystone: Keystone, count: int) -> None:
    async with asyncio.timeout(10):
        while len(keystone.asked) < count:
            await asyncio.sleep(0.005)


def test_a_token_is_used_until_a_while_before_its_end(keystone: Keystone) -> None:
    async def test() -> None:
        assert await keystone.get("p-1") == "t1"
        keystone.clock.advance(3600 - EARLY_SECONDS - 1)
        assert await keystone.tokens.token("p-1", project="p") == (keystone.tokens._known["p-1"].said, True)
        assert await keystone.get("p-1") == "t1"
        keystone.clock.advance(1)
        assert await keystone.get("p-1") == "t2"
        assert await keystone.get("p-2") == "t3"

    run(test)


def test_callers_that_want_a_token_of_a_trust_share_one_request(keystone: Keystone) -> None:
    async def test() -> None:
        keystone.may_answer.clear()
        waiting = [asyncio.create_task(keystone.get("p-1")) for _ in range(5)]
        await asked(keystone, 1)
        waiting.pop().cancel()
        keystone.may_answer.set()
        assert await asyncio.gather(*waiting) == 4 * ["t1"]
        assert keystone.asked == ["p-1"]

    run(test)


def test_a_token_that_was_not_accepted_is_dropped(keystone: Keystone) -> None:
    async def test() -> None:
        old, was_known = await keystone.tokens.token("p-1", project="p")
        assert not was_known
        keystone.tokens.drop("p-1", old)
        assert await keystone.get("p-1") == "t2"
        # Another delivery learns late that the old one was not accepted.
        keystone.tokens.drop("p-1", old)
        keystone.tokens.drop("p-9", old)
        assert await keystone.get("p-1") == "t2"

    run(test)


def test_a_trust_of_another_project_is_never_used(keystone: Keystone) -> None:
    async def test() -> None:
        for _ in range(2):
            with pytest.raises(TrustRefused, match="another project"):
                await keystone.get("p-1", project="q")
        assert await keystone.get("p-1") == "t1"

    run(test)


def test_all_callers_that_wait_learn_that_a_trust_is_gone(keystone: Keystone) -> None:
    async def test() -> None:
        keystone.error = TrustGone()
        outcomes = await asyncio.gather(*(keystone.get("p-1") for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in outcomes] == 3 * [TrustGone]
        keystone.error = None
        assert await keystone.get("p-1") == "t2"

    run(test)


def test_a_refusal_is_cached_for_a_moment(keystone: Keystone) -> None:
    async def test() -> None:
        keystone.error = TrustRefused("disabled")
        for _ in range(3):
            with pytest.raises(TrustRefused, match="disabled"):
                await keystone.get("p-1")
        assert len(keystone.asked) == 1
        keystone.error = None
        keystone.clock.advance(REFUSED_SECONDS)
        assert await keystone.get("p-1") == "t2"

    run(test)


def test_one_project_leaves_room_for_others(keystone: Keystone) -> None:
    async def test() -> None:
        keystone.may_answer.clear()
        hoarding = [asyncio.create_task(keystone.get(f"p-{number}")) for number in range(6)]
        await asked(keystone, REQUESTS_OF_A_PROJECT)
        others = [asyncio.create_task(keystone.get(f"{name}-1")) for name in "abc"]
        await asked(keystone, REQUESTS)
        await asyncio.sleep(PATIENCE / 5)
        assert keystone.most == {"p": REQUESTS_OF_A_PROJECT, "a": 1, "b": 1, "all": REQUESTS}
        keystone.may_answer.set()
        await asyncio.gather(*hoarding, *others)
        assert keystone.most["p"] == REQUESTS_OF_A_PROJECT
        assert keystone.tokens._permits_of == {}
        assert not keystone.tokens._waiting

    run(test)


def test_few_deliveries_wait(keystone: Keystone) -> None:
    async def test() -> None:
        keystone.may_answer.clear()
        waiting = [asyncio.create_task(keystone.get("p-1")) for _ in range(WAITING_OF_A_PROJECT)]
        await asked(keystone, 1)
        with pytest.raises(KeystoneUnavailable):
            await keystone.get("p-1")
        waiting += [asyncio.create_task(keystone.get("q-1")) for _ in range(WAITING - WAITING_OF_A_PROJECT)]
        await asked(keystone, 2)
        with pytest.raises(KeystoneUnavailable):
            await keystone.get("r-1")
        keystone.may_answer.set()
        await asyncio.gather(*waiting)
        assert await keystone.get("r-1") == "t3"

    run(test)


def test_no_more_deliveries_wait_for_a_silent_keystone(keystone: Keystone) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        keystone.may_answer.clear()
        first = [asyncio.create_task(keystone.get(f"{name}-1")) for name in "abcdef"]
        await asked(keystone, REQUESTS)
        # Those without a thread give up soon.
        await asyncio.wait(first[REQUESTS:], timeout=10)
        assert [type(each.exception()) for each in first[REQUESTS:]] == 2 * [KeystoneUnavailable]
        began = loop.time()
        for _ in range(100):
            for trust in ("a-1", "x-1"):
                with pytest.raises(KeystoneUnavailable):
                    await keystone.get(trust)
        assert loop.time() - began < PATIENCE
        assert len(keystone.asked) == REQUESTS
        keystone.may_answer.set()
        assert sorted(await asyncio.gather(*first[:REQUESTS])) == ["t1", "t2", "t3", "t4"]
        assert await keystone.get("x-1") == "t5"

    run(test)


def test_after_a_failure_keystone_is_not_asked_for_a_pause_and_then_asked_once(
    keystone: Keystone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trust_tokens, "FIRST_PAUSE_SECONDS", 0.1)

    async def test() -> None:
        keystone.error = KeystoneUnavailable()
        for _ in range(20):
            with pytest.raises(KeystoneUnavailable):
                await keystone.get("p-1")
        assert len(keystone.asked) == 1
        await asyncio.sleep(0.11)
        keystone.may_answer.clear()
        probing = asyncio.create_task(keystone.get("p-1"))
        await asked(keystone, 2)
        with pytest.raises(KeystoneUnavailable):
            await keystone.get("q-1")
        keystone.error = None
        keystone.may_answer.set()
        assert await probing == "t2"
        assert await keystone.get("q-1") == "t3"
        assert [record.getMessage().split(";")[0] for record in caplog.records] == [
            "Keystone gives no tokens of trusts",
            "Keystone gives tokens of trusts again.",
        ]

    run(test)


def test_the_number_of_tokens_is_bounded(keystone: Keystone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust_tokens, "MOST_TOKENS", 3)

    async def test() -> None:
        for number in (1, 2, 3, 1, 4):
            await keystone.get(f"p-{number}")
        assert list(keystone.tokens._known) == ["p-3", "p-1", "p-4"]

    run(test)


def test_nothing_shows_a_token() -> None:
    assert "secret" not in repr(TrustToken("secret", 1.0, "p", "u", "u", frozenset()))
