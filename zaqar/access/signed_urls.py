# SPDX-License-Identifier: Apache-2.0
r"""Pre-signed access: a signature allows some methods on some paths, for one project and until a given time.

``POST .../share`` makes such grants, and transports check them with :class:`SignedUrls`. The signature is the same as
in OpenStack Zaqar, so URLs from there stay valid: HMAC with SHA-256, in hexadecimal digits, over ::

    <paths>\n<methods>\n<project>\n<expires>

Paths and methods are sorted and joined by commas. The separator is a backslash and the letter n, not a line feed. None
of the fields can hold a backslash, so no two grants have the same text.

A *confirmation* lets a subscriber confirm one subscription. It has the same text, and a key derived from the secret key
and from the subscriber that was asked. Only the service can derive that key. So a confirmation is valid only for the
subscriber that it was sent to, no share is valid as a confirmation, and no confirmation is valid as a share.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

from oslo_config import cfg

from zaqar.bounded_cache import BoundedCache, size_of
from zaqar.errors import SignatureRefused, StartupError

_log = logging.getLogger(__name__)

SHORTEST_KEY = 32
"""A warning is logged for a key with fewer characters."""

_SEPARATOR = r"\n"
_FORM = "%Y-%m-%dT%H:%M:%S"
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([T ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,9})?)?(Z|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)
_PROJECT = re.compile(r"(?! )[ -+\--\[\]-~]{1,256}(?<! )")
"""Printable ASCII without the comma and the backslash."""

_DIGITS = re.compile(r"[0-9a-f]{64}")
_NAME = r"(?!\.{1,2}/)[A-Za-z0-9_.\-]{1,64}"
_COLLECTION = re.compile(
    rf"/v2/(?:queues/{_NAME}/(?:messages|claims|subscriptions)|topics/{_NAME}/(?:messages|subscriptions))"
)
_MEMBER = re.compile(r"[A-Za-z0-9_\-]{1,128}")
_CONFIRMATION = re.compile(rf"(/v2/(?:queues|topics)/{_NAME}/subscriptions)/[0-9a-f]{{24}}/confirm")

_DERIVED = b"zaqar subscription confirmation\n"
"""Prefix of the text from which a derived key is made. The text of a share begins with '/', so the two never match."""

_CACHE_BYTES = 2 * 1024 * 1024
"""About 1,000 verified grants. A client can spell the same grant in many ways, so the cache needs a bound."""


def format_time(at: float) -> str:
    """Format a time as it is signed: UTC, to the second."""
    return datetime.fromtimestamp(int(at), UTC).strftime(_FORM)


def parse_time(text: str) -> float | None:
    """Parse a time in ISO 8601 into whole seconds since the epoch; None if it is not valid.

    Accepted are ``T`` or a space before the hours, a fraction of a second (which is cut off), ``Z`` or an offset (the
    default is UTC), and a date without a time.
    """
    if _TIME.fullmatch(text) is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0).timestamp()
    except (ValueError, OverflowError):
        return None


def is_project(text: str) -> bool:
    """Whether the project can be part of a signature."""
    return _PROJECT.fullmatch(text) is not None


def sign(
    key: str,
    *,
    project: str,
    paths: Iterable[str],
    methods: Iterable[str],
    expires: str,
    bound_to: Sequence[str] = (),
) -> str:
    """Make the signature that allows ``methods`` on ``paths`` until ``expires``, a text of :func:`format_time`.

    ``bound_to`` makes it the signature of a confirmation: it has ``Subscription.grant_terms``. The signature is valid
    only while the subscription has the same terms.
    """
    return _sign(key.encode(), _text(project, paths, methods, expires), bound_to)


def _text(project: str, paths: Iterable[str], methods: Iterable[str], expires: str) -> bytes:
    return _SEPARATOR.join((",".join(sorted(paths)), ",".join(sorted(methods)), project, expires)).encode()


def _sign(key: bytes, text: bytes, bound_to: Sequence[str]) -> str:
    if bound_to:
        # JSON, so that different terms always make different keys, whatever characters a subscriber has.
        key = hmac.digest(key, _DERIVED + json.dumps(list(bound_to)).encode(), "sha256")
    return hmac.digest(key, text, "sha256").hex()


class Claim(NamedTuple):
    """The grant that a request claims: the headers ``URL-*`` and ``X-Project-ID`` as received, "" if absent."""

    signature: str
    paths: str
    methods: str
    expires: str
    project: str

    def __repr__(self) -> str:
        # The signature gives access, so it must not be in logs and tracebacks.
        return f"Claim({self.paths!r}, {self.methods!r}, {self.expires!r}, {self.project!r})"


class _Grant(NamedTuple):
    """A parsed claim. ``collections`` are the signed paths that allow access to their members too."""

    signature: str
    text: bytes
    paths: frozenset[str]
    collections: frozenset[str]
    methods: frozenset[str]
    end: float

    def __repr__(self) -> str:
        return f"_Grant({self.text!r})"

    def opens(self, method: str, path: str) -> bool:
        if method not in self.methods and (method != "HEAD" or "GET" not in self.methods):
            return False
        if path in self.collections:
            return True
        collection, _, member = path.rpartition("/")
        if collection in self.collections:
            return _MEMBER.fullmatch(member) is not None
        confirmed = _CONFIRMATION.fullmatch(path)
        return confirmed is not None and method == "PUT" and confirmed[1] in self.collections


def _read(claim: Claim) -> _Grant:
    """Parse a claim without checking its signature. Raises SignatureRefused if it does not have the form of a grant."""
    if not all(claim):
        raise SignatureRefused("a header is missing or empty")
    if _DIGITS.fullmatch(claim.signature) is None:
        raise SignatureRefused("URL-Signature is no signature")
    if not is_project(claim.project):
        raise SignatureRefused("X-Project-ID is no project")
    if "\\" in claim.paths or "\\" in claim.methods:
        raise SignatureRefused("URL-Paths or URL-Methods has a backslash")
    end = parse_time(claim.expires)
    if end is None:
        raise SignatureRefused("URL-Expires is no time")
    paths, methods = claim.paths.split(","), claim.methods.split(",")
    return _Grant(
        claim.signature,
        _text(claim.project, paths, methods, format_time(end)),
        frozenset(paths),
        frozenset(path for path in paths if _COLLECTION.fullmatch(path)),
        frozenset(methods),
        end,
    )


class SignedUrls:
    """Signs with the current key, and verifies with the current and the previous keys. Threads may share it."""

    def __init__(self, secret_key: str | None = None, previous: Sequence[str] = ()) -> None:
        self._key = secret_key or ""
        # Never an empty key, because every client could sign with it.
        self._keys = tuple(key.encode() for key in (secret_key, *previous) if key)
        # The keys of this object never change, so a verified grant stays verified. Its end is checked each time.
        self._verified: BoundedCache[Claim, _Grant] = BoundedCache(_CACHE_BYTES)

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> SignedUrls:
        """Read the keys of ``[signed_url]``. Logs a warning for a short key. Raises StartupError for an empty key."""
        options = conf.signed_url
        if not all(options.previous_secret_keys):
            raise StartupError("[signed_url] previous_secret_keys: a key is empty.")
        for option, keys in (
            ("secret_key", [options.secret_key or ""]),
            ("previous_secret_keys", options.previous_secret_keys),
        ):
            if any(0 < len(key) < SHORTEST_KEY for key in keys):
                _log.warning("[signed_url] %s: a key of less than %d characters may be guessed.", option, SHORTEST_KEY)
        return cls(options.secret_key, options.previous_secret_keys)

    @property
    def can_sign(self) -> bool:
        """Whether there is a current key."""
        return bool(self._key)

    def sign(self, *, project: str, paths: Iterable[str], methods: Iterable[str], expires: str) -> str:
        """Make the signature of a share; see :func:`sign`."""
        return sign(self._key, project=project, paths=paths, methods=methods, expires=expires)

    def open(self, claim: Claim, *, method: str, path: str, now: float) -> Callable[[Sequence[str]], bool] | None:
        """Check that the claim allows ``method`` on ``path``. Raises SignatureRefused if it does not.

        Returns None for a share. A confirmation can be verified only with its subscription: then the result is a
        function that takes the subscription's ``grant_terms`` and returns whether the signature is valid. The caller
        must call it before it does anything else.
        """
        if not self._keys:
            raise SignatureRefused("there is no key")
        grant = self._verified.get(claim)
        confirms = False
        if grant is None:
            grant = _read(claim)
            # A signed path of this form is a confirmation, because the service signs no share of such a path. A share
            # of the collection above it does not list the path, and is checked as a share below.
            confirms = path in grant.paths and _CONFIRMATION.fullmatch(path) is not None
            if not confirms:
                if not self._verify(grant, ()):
                    raise SignatureRefused("no key has made the signature")
                self._verified.put(claim, grant, size_of(claim) + size_of(grant))
        if grant.end <= now:
            raise SignatureRefused("it has expired")
        if confirms and grant.methods == {"PUT"} and method == "PUT":
            return partial(self._verify, grant)
        if confirms or not grant.opens(method, path):
            raise SignatureRefused("it is for other paths or methods")
        return None

    def _verify(self, grant: _Grant, bound_to: Sequence[str]) -> bool:
        given, valid = grant.signature.encode(), False
        for key in self._keys:
            # Every key is tried, so that the time does not reveal which key it was.
            valid |= hmac.compare_digest(_sign(key, grant.text, bound_to).encode(), given)
        return valid
