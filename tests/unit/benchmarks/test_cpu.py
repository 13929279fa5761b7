# SPDX-License-Identifier: Apache-2.0
"""Differences of CPU times. Tests with real processes are in tests/acceptance/test_bench_cpu.py."""

from __future__ import annotations

from zaqar.benchmarks.cpu import spent


def test_spent_counts_new_processes_in_full_and_ended_ones_not() -> None:
    assert spent({1: 1.0, 2: 5.0}, {1: 3.0, 3: 0.5}) == 2.5
    assert spent({}, {}) == 0.0
