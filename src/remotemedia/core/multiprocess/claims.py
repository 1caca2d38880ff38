"""Outputs that have been taken and not yet received: of the input that claims them, or of none."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from remotemedia.data import RuntimeData
    from remotemedia.data.message import Message

__all__ = ["MAX_SET_ASIDE", "Claims"]

MAX_SET_ASIDE = 1024
"""Outputs that are set aside for one stream, and for all who receive without one."""
_log = logging.getLogger("remotemedia.session")
Output: TypeAlias = "RuntimeData"


class Claims:
    """Sorts outputs: each belongs to the stream of its input, or to whoever asks for any.

    Args:
        session_id: for the log.
        on_room: called when more may be taken again.

    Attributes:
        unclaimed: what no stream wants, the oldest first.
        abandoned: inputs that may still have outputs, which nobody wants.
        is_full: whether some stream has as much as is set aside for it. Then nothing more is to be
            taken for anybody: the next output may be its own.
    """

    def __init__(self, session_id: str, on_room: Callable[[], None]) -> None:
        self._session_id = session_id
        self._on_room = on_room
        self._queues: dict[int, deque[Output]] = {}
        self.abandoned: set[int] = set()
        self._told: set[int] = set()
        self.unclaimed: deque[Output] = deque()
        self.is_full = False

    def __contains__(self, number: int) -> bool:
        return number in self._queues

    def __iter__(self) -> Iterator[int]:
        return iter(self._queues)

    def __len__(self) -> int:
        """How many inputs have a stream."""
        return len(self._queues)

    def claim(self, number: int) -> deque[Output]:
        """Set aside what comes of an input from now on; returns the queue, which stays ours."""
        queue: deque[Output] = deque()
        self._queues[number] = queue
        return queue

    def release(self, number: int) -> bool:
        """Claim nothing of an input any more; False if it was not claimed."""
        queue = self._queues.pop(number, None)
        self._told.discard(number)
        self._look_whether_full()
        return queue is not None

    def abandon(self, number: int) -> None:
        """Drop what is still to come of an input, for nobody wants it."""
        self.abandoned.add(number)

    def note_ended(self, number: int) -> None:
        """Nothing comes any more of an input, nor of any before it."""
        if self.abandoned:
            self.abandoned = {one for one in self.abandoned if one > number}

    def put(self, message: Message) -> bool:
        """Give an output to whom it belongs; False if nobody wants it."""
        number = message.correlation_id
        queue = self._queues.get(number)
        if queue is None:
            if number in self.abandoned:
                return False
            self.unclaimed.append(message)  # type: ignore[arg-type]  # what channels carry
            return True
        queue.append(message)  # type: ignore[arg-type]
        if len(queue) >= MAX_SET_ASIDE:
            self.is_full = True
            self._tell(number)
        return True

    def take(self, queue: deque[Output]) -> Output:
        """Take the oldest output of a stream that has one."""
        output = queue.popleft()
        self._look_whether_full()
        return output

    def clear(self) -> None:
        """Throw away all that has not been received."""
        self.unclaimed.clear()
        for queue in self._queues.values():
            queue.clear()
        self._look_whether_full()

    def _look_whether_full(self) -> None:
        if self.is_full:
            self.is_full = any(len(one) >= MAX_SET_ASIDE for one in self._queues.values())
            if not self.is_full:
                self._on_room()

    def _tell(self, number: int) -> None:
        if number not in self._told:
            self._told.add(number)
            _log.warning(
                "session %r: %s outputs of input %d wait for whoever streams it; nothing more is "
                "taken from the nodes until some are received, or the stream is closed",
                *(self._session_id, f"{MAX_SET_ASIDE:,}", number),
            )
