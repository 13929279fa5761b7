# SPDX-License-Identifier: Apache-2.0
"""Pre-signed access: a signature opens some paths to some methods, for a project and until a time, and nothing else.

A signature is the HMAC with SHA-256 of all that it grants, in hexadecimal digits, under the key of the service.
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from datetime import UTC, datetime

_FORM = "%Y-%m-%dT%H:%M:%S"


def format_time(at: float) -> str:
    """A time as it is given in a signed URL: UTC, to the second."""
    return datetime.fromtimestamp(int(at), UTC).strftime(_FORM)


def parse_time(text: str) -> float | None:
    """The seconds since the epoch of a time in the form of :func:`format_time`; None where it has another form."""
    try:
        return datetime.strptime(text, _FORM).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def sign(
    key: str,
    *,
    project: str,
    paths: Sequence[str],
    methods: Sequence[str],
    expires: str,
    bound_to: Sequence[str] = (),
) -> str:
    """The signature that opens ``paths`` to ``methods`` until ``expires``, a text of :func:`format_time`.

    ``bound_to`` is what else must be the same when it is verified; it is not told to whoever gets the signature.
    """
    # JSON, so that no two grants have the same text whatever characters a project or a path has.
    terms = [project, list(paths), list(methods), expires, *([list(bound_to)] if bound_to else [])]
    granted = json.dumps(terms).encode()
    return hmac.new(key.encode(), granted, hashlib.sha256).hexdigest()


def verify(
    key: str,
    signature: str,
    *,
    project: str,
    paths: Sequence[str],
    methods: Sequence[str],
    expires: str,
    now: float,
    bound_to: Sequence[str] = (),
) -> bool:
    """Whether the signature was made with this key for exactly this grant, and the grant is not over."""
    end = parse_time(expires)
    if not key or end is None or end <= now:
        return False
    wanted = sign(key, project=project, paths=paths, methods=methods, expires=expires, bound_to=bound_to)
    return hmac.compare_digest(wanted.encode(), signature.encode("utf-8", "surrogateescape"))


def covers(paths: Sequence[str], methods: Sequence[str], *, path: str, method: str) -> bool:
    """Whether these are about the request: they name its path, or the collection of messages or claims it is in."""
    collection, _, member = path.rpartition("/")
    within = bool(member) and collection.endswith(("/messages", "/claims")) and collection in paths
    return method in methods and (path in paths or within)
