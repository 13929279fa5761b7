# SPDX-License-Identifier: Apache-2.0
"""Parses mail addresses, when a subscription is created and again before a mail is sent.

Only plain addresses are accepted: an ASCII local part without quotes, and a domain, which is converted to its ASCII
form. So an address is the same text in the header of a mail, in an SMTP command and for every parser on its way.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

import idna

from zaqar.errors import InvalidInput

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# The characters of atoms in RFC 5322 and the dot. The first one must not make a mail command read an option, a pipe
# or a file.
_LOCAL_PART = re.compile(r"(?![-|/])[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LONGEST_DOMAIN = 253


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mail address, in ASCII, with a name: any text of one line, which may be empty."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


def is_one_line(text: str) -> bool:
    """Whether a text has no control characters and no characters that some programs treat as line breaks."""
    return _CONTROL.search(text) is None


def parse(text: str, *, field: str) -> Mailbox:
    """Parse ``name <address>`` or ``address``. Raises InvalidInput."""
    if not is_one_line(text):
        raise InvalidInput(field, "must be one line without control characters")
    name, bracket, rest = text.strip().rpartition("<")
    if bracket and (not rest.endswith(">") or "<" in name or ">" in name):
        raise InvalidInput(field, "must be one mail address, or a name and an address in angle brackets")
    return Mailbox(name.strip().strip('"'), parse_address(rest.removesuffix(">") if bracket else rest, field=field))


def parse_address(text: str, *, field: str) -> str:
    """Parse a plain address, and return it with its domain in ASCII form. Raises InvalidInput."""
    local_part, at, domain = text.partition("@")
    if not at or not domain or "@" in domain:
        raise InvalidInput(field, "must be one mail address")
    if not local_part.isascii():
        raise InvalidInput(field, "must have only ASCII characters before the '@'; other mail addresses are not served")
    if _LOCAL_PART.fullmatch(local_part) is None or "=?" in local_part:
        raise InvalidInput(field, "must be one mail address, without quotes, blanks and encoded words before the '@'")
    return f"{local_part}@{_ascii_domain(domain, field)}"


def parse_mailto(subscriber: str, *, field: str) -> tuple[str, str]:
    """Parse ``mailto:address?subject=...`` (RFC 6068) into address and subject, which may be empty.

    The subject is the only allowed field. Raises InvalidInput for any other field.
    """
    address, _, query = subscriber.partition(":")[2].partition("?")
    try:
        fields = [
            (unquote(name, errors="strict"), equals, unquote(value, errors="strict"))
            for name, equals, value in (each.partition("=") for each in query.split("&") if query)
        ]
        address = unquote(address, errors="strict")
    except UnicodeDecodeError as exc:
        raise InvalidInput(field, "must be valid UTF-8 after percent-decoding") from exc
    if len(fields) > 1 or any(name.lower() != "subject" or not equals for name, equals, _ in fields):
        raise InvalidInput(field, "may have one field after the address, '?subject=...'")
    subject = fields[0][2] if fields else ""
    if not is_one_line(subject):
        raise InvalidInput(field, "must hold no control characters, encoded or not")
    return parse_address(address, field=field), subject


def _ascii_domain(domain: str, field: str) -> str:
    text = domain
    if not domain.isascii() and len(domain) <= _LONGEST_DOMAIN:
        try:
            text = idna.encode(domain, uts46=True).decode("ascii")
        except idna.IDNAError as exc:
            raise InvalidInput(field, "must have the name of a domain after the '@'") from exc
    if _DOMAIN.fullmatch(text) is None or len(text) > _LONGEST_DOMAIN:
        raise InvalidInput(field, "must have the name of a domain after the '@'")
    return text
