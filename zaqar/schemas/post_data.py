# SPDX-License-Identifier: Apache-2.0
"""The option ``post_data``: a template of what a webhook is sent, checked at subscribe."""

from zaqar.errors import InvalidInput

PLACE_OF_THE_MESSAGE = '"$zaqar_message$"'
"""Is replaced by the message, with its quotes."""

MOST_PLACES = 8
"""Thousands of places, and a message for each, would make a request of a gigabyte out of a template of 64 KiB."""


def check(template: str, *, field: str) -> None:
    """Raise InvalidInput if the template has too many places for the message."""
    if template.count(PLACE_OF_THE_MESSAGE) > MOST_PLACES:
        raise InvalidInput(field, f"must have at most {MOST_PLACES} places for the message")
