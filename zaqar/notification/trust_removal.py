# SPDX-License-Identifier: Apache-2.0
"""Deletes Keystone trusts that no subscription uses any more. The notifier runs it beside its deliveries.

The management store has a record of each trust that the service has made, with the time when to look at it: soon after
its subscription was changed or removed, and once a day in any case, so that nothing a crash leaves behind stays. Any
number of notifiers share the records: the notifier that moves the time of a record has it for ``LEASE_SECONDS``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from zaqar import daemon_threads
from zaqar.access.trust_answers import TrustRefused
from zaqar.clock import MAX_CLOCK_SKEW, Clock
from zaqar.errors import KeystoneUnavailable, StoreUnavailable
from zaqar.model import Trust
from zaqar.notification.executors import StoreExecutor
from zaqar.storage.base import ManagementStore

_log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Time between two searches for records that are due."""

AWAY_SECONDS = 10.0
"""Pause after Keystone or the management store did not answer."""

BATCH = 100
BATCH_OF_A_PROJECT = 10
"""Records that one round checks. Further records of a project wait for later rounds, behind other projects."""

BEHIND_SECONDS = 5.0

DELETIONS = 2
"""Trusts that are being deleted at a time. Each takes a thread."""

LEASE_SECONDS = 120.0
"""Lease of a record that is being checked: longer than the longest call of Keystone with its time-outs."""

USED_SECONDS = 86_400.0
"""When to look again at a trust that is in use."""

FIRST_RETRY_SECONDS = 60.0
MOST_RETRY_SECONDS = 86_400.0
"""When to try again if Keystone does not let the trust be deleted: first, doubled each time, and at most."""


class TrustRemoval:
    def __init__(
        self,
        delete: Callable[[str], None],
        *,
        management: ManagementStore,
        executor: StoreExecutor,
        clock: Clock,
    ) -> None:
        """``delete`` removes a trust from Keystone. It blocks, and raises TrustRefused and KeystoneUnavailable."""
        self._delete = delete
        self._management = management
        self._executor = executor
        self._clock = clock
        self._permits = asyncio.Semaphore(DELETIONS)
        self._is_away = False
        """Keystone did not answer in this round, so it is not asked again before the next one."""

    async def run(self) -> None:
        """Go on until it is cancelled. Another notifier finishes a deletion that was cut off when its lease is over."""
        while True:
            pause = POLL_SECONDS
            try:
                await self.run_once()
            except StoreUnavailable:
                # Also KeystoneUnavailable. The code that raised it has logged it.
                pause = AWAY_SECONDS
            except Exception:  # noqa: BLE001, it is logged
                # The loop must go on. A record that failed is due again when its lease is over.
                _log.error("An error of the notifier at the removal of trusts", exc_info=True)
                pause = AWAY_SECONDS
            await asyncio.sleep(pause)

    async def run_once(self) -> None:
        """Look at a batch of records that are due."""
        self._is_away = False
        now = self._clock()
        due = await self._executor.run(partial(self._management.trusts.list_due, now=now, limit=BATCH))
        seen = Counter[str]()
        chosen: list[Awaitable[object]] = []
        for trust in due:
            seen[trust.project] += 1
            if seen[trust.project] <= BATCH_OF_A_PROJECT:
                chosen.append(self._look_at(trust))
            else:
                chosen.append(self._put_off(trust, replace(trust, due=now + BEHIND_SECONDS)))
        outcomes = await asyncio.gather(*chosen, return_exceptions=True)
        for error in outcomes:
            if isinstance(error, BaseException):
                raise error

    async def _look_at(self, trust: Trust) -> None:
        async with self._permits:
            if self._is_away:
                return  # It stays due.
            now = self._clock()
            mine = replace(trust, due=now + LEASE_SECONDS)
            if not await self._put_off(trust, mine):
                return  # Another notifier has it.
            if now >= trust.expires + MAX_CLOCK_SKEW:
                # It has expired in Keystone.
                await self._forget(trust)
            elif await self._executor.run(partial(self._is_used, trust, now)):
                await self._put_off(mine, replace(mine, attached=True, tries=0, due=now + USED_SECONDS))
            else:
                await self._remove(mine)

    def _is_used(self, trust: Trust, now: float) -> bool:
        found = self._management.subscriptions.get(
            queue_uid=trust.queue_uid, subscription_id=trust.subscription_id, now=now - MAX_CLOCK_SKEW
        )
        return found is not None and found.options.get("trust_id") == trust.id

    async def _remove(self, trust: Trust) -> None:
        try:
            await daemon_threads.run(partial(self._delete, trust.id), name="trust removal")
        except TrustRefused as exc:
            pause = min(FIRST_RETRY_SECONDS * 2**trust.tries, MOST_RETRY_SECONDS)
            _log.info("Trust %s is not deleted: %s. The next attempt is in %g s.", trust.id, exc, pause)
            # Beyond this count the pause does not grow any more.
            tries = min(trust.tries + 1, 30)
            await self._put_off(trust, replace(trust, attached=True, tries=tries, due=self._clock() + pause))
        except KeystoneUnavailable:
            self._is_away = True
            await self._put_off(trust, replace(trust, attached=True, due=self._clock() + AWAY_SECONDS))
            raise
        else:
            _log.info("Trust %s of project %s is deleted; nothing uses it any more.", trust.id, trust.project)
            await self._forget(trust)

    async def _put_off(self, read: Trust, changed: Trust) -> bool:
        store = self._management.trusts
        return await self._executor.run(partial(store.replace, trust=changed, was_due=read.due))

    async def _forget(self, trust: Trust) -> None:
        await self._executor.run(partial(self._management.trusts.forget, trust_id=trust.id))
