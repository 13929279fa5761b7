# SPDX-License-Identifier: Apache-2.0
"""Pre-signed URLs of a queue or topic, which give clients without an account limited access until a time.

The transports call it for ``POST .../share``.
"""

from __future__ import annotations

from typing import NamedTuple

from zaqar.access.signed_urls import SignedUrls, format_time, is_project, parse_time
from zaqar.clock import Clock
from zaqar.errors import ClientError, InvalidInput
from zaqar.model import QueueName
from zaqar.schemas.share import Wanted

DAY = 86_400
"""Seconds for which a URL is valid by default."""


class Shared(NamedTuple):
    """The values that the holder of a URL has to send in the headers ``X-Project-ID`` and ``URL-...``."""

    project: str
    paths: tuple[str, ...]
    methods: tuple[str, ...]
    expires: str
    signature: str

    def __repr__(self) -> str:
        # The signature gives access, so it must not be in logs and tracebacks.
        return f"Shared({self.project!r}, {self.paths!r}, {self.methods!r}, {self.expires!r})"


class Shares:
    """Makes pre-signed URLs. Threads may share it."""

    def __init__(self, urls: SignedUrls, *, clock: Clock, max_expiry: int | None) -> None:
        """``max_expiry``: the longest time in seconds for which a URL may be valid; None for no limit."""
        self._urls = urls
        self._clock = clock
        self._max_expiry = max_expiry

    def create(self, queue_name: QueueName, wanted: Wanted) -> Shared:
        """Sign the wanted access. The transport must have checked that the policy allows the caller all of it.

        Nothing is stored: a URL ends at its time, or when its key is removed from the configuration. Raises
        InvalidInput, about ``expires``, for a time in the past or too far in the future, and ClientError if the
        operator has set no key.
        """
        expires = self._end(wanted.expires)
        if not self._urls.can_sign:
            raise ClientError("This service makes no pre-signed URLs: [signed_url] secret_key is not set.")
        if not is_project(queue_name.project):
            raise InvalidInput("X-Project-ID", "with a backslash in it no pre-signed URL can be made")
        paths = tuple(f"/v2/{queue_name.kind}s/{queue_name.name}/{each}" for each in wanted.paths)
        signature = self._urls.sign(project=queue_name.project, paths=paths, methods=wanted.methods, expires=expires)
        return Shared(queue_name.project, paths, wanted.methods, expires, signature)

    def _end(self, text: str | None) -> str:
        now = self._clock()
        if text is None:
            return format_time(now + min(DAY, self._max_expiry or DAY))
        end = parse_time(text)
        if end is None:
            raise InvalidInput("expires", "must be a time such as 2030-01-01T00:00:00, in UTC unless it has an offset")
        if end <= now:
            raise InvalidInput("expires", "must be in the future")
        if self._max_expiry is not None and end > now + self._max_expiry:
            raise InvalidInput("expires", f"must be at most {self._max_expiry} seconds from now")
        return format_time(end)
