# SPDX-License-Identifier: Apache-2.0
"""Wakes the notifiers after a post that has subscribers; the store has written what they will find."""

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
    """Without it in the pipeline notifiers find the same work, up to a second later."""

    def __init__(self, wakeup_sender: WakeupSender) -> None:
        self._wakeup_sender = wakeup_sender

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        return cls(WakeupSender(configuration.notifiers_dir(conf)))

    def after_post(self, context: Context, queue: Queue, ids: Sequence[str]) -> None:
        if queue.notify:
            self._wakeup_sender.wake()
