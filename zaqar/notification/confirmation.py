# SPDX-License-Identifier: Apache-2.0
"""Confirmations: a JSON document for webhooks, and a mail with a link for people.

They ask a subscriber to confirm, or say that it can take back that it unsubscribed. Both hold a signature that allows
``PUT .../subscriptions/{id}/confirm`` for a day, and nothing else. The signature is bound to the subscriber that it is
sent to, and to the question: see ``Subscription.challenge``. The senders make it for each attempt, so that the day
starts then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import quote, urlencode

from oslo_config import cfg

from zaqar.access import signed_urls
from zaqar.errors import InvalidInput, StartupError
from zaqar.model import SUBSCRIPTION_CONFIRMATION, TOPIC, UNSUBSCRIBE_CONFIRMATION, Subscription
from zaqar.schemas import mailboxes

VALID_SECONDS = 86_400
PAGE = "/confirm"
METHOD = "PUT"

_SENTENCES = {
    SUBSCRIPTION_CONFIRMATION: "You have chosen to subscribe to the {what} {name}. To confirm this, send SubscribeBody "
    "by PUT to WSGISubscribeURL, with the headers URL-Signature, URL-Methods, URL-Paths, X-Project-ID and "
    "URL-Expires as they are given here.",
    UNSUBSCRIBE_CONFIRMATION: "You have unsubscribed from the {what} {name}. To take this back, send SubscribeBody by "
    "PUT to WSGISubscribeURL, with the headers URL-Signature, URL-Methods, URL-Paths, X-Project-ID and "
    "URL-Expires as they are given here.",
}
_TEMPLATES = {
    SUBSCRIPTION_CONFIRMATION: "subscription_confirmation_email_template",
    UNSUBSCRIBE_CONFIRMATION: "unsubscribe_confirmation_email_template",
}
_TOPIC = "Zaqar Notification"
_FIELD = re.compile(r"\{([012])\}")


class ConfirmationMail(NamedTuple):
    """Subject, body and sender of the mail that asks to confirm."""

    topic: str
    body: str
    sender: str


@dataclass(frozen=True, slots=True)
class _Grant:
    """The signature that allows the confirmation of one subscription, and the request that it is for."""

    project: str
    path: str
    expires: str
    signature: str = field(repr=False)


class Confirmations:
    """Makes confirmations. If there is no key to sign with, :attr:`possible` is false, and none can be made."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        options = conf.notification
        wsgi = conf["drivers:transport:wsgi"]
        self._key: str = conf.signed_url.secret_key or ""
        if options.require_confirmation and not self._key:
            raise StartupError("[notification] require_confirmation needs [signed_url] secret_key to be set.")
        host = f"[{wsgi.bind}]" if ":" in wsgi.bind else wsgi.bind
        self._public_url = (options.public_url or f"http://{host}:{wsgi.port}").rstrip("/")
        self._page: str = options.external_confirmation_url or self._public_url + PAGE
        self._templates: dict[str, Mapping[str, str]] = {kind: options[name] for kind, name in _TEMPLATES.items()}

    @property
    def possible(self) -> bool:
        return bool(self._key)

    def document(self, kind: str, subscription: Subscription, *, now: float) -> bytes:
        """The JSON body of a webhook that asks the subscriber to confirm."""
        grant = self._grant(subscription, now)
        what = "topic" if subscription.kind == TOPIC else "queue"
        document = {
            "Message_Type": kind,
            "queue_name": subscription.source,
            "Message": _SENTENCES[kind].format(what=what, name=subscription.source),
            "URL-Signature": grant.signature,
            "URL-Methods": METHOD,
            "URL-Paths": grant.path,
            "X-Project-ID": grant.project,
            "URL-Expires": grant.expires,
            "SubscribeBody": {"confirmed": True},
            "UnsubscribeBody": {"confirmed": False},
            "WSGISubscribeURL": self._public_url + grant.path,
        }
        return json.dumps(document).encode()

    def mail(self, kind: str, subscription: Subscription, *, now: float) -> ConfirmationMail:
        """The mail that asks to confirm, with a link to the confirmation page."""
        template = self._templates[kind]
        # Only the three fields {0}, {1} and {2}: other braces, as in CSS, are part of the text.
        values = (subscription.source, subscription.project, self._link(subscription, now))
        body = _FIELD.sub(lambda match: values[int(match[1])], template.get("body", "{2}"))
        return ConfirmationMail(template.get("topic", _TOPIC), body, self.sender(kind))

    def check_senders(self) -> None:
        """Raise StartupError unless mails of each kind have a sender."""
        for kind, option in _TEMPLATES.items():
            try:
                mailboxes.parse(self.sender(kind), field="sender")
            except InvalidInput as exc:
                raise StartupError(f"[notification] {option} needs a 'sender' that is one mail address.") from exc

    def sender(self, kind: str = SUBSCRIPTION_CONFIRMATION) -> str:
        """The sender of mails of this kind."""
        return self._templates[kind].get("sender", "")

    def _link(self, subscription: Subscription, now: float) -> str:
        grant = self._grant(subscription, now)
        query = urlencode(
            {
                "Signature": grant.signature,
                "Methods": METHOD,
                "Paths": grant.path,
                "Project": grant.project,
                "Expires": grant.expires,
                "Url": self._public_url + grant.path,
                "Queue": subscription.source,
            }
        )
        return self._page + ("&" if "?" in self._page else "?") + query

    def _grant(self, subscription: Subscription, now: float) -> _Grant:
        kind = "topics" if subscription.kind == TOPIC else "queues"
        path = f"/v2/{kind}/{quote(subscription.source)}/subscriptions/{quote(subscription.id)}/confirm"
        expires = signed_urls.format_time(now + VALID_SECONDS)
        signature = signed_urls.sign(
            self._key,
            project=subscription.project,
            paths=[path],
            methods=[METHOD],
            expires=expires,
            bound_to=subscription.grant_terms,
        )
        return _Grant(subscription.project, path, expires, signature)
