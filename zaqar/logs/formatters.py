# SPDX-License-Identifier: Apache-2.0
"""Writes a record as a line of JSON, and removes secrets from every record."""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
from collections.abc import Iterable

from zaqar.logs import context
from zaqar.uris import MASK

_PATTERNS = (
    # A password in a URI. It may hold '/' if it is not percent-encoded, so it ends at the last '@' before a space.
    (re.compile(r"(://[^\s:@/]*:)[^\s]+(?=@)"), rf"\1{MASK}"),
    # The token formats of Keystone: Fernet, and JSON web signatures.
    (re.compile(r"\bgAAAA[\w-]{16,}={0,2}"), MASK),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"), MASK),
    # The secrets of webhooks.
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=]+"), MASK),
    # Headers, options and parameters whose names say that they are secret.
    (
        re.compile(
            r"""(?ix) \b( [\w-]* (?: auth-token | service-token | subject-token | storage-token | authorization | cookie
            | password | secret | url-signature | signature | credential | api[-_]?key ) \w* ["']? \s* [:=] \s* )
            (?! %(?:s|r|\() | \*\*\* | none\b | null\b | (?: must | is | of | in | was )\b )
            ( b?"[^"]*" | b?'[^']*' | (?: (?: bearer | basic ) \s+ )? [^\s"',;)\]}]+ )"""
        ),
        rf"\1{MASK}",
    ),
)
"""What is removed, whoever has logged it: our code logs no secret on purpose, but texts of libraries may hold one."""

_SHORTEST_SECRET = 6
"""Characters of the shortest value of the configuration that is removed. A shorter one may be a common word."""


class Redactor:
    """Removes secrets from a text: those with a known form, and the secret values of the configuration."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first, so that of two secrets of which one begins with the other no rest is left.
        found = sorted({secret for secret in secrets if len(secret) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._values = re.compile("|".join(map(re.escape, found))) if found else None

    def redact(self, text: str) -> str:
        """Return the text with MASK in place of each secret."""
        if self._values is not None:
            text = self._values.sub(MASK, text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


class RedactingFormatter(logging.Formatter):
    """Another formatter, whose text has no secrets."""

    def __init__(self, inner: logging.Formatter | None, redactor: Redactor) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.redact(self._inner.format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object in each line.

    Always there are ``ts`` (RFC 3339, UTC, milliseconds), ``level``, ``logger``, ``msg``, ``part`` and ``pid``. If they
    are known: ``request_id``, ``error`` with the traceback, and the details of the request or the delivery.
    """

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        fields: dict[str, object] = {
            "ts": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "msg": record.getMessage(),
            "part": self._part,
            "pid": os.getpid(),
        }
        if request_id := getattr(record, "request_id", None):
            fields["request_id"] = request_id
        details = getattr(record, "details", None) or context.details.get()
        fields.update((name, value) for name, value in details.items() if value is not None)
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)
