# SPDX-License-Identifier: Apache-2.0
"""The HTTP API of a messaging service, as far as ``zaqar.upgrade`` uses it: one request at a time, with retries."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlencode, urlsplit

TIMEOUT = 60.0
"""Seconds that an answer may take."""

ATTEMPTS = 6
"""Requests before the copy gives up. The pauses between them double from one second: 31 seconds in all."""

MOST_BYTES = 64 * 1024 * 1024
"""Size of an answer. A page of 20 messages is at most a few MiB."""


class Refused(Exception):
    """The service answered with a status of 4xx. Another attempt would get the same answer."""

    def __init__(self, status: int, description: str) -> None:
        super().__init__(f"HTTP {status}: {description}")
        self.status = status


class Unavailable(Exception):
    """The service could not be reached, or answered with 429 or 5xx. The request may have had an effect."""


class Page(NamedTuple):
    """Members of a listing, and the marker of the next page. Without a marker there is no next page."""

    members: list[dict[str, Any]]
    marker: str | None


class Service:
    """One service, with the headers of one client of one project.

    ``url`` is ``http[s]://host[:port][/path]``. ``token_file`` holds a Keystone token of the project. It is read again
    when the service answers 401, so a token can be replaced while a long copy runs. Raises ValueError if the URL has
    another form.
    """

    def __init__(self, url: str, *, project: str | None, client_id: str, token_file: Path | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError(f"not a URL of the form http://host:port: {url!r}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=TIMEOUT)
        self._path = parts.path.rstrip("/")
        self.url = f"{parts.scheme}://{parts.netloc}{self._path}"
        self._token_file = token_file
        self._headers = {"Client-ID": client_id, "Content-Type": "application/json", "Accept": "application/json"}
        if project is not None:
            self._headers["X-Project-ID"] = project
        self._read_token()

    def get(self, *path: str, query: Mapping[str, str] | None = None, attempts: int = ATTEMPTS) -> Any:
        """The JSON of a resource, or None if the answer has no body.

        Raises Refused, or Unavailable after all attempts.
        """
        return self._again("GET", path, query or {}, None, attempts)

    def put(self, *path: str, body: Any) -> Any:
        """PUT is idempotent, so it is attempted again. Returns and raises as :meth:`get` does."""
        return self._again("PUT", path, {}, body, ATTEMPTS)

    def post(self, *path: str, body: Any) -> Any:
        """POST once. After Unavailable the caller has to find out whether it had an effect."""
        return self._once("POST", path, {}, body)

    def pages(self, *path: str, query: Mapping[str, str], attempts: int = ATTEMPTS) -> Iterator[list[dict[str, Any]]]:
        """The members of a listing, page by page, from the first. ``query`` goes with each request.

        Only the marker of a ``next`` link is used, because the reference loses other parameters there.
        """
        marker = query.get("marker")
        while True:
            following = {"marker": marker} if marker is not None else {}
            page = _page_of(path[-1], self.get(*path, query={**query, **following}, attempts=attempts))
            # The reference repeats the last page if its last message is delayed.
            if not page.members or (marker is not None and page.marker == marker):
                return
            yield page.members
            if page.marker is None:
                return
            marker = page.marker

    def _again(self, method: str, path: tuple[str, ...], query: Mapping[str, str], body: Any, attempts: int) -> Any:
        for attempt in range(attempts - 1):
            try:
                return self._once(method, path, query, body)
            except Unavailable as exc:
                pause_before(attempt + 1, exc)
        return self._once(method, path, query, body)

    def _once(self, method: str, path: tuple[str, ...], query: Mapping[str, str], body: Any) -> Any:
        status, text = self._exchange(method, path, query, body)
        if status == 401 and self._read_token():
            status, text = self._exchange(method, path, query, body)
        if 200 <= status < 300:
            return _parsed(text)
        shown = f"{method} {self.url}/v2/{'/'.join(path)}: {_description(text)}"
        if status == 429 or status >= 500:
            raise Unavailable(f"HTTP {status}: {shown}")
        raise Refused(status, shown)

    def _exchange(self, method: str, path: tuple[str, ...], query: Mapping[str, str], body: Any) -> tuple[int, bytes]:
        target = f"{self._path}/v2/{'/'.join(quote(each, safe='') for each in path)}"
        if query:
            target += f"?{urlencode(query)}"
        content = None if body is None else json.dumps(body).encode()
        try:
            self._connection.request(method, target, content, self._headers)
            with self._connection.getresponse() as response:
                text = response.read(MOST_BYTES + 1)
        except (OSError, http.client.HTTPException) as exc:
            # A connection in the middle of an exchange cannot be used again; the next request opens another.
            self._connection.close()
            raise Unavailable(f"{method} {self.url}: {type(exc).__name__}: {exc}") from exc
        if len(text) > MOST_BYTES:
            self._connection.close()
            raise Refused(response.status, f"an answer of more than {MOST_BYTES} bytes from {self.url}")
        return response.status, text

    def _read_token(self) -> bool:
        """Read the token file. Returns whether the token is another one than before."""
        if self._token_file is None:
            return False
        before = self._headers.get("X-Auth-Token")
        self._headers["X-Auth-Token"] = self._token_file.read_text().strip()
        return before != self._headers["X-Auth-Token"]


def pause_before(attempt: int, error: Unavailable) -> None:
    """Wait before this attempt of a request, which is 1 for the first repetition, and say why on standard error."""
    seconds = 2.0 ** (attempt - 1)
    report(f"{error}; next attempt in {seconds:.0f} s")
    time.sleep(seconds)


def report(line: str) -> None:
    """Print a line to which the operator may have to react, on standard error."""
    print(line, file=sys.stderr, flush=True)


def _page_of(member: str, answer: Any) -> Page:
    # 204 without a body is an empty page of services that follow the first version of the API.
    if answer is None:
        return Page([], None)
    for link in answer.get("links", ()):
        if link.get("rel") == "next":
            markers = parse_qs(urlsplit(link["href"]).query).get("marker")
            return Page(answer[member], markers[0] if markers else None)
    return Page(answer[member], None)


def _parsed(text: bytes) -> Any:
    return json.loads(text) if text.strip() else None


def _description(text: bytes) -> str:
    try:
        answer = json.loads(text)
        return " ".join(str(answer.get("description") or answer.get("title")).split())
    except (ValueError, AttributeError):
        # A proxy answers with HTML.
        return " ".join(text.decode(errors="replace").split())[:200]
