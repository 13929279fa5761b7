# SPDX-License-Identifier: Apache-2.0
"""Limits the rate of requests of a project over HTTP, and shows how much of a rate is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import falcon

from zaqar.quotas.rates import Rates


class RequestRate:
    """A middleware after the one that finds the caller. Installed only if ``[quota] request_rate`` is set."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        caller = getattr(req.context, "caller", None)
        # Requests without a project are for the whole deployment, or open to all.
        if caller is not None and caller.project:
            headers = self._rates.check_request(caller.project)
            if headers is not None:
                show_rate(resp, headers)


def show_rate(resp: falcon.Response, headers: Mapping[str, str]) -> None:
    """Add the headers of a rate to those of other rates."""
    for name, value in headers.items():
        resp.append_header(name, value)
