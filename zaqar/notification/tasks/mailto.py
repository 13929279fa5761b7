# SPDX-License-Identifier: Apache-2.0
"""Sends a delivery by mail."""

from __future__ import annotations

from typing import Self

from oslo_config import cfg

from zaqar.errors import InvalidInput
from zaqar.model import NOTIFICATION, Delivery, Subscription
from zaqar.notification import mail, mail_servers
from zaqar.notification.confirmation import Confirmations
from zaqar.notification.tasks.base import Outcome, Task, shown


class MailTask(Task):
    """Hands mails to the operator's mail server or command, which takes them on from there."""

    def __init__(self, server: mail_servers.MailServer, confirmations: Confirmations) -> None:
        self._server = server
        self._confirmations = confirmations

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        return cls(mail_servers.from_conf(conf), Confirmations(conf))

    def target(self, subscription: Subscription) -> str:
        return self._server.name

    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        if delivery.kind != NOTIFICATION and not self._confirmations.possible:
            return Outcome(False, None, "no confirmation can be made without [signed_url] secret_key")
        try:
            await self._server.take(mail.compose(delivery, subscription, self._confirmations, now=now))
        except InvalidInput as exc:
            return Outcome(False, None, str(exc))
        except mail_servers.MailRefused as exc:
            return Outcome(False, None, shown(str(exc)), reached=exc.reached)
        return Outcome(True, None, "the mail was taken")
