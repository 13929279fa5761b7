# SPDX-License-Identifier: Apache-2.0
"""Pre-signed access: a grant opens its paths for its methods, in one project, until it expires.

Pure functions; times are text as in ``URL-Expires``, in UTC, or float seconds since the epoch.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from typing import NamedTuple

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

_EXPIRES = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)
_SIGNATURE = re.compile(r"[0-9a-f]{64}")


class Grant(NamedTuple):
    """What a signature is about. The order of ``paths`` and ``methods`` does not matter."""

    project: str
    paths: tuple[str, ...]
    methods: tuple[str, ...]
    expires: str


def format_expires(moment: float) -> str:
    """The moment, its fraction cut off, as ``YYYY-MM-DDTHH:MM:SS``."""
    return datetime.datetime.fromtimestamp(int(moment), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_expires(text: str) -> float | None:
    """Seconds since the epoch; None where the text is no such moment."""
    if _EXPIRES.fullmatch(text) is None:
        return None
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=datetime.UTC).timestamp()
    except ValueError:
        return None


def sign(secret_key: str, grant: Grant) -> str:
    """The signature of a grant: HMAC-SHA256 in hexadecimal digits."""
    # As JSON, no two grants have the same text, whatever characters are in their parts.
    text = json.dumps([grant.project, sorted(grant.paths), sorted(grant.methods), grant.expires])
    return hmac.new(secret_key.encode(), text.encode(), hashlib.sha256).hexdigest()


def opens(
    secret_key: str | None, signature: str, grant: Grant, *, project: str, method: str, path: str, now: float
) -> bool:
    """Whether the grant is signed with the key, is not over, and covers the request.

    Without a key, nothing is opened.
    """
    if not secret_key or _SIGNATURE.fullmatch(signature) is None:
        return False
    # The signature first, and in constant time: nothing is told about a grant that is not ours.
    if not hmac.compare_digest(sign(secret_key, grant), signature):
        return False
    end = parse_expires(grant.expires)
    return (
        end is not None
        and now < end
        and project == grant.project
        and method in grant.methods
        and covers(grant.paths, path)
    )


def covers(paths: Iterable[str], path: str) -> bool:
    """Whether one of the paths is this one, or the collection of messages or claims that it lies directly in."""
    collection, _, member = path.rpartition("/")
    allowed = set(paths)
    return path in allowed or (bool(member) and collection in allowed and collection.endswith(("/messages", "/claims")))
