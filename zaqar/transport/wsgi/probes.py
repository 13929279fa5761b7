# SPDX-License-Identifier: Apache-2.0
"""The resources of the probes over HTTP."""

import falcon

from zaqar.transport.probes import NO_STORE, Probes


class ProbeResource:
    """One path of :data:`zaqar.transport.probes.PATHS`."""

    open_to_all = True
    for_browsers = True

    def __init__(self, probes: Probes, path: str) -> None:
        self._probes = probes
        self._path = path

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        is_head = req.method == "HEAD"
        answer = self._probes.answer(
            self._path, query=req.query_string, accept=req.get_header("Accept") or "", is_head=is_head
        )
        resp.status, resp.cache_control = answer.status, [NO_STORE]
        if not is_head:
            resp.content_type, resp.text = answer.content_type, answer.body

    on_head = on_get
