# SPDX-License-Identifier: Apache-2.0
"""Joins the frames of a message as they arrive. An object for each frame would take far more memory."""

from __future__ import annotations

from collections import deque

from websockets.frames import Frame, Opcode

MAX_FRAGMENTS = 4_096
"""Maximum number of frames of one message."""


class TooManyFragments(Exception):
    """The message has more than MAX_FRAGMENTS frames."""


class Messages:
    """The messages that one connection has received: one in part, and the sizes of complete ones not served yet."""

    def __init__(self) -> None:
        self._part = bytearray()
        self._count = 0
        self._opcode: Opcode | None = None
        self._sizes: deque[int] = deque()
        self.size = 0
        """Bytes of the complete messages that are not served yet."""

    def __bool__(self) -> bool:
        """Whether there is a complete message that is not served yet."""
        return bool(self._sizes)

    @property
    def unfinished(self) -> int:
        """Bytes of the message that has arrived in part, in complete frames."""
        return len(self._part)

    def add(self, frame: Frame) -> Frame | None:
        """Add a data frame. Returns the message as one frame if this completes it. Raises TooManyFragments."""
        if not frame.fin or self._opcode is not None:
            if self._opcode is None:
                self._opcode = frame.opcode
            self._count += 1
            self._part += frame.data
            if not frame.fin:
                if self._count >= MAX_FRAGMENTS:
                    raise TooManyFragments
                return None
            frame = Frame(self._opcode, bytes(self._part), True)
            self._drop_part()
        self._sizes.append(len(frame.data))
        self.size += len(frame.data)
        return frame

    def finish(self) -> None:
        """Forget the first complete message, which has been served."""
        if self._sizes:
            self.size -= self._sizes.popleft()

    def clear(self) -> None:
        """Forget all messages, because no more are served."""
        self._sizes.clear()
        self.size = 0
        self._drop_part()

    def _drop_part(self) -> None:
        self._opcode, self._count = None, 0
        self._part = bytearray()
