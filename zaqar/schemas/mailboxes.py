# SPDX-License-Identifier: Apache-2.0
"""Mail addresses, checked at subscribe and again before a mail is written.

Only plain addresses pass: one ASCII local part without quotes, and a domain that is written in its ASCII form from here
on. So an address is the same text for the header of a mail, an SMTP command and every parser on the way.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote

import idna

from zaqar.errors import InvalidInput

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# The characters of RFC 5322's atoms and the dot. Not what a command takes for an option, a program or a file.
_LOCAL_PART = re.compile(r"(?![-|/])[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LONGEST_DOMAIN = 253


@dataclass(frozen=True, slots=True)
class Mailbox:
    """``address`` is ASCII; ``name``, which may be empty, is any text of one line."""

    name: str
    address: str

    @property
    def domain(self) -> str:
        return self.address.rpartition("@")[2]


def is_one_line(text: str) -> bool:
    """Whether a text has no control character and nothing that some reader takes for the end of a line."""
    return _CONTROL.search(text) is None


def parse(text: str, *, field: str) -> Mailbox:
    """The mailbox in ``name <address>`` or ``address``; InvalidInput unless it is one."""
    if not is_one_line(text):
        raise InvalidInput(field, "must be one line without control characters")
    name, bracket, rest = text.strip().rpartition("<")
    if bracket and (not rest.endswith(">") or "<" in name or ">" in name):
        raise InvalidInput(field, "must be one mail address, or a name and an address in angle brackets")
    return Mailbox(name.strip().strip('"'), parse_address(rest.removesuffix(">") if bracket else rest, field=field))


def parse_address(text: str, *, field: str) -> str:
    """The address with its domain in ASCII form; InvalidInput unless it is one plain address."""
    local_part, at, domain = text.partition("@")
    if not at or not domain or "@" in domain:
        raise InvalidInput(field, "must be one mail address")
    if not local_part.isascii():
        raise InvalidInput(field, "must have only ASCII characters before the '@'; other mail addresses are not served")
    if _LOCAL_PART.fullmatch(local_part) is None or "=?" in local_part:
        raise InvalidInput(field, "must be one mail address, without quotes, blanks and encoded words before the '@'")
    return f"{local_part}@{_ascii_domain(domain, field)}"


def parse_mailto(subscriber: str, *, field: str) -> tuple[str, str]:
    """Address and subject, which may be empty, of ``mailto:address?subject=...`` (RFC 6068).

    Only the subject is for the subscriber to choose: with any other field this is InvalidInput.
    """
    address, _, query = subscriber.partition(":")[2].partition("?")
    try:
        fields = [
            (unquote(name, errors="strict"), equals, unquote(value, errors="strict"))
            for name, equals, value in (each.partition("=") for each in query.split("&") if query)
        ]
        address = unquote(address, errors="strict")
    except UnicodeDecodeError as exc:
        raise InvalidInput(field, "must be UTF-8 where it is percent-encoded") from exc
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
