# SPDX-License-Identifier: Apache-2.0
"""Tests of Redis only, on real servers: round trips, faults, deployments, memory."""
