# SPDX-License-Identifier: Apache-2.0
"""Requests that wait in several processes on one store."""
