# SPDX-License-Identifier: Apache-2.0
"""The stage ``zaqar.notification.notifier``, which wakes the notifiers after a post to a queue with subscribers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from oslo_config import cfg

from zaqar import conf as configuration
from zaqar.context import Context
from zaqar.ipc.wakeup_socket import WakeupSender
from zaqar.model import Queue
from zaqar.stages.base import Stage


class Notifier(Stage):
    """Wakes the notifiers. The store has written the work for them already; a lost wakeup delays it by a second."""

    def __init__(self, wakeup_sender: WakeupSender) -> None:
        self._wakeup_sender = wakeup_sender

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        return cls(WakeupSender(configuration.notifiers_dir(conf)))

    def after_post(self, context: Context, queue: Queue, ids: Sequence[str]) -> None:
        if queue.notify:
            self._wakeup_sender.wake()
