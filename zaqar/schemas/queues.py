# SPDX-License-Identifier: Apache-2.0
"""The wire form of queues: metadata, JSON patches of them, purge requests and listing filters."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import re2

from zaqar.errors import Conflict, InvalidInput
from zaqar.limits import MIN_MESSAGE_TTL, Limits
from zaqar.model import QUEUE, Queue, QueueRules
from zaqar.schemas import retry_policy, strict_json
from zaqar.schemas.fields import NAME_PATTERN, JsonSchema, Validator, check_name

Metadata = Mapping[str, Any]

JSON_PATCH = "application/openstack-messaging-v2.0-json-patch"
RESOURCE_TYPES = ("messages", "subscriptions")

_MOST_BYTES_OF_A_FILTER = 256 * 1024

_ESCAPE = re.compile(r"~[01]")
_UNESCAPED = {"~0": "~", "~1": "/"}


def metadata_schema(limits: Limits) -> JsonSchema:
    """Make the schema of queue metadata: any keys, and the reserved keys with their bounds."""
    ttl = {"type": "integer", "minimum": MIN_MESSAGE_TTL, "maximum": limits.max_message_ttl}
    size = {"type": "integer", "minimum": 1, "maximum": limits.max_messages_post_size}
    return {
        "type": "object",
        "properties": {
            "_max_messages_post_size": size,
            "_default_message_ttl": ttl,
            "_default_message_delay": {"type": "integer", "minimum": 0, "maximum": limits.max_message_delay},
            "_dead_letter_queue": {"type": ["string", "null"], "pattern": NAME_PATTERN},
            "_dead_letter_queue_messages_ttl": {**ttl, "type": ["integer", "null"]},
            "_max_claim_count": {"type": ["integer", "null"], "minimum": 1},
            "_enable_encrypt_messages": {"type": "boolean"},
            "_flavor": {"type": ["string", "null"]},
            "_retry_policy": retry_policy.SCHEMA,
        },
    }


def shown_defaults(limits: Limits, *, kind: str = QUEUE) -> dict[str, Any]:
    """Return the values that a queue or topic shows for reserved keys that it does not set."""
    posting = {
        "_max_messages_post_size": limits.max_messages_post_size,
        "_default_message_ttl": limits.default_message_ttl,
        "_default_message_delay": limits.default_message_delay,
    }
    if kind != QUEUE:
        # Topics have no claims, and so no dead letter queue.
        return posting
    return {
        **posting,
        "_dead_letter_queue": None,
        "_dead_letter_queue_messages_ttl": None,
        "_max_claim_count": None,
        "_enable_encrypt_messages": False,
    }


def show_metadata(metadata: Metadata, limits: Limits, *, kind: str = QUEUE, defaults: bool = True) -> dict[str, Any]:
    """Return the metadata for clients. ``defaults`` fills in the missing reserved keys."""
    return {**(shown_defaults(limits, kind=kind) if defaults else {}), **metadata}


def rules_of(metadata: Metadata, limits: Limits) -> QueueRules:
    """Return the rules that the reserved metadata of a queue set.

    If the operator has lowered a limit since the metadata were stored, the limit applies.
    """
    dead_letter_ttl = metadata.get("_dead_letter_queue_messages_ttl")
    return QueueRules(
        min(metadata.get("_max_messages_post_size", limits.max_messages_post_size), limits.max_messages_post_size),
        min(metadata.get("_default_message_ttl", limits.default_message_ttl), limits.max_message_ttl),
        min(metadata.get("_default_message_delay", limits.default_message_delay), limits.max_message_delay),
        metadata.get("_dead_letter_queue"),
        None if dead_letter_ttl is None else min(dead_letter_ttl, limits.max_message_ttl),
        metadata.get("_max_claim_count"),
        metadata.get("_enable_encrypt_messages", False),
    )


class QueueSchemas:
    """The validators of queue requests under one set of limits, compiled once.

    ``no_encryption`` says why no queue can be encrypted; None if queues can be encrypted.
    """

    def __init__(self, limits: Limits, *, no_encryption: str | None = "this service has no key for it") -> None:
        self._limits = limits
        self._no_encryption = no_encryption
        self._metadata = Validator(metadata_schema(limits))
        self._patch = Validator(PATCH)
        self._purge = Validator(PURGE)

    def parse_metadata(self, raw: bytes) -> dict[str, Any]:
        """Parse the body of a PUT into metadata. An empty body gives empty metadata. Raises InvalidInput."""
        metadata: dict[str, Any] = strict_json.decode(raw, field="metadata") if raw else {}
        return metadata

    def check_metadata(self, metadata: Any, *, name: str, kind: str = QUEUE, before: Metadata | None = None) -> None:
        """Raise InvalidInput unless a queue of this name and kind may have these metadata.

        ``before`` are its current metadata, None for a new queue.
        """
        self._metadata.check(metadata, root="metadata")
        retry_policy.check(metadata.get("_retry_policy"), field="_retry_policy")
        dead_letter_queue = metadata.get("_dead_letter_queue")
        if dead_letter_queue is not None:
            # In Python the pattern of the schema also matches a name with a newline at its end.
            check_name(dead_letter_queue, field="_dead_letter_queue")
        if dead_letter_queue == name:
            raise InvalidInput("_dead_letter_queue", "a queue cannot be its own dead letter queue")
        if metadata.get("_enable_encrypt_messages"):
            self._check_encryption(kind, is_new=not (before or {}).get("_enable_encrypt_messages"))
        size = len(strict_json.encode(metadata))
        if size > self._limits.max_queue_metadata:
            raise InvalidInput("metadata", f"has {size} bytes, more than {self._limits.max_queue_metadata}")

    def _check_encryption(self, kind: str, *, is_new: bool) -> None:
        if kind != QUEUE:
            raise InvalidInput("_enable_encrypt_messages", "only queues can be encrypted, not topics")
        # If the key is missing, other metadata of an encrypted queue can still be changed.
        if is_new and self._no_encryption is not None:
            raise InvalidInput("_enable_encrypt_messages", self._no_encryption)

    def parse_patch(self, raw: bytes) -> list[dict[str, Any]]:
        """Parse the operations of a JSON patch. Raises InvalidInput."""
        operations: list[dict[str, Any]] = strict_json.decode(raw)
        self._patch.check(operations)
        for index, operation in enumerate(operations):
            if operation["op"] != "remove" and "value" not in operation:
                raise InvalidInput(f"[{index}]", "lacks the field 'value'")
            _key_of(operation["path"], field=f"[{index}].path")
        return operations

    def apply_patch(self, operations: list[dict[str, Any]], metadata: Metadata) -> dict[str, Any]:
        """Return the patched metadata. Raises Conflict if a missing key is replaced or removed.

        Reserved keys count as present, because they have defaults.
        """
        patched = dict(metadata)
        reserved = shown_defaults(self._limits)
        for index, operation in enumerate(operations):
            key = _key_of(operation["path"], field=f"[{index}].path")
            if operation["op"] != "add" and key not in patched and key not in reserved:
                raise Conflict(f"[{index}].path: there is no key {key!a} to {operation['op']}")
            if operation["op"] == "remove":
                patched.pop(key, None)
            else:
                patched[key] = operation["value"]
        return patched

    def parse_purge(self, raw: bytes) -> list[str]:
        """Parse the resource types to purge. An empty body means all of them. Raises InvalidInput."""
        if not raw:
            return list(RESOURCE_TYPES)
        document = strict_json.decode(raw)
        self._purge.check(document)
        types: list[str] = document["resource_types"]
        return types


def _key_of(path: str, *, field: str) -> str:
    """Return the metadata key in a JSON pointer ``/metadata/<key>`` with ``~0`` and ``~1`` (RFC 6901)."""
    root, _, token = path.removeprefix("/").partition("/")
    if not path.startswith("/") or root != "metadata" or not token or "/" in token:
        raise InvalidInput(field, "must be '/metadata/<key>'")
    if "~" in _ESCAPE.sub("", token):
        raise InvalidInput(field, "'~' must be written '~0' and '/' as '~1'")
    return _ESCAPE.sub(lambda match: _UNESCAPED[match.group()], token)


class QueueFilter(NamedTuple):
    """The filter of a listing: it keeps queues whose name matches ``search``, if given, with these metadata values."""

    search: Callable[[str], object] | None
    values: Mapping[str, str]
    name: str | None = None
    """The regular expression of ``search`` as text."""

    @property
    def needs_metadata(self) -> bool:
        """Whether the filter needs the metadata of a queue and not only its name."""
        return bool(self.values)

    def keeps_name(self, name: str) -> bool:
        """Whether the name of a queue matches."""
        return self.search is None or self.search(name) is not None

    def keeps(self, queue: Queue) -> bool:
        """Whether the name and the metadata of a queue match."""
        return self.keeps_name(queue.name) and all(
            _spells(text, queue.metadata.get(key)) for key, text in self.values.items()
        )


def make_filter(name: str | None, values: Mapping[str, str]) -> QueueFilter | None:
    """Make a filter by metadata values and by a regular expression that is searched in the name; None for all queues.

    RE2 matches in linear time, so that no expression can block a worker. Raises InvalidInput for an invalid expression.
    """
    if not name and not values:
        return None
    return QueueFilter(_compile(name).search if name else None, values, name or None)


def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    # Names have at most 64 ASCII characters. The memory limit of an expression also bounds the time for each name. The
    # module caches 128 expressions.
    options.max_mem = _MOST_BYTES_OF_A_FILTER
    options.never_capture = True
    try:
        return re2.compile(pattern, options)
    except re2.error as exc:
        raise InvalidInput("name", "is not a regular expression that RE2 accepts") from exc


def _spells(text: str, value: Any) -> bool:
    """Whether a query parameter equals a metadata value. Numbers are compared as numbers."""
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    if isinstance(value, int | float):
        try:
            return float(text) == value if isinstance(value, float) else int(text) == value
        except ValueError:
            return False
    return isinstance(value, str) and text == value


PATCH: JsonSchema = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["op", "path"],
        "properties": {
            "op": {"enum": ["add", "remove", "replace"], "description": "What to do with the key."},
            "path": {"type": "string", "description": "`/metadata/<key>`, a JSON pointer."},
            "value": {"description": "The new value; not for `remove`."},
        },
    },
}
PURGE: JsonSchema = {
    "type": "object",
    "required": ["resource_types"],
    "additionalProperties": False,
    "properties": {"resource_types": {"type": "array", "items": {"enum": list(RESOURCE_TYPES)}}},
}
QUEUE_LISTED: JsonSchema = {
    "type": "object",
    "required": ["name", "href"],
    "properties": {
        "name": {"type": "string"},
        "href": {"type": "string", "format": "uri-reference"},
        "metadata": {"type": "object", "description": "Only with `detailed=true`."},
    },
}
