# SPDX-License-Identifier: Apache-2.0
"""Which slots of a Cluster hold queues, and which hold posts or deliveries, so that sweeps and notifiers find them.

On one server there is one slot, 0, and nothing to record.
"""

from __future__ import annotations

from zaqar.storage.redis.client.commands import RedisClient
from zaqar.storage.redis.client.scripts import load
from zaqar.storage.redis.keys import OUTBOX_SLOTS, SLOTS, SLOTS_IN_USE, QueueKeys, slot_of

_ADD_MEMBERS = load("common/add_members", idempotent=True)

_RECORDED_AT_ONCE = 1000


class SlotRegistry:
    """Two sets of slots, ``SLOTS_IN_USE`` and ``OUTBOX_SLOTS``, each on the master that has its key."""

    def __init__(self, client: RedisClient, keys: QueueKeys) -> None:
        self._client = client
        self._keys = keys
        self._recorded: set[tuple[bytes, int]] = set()
        """Slots that this process has recorded, each with the set that it is in."""

    def record_queue(self, uid: str) -> None:
        """Call it before a queue is opened or dropped in its slot."""
        self._record(SLOTS_IN_USE, uid)

    def record_outbox(self, uid: str) -> None:
        """Call it before a post to be notified, or a delivery, is stored in the slot of the queue."""
        self._record(OUTBOX_SLOTS, uid)

    def _record(self, slots: bytes, uid: str) -> None:
        if self._client.is_cluster and (slots, slot := slot_of(uid.encode())) not in self._recorded:
            # The set first, the queue after it: a crash in between leaves a slot that has nothing, which is harmless.
            self._client.run(_ADD_MEMBERS, (slots,), (slot,), slot_of(slots))
            # Remember it only now. If the script failed, the next operation must try again, because the queues of a
            # slot that is not in the set are never found.
            self._recorded.add((slots, slot))

    def recorded(self, slots: bytes) -> list[int]:
        """The slots in the set; [0] on one server."""
        if not self._client.is_cluster:
            return [0]
        return [int(slot) for slot in self._client.command(b"SMEMBERS", slots, slot=slot_of(slots))]

    def record_lost(self) -> None:
        """Record the slots that hold something and are not in the set.

        The set lies on one master and the queues on others, so a fail-over may lose a slot from the set and none of its
        queues. The processes that recorded the slot do not record it again.
        """
        if not self._client.is_cluster:
            return
        for slots, keys_of in ((SLOTS_IN_USE, self._keys.registry), (OUTBOX_SLOTS, self._keys.outbox)):
            unrecorded = sorted(set(range(SLOTS)).difference(self.recorded(slots)))
            found = self._client.command_in_each_slot(unrecorded, [(b"EXISTS", *keys_of(slot)) for slot in unrecorded])
            lost = [slot for slot, count in zip(unrecorded, found, strict=True) if count]
            for start in range(0, len(lost), _RECORDED_AT_ONCE):
                self._client.run(_ADD_MEMBERS, (slots,), lost[start : start + _RECORDED_AT_ONCE], slot_of(slots))
