# SPDX-License-Identifier: Apache-2.0
"""The headers of a reverse proxy, and links that begin with a mount path."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaqar.errors import InvalidInput
from zaqar.transport.wsgi.proxy_headers import believe_proxy, link_prefix, undo_repeated_prefix

SERVER = {"wsgi.url_scheme": "http", "HTTP_HOST": "inside:8888", "REMOTE_ADDR": "127.0.0.1", "SCRIPT_NAME": ""}


def believed(script_name: str = "", **headers: str) -> dict[str, Any]:
    """The changes of the WSGI environment by a request with these headers."""
    given = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    env: dict[str, Any] = {**SERVER, "SCRIPT_NAME": script_name, **given}
    believe_proxy(env)
    return {name: value for name, value in env.items() if name not in given and value != SERVER.get(name)}


@pytest.mark.parametrize(
    ("headers", "changes"),
    [
        ({}, {}),
        ({"x_forwarded_proto": "https"}, {"wsgi.url_scheme": "https"}),
        ({"x_forwarded_proto": "HTTPS, http"}, {"wsgi.url_scheme": "https"}),
        ({"x_forwarded_host": "api.example:8443"}, {"HTTP_HOST": "api.example:8443"}),
        ({"x_forwarded_host": "[2001:db8::1]:80, inner"}, {"HTTP_HOST": "[2001:db8::1]:80"}),
        ({"x_forwarded_for": "192.0.2.1, 10.0.0.1"}, {"REMOTE_ADDR": "192.0.2.1"}),
        ({"x_forwarded_proto": "", "x_forwarded_host": "", "x_forwarded_for": "", "x_forwarded_prefix": ""}, {}),
        ({"x_forwarded_prefix": "/messaging"}, {"SCRIPT_NAME": "/messaging"}),
        ({"x_forwarded_prefix": "/a/b/"}, {"SCRIPT_NAME": "/a/b"}),
        ({"x_forwarded_prefix": "/"}, {}),
        ({"x_forwarded_prefix": "/caf%C3%A9"}, {"SCRIPT_NAME": "/caf\u00c3\u00a9"}),
        (
            {"forwarded": 'for="[2001:db8::1]:4711";Proto=https;HOST="api.example", for=10.0.0.1;proto=http'},
            {"REMOTE_ADDR": "[2001:db8::1]:4711", "wsgi.url_scheme": "https", "HTTP_HOST": "api.example"},
        ),
        # As in oslo.middleware: with Forwarded, the older headers are ignored except for the prefix.
        (
            {"forwarded": "proto=https", "x_forwarded_proto": "nonsense", "x_forwarded_prefix": "/m"},
            {"wsgi.url_scheme": "https", "SCRIPT_NAME": "/m"},
        ),
        ({"forwarded": ";;,"}, {}),
    ],
)
def test_headers_of_a_trusted_proxy_are_used(headers: dict[str, str], changes: dict[str, str]) -> None:
    assert believed(**headers) == changes


def test_the_prefix_is_outside_of_the_mount_path() -> None:
    assert believed("/inner", x_forwarded_prefix="/outer/") == {"SCRIPT_NAME": "/outer/inner"}


NO_PATHS = (
    *("m", "//evil.example", "https://evil.example", "/a//b", "/a b", "/a, /b", "/a?b", "/a#b", "/%", "/%0"),
    *("/\\", "/\u00fc", "/a\r\nX: y", '/"', "/<", "/a\n"),
)


@pytest.mark.parametrize(
    ("header", "value", "named"),
    [
        *(("x_forwarded_prefix", text, "X-Forwarded-Prefix") for text in NO_PATHS),
        *(("x_forwarded_proto", text, "X-Forwarded-Proto") for text in ("ftp", "https;", "javascript")),
        *(("x_forwarded_host", text, "X-Forwarded-Host") for text in ("a b", "a/b", "a@b", "a:b", "<", "[::1")),
        ("forwarded", "proto=ftp", "Forwarded"),
        ("forwarded", 'host="a/b"', "Forwarded"),
    ],
)
def test_a_header_that_cannot_be_part_of_a_url_is_refused(header: str, value: str, named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        believed(**{header: value})
    assert caught.value.field == named


@given(st.sampled_from(["forwarded", "x_forwarded_prefix", "x_forwarded_proto", "x_forwarded_host"]), st.text())
def test_any_header_text_is_used_or_refused(header: str, text: str) -> None:
    with contextlib.suppress(InvalidInput):
        mounted_at = believed(**{header: text}).get("SCRIPT_NAME", "")
        prefix = link_prefix(mounted_at.encode("latin-1").decode("utf-8", "replace"))
        assert prefix == "" or prefix.startswith("/")
        assert prefix.isascii()
        assert prefix.isprintable()
        assert "//" not in prefix


@pytest.mark.parametrize(
    ("mounted_at", "prefix"),
    [("", ""), ("/", ""), ("/a", "/a"), ("/a/b/", "/a/b"), ("/a b", "/a%20b"), ("/\u00e9?", "/%C3%A9%3F")],
)
def test_links_begin_with_the_encoded_mount_path(mounted_at: str, prefix: str) -> None:
    assert link_prefix(mounted_at) == prefix


def as_zaqarclient_follows(mounted_at: str, href: str) -> str:
    """The path that reaches the application below the mount path."""
    return "/v2/" + (mounted_at + href).lstrip("/v2")


MOUNTS = [
    "/messaging",
    "/a/b",
    "/v1",
    "/2",
    "/vv22v",
    "/v2x",
    "/queues",
    "/queues/v2",
    "/queues/q",
    "/topics",
    "/pools",
]


@pytest.mark.parametrize("mounted_at", MOUNTS)
@pytest.mark.parametrize("path", ["/v2/queues", "/v2/queues/q/messages", "/v2/topics/t/subscriptions", "/v2/flavors"])
def test_a_repeated_mount_path_is_removed(mounted_at: str, path: str) -> None:
    assert undo_repeated_prefix(as_zaqarclient_follows(mounted_at, path), mounted_at) == path
    assert undo_repeated_prefix(path, mounted_at) == path


@pytest.mark.parametrize("mounted_at", MOUNTS)
@pytest.mark.parametrize("name", ["v2", "queues", "messaging", "a"])
@pytest.mark.parametrize("below", ["", "/messages", "/messages/0", "/stats", "/claims/v2", "/subscriptions/v2/resend"])
def test_no_path_of_the_api_is_taken_for_another(mounted_at: str, name: str, below: str) -> None:
    for collection in ("queues", "topics"):
        path = f"/v2/{collection}/{name}{below}"
        assert undo_repeated_prefix(path, mounted_at) == path
