# SPDX-License-Identifier: Apache-2.0
"""The token cache: times, bounds, and that it does not contain tokens."""

from __future__ import annotations

import gc
from dataclasses import replace

from tests.clock import FakeClock
from zaqar.access.identity import Answer, Identity
from zaqar.access.token_cache import TokenCache, key_of

MEMBER = Identity("demo", "ann", frozenset({"member", "reader"}), None, expires=1e12)


def test_a_key_does_not_show_its_token() -> None:
    assert key_of("token") == key_of("token") != key_of("token2")
    assert b"token" not in key_of("token")
    assert len({key_of(text) for text in ("", "\xe9", "\udce9", "e")}) == 4


def test_an_identity_is_cached_for_its_time() -> None:
    clock = FakeClock()
    cache = TokenCache(clock)
    cache.keep(key_of("a"), Answer(MEMBER, 60.0))
    assert cache.find(key_of("a")) == MEMBER
    assert cache.find(key_of("b")) is None
    clock.advance(59)
    assert cache.find(key_of("a")) == MEMBER
    clock.advance(1)
    assert cache.find(key_of("a")) is None


def test_an_identity_is_not_cached_after_the_end_of_its_token() -> None:
    clock = FakeClock()
    cache = TokenCache(clock)
    cache.keep(key_of("a"), Answer(replace(MEMBER, expires=clock() + 10), 60.0))
    clock.advance(9)
    assert cache.find(key_of("a")) is not None
    clock.advance(1)
    assert cache.find(key_of("a")) is None


def test_an_entry_does_not_live_longer_if_the_clock_is_set_back() -> None:
    clock = FakeClock()
    cache = TokenCache(clock)
    cache.keep(key_of("a"), Answer(MEMBER, 60.0))
    cache.keep(key_of("b"), Answer(None, 10.0))
    clock.advance(-1)
    assert cache.find(key_of("a")) is None
    assert not cache.was_rejected(key_of("b"))


def test_a_rejected_token_is_cached() -> None:
    clock = FakeClock()
    cache = TokenCache(clock)
    cache.keep(key_of("a"), Answer(None, 10.0))
    assert cache.was_rejected(key_of("a"))
    assert cache.find(key_of("a")) is None
    clock.advance(10)
    assert not cache.was_rejected(key_of("a"))


def test_the_last_answer_about_a_token_replaces_earlier_ones() -> None:
    cache = TokenCache(FakeClock())
    cache.keep(key_of("a"), Answer(MEMBER, 60.0))
    cache.keep(key_of("a"), Answer(None, 10.0))
    assert cache.find(key_of("a")) is None
    assert cache.was_rejected(key_of("a"))
    cache.keep(key_of("a"), Answer(MEMBER, 60.0))
    assert cache.find(key_of("a")) == MEMBER
    assert not cache.was_rejected(key_of("a"))


def test_valid_and_rejected_tokens_have_separate_bounds() -> None:
    cache = TokenCache(FakeClock())
    for number in range(20_000):
        cache.keep(key_of(f"valid {number}"), Answer(replace(MEMBER, user_id=f"user {number}"), 60.0))
    held = [number for number in range(20_000) if cache.find(key_of(f"valid {number}"))]
    assert 10_000 <= len(held) < 20_000
    assert held == list(range(20_000 - len(held), 20_000)), "the oldest go first"
    for number in range(20_000):
        cache.keep(key_of(f"bad {number}"), Answer(None, 10.0))
    assert sum(cache.was_rejected(key_of(f"bad {number}")) for number in range(20_000)) < 10_000
    assert sum(cache.find(key_of(f"valid {number}")) is not None for number in held) == len(held)


def test_the_cache_does_not_contain_the_token() -> None:
    cache = TokenCache(FakeClock())
    token = "".join(("se", "cret-", str(id(cache))))
    cache.keep(key_of(token), Answer(MEMBER, 60.0))
    seen, left = set(), [cache._identities, cache._rejected]
    while left:
        thing = left.pop()
        if id(thing) not in seen and not isinstance(thing, type):
            seen.add(id(thing))
            assert thing != token
            left += [each for each in gc.get_referents(thing) if isinstance(each, dict | tuple | list | str | bytes)]
