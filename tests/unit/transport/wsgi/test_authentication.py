# SPDX-License-Identifier: Apache-2.0
"""Headers of a client about its identity are removed from a request, and no others."""

from __future__ import annotations

import pytest
from keystonemiddleware.auth_token._request import _AuthTokenRequest

from zaqar.transport.wsgi.authentication import remove_identity

KEPT = {
    "REQUEST_METHOD": "GET",
    "PATH_INFO": "/v2/queues",
    "REMOTE_USER": "somebody",
    "CONTENT_TYPE": "application/json",
    "HTTP_CLIENT_ID": "1",
    "HTTP_X_AUTH_TOKEN": "token",
    "HTTP_X_STORAGE_TOKEN": "token",
    "HTTP_X_SERVICE_TOKEN": "token",
    "HTTP_X_FORWARDED_FOR": "10.0.0.1",
    "HTTP_URL_SIGNATURE": "0",
    "HTTP_EXTRA_SPEC": "a:b",
    "wsgi.url_scheme": "http",
}


def set_by_keystonemiddleware() -> list[str]:
    headers = [*_AuthTokenRequest({})._all_auth_headers(), _AuthTokenRequest._SYSTEM_SCOPE_HEADER]
    names = [f"HTTP_{name.upper().replace('-', '_')}" for name in headers]
    return sorted({*names, _AuthTokenRequest._TOKEN_AUTH, _AuthTokenRequest._TOKEN_INFO})


@pytest.mark.parametrize(
    "name", [*set_by_keystonemiddleware(), "HTTP_X_USER_WHATEVER_COMES", "HTTP_X_TENANT_DOMAIN_ID"]
)
def test_every_header_that_the_library_sets_is_removed_from_a_request(name: str) -> None:
    env = {**KEPT, name: "lie"}
    assert remove_identity(env) == ("lie" if name == "HTTP_X_PROJECT_ID" else None)
    assert env == KEPT


def test_the_library_sets_many_headers() -> None:
    """The test above covers many headers."""
    assert len(set_by_keystonemiddleware()) > 30


def test_all_identity_headers_are_removed_at_once() -> None:
    env = {**KEPT, **dict.fromkeys(set_by_keystonemiddleware(), "lie")}
    remove_identity(env)
    assert env == KEPT
