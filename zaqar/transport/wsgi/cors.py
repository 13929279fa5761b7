# SPDX-License-Identifier: Apache-2.0
"""Cross-origin requests, as ``[cors]`` allows them: falcon's middleware with the options of oslo.middleware."""

from typing import Any

import falcon
from oslo_config import cfg


class Cors(falcon.CORSMiddleware[Any, Any]):
    """Adds the CORS headers for allowed origins. A preflight gets the requested methods and headers if allowed."""

    def __init__(self, options: cfg.ConfigOpts.GroupAttr) -> None:
        anywhere = "*" in options.allowed_origin
        # Browsers send scheme and host in lower case (RFC 6454, section 4). Operators may type them otherwise.
        origins = "*" if anywhere else [origin.lower() for origin in options.allowed_origin]
        super().__init__(
            allow_origins=origins,
            expose_headers=options.expose_headers or None,
            # A wildcard with credentials would let every site act as its visitor (Fetch standard, section 3.2.5).
            allow_credentials=None if anywhere or not options.allow_credentials else origins,
        )
        self._methods = frozenset(method.upper() for method in options.allow_methods)
        self._headers = ", ".join(options.allow_headers)
        self._max_age = str(options.max_age)

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        super().process_response(req, resp, resource, req_succeeded)
        if self.allow_origins != "*":
            # Also for a request without Origin: a cache must not give one page the answer to another (Fetch standard,
            # section 3.2.5).
            resp.append_header("Vary", "Origin")
        served = resp.get_header("Access-Control-Allow-Methods")
        if served is None:
            return
        methods = [method for method in map(str.strip, served.split(",")) if method in self._methods]
        resp.set_header("Access-Control-Allow-Methods", ", ".join(methods))
        resp.set_header("Access-Control-Max-Age", self._max_age)
        if self._headers:
            resp.set_header("Access-Control-Allow-Headers", self._headers)
