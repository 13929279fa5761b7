# SPDX-License-Identifier: Apache-2.0
"""Encryption of message bodies at rest: AES-256-GCM with keys that are derived for each queue and period.

``zaqar.service.bodies`` seals (encrypts) a body as the last step before a message store, and opens (decrypts) it as the
first step after the store. The notifier opens bodies too. docs/decisions/0010 explains this format::

    0x01 | key id 4 | queue uid 12 | period 4 | project tag 16 | nonce 12 | ciphertext | tag 16

Everything before the ciphertext is the header, which is authenticated as additional data. A body has the uid of the
queue that it was posted to, not of the queue that holds it, so a message can be moved to a dead letter queue as it is.
It has a digest of its project, so it can be re-encrypted without knowing the project, and cannot be opened in another
project.
"""

from __future__ import annotations

import hashlib
import logging
import os
import struct
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from zaqar.errors import StartupError
from zaqar.model import SEALED

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_log = logging.getLogger(__name__)

KEY_BYTES = 32
"""Length of a master key."""

OVERHEAD = 65
"""Bytes by which a sealed body is longer than the plain body."""

PERIOD_BITS = 20
"""A derived key is used for 2**20 seconds, about 12 days.

A queue would need 4,000 messages a second for all of that time to reach 2**32 random nonces with one key.
"""

NO_KEY = (
    "[transport] message_encryption_key names no usable key, so this service cannot encrypt messages; "
    "'openssl rand -base64 32' makes one, which is written as base64:<key>"
)
"""Why queues cannot be encrypted without a key. The text names the option that an operator has to set."""

UNREADABLE_SECONDS = 1_209_600
"""How long a notifier keeps trying to decrypt a message: 14 days, the default of the longest TTL."""

_LOG_SECONDS = 60.0
_MOST_LOGGED = 1000

_HEADER = struct.Struct(">B4s12sI16s12s")
_TAG_BYTES = 16
_NONCE_BYTES = 12
_MOST_CIPHERS = 1024
"""Derived keys in the cache, about 1 KiB each."""


class Unreadable(Exception):
    """A sealed body cannot be opened. The text says why; ``key_id`` is the id of the key that sealed it."""

    def __init__(self, reason: str, key_id: str) -> None:
        super().__init__(reason)
        self.key_id = key_id


class MessageKeys:
    """The master keys of the service. Threads may share it.

    ``masters`` are distinct keys of ``KEY_BYTES`` bytes, the newest first. The newest key seals, and all keys open.
    Without a key no body can be sealed, and every sealed body is Unreadable. Raises StartupError if the library
    ``cryptography`` is missing or if two keys have the same id.
    """

    def __init__(self, masters: Sequence[bytes] = ()) -> None:
        self._masters = {key_id(master): master for master in masters}
        if len(self._masters) != len(masters):
            raise StartupError(
                "[transport] message_encryption_key: two of the keys have the same id; replace one by a new one."
            )
        self._newest = key_id(masters[0]) if masters else None
        self._cipher = lru_cache(_MOST_CIPHERS)(self._derive)
        self.refusal: str | None = NO_KEY
        """Why no body can be sealed; None if there is a key."""
        self._invalid_tag: type[Exception] = Unreadable
        if masters:
            self._invalid_tag = _library()[3]
            self.refusal = None

    def __repr__(self) -> str:
        return f"MessageKeys({', '.join(self.ids) or 'none'})"

    @property
    def ids(self) -> list[str]:
        """The ids of the keys in hexadecimal digits, the newest first."""
        return [each.hex() for each in self._masters]

    @property
    def up_to_date(self) -> bytes:
        """The first bytes of every body that is sealed with the newest key."""
        return bytes((SEALED,)) + (self._newest or b"")

    def seal(self, body: bytes, *, queue_uid: str, project: str, now: float) -> bytes:
        """Encrypt a body for a store. ``now`` is in seconds since the epoch. There must be a key; see ``refusal``."""
        return self._seal(body, bytes.fromhex(queue_uid), project_tag(project), now)

    def open(self, sealed: bytes, *, project: str) -> bytes:
        """Decrypt a body that was sealed for this project. Raises Unreadable."""
        body, tag = self._open(sealed)
        if tag != project_tag(project):
            raise Unreadable("it belongs to another project", sealed[1:5].hex())
        return body

    def reseal(self, sealed: bytes, *, now: float) -> bytes:
        """Encrypt a sealed body with the newest key, for the same queue and project. Raises Unreadable."""
        body, tag = self._open(sealed)
        return self._seal(body, sealed[5:17], tag, now)

    def _seal(self, body: bytes, uid: bytes, tag: bytes, now: float) -> bytes:
        newest = self._newest
        if newest is None:
            raise ValueError(NO_KEY)
        period = int(now) >> PERIOD_BITS
        nonce = os.urandom(_NONCE_BYTES)
        header = _HEADER.pack(SEALED, newest, uid, period, tag, nonce)
        sealed: bytes = self._cipher(newest, uid, period).encrypt(nonce, body, header)
        return header + sealed

    def _open(self, sealed: bytes) -> tuple[bytes, bytes]:
        """Return the plain body and the tag of its project."""
        if len(sealed) < _HEADER.size + _TAG_BYTES:
            raise Unreadable("it is damaged, or was changed in the store", "")
        _, wanted, uid, period, tag, nonce = _HEADER.unpack_from(sealed)
        if wanted not in self._masters:
            raise Unreadable("it is encrypted with a key that this service does not have", wanted.hex())
        try:
            body: bytes = self._cipher(wanted, uid, period).decrypt(
                nonce, sealed[_HEADER.size :], sealed[: _HEADER.size]
            )
        except self._invalid_tag:
            raise Unreadable("it is damaged, or was changed in the store", wanted.hex()) from None
        return body, tag

    def _derive(self, wanted: bytes, uid: bytes, period: int) -> AESGCM:
        aesgcm, hkdf, sha256, _ = _library()
        info = b"zaqar message v1" + uid + struct.pack(">I", period)
        cipher: AESGCM = aesgcm(
            hkdf(algorithm=sha256(), length=KEY_BYTES, salt=None, info=info).derive(self._masters[wanted])
        )
        return cipher


NO_KEYS = MessageKeys()
"""The keys of a service that does not encrypt."""


class UnreadableLog:
    """Logs messages that cannot be decrypted, once a minute for each queue and key, because readers may poll often."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._logged: dict[tuple[str, str], float] = {}

    def note(self, message_id: str, queue_uid: str, exc: Unreadable) -> None:
        """Log that a message cannot be decrypted, unless its queue and key were logged a moment ago."""
        now, about = self._monotonic(), (queue_uid, exc.key_id)
        if now < self._logged.get(about, float("-inf")) + _LOG_SECONDS:
            return
        if len(self._logged) >= _MOST_LOGGED:
            self._logged.clear()
        self._logged[about] = now
        key = exc.key_id or "unknown"
        _log.error("Message %s of queue %s cannot be decrypted: %s (key id %s).", message_id, queue_uid, exc, key)


def key_id(master: bytes) -> bytes:
    """Return the id of a key. Bodies contain it. It reveals nothing about the key."""
    return hashlib.sha256(b"zaqar key id" + master).digest()[:4]


def key_id_of(sealed: bytes) -> str:
    """Return the id of the key that sealed a body, in hexadecimal digits."""
    return sealed[1:5].hex()


@lru_cache(4096)
def project_tag(project: str) -> bytes:
    """Return the digest of a project that bodies contain."""
    return hashlib.sha256(b"zaqar project" + project.encode()).digest()[:16]


def _library() -> tuple[type, type, type, type[Exception]]:
    # Imported here, so that a service without encryption needs neither the library nor the time to load it.
    try:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as exc:
        raise StartupError(
            "[transport] message_encryption_key needs the library cryptography: install zaqar[encryption]."
        ) from exc
    return AESGCM, HKDF, SHA256, InvalidTag
