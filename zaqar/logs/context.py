# SPDX-License-Identifier: Apache-2.0
"""What the present thread, greenlet or task works on. Every record of the log has it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("zaqar_request_id", default="")
"""The id of the request. The transports set it for each request; a notifier sets that of the post for each delivery."""

_NOTHING: Mapping[str, object] = {}

details: ContextVar[Mapping[str, object]] = ContextVar("zaqar_log_details", default=_NOTHING)
"""More fields of JSON records, such as ``delivery`` and ``subscription`` while a notifier works on a delivery."""
