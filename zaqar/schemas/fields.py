# SPDX-License-Identifier: Apache-2.0
"""Checks of single fields, and a JSON schema validator that raises InvalidInput with the path of the field.

The other modules of this package and the transports use it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from zaqar.errors import InvalidInput

if TYPE_CHECKING:
    import jsonschema

JsonSchema = Mapping[str, Any]

NAME_PATTERN = r"^(?!\.{1,2}$)[A-Za-z0-9_.-]{1,64}$"
"""Names of queues, topics, pools and flavors.

``$`` ends the string as in ECMA 262, which JSON Schema uses.
"""

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_ID = re.compile(r"[!-~]{1,128}")


def check_name(name: str, *, field: str) -> None:
    """Raise InvalidInput unless the whole text is a valid name of a queue, topic, pool or flavor."""
    if _NAME.fullmatch(name) is None or name in (".", ".."):
        raise InvalidInput(
            field, "a name has 1 to 64 of the ASCII letters, digits, '_', '-' and '.', and is not '.' or '..'"
        )


def check_marker(name: str) -> str:
    """Return the marker of a page of names, empty for the first page. Raises InvalidInput unless it is a valid name."""
    if name:
        check_name(name, field="marker")
    return name


def is_id(text: str) -> bool:
    """Whether the text has the form of an id, so that it may be passed to a store."""
    return _ID.fullmatch(text) is not None


def check_id(text: str, *, field: str) -> None:
    """Raise InvalidInput unless the text has the form of an id."""
    if not is_id(text):
        raise InvalidInput(field, "an id has 1 to 128 printable ASCII characters")


def check_range(value: int, low: int, high: int, *, field: str, unit: str = "") -> None:
    """Raise InvalidInput unless the value is from ``low`` to ``high``."""
    if not low <= value <= high:
        raise InvalidInput(field, f"must be from {low} to {high}{unit}, not {value}")


def parse_integer(text: str, low: int, high: int, *, field: str) -> int:
    """Parse a query parameter in ASCII digits. Raises InvalidInput unless it is an integer from ``low`` to ``high``."""
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) <= 20):
        raise InvalidInput(field, f"must be an integer from {low} to {high}")
    value = int(text)
    check_range(value, low, high, field=field)
    return value


def parse_boolean(text: str, *, field: str) -> bool:
    """Parse a query parameter as a boolean. Raises InvalidInput."""
    folded = text.lower()
    if folded in ("true", "1", "yes", "on", "t", "y"):
        return True
    if folded in ("false", "0", "no", "off", "f", "n"):
        return False
    raise InvalidInput(field, "must be true or false")


class Validator:
    """A JSON schema that is compiled once, at its first use. It reports the first invalid field by its path."""

    def __init__(self, schema: JsonSchema) -> None:
        self._schema = schema

    @functools.cached_property
    def _validator(self) -> Any:
        return _strict_validator()(self._schema)

    def check(self, value: Any, *, root: str = "body") -> None:
        """Raise InvalidInput, about the first invalid field. ``root`` is the name of the whole document."""
        # PERF: stop at the first error, because there may be tens of thousands.
        error = next(self._validator.iter_errors(value), None)
        if error is not None:
            raise InvalidInput(_path(root, error.absolute_path), _reason(error))


@functools.cache
def _strict_validator() -> Any:
    # Import here: the sweeper and the notifier read no documents of clients, and the library takes long to import.
    import jsonschema

    # In JSON Schema 60.0 is an integer. This API does not accept it. In Python a bool is an int; here it is not.
    type_checker = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    return jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        jsonschema.Draft202012Validator, type_checker=type_checker
    )


def _is_integer(_checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _path(root: str, parts: Iterable[str | int]) -> str:
    path = ""
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path or root


def _reason(error: jsonschema.ValidationError) -> str:
    # A container is not shown, because it may be large. The path names it.
    rule: Any = error.validator_value
    value: Any = error.instance
    schema: Any = error.schema
    match error.validator:
        case "type":
            return "must be of type " + (rule if isinstance(rule, str) else " or ".join(rule))
        case "minimum":
            return f"must be at least {rule}, not {value}"
        case "maximum":
            return f"must be at most {rule}, not {value}"
        case "enum":
            return "must be one of " + ", ".join(str(choice) for choice in rule)
        case "pattern":
            return f"must match {rule}"
        case "minItems" | "minLength" | "minProperties":
            return "must not be empty"
        case "required":
            return f"lacks the field '{next(name for name in rule if name not in value)}'"
        case "additionalProperties":
            return f"has an unknown field {next(name for name in value if name not in schema['properties'])!a}"
        case _:
            return f"breaks the rule '{error.validator}'"
