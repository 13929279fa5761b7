# SPDX-License-Identifier: Apache-2.0
"""Tokens of trusts for the notifier: got from Keystone off its event loop, and remembered until they end."""

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
"""How long before its end a token is replaced, so that a receiver that passes it on can still use it."""

MOST_TOKENS = 10_000
"""Trusts whose tokens are remembered; of more, those that were used longest ago are asked for anew."""

QUESTIONS = 4
QUESTIONS_OF_A_PROJECT = 2
"""Requests to Keystone at a time. Each takes a thread."""

WAITING = 40
WAITING_OF_A_PROJECT = 20
"""Deliveries that wait for a token at a time. Each holds a slot that deliveries to other subscribers could use."""

PATIENCE_SECONDS = 3.0
"""How long a delivery waits for a free thread, and how long Keystone may be silent before nobody joins the wait."""

FIRST_PAUSE_SECONDS = 1.0
MOST_PAUSE_SECONDS = 10.0
"""After a failure Keystone is left alone for the first of these, and for twice as long after each further one."""

REFUSED_SECONDS = 2.0
"""How long it is remembered that Keystone gives no token of a trust, so that many deliveries make one question."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What Keystone said of a trust: a token, or why there is none; until when that is used."""

    said: TrustToken | TrustRefused
    until: float


class TrustTokens:
    """One for each event loop. Never waits long: whoever would have to is told that Keystone is not available.

    ``fetch`` asks Keystone for a new token of a trust; it blocks, and raises TrustGone, TrustRefused and
    KeystoneUnavailable. For each trust one such request is under way at a time, and all who want a token of it share
    the answer.
    """

    def __init__(self, fetch: Callable[[str], TrustToken], clock: Clock, *, patience: float = PATIENCE_SECONDS) -> None:
        self._fetch = fetch
        self._clock = clock
        self._patience = patience
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._flights: dict[str, asyncio.Future[TrustToken]] = {}
        self._waiting: Counter[str] = Counter()
        self._places = asyncio.Semaphore(QUESTIONS)
        self._places_of: dict[str, asyncio.Semaphore] = {}
        self._questions: Counter[str] = Counter()
        """By project, also those that wait for a place."""
        self._asking: dict[object, float] = {}
        """When each question began that is not answered, in the time of the event loop; the oldest is the first."""
        self._pause = 0.0
        """Since the last failure; 0 while Keystone answers."""
        self._try_after = float("-inf")

    async def token(self, trust_id: str, *, project: str) -> tuple[TrustToken, bool]:
        """A valid token of the trust, which must be of this project, and whether it was known before this call.

        Raises TrustGone if the trust is no more, TrustRefused if Keystone gives no token of it at the moment, and
        KeystoneUnavailable if it cannot be asked now.
        """
        known = self._find(trust_id)
        said = await self._ask(trust_id, project) if known is None else known
        if isinstance(said, TrustRefused):
            # Not the remembered one itself, which would gather a traceback each time.
            raise TrustRefused(*said.args)
        if said.project != project:
            # It would let the one project act in the other. Nobody could store such a trust through the API.
            raise TrustRefused("the trust of the subscription is of another project")
        return said, known is not None

    def drop(self, trust_id: str, token: TrustToken) -> None:
        """Use this token no more: its receiver did not accept it."""
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
            flight = self._flights.get(trust_id)
            if flight is None:
                self._check()
                flight = asyncio.ensure_future(self._question(trust_id, project))
                self._flights[trust_id] = flight
                flight.add_done_callback(partial(self._landed, trust_id))
            elif self._is_silent():
                raise KeystoneUnavailable
            # A delivery that is cancelled must not take the answer from the others.
            return await asyncio.shield(flight)

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

    async def _question(self, trust_id: str, project: str) -> TrustToken:
        mine = self._places_of.setdefault(project, asyncio.Semaphore(QUESTIONS_OF_A_PROJECT))
        self._questions[project] += 1
        try:
            # The project's place first: nobody who waits for that holds a place that others could have.
            async with self._place(mine), self._place(self._places):
                self._check()
                return await self._ask_keystone(trust_id)
        finally:
            self._questions[project] -= 1
            if not self._questions[project]:
                del self._questions[project], self._places_of[project]

    @asynccontextmanager
    async def _place(self, semaphore: asyncio.Semaphore) -> AsyncIterator[None]:
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
        self._asking[this] = loop.time()
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
            del self._asking[this]
        self._note_answer()
        self._remember(trust_id, token, token.expires - EARLY_SECONDS)
        return token

    def _remember(self, trust_id: str, said: TrustToken | TrustRefused, until: float) -> None:
        self._known[trust_id] = _Known(said, until)
        self._known.move_to_end(trust_id)
        while len(self._known) > MOST_TOKENS:
            self._known.popitem(last=False)

    def _landed(self, trust_id: str, flight: asyncio.Future[TrustToken]) -> None:
        del self._flights[trust_id]
        if not flight.cancelled():
            # All who waited may have been cancelled. Then nobody else takes the error.
            flight.exception()

    # -- whether Keystone answers -------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Raise KeystoneUnavailable while Keystone is left alone, or somebody finds out whether it is back."""
        probing = self._pause and self._asking
        if asyncio.get_running_loop().time() < self._try_after or probing or self._is_silent():
            raise KeystoneUnavailable

    def _is_silent(self) -> bool:
        now = asyncio.get_running_loop().time()
        return now - next(iter(self._asking.values()), now) >= self._patience

    def _note_failure(self) -> None:
        if not self._pause:
            _log.warning("Keystone gives no tokens of trusts; deliveries to trust+http and trust+https wait.")
        self._pause = min(max(FIRST_PAUSE_SECONDS, 2 * self._pause), MOST_PAUSE_SECONDS)
        self._try_after = asyncio.get_running_loop().time() + self._pause

    def _note_answer(self) -> None:
        if self._pause:
            self._pause, self._try_after = 0.0, float("-inf")
            _log.warning("Keystone gives tokens of trusts again.")
