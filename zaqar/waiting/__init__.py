# SPDX-License-Identifier: Apache-2.0
"""Clients that wait for messages: which client waits for which queue, in which order, and what wakes it.

Both transports use this package for requests with ``wait`` and for streams. Start reading at :mod:`zaqar.waiting.hub`.
"""
