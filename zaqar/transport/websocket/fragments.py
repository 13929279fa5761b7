# SPDX-License-Identifier: Apache-2.0
"""Messages that come in several frames: joined as they come, as an object for each frame would take far more memory."""

from __future__ import annotations

from collections import deque

from websockets.frames import Frame, Opcode

MOST_FRAGMENTS = 4_096
"""Frames of one message."""


class TooManyFragments(Exception):
    """The message has more than MOST_FRAGMENTS frames."""


class Messages:
    """What one connection has received: a message that is there in part, and the sizes of those that are complete."""

    def __init__(self) -> None:
        self._part = bytearray()
        self._count = 0
        self._opcode: Opcode | None = None
        self._sizes: deque[int] = deque()
        self.size = 0
        """Bytes of the complete messages that are not dealt with yet."""

    def __bool__(self) -> bool:
        """Whether there is a complete message that is not dealt with yet."""
        return bool(self._sizes)

    @property
    def unfinished(self) -> int:
        """Bytes of the complete frames of the message that is there in part."""
        return len(self._part)

    def add(self, frame: Frame) -> Frame | None:
        """The message that a data frame completes, as one frame; None if more has to come. Raises TooManyFragments."""
        if not frame.fin or self._opcode is not None:
            if self._opcode is None:
                self._opcode = frame.opcode
            self._count += 1
            self._part += frame.data
            if not frame.fin:
                if self._count >= MOST_FRAGMENTS:
                    raise TooManyFragments
                return None
            frame = Frame(self._opcode, bytes(self._part), True)
            self._drop_part()
        self._sizes.append(len(frame.data))
        self.size += len(frame.data)
        return frame

    def finish(self) -> None:
        """The first of the complete messages has been dealt with."""
        if self._sizes:
            self.size -= self._sizes.popleft()

    def clear(self) -> None:
        """Nothing is dealt with any more."""
        self._sizes.clear()
        self.size = 0
        self._drop_part()

    def _drop_part(self) -> None:
        self._opcode, self._count = None, 0
        self._part = bytearray()
