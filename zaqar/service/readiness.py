# SPDX-License-Identifier: Apache-2.0
"""Whether a process should get requests: the answer to the readiness probes of load balancers and Kubernetes.

The transports ask :meth:`Readiness.problems` for each probe. It never waits: a thread asks the stores beside it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from zaqar.errors import StoreUnavailable

_log = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0
"""Pause between two questions to the stores."""

UNUSED_SECONDS = 30.0
"""Time without a probe after which the stores are not asked any more."""

STORES, DRAIN, DISABLED = "stores", "drain", "disable file"
"""Names of the checks, as ``/readyz?verbose`` shows them."""

CHECKS = (STORES, DRAIN, DISABLED)


class Readiness:
    """The checks of readiness. Threads may share it. A child of a fork begins its own."""

    def __init__(
        self,
        *,
        ping: Callable[[], None],
        is_draining: Callable[[], bool],
        drain_file: Path,
        disable_file: Path | None,
        includes_store: bool,
    ) -> None:
        """``ping`` returns if the stores answer, and raises StoreUnavailable otherwise.

        A process is not ready until the stores have answered once. After that an outage of the stores makes it unready
        only with ``includes_store``: a shared store that is away would otherwise make all processes unready at once,
        and clients would get the error of the balancer instead of 503 with Retry-After. ``drain_file`` is there while
        the server of this state directory is about to drain, ``disable_file`` while an operator wants no requests here.
        """
        self._ping = ping
        self._is_draining = is_draining
        self._drain_file = drain_file
        self._disable_file = disable_file
        self._includes_store = includes_store
        self._lock = threading.Lock()
        self._watch: threading.Thread | None = None
        self._was_reached = False
        self._answers = False
        self._asked_at = 0.0

    def problems(self) -> dict[str, str]:
        """The checks that fail, each with the reason in a sentence."""
        found: dict[str, str] = {}
        self._keep_watch()
        if not self._was_reached:
            found[STORES] = "The stores have not answered yet."
        elif self._includes_store and not self._answers:
            found[STORES] = "A store does not answer."
        if self._is_draining() or self._drain_file.exists():
            found[DRAIN] = "The server is about to end."
        if self.is_disabled():
            found[DISABLED] = f"{self._disable_file} exists."
        return found

    def is_disabled(self) -> bool:
        """Whether the file exists by which an operator takes the server out of the balancer."""
        return self._disable_file is not None and self._disable_file.exists()

    def _keep_watch(self) -> None:
        self._asked_at = time.monotonic()
        if self._was_reached and not self._includes_store:
            return
        with self._lock:
            # After a fork the thread of the parent is not alive in the child.
            if self._watch is None or not self._watch.is_alive():
                self._watch = threading.Thread(target=self._ask_stores, name="readiness", daemon=True)
                self._watch.start()

    def _ask_stores(self) -> None:
        while time.monotonic() - self._asked_at < UNUSED_SECONDS:
            try:
                self._ping()
            except StoreUnavailable:
                # The driver has logged the outage.
                self._answers = False
            except Exception:  # noqa: BLE001, the log has it, and the probe must go on
                _log.exception("The stores cannot be asked whether they answer.")
                self._answers = False
            else:
                self._answers = self._was_reached = True
                if not self._includes_store:
                    return
            time.sleep(PAUSE_SECONDS)
        # The next probe must not get an answer from before the pause.
        self._answers = False
