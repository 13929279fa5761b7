# SPDX-License-Identifier: Apache-2.0
"""``zaqar-notifier``: sends the messages of queues and topics to their subscribers."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version

from oslo_config import cfg

from zaqar import app
from zaqar import conf as configuration
from zaqar.cmd import failures
from zaqar.cmd.exporting import exporting
from zaqar.cmd.signals import end_at_once
from zaqar.logs import setup as logs
from zaqar.notification.notifier import Notifier

_log = logging.getLogger("zaqar.cmd.notifier")  # not __name__, which is "__main__" under "python -m"


def main(argv: Sequence[str] | None = None) -> int:
    _, rest = _parser().parse_known_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until the event loop handles the signals. No delivery has been taken yet, so the process may end at once.
        signal.signal(number, end_at_once())
    return failures.run("zaqar-notifier", lambda: _notify(rest))


def _notify(arguments: Sequence[str]) -> int:
    conf = configuration.load(arguments)
    logs.set_up(conf, "notifier")
    configuration.make_state_dir(conf)
    parts = app.build(conf, part="notifier")
    try:
        notifier = app.build_notifier(parts)
        with exporting(lambda: parts):
            asyncio.run(_run(notifier, conf))
    finally:
        parts.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zaqar-notifier",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Send the messages of queues and topics to their subscribers, until it is told to end.\n"
        "zaqar-server does this by itself. Any number of notifiers, on any number of hosts, share the work.",
        epilog="signals:\n"
        "  TERM, INT (Ctrl-C)   finish what is being sent, hand the rest to other notifiers; under 10 seconds\n\n"
        "--config-file, --config-dir and the options of oslo.log are understood as well. The state directory has to\n"
        "be that of the API on the same host, for the API to wake the notifier.",
    )
    parser.add_argument("--version", action="version", version=f"zaqar-notifier {version('zaqar')}")
    return parser


async def _run(notifier: Notifier, conf: cfg.ConfigOpts) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, number)
    began = time.monotonic()
    _log.info("The notifier %s has started.", notifier.owner)
    await notifier.run(stop, folder=configuration.notifiers_dir(conf))
    counts = ", ".join(f"{count} {what}" for what, count in sorted(notifier.counts.items()))
    _log.info(
        "The notifier %s ends after %.0f s; deliveries: %s.",
        notifier.owner,
        time.monotonic() - began,
        counts or "none",
    )


def _stop(stop: asyncio.Event, number: signal.Signals) -> None:
    _log.info("%s: what is being sent may end, then the notifier ends.", signal.Signals(number).name)
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
