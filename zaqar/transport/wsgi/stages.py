# SPDX-License-Identifier: Apache-2.0
"""Tells the stages who asks. The middleware is there only if a stage has a hook that is told."""

from typing import Any

import falcon

from zaqar import context


class CallerNote:
    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, Any]
    ) -> None:
        # Always set, as a thread of the server serves many callers one after another.
        context.current.set(getattr(req.context, "caller", None))

    def process_response(self, req: falcon.Request, resp: falcon.Response, resource: object, succeeded: bool) -> None:
        # A caller may have a token, which must not stay anywhere when the request is over.
        context.current.set(None)
