# SPDX-License-Identifier: Apache-2.0
"""Clients that wait for messages: who waits for which queue, in which order, and what wakes them."""
