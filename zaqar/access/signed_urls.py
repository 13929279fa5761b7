# SPDX-License-Identifier: Apache-2.0
r"""Pre-signed access: a signature opens a few paths to a few methods, for one project and until one time.

``POST .../share`` makes such grants; transports check them with :class:`SignedUrls`. The signature is that of the
reference implementation, so URLs that were made there stay valid: HMAC with SHA-256, in hexadecimal digits, over ::

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
"""Characters of a key below which a warning is logged."""

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
"""What a derived key is made from begins with this. The text of a share begins with '/', so no share is such a key."""

_CACHE_BYTES = 2 * 1024 * 1024
"""About 1,000 verified grants. Whoever has a URL can spell it in many ways, so their number needs a bound."""


def format_time(at: float) -> str:
    """A time as it is signed: UTC, to the second."""
    return datetime.fromtimestamp(int(at), UTC).strftime(_FORM)


def parse_time(text: str) -> float | None:
    """Seconds since the epoch of a time in ISO 8601, a fraction of a second cut off; None if it is none.

    Accepted are ``T`` or a space before the hours, a fraction, ``Z`` or an offset (without either it is UTC), and a
    date alone.
    """
    if _TIME.fullmatch(text) is None:
        return None
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC).replace(microsecond=0).timestamp()
    except (ValueError, OverflowError):
        return None


def is_project(text: str) -> bool:
    """Whether a signature can be about this project."""
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
    """The signature that opens ``paths`` to ``methods`` until ``expires``, a text of :func:`format_time`.

    ``bound_to`` makes it that of a confirmation: ``Subscription.grant_terms``, which are the same when it is verified.
    """
    return _sign(key.encode(), _text(project, paths, methods, expires), bound_to)


def _text(project: str, paths: Iterable[str], methods: Iterable[str], expires: str) -> bytes:
    return _SEPARATOR.join((",".join(sorted(paths)), ",".join(sorted(methods)), project, expires)).encode()


def _sign(key: bytes, text: bytes, bound_to: Sequence[str]) -> str:
    if bound_to:
        # JSON, so that no two lists of terms make the same key, whatever characters a subscriber has.
        key = hmac.digest(key, _DERIVED + json.dumps(list(bound_to)).encode(), "sha256")
    return hmac.digest(key, text, "sha256").hex()


class Claim(NamedTuple):
    """What a request claims that it may do: the headers ``URL-*`` and ``X-Project-ID`` as they came, "" if absent."""

    signature: str
    paths: str
    methods: str
    expires: str
    project: str

    def __repr__(self) -> str:
        # The signature is a permission, which no log and no traceback may show.
        return f"Claim({self.paths!r}, {self.methods!r}, {self.expires!r}, {self.project!r})"


class _Grant(NamedTuple):
    """A claim that was read. ``collections`` are the signed paths that open their members too."""

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
    """Raise SignatureRefused unless the claim has the form of a grant; whether it is one, a key has to say."""
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
    """The keys of the service: signs with one, verifies with that one and the ones before it. Safe for threads."""

    def __init__(self, secret_key: str | None = None, previous: Sequence[str] = ()) -> None:
        self._key = secret_key or ""
        # Never an empty one, with which everybody could sign.
        self._keys = tuple(key.encode() for key in (secret_key, *previous) if key)
        # A grant that was verified stays verified: the keys are those of this object. Its end is checked each time.
        self._verified: BoundedCache[Claim, _Grant] = BoundedCache(_CACHE_BYTES)

    @classmethod
    def from_conf(cls, conf: cfg.ConfigOpts) -> SignedUrls:
        """The keys of ``[signed_url]``; logs a warning for each short one. Raises StartupError if one is empty."""
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
        return bool(self._key)

    def sign(self, *, project: str, paths: Iterable[str], methods: Iterable[str], expires: str) -> str:
        """The signature of a share; see :func:`sign`."""
        return sign(self._key, project=project, paths=paths, methods=methods, expires=expires)

    def open(self, claim: Claim, *, method: str, path: str, now: float) -> Callable[[Sequence[str]], bool] | None:
        """Return if the claim opens ``path`` to ``method``; raise SignatureRefused if it does not.

        A confirmation can be verified only with the subscription that it is about. For one, a function is returned that
        says of the subscription's ``grant_terms`` whether it is valid; the caller must ask it before anything is done.
        """
        if not self._keys:
            raise SignatureRefused("there is no key")
        grant = self._verified.get(claim)
        confirms = False
        if grant is None:
            grant = _read(claim)
            # The service signs no share of such a path. One below a shared collection is the caller's to confirm.
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
            # Every key is tried, so the time tells nobody which one it was.
            valid |= hmac.compare_digest(_sign(key, grant.text, bound_to).encode(), given)
        return valid
