# SPDX-License-Identifier: Apache-2.0
"""Requests that wait, and streams, over WebSocket on a SQLite file: the unit tests show the same in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.transport.websocket import test_streams as streams
from tests.unit.transport.websocket import test_waiting as waiting


@pytest.mark.parametrize("packs", [False, True], ids=["json", "messagepack"])
@pytest.mark.parametrize("kind", waiting.WAITS)
def test_a_request_waits_for_a_post(tmp_path: Path, kind: str, packs: bool) -> None:
    waiting.test_a_request_waits_for_a_post(tmp_path, kind, packs, "sqlite")


def test_three_hundred_waiting_claims_hold_no_thread(tmp_path: Path) -> None:
    waiting.test_three_hundred_waiting_claims_hold_no_thread(tmp_path, "sqlite")


@pytest.mark.parametrize("wait", [0, 20])
def test_a_claim_is_released_if_its_reply_cannot_be_sent(
    tmp_path: Path, wait: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting.test_a_claim_is_released_if_its_reply_cannot_be_sent(tmp_path, wait, monkeypatch, "sqlite")


@pytest.mark.parametrize("packs", [False, True], ids=["json", "messagepack"])
def test_a_stream_sends_what_a_list_shows(tmp_path: Path, packs: bool) -> None:
    streams.test_a_stream_sends_what_a_list_shows(tmp_path, packs, "sqlite")


def test_a_reader_resumes_where_its_connection_was_cut(tmp_path: Path) -> None:
    streams.test_a_reader_resumes_where_its_connection_was_cut(tmp_path, "sqlite")
