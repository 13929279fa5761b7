# SPDX-License-Identifier: Apache-2.0
"""Options of the notifier and of confirmations: ``[notification]``."""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg, types

# Fields of the bodies: {0} queue, {1} project, {2} link. Existing templates of operators use these numbers.
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
    """The type of an IP network such as 10.0.0.0/8. A single address is a network with one address."""

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
    cfg.StrOpt("smtp_command", default="/usr/sbin/sendmail -t -oi", help="Command that reads a mail from its input."),
    cfg.StrOpt(
        "smtp_security",
        default="auto",
        choices=["auto", "none", "starttls", "tls"],
        help="How the connection to smtp_host is secured: TLS from the start (tls), STARTTLS that the server has to "
        "offer (starttls), not at all (none); auto: TLS on port 465, otherwise STARTTLS if the server offers it. The "
        "password is never sent without TLS.",
    ),
    cfg.IntOpt(
        "max_notifier_workers",
        default=10,
        min=1,
        help="Maximum number of notifications that one notifier sends to one host at a time.",
    ),
    cfg.IntOpt(
        "max_concurrent_deliveries",
        default=200,
        min=1,
        help="Maximum number of notifications that one notifier sends at a time.",
    ),
    cfg.IntOpt(
        "max_concurrent_deliveries_per_project",
        default=100,
        min=1,
        help="Maximum number of notifications of one project that one notifier sends at a time while it sends none of "
        "other projects. Otherwise a project gets at most the number of free slots, times this number, divided by "
        "(max_concurrent_deliveries minus this number). Receivers that do not answer get a quarter of all slots, and "
        "together with receivers that are not known yet a half.",
    ),
    cfg.IntOpt(
        "delivery_retention",
        default=259_200,
        min=0,
        help="Seconds for which a delivery and its message are kept after it was made or given up, so that users can "
        "look at it and send it again. 0: none is kept.",
    ),
    cfg.BoolOpt("require_confirmation", default=False, help="Whether subscribers have to confirm a subscription."),
    cfg.IntOpt(
        "confirmation_pause",
        default=60,
        min=0,
        max=86_400,
        help="Minimum number of seconds between two confirmations of one subscription, and between two confirmations "
        "to one mailbox or URL, whichever projects subscribe it. The minimum between two confirmations of one project "
        "to one host or mail domain is a sixtieth of it. 0: no pauses.",
    ),
    cfg.StrOpt(
        "external_confirmation_url",
        help="Page that the link of a confirmation mail leads to. Unset: the page of this service at public_url.",
    ),
    cfg.StrOpt(
        "public_url",
        help="URL at which the people and programs that confirm subscriptions reach this service. It has the path at "
        "which the service is mounted, if any, such as https://example.org/messaging. Unset: http://, then bind and "
        "port of [drivers:transport:wsgi].",
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
        help="Private, loopback or link-local networks that webhooks may reach.",
    ),
]

GROUPS: Mapping[str, Sequence[cfg.Opt]] = {"notification": _OPTIONS}
