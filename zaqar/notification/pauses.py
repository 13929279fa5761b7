# SPDX-License-Identifier: Apache-2.0
"""Pauses between two confirmations, so that nobody can have a stranger flooded by being asked again and again.

They are kept in the management store: all notifiers share them, and they survive restarts.
"""

from __future__ import annotations

import hashlib
from urllib.parse import unquote, urlsplit

from zaqar.model import Subscription
from zaqar.schemas.subscribers import WEBHOOK_SCHEMES, scheme_of, url_of

_PLACE_SHARE = 60
"""Confirmations of one project to one host, or to one mail domain, may follow each other so many times as fast."""


def pauses_of(subscription: Subscription, *, seconds: float, now: float) -> dict[str, float]:
    """What must not be asked again before when: key -> time.

    The subscription, also if its subscriber changes; the target, no matter which project subscribes it; and with a
    shorter pause the host or mail domain, for the project: a host has as many URLs, and a domain as many mailboxes, as
    somebody writes.
    """
    target, place = _target_of(subscription.subscriber)
    return {
        _key("subscription", subscription.id): now + seconds,
        _key("target", target): now + seconds,
        _key("place", subscription.project, place): now + seconds / _PLACE_SHARE,
    }


def _target_of(subscriber: str) -> tuple[str, str]:
    """Who is asked, and the host or domain: the same for all spellings that reach the same mailbox or the same path."""
    scheme = scheme_of(subscriber)
    if scheme in WEBHOOK_SCHEMES:
        parts = urlsplit(url_of(subscriber))
        port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
        place = f"{(parts.hostname or '').rstrip('.')}:{port}"
        # The query is left out: a receiver is the same with any.
        return f"{place}{unquote(parts.path) or '/'}", place
    if scheme == "mailto":
        address = unquote(subscriber.partition(":")[2].partition("?")[0]).lower()
        user, _, domain = address.rpartition("@")
        domain = domain.rstrip(".")
        # "user+anything" is delivered to "user" by most mail servers (RFC 5233).
        return f"{user.partition('+')[0] or user}@{domain}", domain
    return subscriber, scheme


def _key(*parts: str) -> str:
    """Short, and of the characters that every store takes."""
    text = "\0".join(f"{len(part)}:{part}" for part in parts)
    return "ask:" + hashlib.sha256(text.encode()).hexdigest()
