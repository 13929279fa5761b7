# SPDX-License-Identifier: Apache-2.0
"""Tests of the SQL driver only. The tests that it shares with other drivers are in ``tests/conformance``."""
