# SPDX-License-Identifier: Apache-2.0
"""The path of a warm request: the number and nesting of our own calls, and the calls of the store."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import zaqar
from tests.api.client import ALICE, Api
from tests.clock import FakeClock
from tests.conformance.drivers import DRIVERS
from zaqar.access.identity import Answer, Identity
from zaqar.access.token_cache import key_of
from zaqar.storage.observed import DEFAULT, observe
from zaqar.transport.websocket.session import Sessions

OWN = str(Path(zaqar.__file__).parent)
MOST_CALLS = 31
MOST_NESTED = 6
MOST_CALLS_OF_A_TOKEN = 8
MOST_CALLS_OF_METRICS = 4
MOST_CALLS_OF_RATES = 28
"""One rate of requests, and two of posts."""


class CallPath:
    """Counts calls of functions of the project, and how deep they nest, inside its context."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.deepest = 0
        self._depth = 0

    def __enter__(self) -> CallPath:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, _: Any) -> None:
        if not frame.f_code.co_filename.startswith(OWN):
            return
        if event == "call":
            self._depth += 1
            self.deepest = max(self.deepest, self._depth)
            self.calls.append("  " * self._depth + frame.f_code.co_qualname)
        elif event == "return":
            self._depth -= 1


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    driver = DRIVERS["sqlite"]
    api = Api(driver, driver.prepare(tmp_path), clock=FakeClock(), state_dir=str(tmp_path), metrics__bind="")
    yield api
    api.close()


def path_of_a_warm_post(api: Api, **headers: str) -> CallPath:
    def post() -> None:
        body = {"messages": [{"body": {"n": 1}, "ttl": 60}]}
        assert api.post("/v2/queues/q/messages", body, headers=headers).status_code == 201

    for _ in range(3):
        post()
    paths = []
    for _ in range(3):
        with CallPath() as path:
            post()
        paths.append(path)
    # Once a second a post also looks whether a client waits, so the shortest path counts.
    return min(paths, key=lambda path: len(path.calls))


def test_a_warm_post_makes_few_nested_calls(api: Api) -> None:
    path = path_of_a_warm_post(api)
    trace = "\n".join(path.calls)
    assert len(path.calls) <= MOST_CALLS, trace
    assert path.deepest <= MOST_NESTED, trace
    assert not any("Rate" in call or "Checks.check" in call or "Usage" in call for call in path.calls), trace
    # Without the resource in the trace, the count would show nothing.
    assert any("MessagesResource.on_post" in call for call in path.calls)


def test_metrics_add_few_calls_to_a_warm_post(tmp_path: Path) -> None:
    driver = DRIVERS["sqlite"]
    api = Api(driver, driver.prepare(tmp_path), clock=FakeClock(), state_dir=str(tmp_path))
    assert api.parts.recorder is not None
    (store,) = api.parts.stores()
    observe(store, DEFAULT, api.parts.recorder)
    path = path_of_a_warm_post(api)
    trace = "\n".join(path.calls)
    assert len(path.calls) <= MOST_CALLS + MOST_CALLS_OF_METRICS, trace
    assert path.deepest <= MOST_NESTED + 1, trace
    assert any("RequestObserver.process_response" in call for call in path.calls)
    assert any("_timed.<locals>.call" in call for call in path.calls)
    api.close()


def test_rates_add_few_calls_to_a_warm_post(tmp_path: Path) -> None:
    driver = DRIVERS["sqlite"]
    rates = {f"quota__{name}": 1e6 for name in ("request_rate", "post_rate", "queue_post_bytes_rate")}
    api = Api(driver, driver.prepare(tmp_path), clock=FakeClock(), state_dir=str(tmp_path), metrics__bind="", **rates)
    path = path_of_a_warm_post(api)
    trace = "\n".join(path.calls)
    assert len(path.calls) <= MOST_CALLS + MOST_CALLS_OF_RATES, trace
    assert path.deepest <= MOST_NESTED, trace
    assert any("Rates.check_post" in call for call in path.calls)
    api.close()


KEYSTONE = """
[keystone_authtoken]
auth_type = password
auth_url = http://127.0.0.1:9/v3
username = zaqar
password = p
user_domain_name = Default
project_domain_name = Default
project_name = service
"""


def test_a_cached_token_costs_few_calls_and_no_question_to_keystone(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No question to Keystone, and few calls."""
    (tmp_path / "zaqar.conf").write_text(KEYSTONE)
    monkeypatch.setenv("ZAQAR_CONFIG_FILE", str(tmp_path / "zaqar.conf"))
    driver = DRIVERS["sqlite"]
    options = {"auth_strategy": "keystone", "state_dir": str(tmp_path), "metrics__bind": ""}
    authenticated = Api(driver, driver.prepare(tmp_path), clock=FakeClock(), **options)
    try:
        tokens = authenticated.parts.tokens
        assert tokens is not None
        identity = Identity("demo", "ann", frozenset({"member"}), None, expires=authenticated.clock() + 300)
        tokens._cache.keep(key_of("token"), Answer(identity, 300.0))
        path = path_of_a_warm_post(authenticated, **{"X-Auth-Token": "token"})
    finally:
        authenticated.close()
    trace = "\n".join(path.calls)
    assert not any("AuthToken" in call or "Validations" in call for call in path.calls), trace
    assert any("TokenValidator.validate" in call for call in path.calls), trace
    # The token is hashed and looked up in the cache, and the headers with an identity are removed.
    assert len(path.calls) <= len(path_of_a_warm_post(api).calls) + MOST_CALLS_OF_A_TOKEN, trace
    assert path.deepest <= MOST_NESTED, trace


MOST_CALLS_OF_A_SIGNATURE = 6


def test_a_signature_that_was_verified_before_costs_few_calls(tmp_path: Path) -> None:
    """It costs a look into a cache, and a check of the path and the method."""
    driver = DRIVERS["sqlite"]
    api = Api(
        driver, driver.prepare(tmp_path), clock=FakeClock(), signed_url__secret_key="k" * 32, state_dir=str(tmp_path)
    )
    try:
        shared = api.post("/v2/queues/q/share", {"methods": ["POST"]}).json
        headers = {
            "URL-Signature": shared["signature"],
            "URL-Paths": shared["paths"][0],
            "URL-Methods": "POST",
            "URL-Expires": shared["expires"],
        }
        plain, signed = path_of_a_warm_post(api).calls, path_of_a_warm_post(api, **headers).calls
        assert any("SignedUrls.open" in call for call in signed)
        assert not any("Signed" in call for call in plain)
        assert len(signed) <= len(plain) + MOST_CALLS_OF_A_SIGNATURE, "\n".join(signed)
    finally:
        api.close()


MOST_CALLS_OF_A_FRAME = 76
MOST_NESTED_OF_A_FRAME = 8


def test_a_warm_post_over_websocket_makes_few_nested_calls(api: Api) -> None:
    """A frame is decoded once; the service gets the value, and does not decode it again."""
    session = Sessions().open(api.parts, "c" * 32)
    headers = {"Client-ID": ALICE, "X-Project-ID": "p"}
    body = {"queue_name": "q", "messages": [{"body": {"n": 1}, "ttl": 60}]}
    frame = json.dumps({"action": "message_post", "headers": headers, "body": body})
    for _ in range(3):
        assert session.answer(session.read(frame)).status == 201
    paths = []
    for _ in range(3):
        with CallPath() as path:
            session.answer(session.read(frame))
        paths.append(path)
    # Meanwhile the garbage of other tests may be collected, which also calls functions of the project.
    path = min(paths, key=lambda each: len(each.calls))
    trace = "\n".join(path.calls)
    assert len(path.calls) <= MOST_CALLS_OF_A_FRAME, trace
    assert path.deepest <= MOST_NESTED_OF_A_FRAME, trace
    assert [call.strip() for call in path.calls].count("decode_text") == 1
