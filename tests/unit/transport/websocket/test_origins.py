# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from zaqar.transport.websocket.origins import OriginPolicy

HOST = "127.0.0.1:9000"


def test_a_client_that_is_no_browser_sends_no_origin() -> None:
    assert OriginPolicy(()).admits([], HOST)
    assert OriginPolicy(()).admits([], None)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://127.0.0.1:9000", HOST),  # as python-zaqarclient does
        ("HTTP://LocalHost:9000", "localhost:9000"),
        ("http://[::1]:9000", "[::1]:9000"),
        ("https://ui.example", "ui.example"),
        ("https://ui.example:443", "UI.example"),
        ("http://ui.example", "ui.example:80"),
    ],
)
def test_a_page_of_the_same_host_and_port_is_admitted(origin: str, host: str) -> None:
    assert OriginPolicy(()).admits([origin], host)


@pytest.mark.parametrize(
    ("origins", "host"),
    [
        (["https://evil.example"], HOST),
        (["http://127.0.0.1"], HOST),
        (["http://127.0.0.1:9001"], HOST),
        (["http://localhost:9000"], HOST),
        (["https://ui.example"], "ui.example:80"),
        (["https://ui.example.evil.example"], "ui.example"),
        (["https://ui.example@evil.example"], "ui.example"),
        (["null"], HOST),
        ([""], HOST),
        (["file://"], ""),
        (["127.0.0.1:9000"], HOST),
        (["http://127.0.0.1:port"], HOST),
        (["http://["], HOST),
        (["http://127.0.0.1:9000"], None),
        (["http://127.0.0.1:9000", "https://evil.example"], HOST),
    ],
)
def test_another_page_is_refused(origins: list[str], host: str | None) -> None:
    assert not OriginPolicy(["https://other.example"]).admits(origins, host)


def test_pages_that_the_operator_allows() -> None:
    policy = OriginPolicy(["https://UI.example", "null"])
    assert policy.admits(["https://ui.example"], HOST)
    assert policy.admits(["null"], HOST)
    assert not policy.admits(["http://ui.example"], HOST)
    assert OriginPolicy(["*"]).admits(["https://any.example"], HOST)
