# SPDX-License-Identifier: Apache-2.0
"""Trace contexts by the rules and examples of W3C Trace Context."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zaqar.tracing.context import MOST_TRACESTATE, headers_of, read

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_valid_context_is_kept_as_it_is() -> None:
    assert read(PARENT) == PARENT
    assert (
        read(PARENT, "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE") == f"{PARENT} rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
    )


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "garbage",
        PARENT.upper(),
        PARENT[:-1],
        PARENT + "0",
        PARENT + "-00",
        " " + PARENT,
        PARENT + "\n",
        PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
        "ff" + PARENT[2:],
        "0g" + PARENT[2:],
        PARENT.replace("-", "_"),
        "00-4bf92f3577b34da6a3ce929d0e0e473\u0661-00f067aa0ba902b7-01",
        "cc" + PARENT[2:] + "x",
    ],
)
def test_an_invalid_traceparent_is_ignored_with_its_state(traceparent: str) -> None:
    assert read(traceparent, "rojo=1") is None


@pytest.mark.parametrize("rest", ["", "-", "-what-the-future-will-be-like"])
def test_of_a_later_version_the_part_that_is_known_is_used(rest: str) -> None:
    assert read("cc" + PARENT[2:] + rest) == PARENT


@pytest.mark.parametrize("tracestate", ["", " ", "a=\u00e9", "a=1\r\nb: 2", "a=\x00", "x" * (MOST_TRACESTATE + 1)])
def test_an_invalid_tracestate_is_left_out(tracestate: str) -> None:
    assert read(PARENT, tracestate) == PARENT


def test_the_longest_tracestate_is_kept() -> None:
    state = "x" * MOST_TRACESTATE
    assert read(PARENT, state) == f"{PARENT} {state}"


def test_the_headers_are_those_that_were_read() -> None:
    assert headers_of(f"{PARENT} rojo=1, congo=2") == {"traceparent": PARENT, "tracestate": "rojo=1, congo=2"}
    assert headers_of(PARENT) == {"traceparent": PARENT}


@given(st.text(), st.text())
def test_nothing_that_a_client_sends_raises_or_becomes_an_unsafe_header(traceparent: str, tracestate: str) -> None:
    for parent in (traceparent, PARENT):
        found = read(parent, tracestate)
        if found is not None:
            values = "".join(headers_of(found).values())
            assert values.isascii()
            assert values.isprintable()
            assert read(**headers_of(found)) == found
