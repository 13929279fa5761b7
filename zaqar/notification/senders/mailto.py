# SPDX-License-Identifier: Apache-2.0
"""The sender for ``mailto:``."""

from __future__ import annotations

import logging
from typing import Self

from oslo_config import cfg

from zaqar.errors import InvalidInput
from zaqar.model import NOTIFICATION, Delivery, Subscription
from zaqar.notification.confirmation import Confirmations
from zaqar.notification.retry import MAIL_DELAYS
from zaqar.notification.senders import mail, mail_servers
from zaqar.notification.senders.base import Outcome, Sender, shown

_log = logging.getLogger(__name__)


class MailSender(Sender):
    """Passes mails to the operator's mail server or command.

    A mail that is refused for good is not tried again. A mail that is refused for now, or for which there is no server,
    is tried again after MAIL_DELAYS. Retry policies are about webhooks, and do not apply.
    """

    delays = MAIL_DELAYS

    def __init__(self, server: mail_servers.MailServer, confirmations: Confirmations) -> None:
        self._server = server
        self._confirmations = confirmations
        self._away = False

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> Self:
        confirmations = Confirmations(conf)
        if "mailto" in conf.transport.subscriber_types:
            confirmations.check_senders()
        return cls(mail_servers.from_conf(conf), confirmations)

    def target(self, subscription: Subscription) -> str:
        return self._server.name

    async def send(self, delivery: Delivery, subscription: Subscription, *, now: float) -> Outcome:
        if delivery.kind != NOTIFICATION and not self._confirmations.possible:
            return _failed("no confirmation can be made without [signed_url] secret_key")
        try:
            await self._server.take(mail.compose(delivery, subscription, self._confirmations, now=now))
        except InvalidInput as exc:
            return _failed(str(exc), final=True)
        except mail_servers.MailRefused as exc:
            self._note(exc)
            return _failed(str(exc), final=exc.final, reached=exc.reached)
        self._note(None)
        return Outcome(True, None, "the mail was taken")

    def _note(self, refused: mail_servers.MailRefused | None) -> None:
        """Log once that no mail is taken, because mails wait for up to two days before they are given up."""
        away = refused is not None and refused.operators
        if away and not self._away:
            _log.warning("No mail is taken by %s: %s. Mails wait and are tried again.", self._server.name, refused)
        elif self._away and not away:
            _log.warning("Mails are taken by %s again.", self._server.name)
        self._away = away


def _failed(reason: str, *, final: bool = False, reached: bool = True) -> Outcome:
    return Outcome(False, None, shown(reason), reached=reached, final=final)
