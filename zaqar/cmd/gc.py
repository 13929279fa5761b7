# SPDX-License-Identifier: Apache-2.0
"""``zaqar-gc``: removes what is dead from the stores. Nothing depends on it but the space that they take."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from oslo_log import log

from zaqar import app
from zaqar import conf as configuration
from zaqar.clock import Clock, system_clock
from zaqar.errors import StartupError, StoreUnavailable
from zaqar.storage.base import MessageStore
from zaqar.storage.placement import Place

_log = logging.getLogger(__name__)

BATCH = 1000
"""Records removed in one step: few enough that a post does not wait for it noticeably."""

_PAUSE = 0.01
"""Seconds between two batches, in which others have their turn at the store."""


def sweep(stores: Iterable[MessageStore], *, clock: Clock, pause: Callable[[], None]) -> int:
    """Remove dead records, a batch at a time with a pause after each, until every store is clean; return how many."""
    removed = 0
    for store in stores:
        while batch := store.sweep(now=clock(), limit=BATCH):
            removed += batch
            pause()
    return removed


def sweep_all(places: Iterable[Place], *, clock: Clock, pause: Callable[[], None]) -> int:
    """Sweep one store after the other; those that are away are left out, and StoreUnavailable says so at the end."""
    removed = 0
    away: StoreUnavailable | None = None
    for place in places:
        try:
            removed += sweep([place.store], clock=clock, pause=pause)
        except StoreUnavailable as exc:
            away = exc
            if place.name is not None:
                _log.debug("The store of pool '%s' is away and was not swept.", place.name)
    _log.debug("removed %d records", removed)
    if away is not None:
        raise away
    return removed


def main(argv: Sequence[str] | None = None) -> int:
    options, rest = _parser().parse_known_args(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit)
    try:
        conf = configuration.load(rest)
        log.setup(conf, "zaqar")
        parts = app.build(conf)
        try:
            _run(parts, every=options.every)
        finally:
            parts.close()
    except (StartupError, StoreUnavailable) as exc:
        print(f"zaqar-gc: {exc}", file=sys.stderr)
        return 1
    return 0


def _exit(number: int, frame: object) -> None:
    # A sweep is a row of transactions; one that is cut off is rolled back and its records are removed another time.
    sys.exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zaqar-gc",
        description="Remove messages and subscriptions that have expired and what is left of deleted queues from the "
        "stores, until nothing is left to remove. zaqar-server does this by itself.",
        epilog="--config-file, --config-dir and the options of oslo.log are understood as well.",
    )
    parser.add_argument(
        "--every", type=float, metavar="SECONDS", help="go on, with a pause of this many seconds after each sweep"
    )
    return parser


def _run(parts: app.Parts, *, every: float | None) -> None:
    while True:
        try:
            _clean(parts)
        except StoreUnavailable:
            if every is None:
                raise
            _log.debug("A store is away; the next sweep is in %g s.", every)
        if every is None:
            return
        time.sleep(every)


def _clean(parts: app.Parts) -> None:
    try:
        parts.subscriptions.tidy()
    finally:
        # Also where the management store is away.
        sweep_all(parts.placement.places(), clock=system_clock, pause=lambda: time.sleep(_PAUSE))


if __name__ == "__main__":
    sys.exit(main())
