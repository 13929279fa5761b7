# SPDX-License-Identifier: Apache-2.0
"""The wire form of subscriptions: a creation, a change, a confirmation, the options, and what is shown."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zaqar.errors import InvalidInput
from zaqar.limits import MIN_SUBSCRIPTION_TTL, YEAR_10000, Limits
from zaqar.model import CONFIRMED, Subscription
from zaqar.schemas import mailboxes, post_headers, retry_policy, strict_json
from zaqar.schemas.fields import JsonSchema, Validator, check_name, check_range
from zaqar.schemas.filters import compile_filter
from zaqar.schemas.subscribers import CONNECTION_SCHEME, check_subscriber, scheme_of, shown_subscriber, takes_token

Options = Mapping[str, Any]

MOST_BYTES_OF_OPTIONS = 65_536
MOST_BYTES = 2 * MOST_BYTES_OF_OPTIONS
"""Limit in bytes of a request body about a subscription."""

MOST_BYTES_OF_A_SWITCH = 4096
"""Limit in bytes of a request body with one small field, such as a confirmation."""

PLACE_OF_THE_MESSAGE = '"$zaqar_message$"'
MOST_PLACES = 10
"""How often the message may occur in the template ``post_data``. Each occurrence takes memory and is sent."""

DEFAULT_GRACE = 86_400
MOST_GRACE = 604_800
"""The default and the limit of the seconds for which a replaced secret signs too."""

_MOST_CHARACTERS_OF_A_LINE = 998
_POST_HEADERS = "options.post_headers"
_TRUST_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_ID = re.compile(r"[0-9a-f]{24}")

OPTIONS: JsonSchema = {
    "type": "object",
    "description": "Unknown options are kept, without effect.",
    "properties": {
        "post_data": {
            "type": "string",
            "description": 'What to send; `"$zaqar_message$"` in it, at most 10 times, is the message.',
        },
        "post_headers": {
            "type": "object",
            "maxProperties": 50,
            "additionalProperties": {"type": "string"},
            "description": "Headers to send along to a webhook.",
        },
        "_retry_policy": retry_policy.SCHEMA,
        "from": {"type": "string", "description": "The sender of a mail."},
        "subject": {"type": "string", "description": "The subject of a mail."},
        "trust_id": {
            "type": "string",
            "description": "For trust+http and trust+https: a trust of your own. The service makes one otherwise.",
        },
        "dead_letter_queue": {"type": "string", "description": "A queue that gets what could not be delivered."},
        "filter": {"type": "object", "description": "Which messages are sent; see the guide."},
    },
}
_options = Validator(OPTIONS)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The fields of a request about a subscription. A field is None if the request leaves it out."""

    subscriber: str | None
    ttl: int | None
    options: Options | None


def parse_creation(raw: bytes, *, source: str, project: str, limits: Limits) -> Wanted:
    """Parse ``{"subscriber": ..., "ttl": ..., "options": ...}``. Unknown fields are ignored. Raises InvalidInput.

    ``source`` is the name of the queue, ``project`` its project.
    """
    wanted = _parse(raw, source=source, limits=limits)
    if wanted.subscriber is None:
        raise InvalidInput("subscriber", "must be given, a URI")
    check_options_for(wanted.options or {}, wanted.subscriber, project=project)
    return wanted


def parse_connection_creation(raw: bytes, *, source: str, project: str, limits: Limits) -> Wanted:
    """Parse ``{"ttl": ..., "options": ...}``, which subscribes a connection itself. Unknown fields are ignored."""
    wanted = _parse(raw, source=source, limits=limits)
    if wanted.subscriber is not None:
        raise InvalidInput("subscriber", "must be absent, because the connection itself is subscribed")
    check_options_for(wanted.options or {}, f"{CONNECTION_SCHEME}:", project=project)
    return wanted


def parse_change(raw: bytes, *, source: str, limits: Limits) -> Wanted:
    """Parse a change: at least one of the fields of a creation. Raises InvalidInput."""
    wanted = _parse(raw, source=source, limits=limits)
    if wanted == Wanted(None, None, None):
        raise InvalidInput("body", "must have one of the fields 'subscriber', 'ttl' and 'options'")
    return wanted


def _parse(raw: bytes, *, source: str, limits: Limits) -> Wanted:
    document = strict_json.decode(raw)
    if not isinstance(document, dict):
        raise InvalidInput("body", "must be an object with 'subscriber', 'ttl' and 'options'")
    subscriber, ttl, options = (document.get(name) for name in ("subscriber", "ttl", "options"))
    if subscriber is not None:
        subscriber = check_subscriber(subscriber, types=limits.subscriber_types)
    if ttl is not None:
        if type(ttl) is not int:
            raise InvalidInput("ttl", f"must be an integer of at least {MIN_SUBSCRIPTION_TTL}")
        check_range(ttl, MIN_SUBSCRIPTION_TTL, YEAR_10000, field="ttl", unit=" seconds")
    if options is not None:
        _check_options(options, source=source)
    return Wanted(subscriber, ttl, options)


def _check_options(options: Any, *, source: str) -> None:
    if not isinstance(options, dict):
        raise InvalidInput("options", "must be an object")
    size = len(strict_json.encode(options))
    if size > MOST_BYTES_OF_OPTIONS:
        raise InvalidInput("options", f"has {size} bytes, more than {MOST_BYTES_OF_OPTIONS}")
    try:
        _options.check(options, root="options")
    except InvalidInput as exc:
        field = exc.field if exc.field == "options" else f"options.{exc.field}"
        raise InvalidInput(field, exc.reason) from exc
    retry_policy.check(options.get("_retry_policy"), field="options._retry_policy")
    if options.get("post_data", "").count(PLACE_OF_THE_MESSAGE) > MOST_PLACES:
        raise InvalidInput("options.post_data", f"must have {PLACE_OF_THE_MESSAGE} at most {MOST_PLACES} times")
    # Checked for all subscribers here. Which headers are allowed depends on the subscriber; see check_post_headers().
    post_headers.check(options.get("post_headers", {}), field=_POST_HEADERS, with_token=True)
    for name in ("from", "subject"):
        line = options.get(name, "")
        if not mailboxes.is_one_line(line) or len(line) > _MOST_CHARACTERS_OF_A_LINE:
            raise InvalidInput(
                f"options.{name}", f"must be one line of at most {_MOST_CHARACTERS_OF_A_LINE} characters"
            )
    if "dead_letter_queue" in options:
        check_name(options["dead_letter_queue"], field="options.dead_letter_queue")
        if options["dead_letter_queue"] == source:
            raise InvalidInput("options.dead_letter_queue", "must be another queue than the one subscribed to")
    if "filter" in options:
        compile_filter(options["filter"], field="options.filter")


def check_options_for(options: Options, subscriber: str, *, project: str) -> None:
    """Check that valid options fit to the subscriber. ``project`` is the project of the queue.

    Raises InvalidInput if they do not.
    """
    if "trust_id" in options:
        if not takes_token(subscriber):
            raise InvalidInput("options.trust_id", "is for subscribers of trust+http and trust+https only")
        trust = options["trust_id"]
        if not isinstance(trust, str) or _TRUST_ID.fullmatch(trust) is None:
            raise InvalidInput("options.trust_id", "must be the id of a trust in Keystone")
    headers = options.get("post_headers", {})
    check_post_headers(headers, subscriber, project=project)
    for name in headers if takes_token(subscriber) else ():
        if post_headers.fold(name) == "x-auth-token":
            raise InvalidInput(f"{_POST_HEADERS}.{name}", "is the token of the trust")
    if scheme_of(subscriber) == "mailto" and options.get("from"):
        mailboxes.parse(options["from"], field="options.from")


def check_post_headers(headers: Mapping[str, str], subscriber: str, *, project: str) -> None:
    """Raise InvalidInput, about the header, unless these may be sent to this subscriber of a queue of the project."""
    with_token = takes_token(subscriber)
    post_headers.check(headers, field=_POST_HEADERS, with_token=with_token)
    for name, value in headers.items() if with_token else ():
        if post_headers.fold(name) == "x-project-id" and value != project:
            raise InvalidInput(f"{_POST_HEADERS}.{name}", "must be the project of the subscription")


def check_end(ttl: int | None, now: float) -> None:
    """Raise InvalidInput unless a subscription with this ``ttl`` from ``now`` on ends before the year 10000."""
    if ttl is not None and now + ttl >= YEAR_10000:
        raise InvalidInput("ttl", f"must end before the year 10000: {ttl} seconds are too many")


def is_subscription_id(text: str) -> bool:
    """Whether the text has the form of the id of a subscription."""
    return _ID.fullmatch(text) is not None


def parse_confirmation(raw: bytes) -> bool:
    """Parse ``{"confirmed": true}`` or ``{"confirmed": false}``. Raises InvalidInput."""
    document = strict_json.decode(raw)
    if not isinstance(document, dict) or type(document.get("confirmed")) is not bool:
        raise InvalidInput("confirmed", "must be given, true or false")
    confirmed: bool = document["confirmed"]
    return confirmed


def parse_grace(raw: bytes) -> int:
    """Parse ``{"grace": seconds}``. The field and the body are optional. Raises InvalidInput."""
    document = strict_json.decode(raw) if raw else {}
    if not isinstance(document, dict):
        raise InvalidInput("body", "must be an object with 'grace'")
    grace = document.get("grace", DEFAULT_GRACE)
    if type(grace) is not int:
        raise InvalidInput("grace", f"must be an integer from 0 to {MOST_GRACE}")
    check_range(grace, 0, MOST_GRACE, field="grace", unit=" seconds")
    return grace


def shown(subscription: Subscription, now: float) -> dict[str, Any]:
    """Return the subscription for an answer, without its secrets."""
    return {
        "id": subscription.id,
        "source": subscription.source,
        "subscriber": shown_subscriber(subscription.subscriber),
        "ttl": subscription.ttl,
        "age": subscription.age(now),
        "options": dict(subscription.options),
        "confirmed": subscription.state == CONFIRMED,
    }


_TTL: JsonSchema = {"type": "integer", "minimum": MIN_SUBSCRIPTION_TTL, "maximum": YEAR_10000}
_SUBSCRIBER: JsonSchema = {
    "type": "string",
    "minLength": 1,
    "maxLength": 2000,
    "description": "A URI: `https://...`, `mailto:...`.",
}
CHANGE: JsonSchema = {
    "type": "object",
    "minProperties": 1,
    "properties": {
        "subscriber": _SUBSCRIBER,
        "ttl": {**_TTL, "description": "Seconds to live from now; the end must be before the year 10000."},
        "options": {"$ref": "#/components/schemas/SubscriptionOptions"},
    },
}
CREATION: JsonSchema = {**CHANGE, "required": ["subscriber"]}
CREATED: JsonSchema = {
    "type": "object",
    "required": ["subscription_id"],
    "properties": {
        "subscription_id": {"type": "string"},
        "secret": {"type": "string", "description": "Signs what is sent to a webhook. It is shown this once."},
    },
}
CONFIRMATION: JsonSchema = {
    "type": "object",
    "required": ["confirmed"],
    "properties": {"confirmed": {"type": "boolean"}},
}
GRACE: JsonSchema = {
    "type": "object",
    "properties": {"grace": {"type": "integer", "minimum": 0, "maximum": MOST_GRACE, "default": DEFAULT_GRACE}},
}
SECRET: JsonSchema = {"type": "object", "required": ["secret"], "properties": {"secret": {"type": "string"}}}
SUBSCRIPTION: JsonSchema = {
    "type": "object",
    "required": ["id", "source", "subscriber", "ttl", "age", "options", "confirmed"],
    "properties": {
        "id": {"type": "string"},
        "source": {"type": "string", "description": "The queue or topic."},
        "subscriber": {"type": "string"},
        "ttl": {"type": "integer"},
        "age": {"type": "integer", "minimum": 0},
        "options": {"type": "object"},
        "confirmed": {"type": "boolean"},
    },
}
