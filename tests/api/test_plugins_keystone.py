# SPDX-License-Identifier: Apache-2.0
"""Plug-ins behind Keystone: EXTRA-SPEC is checked after the token, and stages get the caller that the token names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import plugins, servers
from tests.api.authenticated import AuthenticatedApi
from tests.api.test_extra_spec import GROUP, SOURCE
from tests.keystone import Keystone
from zaqar import context
from zaqar.context import Context
from zaqar.service.staged import pipelines
from zaqar.stages.base import Stage
from zaqar.stages.operations import GetQueue
from zaqar.stages.pipeline import Pipeline


@pytest.fixture(scope="module")
def keystone() -> Keystone:
    keystone: Keystone = servers.shared("keystone")
    return keystone


def test_extra_spec_never_replaces_a_token(keystone: Keystone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {GROUP: {"acme": "acme_extraspec:Open", "strict": "acme_extraspec:Refuse"}}
    plugins.put_on_path(plugins.install(tmp_path / "site", points, {"acme_extraspec.py": SOURCE}), monkeypatch)
    api = AuthenticatedApi(keystone, tmp_path)
    asked = sys.modules["acme_extraspec"].CALLS
    token = keystone.token("member", "demo")

    def status(path: str, value: str, token: str | None = None) -> int:
        return api.request("GET", path, token=token, EXTRA_SPEC=value).status_code

    for path in ("/v2/queues", "/v2/", "/v2/ping", "/v2/queues/q", "/nowhere"):
        for value in ("acme:1", "strict:1", "other:1", ""):
            assert status(path, value) == 401
            assert status(path, value, "not-a-token") == 401
    assert asked == []
    assert status("/v2/queues", "acme:1", token) == 200
    assert asked == ["acme:1"]
    assert status("/v2/queues", "strict:forbidden", token) == 403
    assert status("/v2/queues", "other:1", token) == 400
    assert status("/v2/queues", "", token) == 400
    # The policy still decides about a request that the plug-in accepts.
    assert api.request("GET", "/v2/health", token=token, EXTRA_SPEC="acme:1").status_code == 403


def test_a_stage_gets_the_caller_of_the_token(
    keystone: Keystone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Context] = []

    class See(Stage):
        def before_get_queue(self, context: Context, request: GetQueue) -> GetQueue:
            seen.append(context)
            return request

    monkeypatch.setattr(pipelines, "_load", lambda *_: Pipeline([See()], resource=_[3]))
    api = AuthenticatedApi(keystone, tmp_path)
    token = keystone.token("member", "demo")
    claims = {"X_Project_Id": "other", "X_User_Id": "nobody", "X_Roles": "admin"}
    assert api.request("GET", "/v2/queues/q", token=token, **claims).status_code == 200
    assert api.request("GET", "/v2/queues/q", **claims).status_code == 401
    (caller,) = seen
    assert caller.project not in ("", "other")
    assert "member" in caller.roles
    assert "admin" not in caller.roles
    assert caller.user_id not in (None, "nobody")
    assert token not in repr(caller)
    # After the request no information about the caller is left.
    assert context.current.get() is None
