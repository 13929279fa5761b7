# SPDX-License-Identifier: Apache-2.0
"""The protocol by which notifiers send notifications to the process that holds a WebSocket connection. No I/O.

The sender of connections (:mod:`zaqar.notification.senders`) and ``zaqar-websocket`` use it. A notifier opens one
stream to a node (one run of a WebSocket process), over its Unix socket or over TCP. Both sides have the secret ``key``
of the node from the management store, and each side proves that to the other before it sends anything else::

    notifier -> node   "zaqarpu1"  nonce (32 bytes)
    node -> notifier   nonce (32)  HMAC(key, "node" ...)            of the node's id and both nonces
    notifier -> node   HMAC(key, "notifier" ...)                    of the same
    then, in both directions, frames:
                       length (4, big-endian)  payload  MAC (16)

``HMAC`` is HMAC-SHA-256. The MAC of a frame is the beginning of an HMAC of its position in the stream, its length and
its payload, under a key that is derived for this direction of this stream. So a frame that was changed, repeated, left
out, or taken from another stream ends the stream. Frames are not encrypted: over TCP, notifications are sent in clear
text, so the network between the hosts has to be private.

A payload is a MessagePack array: of :class:`Push` towards the node, and of :class:`Answered` towards the notifier. Many
notifications may wait for their answers at a time, and answers come in any order. A side that detects a violation of
these rules closes the stream.
"""

from __future__ import annotations

import enum
import hmac
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import msgspec

MAGIC = b"zaqarpu1"
NONCE_BYTES = 32
PROOF_BYTES = 32
MAC_BYTES = 16
HEADER_BYTES = 4

HANDSHAKE_SECONDS = 5.0
"""How long each side waits for the proof of the other side."""

BATCH_BYTES = 256 * 1024
"""Notifications share a frame up to this size. A larger notification has its own frame."""

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""Bytes of the largest frame towards the node.

It is not an option, and does not depend on the limit of messages: hosts may have different limits for a while, and a
message may have been posted under an earlier limit. A node that refuses a frame closes the stream, and so fails all
notifications that wait for their answers.
"""

MOST_TEXT_BYTES = MAX_FRAME_BYTES - 64 * 1024
"""Bytes of the largest notification that is sent."""


class ProtocolError(Exception):
    """The other side does not have the key, or the stream is damaged. The stream has to be closed."""


class Push(msgspec.Struct, array_like=True, frozen=True):
    """One notification for one connection.

    ``call`` is a number that the notifier chooses and the answer repeats. ``number`` is the number of the message in
    its queue, ``attempts`` how many attempts of the delivery were recorded. ``text`` is the notification as JSON.
    """

    call: int
    connection: str
    queue_uid: str
    subscription_id: str
    number: int
    attempts: int
    text: bytes


class Status(enum.IntEnum):
    """The outcome of a notification.

    PUSHED: it was written to the connection's socket, now or before. GONE: the connection is closed, or it does not
    have the subscription any more. WAIT: the notifier has to send it again later, because an earlier notification goes
    first or the connection cannot take data at the moment. It was not pushed yet, or it is not known yet whether it
    was.
    """

    PUSHED = 0
    GONE = 1
    WAIT = 2


class Answered(msgspec.Struct, array_like=True, frozen=True):
    """The answer to the notification with the same ``call``."""

    call: int
    status: Status


_encoder = msgspec.msgpack.Encoder()
_pushes = msgspec.msgpack.Decoder(list[Push])
_answers = msgspec.msgpack.Decoder(list[Answered])


def encode(items: Sequence[Push] | Sequence[Answered]) -> bytes:
    """Encode a payload."""
    return _encoder.encode(items)


def decode_pushes(payload: bytes) -> list[Push]:
    """Decode a payload towards the node. Raises ProtocolError."""
    try:
        return _pushes.decode(payload)
    except (msgspec.DecodeError, ValueError) as exc:
        raise ProtocolError("not an array of notifications") from exc


def decode_answers(payload: bytes) -> list[Answered]:
    """Decode a payload towards the notifier. Raises ProtocolError."""
    try:
        return _answers.decode(payload)
    except (msgspec.DecodeError, ValueError) as exc:
        raise ProtocolError("not an array of answers") from exc


class Peer(ABC):
    """One side of a stream. It gets received bytes, and returns payloads and bytes to send."""

    def __init__(self, key: bytes, node_id: str, *, most: int) -> None:
        """``most``: the largest payload in bytes that the other side may send."""
        self._key = key
        self._node_id = node_id.encode()
        self._most = most
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._buffer = bytearray()
        self._sent = self._received = 0
        self._send_key = self._receive_key = b""
        self.is_open = False
        """Whether the other side has proved that it has the key."""

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """Take received bytes. Returns complete payloads, and bytes to send to the other side. Raises ProtocolError."""
        self._buffer += data
        reply = b""
        if not self.is_open:
            reply = self._shake_hands()
        return (self._take_payloads() if self.is_open else []), reply

    def seal(self, payload: bytes) -> bytes:
        """Return the payload as a frame. Frames have to be sent in the order in which they are made."""
        header = len(payload).to_bytes(HEADER_BYTES)
        mac = self._mac(self._send_key, self._sent, header, payload)
        self._sent += 1
        return b"".join((header, payload, mac))

    @abstractmethod
    def _shake_hands(self) -> bytes:
        """Continue the handshake with the bytes in the buffer. Returns the bytes to send."""

    def _take_payloads(self) -> list[bytes]:
        payloads = []
        start, buffer = 0, self._buffer
        while len(buffer) - start >= HEADER_BYTES:
            header = bytes(buffer[start : start + HEADER_BYTES])
            length = int.from_bytes(header)
            if length > self._most:
                raise ProtocolError("a frame is too large")
            end = start + HEADER_BYTES + length
            if len(buffer) < end + MAC_BYTES:
                break
            payload = bytes(buffer[start + HEADER_BYTES : end])
            mac = self._mac(self._receive_key, self._received, header, payload)
            if not hmac.compare_digest(mac, buffer[end : end + MAC_BYTES]):
                raise ProtocolError("the MAC of a frame is wrong")
            self._received += 1
            payloads.append(payload)
            start = end + MAC_BYTES
        del buffer[:start]
        return payloads

    @staticmethod
    def _mac(key: bytes, position: int, header: bytes, payload: bytes) -> bytes:
        return hmac.digest(key, b"".join((position.to_bytes(8), header, payload)), "sha256")[:MAC_BYTES]

    def _derive(self, label: bytes, nonces: bytes) -> bytes:
        return hmac.digest(self._key, label + b"\0" + self._node_id + b"\0" + nonces, "sha256")

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _check_proof(self, proof: bytes, label: bytes, nonces: bytes) -> None:
        if not hmac.compare_digest(proof, self._derive(label, nonces)):
            raise ProtocolError("the other side does not have the key of this node")


class NotifierPeer(Peer):
    """The side that opens the stream; it sends :meth:`hello` first."""

    def hello(self) -> bytes:
        """Return the first bytes to send."""
        return MAGIC + self._nonce

    def _shake_hands(self) -> bytes:
        if len(self._buffer) < NONCE_BYTES + PROOF_BYTES:
            return b""
        nonces = self._nonce + self._take(NONCE_BYTES)
        self._check_proof(self._take(PROOF_BYTES), b"node", nonces)
        self._send_key = self._derive(b"to the node", nonces)
        self._receive_key = self._derive(b"to the notifier", nonces)
        self.is_open = True
        return self._derive(b"notifier", nonces)


class NodePeer(Peer):
    """The side that accepts the stream. Until the handshake is complete it buffers less than a hundred bytes."""

    _nonces = b""

    def _shake_hands(self) -> bytes:
        reply = b""
        if not self._nonces:
            if not MAGIC.startswith(self._buffer[: len(MAGIC)]):
                raise ProtocolError("not a notifier")
            if len(self._buffer) < len(MAGIC) + NONCE_BYTES:
                return b""
            self._take(len(MAGIC))
            self._nonces = self._take(NONCE_BYTES) + self._nonce
            reply = self._nonce + self._derive(b"node", self._nonces)
            if self._buffer:
                # The nonce of the node is not known yet, so these bytes cannot be its proof.
                raise ProtocolError("not a notifier")
        if len(self._buffer) >= PROOF_BYTES:
            self._check_proof(self._take(PROOF_BYTES), b"notifier", self._nonces)
            self._send_key = self._derive(b"to the notifier", self._nonces)
            self._receive_key = self._derive(b"to the node", self._nonces)
            self.is_open = True
        return reply


def batches(pushes: Iterable[Push]) -> Iterable[list[Push]]:
    """Group notifications, one group for each frame."""
    batch: list[Push] = []
    size = 0
    for push in pushes:
        if batch and size + len(push.text) > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(push)
        size += len(push.text) + 200
    if batch:
        yield batch
