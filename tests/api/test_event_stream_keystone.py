# SPDX-License-Identifier: Apache-2.0
"""Streams with Keystone: a token opens a stream and ends it, and a signature in the query needs no token."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests import servers
from tests.api.authenticated import AuthenticatedApi
from tests.api.client import ALICE
from tests.api.test_event_streams import MESSAGES, opened, quick_heartbeats
from tests.event_streams import Reader, ServerEvent
from tests.keystone import Keystone
from zaqar.access.http_server import HttpServer
from zaqar.access.signed_urls import format_time, sign
from zaqar.errors import Forbidden, KeystoneUnavailable
from zaqar.transport.wsgi import app as wsgi_app

__all__ = ["quick_heartbeats"]

KEY = "a-key-for-signatures-of-the-tests-only"


@pytest.fixture(scope="module")
def keystone() -> Keystone:
    return servers.shared("keystone")


@pytest.fixture
def api(keystone: Keystone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuthenticatedApi:
    monkeypatch.setattr(wsgi_app, "find_http_server", lambda: HttpServer.GEVENT)
    return AuthenticatedApi(keystone, tmp_path, signed_url__secret_key=KEY)


def follow(api: AuthenticatedApi, token: str | None, query: str = "", **headers: str) -> Reader:
    sent = {"Client-ID": ALICE, **headers} if token is None else {"Client-ID": ALICE, "X-Auth-Token": token, **headers}
    return Reader(api.application, f"{MESSAGES}{query}", sent)


def last_event(reader: Reader) -> ServerEvent:
    while (event := reader.next()).type == ":":
        pass
    assert reader.piece() == b""
    return event


def validate_now(reader: Reader) -> None:
    """Make the stream validate its token at once, and not only after ``token_cache_time``."""
    access: Any = reader._body._access
    assert access._next_validation > 0
    access._next_validation = 0.0


def test_a_stream_needs_a_token(api: AuthenticatedApi, keystone: Keystone) -> None:
    assert follow(api, None).status == 401
    assert follow(api, "bad").status == 401
    with follow(api, keystone.token("member", "demo")) as reader:
        opened(reader)
        queue_name = next(iter(api.parts.hub.registry._queues))
        assert queue_name.project == keystone.id_of("project", "demo")


def test_a_stream_ends_with_its_token(api: AuthenticatedApi, keystone: Keystone, quick_heartbeats: None) -> None:
    token = keystone.token("member", "demo")
    with follow(api, token) as reader:
        position = opened(reader)
        assert reader.next().type == ":"
        api.clock.advance(2 * 3600)
        assert last_event(reader) == ServerEvent("bye", '{"reason":"expired"}', position)
    assert follow(api, token).status == 401


def test_a_stream_ends_when_its_token_is_revoked(
    api: AuthenticatedApi, keystone: Keystone, quick_heartbeats: None
) -> None:
    token = keystone.token("member", "demo")
    with follow(api, token) as reader:
        opened(reader)
        questions = api.questions
        validate_now(reader)
        assert reader.next().type == ":"
        assert api.questions == questions, "until then the cached token is used"
        keystone.revoke(token)
        api.forget()
        validate_now(reader)
        assert last_event(reader).json == {"reason": "revoked"}


def test_a_stream_goes_on_while_keystone_is_away(
    api: AuthenticatedApi, keystone: Keystone, quick_heartbeats: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with follow(api, keystone.token("member", "demo")) as reader:
        opened(reader)
        asked = []

        def away(*_: object, **named: object) -> None:
            asked.append(named)
            raise KeystoneUnavailable

        monkeypatch.setattr(api.parts.tokens, "validate", away)
        validate_now(reader)
        assert reader.next().type == ":"
        assert asked == [{"method": "GET", "path": MESSAGES}]
        assert reader.next().type == ":"
        assert len(asked) == 1


def test_a_stream_ends_when_its_user_may_no_longer_read(
    api: AuthenticatedApi, keystone: Keystone, quick_heartbeats: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with follow(api, keystone.token("member", "demo")) as reader:
        opened(reader)

        def refuse(*_: object) -> None:
            raise Forbidden("no")

        monkeypatch.setattr(type(api.parts.authorizer), "check", refuse)
        validate_now(reader)
        assert last_event(reader).json == {"reason": "forbidden"}


def test_a_signature_in_the_query_needs_no_token(api: AuthenticatedApi, keystone: Keystone) -> None:
    project, expires = keystone.id_of("project", "demo"), format_time(api.clock() + 600)
    signature = sign(KEY, project=project, paths=[MESSAGES], methods=["GET"], expires=expires)
    values = {"signature": signature, "expires": expires, "project": project, "paths": MESSAGES, "methods": "GET"}
    for headers in ({}, {"X-Auth-Token": "bad"}, {"X-Project-ID": "other", "X-Roles": "admin"}):
        with Reader(api.application, f"{MESSAGES}?{urlencode(values)}", headers) as reader:
            opened(reader)
            queue_name = next(iter(api.parts.hub.registry._queues))
            assert queue_name.project == project
    assert Reader(api.application, f"{MESSAGES}?{urlencode(values | {'project': 'other'})}", {}).status == 404


def test_the_repr_of_the_access_of_a_stream_does_not_show_its_token(api: AuthenticatedApi, keystone: Keystone) -> None:
    token = keystone.token("member", "demo")
    with follow(api, token) as reader:
        access: Any = reader._body._access
        assert token not in repr(access) + repr(access._validate) + repr(reader._body)
