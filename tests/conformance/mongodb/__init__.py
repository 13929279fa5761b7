# SPDX-License-Identifier: Apache-2.0
"""Tests of MongoDB only, on real replica sets."""
