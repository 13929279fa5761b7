# SPDX-License-Identifier: Apache-2.0
"""Formatters: one JSON object in each line, or the text of another formatter. Both remove secrets from the record."""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
from collections.abc import Iterable

from zaqar.logs import context
from zaqar.uris import MASK

# Each pattern takes time in proportion to the text, because clients choose parts of some texts. So a repetition after
# which a match may fail is bounded, or begins only once in a word, and none is tried again with fewer characters.
_PATTERNS = (
    # A password in a URI. It may hold '/' if it is not percent-encoded, so it ends at the last '@' before a space.
    (re.compile(r"(?<!\S)((?>\S*?://[^\s:@/]*:))\S+(?=@)"), rf"\1{MASK}"),
    # The token formats of Keystone: Fernet, and JSON web signatures.
    (re.compile(r"\bgAAAA[\w-]{16,}={0,2}"), MASK),
    (re.compile(r"\beyJ[\w-]{8,2000}+\.[\w-]{8,}+\.[\w-]{8,}+"), MASK),
    # The secrets of webhooks.
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=]+"), MASK),
    # Headers, options and parameters whose names say that they are secret.
    (
        re.compile(
            r"""(?ix) ( (?: auth-token | service-token | subject-token | storage-token | authorization | cookie
            | password | secret | url-signature | signature | credential | api[-_]?key )
            \w{0,40}+ ["']? \s*+ [:=] [^\S\n]*+ )
            (?! %(?:s|r|\() | \*\*\* | none\b | null\b | (?: must | is | of | in | was )\b )
            ( b?"[^"]*+" | b?'[^']*+' | (?: (?: bearer | basic ) \s++ )? [^\s"',;)\]}]++ )"""
        ),
        rf"\1{MASK}",
    ),
)
"""Secrets and their replacements. Our code logs no secret on purpose, but texts of libraries may hold one."""

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
        self.inner = inner or logging.Formatter()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        return self._redactor.redact(self.inner.format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object in each line.

    Always there are ``ts`` (RFC 3339, UTC, milliseconds), ``level``, ``logger``, ``msg``, ``part`` and ``pid``. If they
    are known: ``request_id``, ``error`` with the traceback, and the details of the request or the delivery.
    """

    def __init__(self, part: str, redactor: Redactor) -> None:
        super().__init__()
        self._part = part
        self._redactor = redactor

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
        # Before the text becomes JSON: there a quote has a backslash, which hides where a secret begins and ends.
        return json.dumps({name: self._without_secrets(value) for name, value in fields.items()}, ensure_ascii=False)

    def _without_secrets(self, value: object) -> object:
        return value if isinstance(value, int | float) else self._redactor.redact(str(value))
