# SPDX-License-Identifier: Apache-2.0
"""Tokens of trusts, which ``trust`` sends. Threads get them from Keystone, and they are cached until they expire."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from zaqar import daemon_threads
from zaqar.access.trust_answers import TrustGone, TrustRefused, TrustToken
from zaqar.clock import Clock
from zaqar.errors import KeystoneUnavailable

_log = logging.getLogger(__name__)

EARLY_SECONDS = 60.0
"""How long before it expires a token is replaced, so that a receiver that passes it on can still use it."""

MOST_TOKENS = 10_000
"""Number of cached tokens. Of more, the least recently used are forgotten."""

REQUESTS = 4
REQUESTS_OF_A_PROJECT = 2
"""Requests to Keystone at a time. Each takes a thread."""

WAITING = 40
WAITING_OF_A_PROJECT = 20
"""Deliveries that may wait for a token at a time. Each holds a slot that other deliveries could use."""

PATIENCE_SECONDS = 3.0
"""How long a delivery waits for a free thread. If Keystone has been silent for so long, no more deliveries wait."""

FIRST_PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 10.0
"""Pause after Keystone did not answer: at first, doubled each time, and at most."""

REFUSED_SECONDS = 2.0
"""How long a refusal of Keystone is cached, so that many deliveries make one request."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The answer of Keystone about a trust: a token, or why there is none. ``until``: when to ask again."""

    said: TrustToken | TrustRefused
    until: float


class TrustTokens:
    """Tokens by trust, for one event loop. A caller that would wait long gets KeystoneUnavailable instead.

    ``fetch`` asks Keystone for a new token of a trust; it blocks, and raises TrustGone, TrustRefused and
    KeystoneUnavailable. For each trust one such request is under way at a time, and all callers share its answer.
    """

    def __init__(self, fetch: Callable[[str], TrustToken], clock: Clock, *, patience: float = PATIENCE_SECONDS) -> None:
        self._fetch = fetch
        self._clock = clock
        self._patience = patience
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._requests: dict[str, asyncio.Future[TrustToken]] = {}
        self._waiting: Counter[str] = Counter()
        self._permits = asyncio.Semaphore(REQUESTS)
        self._permits_of: dict[str, asyncio.Semaphore] = {}
        self._pending: Counter[str] = Counter()
        """Requests by project, including requests that wait for a thread."""
        self._under_way: dict[object, float] = {}
        """When each request without an answer began, in the event loop's time. The oldest is the first."""
        self._pause = 0.0
        """The present pause in seconds; 0 while Keystone answers."""
        self._try_after = float("-inf")

    async def token(self, trust_id: str, *, project: str) -> tuple[TrustToken, bool]:
        """A valid token of the trust, which must be of this project, and whether it was known before this call.

        Raises TrustGone if the trust does not exist any more, TrustRefused if Keystone gives no token of it now, and
        KeystoneUnavailable if Keystone cannot be asked now.
        """
        known = self._find(trust_id)
        said = await self._ask(trust_id, project) if known is None else known
        if isinstance(said, TrustRefused):
            # A new exception, because the cached one would gather a traceback each time.
            raise TrustRefused(*said.args)
        if said.project != project:
            # It would let one project act in another. The API does not let anybody store such a trust.
            raise TrustRefused("the trust of the subscription is of another project")
        return said, known is not None

    def drop(self, trust_id: str, token: TrustToken) -> None:
        """Forget this token, because its receiver did not accept it."""
        known = self._known.get(trust_id)
        if known is not None and known.said is token:
            del self._known[trust_id]

    def _find(self, trust_id: str) -> TrustToken | TrustRefused | None:
        known = self._known.get(trust_id)
        if known is None:
            return None
        if self._clock() >= known.until:
            del self._known[trust_id]
            return None
        self._known.move_to_end(trust_id)
        return known.said

    async def _ask(self, trust_id: str, project: str) -> TrustToken:
        with self._waiting_for(project):
            request = self._requests.get(trust_id)
            if request is None:
                self._check()
                request = asyncio.ensure_future(self._request(trust_id, project))
                self._requests[trust_id] = request
                request.add_done_callback(partial(self._note_end, trust_id))
            elif self._is_silent():
                raise KeystoneUnavailable
            # A delivery that is cancelled must not take the answer from the others.
            return await asyncio.shield(request)

    @contextmanager
    def _waiting_for(self, project: str) -> Iterator[None]:
        if self._waiting.total() >= WAITING or self._waiting[project] >= WAITING_OF_A_PROJECT:
            raise KeystoneUnavailable
        self._waiting[project] += 1
        try:
            yield
        finally:
            self._waiting[project] -= 1
            if not self._waiting[project]:
                del self._waiting[project]

    async def _request(self, trust_id: str, project: str) -> TrustToken:
        mine = self._permits_of.setdefault(project, asyncio.Semaphore(REQUESTS_OF_A_PROJECT))
        self._pending[project] += 1
        try:
            # The project's permit first: a request that waits for it must hold no permit that others could use.
            async with self._permit(mine), self._permit(self._permits):
                self._check()
                return await self._ask_keystone(trust_id)
        finally:
            self._pending[project] -= 1
            if not self._pending[project]:
                del self._pending[project], self._permits_of[project]

    @asynccontextmanager
    async def _permit(self, semaphore: asyncio.Semaphore) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._patience):
                await semaphore.acquire()
        except TimeoutError:
            raise KeystoneUnavailable from None
        try:
            yield
        finally:
            semaphore.release()

    async def _ask_keystone(self, trust_id: str) -> TrustToken:
        this, loop = object(), asyncio.get_running_loop()
        self._under_way[this] = loop.time()
        try:
            token = await daemon_threads.run(partial(self._fetch, trust_id), name="trust")
        except (TrustGone, TrustRefused) as exc:
            self._note_answer()
            if isinstance(exc, TrustRefused):
                self._remember(trust_id, exc, self._clock() + REFUSED_SECONDS)
            raise
        except KeystoneUnavailable:
            self._note_failure()
            raise
        finally:
            del self._under_way[this]
        self._note_answer()
        self._remember(trust_id, token, token.expires - EARLY_SECONDS)
        return token

    def _remember(self, trust_id: str, said: TrustToken | TrustRefused, until: float) -> None:
        self._known[trust_id] = _Known(said, until)
        self._known.move_to_end(trust_id)
        while len(self._known) > MOST_TOKENS:
            self._known.popitem(last=False)

    def _note_end(self, trust_id: str, request: asyncio.Future[TrustToken]) -> None:
        del self._requests[trust_id]
        if not request.cancelled():
            # Mark the exception as retrieved: all callers may have been cancelled.
            request.exception()

    # -- whether Keystone answers -------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Raise KeystoneUnavailable during a pause, and while one request finds out whether Keystone answers again."""
        probing = self._pause and self._under_way
        if asyncio.get_running_loop().time() < self._try_after or probing or self._is_silent():
            raise KeystoneUnavailable

    def _is_silent(self) -> bool:
        now = asyncio.get_running_loop().time()
        return now - next(iter(self._under_way.values()), now) >= self._patience

    def _note_failure(self) -> None:
        if not self._pause:
            _log.warning("Keystone gives no tokens of trusts; deliveries to trust+http and trust+https wait.")
        self._pause = min(max(FIRST_PAUSE_SECONDS, 2 * self._pause), MOST_PAUSE_SECONDS)
        self._try_after = asyncio.get_running_loop().time() + self._pause

    def _note_answer(self) -> None:
        if self._pause:
            self._pause, self._try_after = 0.0, float("-inf")
            _log.warning("Keystone gives tokens of trusts again.")
