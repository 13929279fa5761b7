# SPDX-License-Identifier: Apache-2.0
"""Webhook receivers: a real HTTP server on loopback for each, which accepts, refuses or hangs."""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from tests.acceptance.event_loop_thread import EventLoopThread


@dataclass(frozen=True)
class Receipt:
    """One request that was answered with 200: its time, headers, raw body and path."""

    at: float
    headers: dict[str, str]
    body: bytes
    path: str = "/hook"

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass
class Sink:
    """A subscriber. ``behaviour``: "accepting" answers 200, "failing" 500, "hanging" never answers."""

    behaviour: str = "accepting"
    receipts: list[Receipt] = field(default_factory=list)
    refused: int = 0
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def by_webhook_id(self) -> dict[str, list[Receipt]]:
        found: dict[str, list[Receipt]] = defaultdict(list)
        for receipt in list(self.receipts):
            found[receipt.webhook_id].append(receipt)
        return found

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.behaviour == "failing":
            self.refused += 1
            return web.Response(status=500, text="not feeling well")
        while self.behaviour == "hanging":
            await asyncio.sleep(0.1)
            if request.transport is None or request.transport.is_closing():
                self.refused += 1
                return web.Response(status=500)
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.receipts.append(Receipt(time.time(), headers, body, request.path))
        return web.Response(text="thanks")


class Sinks:
    """Several sinks, each on a port of its own, served by one thread while the context lasts."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self._loop = EventLoopThread()
        self._runners: list[web.AppRunner] = []

    def __enter__(self) -> Self:
        self._loop.__enter__()
        self._loop.call(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sink in self._sinks:
            sink.behaviour = "accepting"
        self._loop.call(self._stop())
        self._loop.__exit__(kind, error, trace)

    async def _start(self) -> None:
        for sink in self._sinks:
            app = web.Application()
            app.router.add_post("/hook{below:.*}", sink.answer)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            sink.port = runner.addresses[0][1]
            self._runners.append(runner)

    async def _stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
