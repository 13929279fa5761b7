# SPDX-License-Identifier: Apache-2.0
"""Options of the notifier and of confirmations: ``[notification]``."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg, types

# Fields of the bodies, as existing templates use them: {0} queue, {1} project, {2} link.
_SUBSCRIBED = {
    "topic": "Zaqar Notification - Subscription Confirmation",
    "body": "You have chosen to subscribe to the queue {0} of the project {1}. Please confirm this by visiting "
    "{2} now. If you did not ask for it, do nothing: unconfirmed subscriptions get no messages.",
    "sender": "Zaqar Notifications <no-reply@openstack.org>",
}
_UNSUBSCRIBED = {
    "topic": "Zaqar Notification - Unsubscribe Confirmation",
    "body": "You have unsubscribed from the queue {0} of the project {1}. To take this back and subscribe again, "
    "please visit {2} now.",
    "sender": "Zaqar Notifications <no-reply@openstack.org>",
}


class Network(types.ConfigType):
    """An IP network such as 10.0.0.0/8; a single address is a network of one."""

    def __init__(self) -> None:
        super().__init__(type_name="network value")

    def __call__(self, value: Any) -> str:
        return str(ipaddress.ip_network(str(value)))

    def __repr__(self) -> str:
        return "Network"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network)

    __hash__ = object.__hash__

    def _formatter(self, value: str) -> str:
        return value


_OPTIONS = [
    cfg.StrOpt(
        "smtp_mode",
        default="third_part",
        choices=["third_part", "self_local"],
        help="How mail is sent: by smtp_command (third_part) or by the server at smtp_host (self_local).",
    ),
    cfg.HostAddressOpt("smtp_host", help="Name or address of the SMTP server."),
    cfg.PortOpt("smtp_port", help="Port of the SMTP server."),
    cfg.StrOpt("smtp_user_name", help="Name to log in to the SMTP server with."),
    cfg.StrOpt("smtp_user_password", secret=True, help="Password to log in to the SMTP server with."),
    cfg.StrOpt("smtp_command", default="/usr/sbin/sendmail -t -oi", help="Command that takes a mail on its input."),
    cfg.StrOpt(
        "smtp_security",
        default="auto",
        choices=["auto", "none", "starttls", "tls"],
        help="How the connection to smtp_host is secured: TLS from the start (tls), STARTTLS that the server has to "
        "offer (starttls), not at all (none); auto: TLS on port 465, else STARTTLS where it is offered. The password "
        "is never sent without.",
    ),
    cfg.IntOpt(
        "max_notifier_workers",
        default=10,
        min=1,
        help="Most notifications that one notifier sends to one host at a time.",
    ),
    cfg.IntOpt(
        "max_concurrent_deliveries", default=200, min=1, help="Most notifications that one notifier sends at a time."
    ),
    cfg.IntOpt(
        "max_concurrent_deliveries_per_project",
        default=100,
        min=1,
        help="Most notifications of one project that one notifier sends at a time while no other project has any under "
        "way; with others a project gets as many as are free, times this number divided by what it leaves of "
        "max_concurrent_deliveries. Receivers that do not answer get a quarter of the slots, with unknown ones half.",
    ),
    cfg.IntOpt(
        "delivery_retention",
        default=259_200,
        min=0,
        help="Seconds that a delivery is kept, with its message, after it was made or given up, to be looked at and "
        "sent again. 0 keeps none that was made, and none that was given up.",
    ),
    cfg.BoolOpt("require_confirmation", default=False, help="Whether subscribers have to confirm a subscription."),
    cfg.IntOpt(
        "confirmation_pause",
        default=60,
        min=0,
        max=86_400,
        help="Seconds, at least, between two confirmations of one subscription, and between two to one mailbox or URL, "
        "no matter which project subscribes it. A sixtieth of it is the pause between two of one project to one host "
        "or mail domain. 0: no pauses.",
    ),
    cfg.StrOpt(
        "external_confirmation_url",
        help="Page that the link of a confirmation mail leads to. Unset: the page of this service at public_url.",
    ),
    cfg.StrOpt(
        "public_url",
        help="Where the people and programs that confirm subscriptions reach this service, with the path at which it "
        "is mounted if there is one, such as https://example.org/messaging. Unset: http://, then bind and port of "
        "[drivers:transport:wsgi].",
    ),
    cfg.DictOpt(
        "subscription_confirmation_email_template",
        default=_SUBSCRIBED,
        help="Topic, body and sender of the mail that asks to confirm; {0} is the queue, {1} the project, {2} a link.",
    ),
    cfg.DictOpt(
        "unsubscribe_confirmation_email_template",
        default=_UNSUBSCRIBED,
        help="Topic, body and sender of the mail after unsubscribing; {0} is the queue, {1} the project, {2} a link.",
    ),
    cfg.ListOpt(
        "webhook_allowed_networks",
        item_type=Network(),
        default=[],
        help="Networks that webhooks may reach though they are private, loopback or link-local.",
    ),
]

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {"notification": _OPTIONS}
