# SPDX-License-Identifier: Apache-2.0
"""``zaqar-websocket``: serves the WebSocket API in one process. ``zaqar-server`` starts it; it can also run alone."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from oslo_config import cfg

from zaqar import app, daemon_threads
from zaqar import conf as configuration
from zaqar.cmd import failures, open_files
from zaqar.cmd.exporting import exporting
from zaqar.cmd.listening import address_of, configured_websocket_address, listen, parse_address
from zaqar.cmd.signals import end_at_once
from zaqar.errors import StartupError
from zaqar.logs import setup as logs
from zaqar.metrics.recorder import note_end_of_process
from zaqar.service.nodes import Nodes
from zaqar.transport.websocket.admission import THREADS as REQUEST_THREADS
from zaqar.transport.websocket.node import STOP_SECONDS, NodeService
from zaqar.transport.websocket.node import THREADS as NODE_THREADS
from zaqar.transport.websocket.server import WebSocketServer
from zaqar.transport.websocket.session import Sessions
from zaqar.transport.websocket.settings import GROUP, Settings

_log = logging.getLogger("zaqar.cmd.websocket")  # which is not its __name__ if it is run by "python -m"

_END_SECONDS = 8.0
"""Time to close connections and to remove their subscriptions. Ending the lease may take another second.
zaqar-server kills a part that has not ended after 9.5 seconds.
"""

_MIN_STOP_SECONDS = 0.5
_THREADS_SECONDS = 0.2
"""The least time for the removal of subscriptions, and the time for idle threads to end."""

_NODE_SECONDS = 2.0
"""How long the start waits for the management store."""

_RETIREMENT_SECONDS = 120.0
"""How long the old stores of pools stay open after a reload: longer than any request that uses them takes."""


def main(argv: Sequence[str] | None = None) -> int:
    options, rest = _parser().parse_known_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until the event loop handles the signals. No client has been served yet, so the process may end at once.
        signal.signal(number, end_at_once())
    # SIGHUP would end this process before its handler is set. It can be ignored: the configuration is not read yet.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return failures.run("zaqar-websocket", lambda: _serve(options, rest))


def _serve(options: argparse.Namespace, rest: Sequence[str]) -> int:
    conf = configuration.load(rest)
    logs.set_up(conf, "websocket")
    configuration.make_state_dir(conf)
    with _listen(options, conf) as listener:
        parts = _build(conf)
        if parts.tokens is not None:
            parts.tokens.check_in_background()
        process = _Process(parts, listener, rest)
        with exporting(lambda: process.parts):
            asyncio.run(process.run())
        if _has_threads_left():
            note_end_of_process()
            # A store or Keystone has not answered in time. A normal exit of Python would wait for the threads in it.
            sys.stderr.flush()
            os._exit(0)
        process.parts.close()
    return 0


def _has_threads_left() -> bool:
    """Whether threads are still in a call to a store or to Keystone."""
    end = time.monotonic() + _THREADS_SECONDS
    calling = [each for each in threading.enumerate() if each.name.startswith((REQUEST_THREADS, NODE_THREADS))]
    for thread in calling:
        thread.join(max(0.0, end - time.monotonic()))
    return any(thread.is_alive() for thread in calling)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zaqar-websocket",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Serve the WebSocket API until a signal ends it. zaqar-server starts this command by itself.\n"
        "Messages are pushed to connections only while a zaqar-notifier runs, on this or another host.",
        epilog="signals:\n"
        "  TERM, INT (Ctrl-C)   answer the requests that were read, then close all connections; under 10 seconds\n"
        "  HUP                  read configuration and policy again; connections stay open\n\n"
        "Other options are --config-file, --config-dir and those of oslo.log. Use the state directory of the\n"
        "notifier on the same host, which reaches this process by a socket in it.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--bind",
        type=parse_address,
        metavar="HOST:PORT",
        help="listen here (default: bind and port of [drivers:transport:websocket], 127.0.0.1:9000)",
    )
    where.add_argument("--fd", type=int, metavar="N", help="listen on this open socket, for zaqar-server")
    parser.add_argument("--version", action="version", version=f"zaqar-websocket {version('zaqar')}")
    return parser


def _listen(options: argparse.Namespace, conf: cfg.ConfigOpts) -> socket.socket:
    if options.fd is not None:
        try:
            return socket.socket(fileno=options.fd)
        except OSError as exc:
            raise StartupError(f"--fd: {options.fd} is not an open socket.") from exc
    if options.bind is not None:
        return listen(options.bind)
    return listen(configured_websocket_address(conf), hint=f" [{GROUP}] bind and port say where.")


def _build(conf: cfg.ConfigOpts, **kept: Any) -> app.Parts:
    parts = app.build(conf, part="websocket", **kept)
    if parts.tokens is not None:
        parts.tokens.start()
    return parts


class _Process:
    """The server and the node, from their start until a signal ends the process."""

    def __init__(self, parts: app.Parts, listener: socket.socket, arguments: Sequence[str]) -> None:
        self.parts = parts
        self._listener = listener
        self._arguments = arguments
        self._stop = asyncio.Event()
        self._reloading: asyncio.Task[None] | None = None
        self._is_reload_wanted = False

    async def run(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._handle_sighup)
        conf = self.parts.conf
        sessions = Sessions(end_subscriptions=self._end_subscriptions)
        server = self._server = WebSocketServer(
            self.parts,
            _settings(conf),
            make_session=sessions.open,
            closed=lambda connection: self._node.end(connection),
        )
        node = self._node = NodeService(
            Nodes(self.parts.management, self.parts.clock),
            self.parts.connection_subscriptions,
            find=server.connections.find,
            close=server.close_restarting,
        )
        await node.start(
            folder=configuration.nodes_dir(conf),
            host=_notification_host(conf),
            port=conf[GROUP].notification_port,
        )
        # Wait, so that the first client can subscribe. But do not wait long, as other requests need no node.
        await node.wait_until_begun(_NODE_SECONDS)
        address = address_of(self._listener)
        await server.start(self._listener)
        _log.info("The WebSocket server listens on ws://%s.", address)
        await self._stop.wait()
        if self._reloading is not None:
            self._reloading.cancel()
        end = loop.time() + _END_SECONDS
        await server.stop()
        await node.stop(min(STOP_SECONDS, max(_MIN_STOP_SECONDS, end - loop.time())))
        _log.info("The WebSocket server ends.")

    def _end_subscriptions(self, connection: str) -> None:
        """End the subscriptions of a connection. The thread of a request calls it, so they end before the reply."""
        self._loop.call_soon_threadsafe(self._node.end, connection)

    def _end(self, number: signal.Signals) -> None:
        _log.info("%s: the server answers the requests that it has read, then it ends.", signal.Signals(number).name)
        self._stop.set()

    def _handle_sighup(self) -> None:
        self._is_reload_wanted = True
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload())

    async def _reload(self) -> None:
        while self._is_reload_wanted:
            self._is_reload_wanted = False
            try:
                parts = await daemon_threads.run(self._make_parts, name="reload")
            except StartupError as exc:
                _log.error("SIGHUP changes nothing, the configuration and policy in use stay: %s", exc)
            except Exception:  # noqa: BLE001, logged with its traceback
                _log.exception("SIGHUP changes nothing, the configuration and policy in use stay.")
            else:
                before, self.parts = self.parts, parts
                parts.connection_subscriptions.adopt(before.connection_subscriptions)
                parts.hub.adopt(before.hub)
                self._node.use(parts.connection_subscriptions)
                self._server.use(parts, _settings(parts.conf))
                _log.info("The configuration and the policy have been read again.")
                if before.tracing is not None:
                    # It exports in a thread of its own, which ends once the requests under way have been answered.
                    asyncio.get_running_loop().call_later(_RETIREMENT_SECONDS, _start_thread, before.tracing.close)
                if parts.conf.pooling:
                    # Requests that are under way still use the stores of the pools.
                    asyncio.get_running_loop().call_later(_RETIREMENT_SECONDS, _start_thread, before.placement.close)

    def _make_parts(self) -> app.Parts:
        """Read the configuration and make new parts that use the open stores and the recorder of metrics.

        Stores of pools are opened again on use. A change of ``[metrics] bind`` needs a restart.

        Raises StartupError if the configuration cannot be used; the present parts then stay in use.
        """
        conf = configuration.load(self._arguments)
        before = self.parts
        messages = None if before.placement.spreads else before.placement.all_stores()[0].store
        if conf.pooling != before.conf.pooling:
            raise StartupError("[DEFAULT] pooling: a change needs a restart of the WebSocket server.")
        parts = _build(conf, management=before.management, messages=messages, recorder=before.recorder)
        # Last, because a configuration that cannot be used must not change the log either.
        logs.set_up(conf, "websocket")
        return parts


def _notification_host(conf: cfg.ConfigOpts) -> str | None:
    """The host to listen on for notifications from other hosts; None stands for the name of this host."""
    bind: str | None = conf[GROUP].notification_bind
    if not bind and conf.drivers.management_store == "sqlalchemy":
        _, is_embedded = configuration.sqlalchemy_uri(conf, "management_store")
        if is_embedded:
            # No notifier on another host can use that file, so no port has to be open to other hosts.
            return "127.0.0.1"
    return bind or None


def _settings(conf: cfg.ConfigOpts) -> Settings:
    """The configured limits; fewer connections if the process may not have as many open files."""
    settings = Settings.from_conf(conf)
    wanted = settings.open_files
    most = open_files.allow(wanted)
    if most >= wanted:
        return settings
    fewer = settings.within(most)
    _log.warning(
        "[%s] max_connections: %d need %d open files, and this process may have %d (ulimit -Hn); more than %d "
        "connections will be refused.",
        GROUP,
        settings.max_connections,
        wanted,
        most,
        fewer.max_connections,
    )
    return fewer


def _start_thread(call: Callable[[], None]) -> None:
    threading.Thread(target=call, name="retirement", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
