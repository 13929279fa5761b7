# SPDX-License-Identifier: Apache-2.0
"""Limits for tenants: how fast a project may send requests, and how much it may have.

- ``settings`` has the options of ``[quota]``, and the limits of amounts that apply to one project.
- ``gcra`` decides whether an event is within a rate. It does no I/O.
- ``rates`` applies rates to requests and posts. Each process counts for itself.
- ``amounts`` checks the number of queues and subscriptions when one is created, by asking the management store.
- ``usage`` checks the messages of a queue and the bytes of a project at each post, by numbers that a thread renews.
- ``unified_limits`` reads limits of amounts from Keystone, in a thread.

The service and the transports call it. See docs/limits.rst.
"""
