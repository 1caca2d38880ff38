"""Several connections read as one, fairly."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from remotemedia.core.multiprocess.transport.doorbell import give_way
from remotemedia.core.timeouts import check_timeout
from remotemedia.errors import EndOfStream, PeerLost

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.multiprocess.transport.doorbell import Doorbell
    from remotemedia.data.message import Message


class Inbox:
    """Takes from its subscribers in turn, so that a busy one never starves another.

    Args:
        doorbell: the one that all the subscribers have.
        subscribers: the connections; more may be added at any time.
        optional: those of them whose end nobody waits for: they close a cycle.
    """

    def __init__(
        self,
        doorbell: Doorbell,
        subscribers: Iterable[Subscriber] = (),
        optional: Collection[Subscriber] = (),
    ) -> None:
        self._doorbell = doorbell
        self._open = list(subscribers)
        self._optional = list(optional)
        self._next = 0

    def add(self, subscriber: Subscriber, *, is_optional: bool = False) -> None:
        """Read one more connection; `is_optional`: nobody waits for its end."""
        self._open.append(subscriber)
        if is_optional:
            self._optional.append(subscriber)
        self._doorbell.ring()  # what it has already did not ring for this inbox

    @overload
    def receive(self, timeout_seconds: None = None) -> tuple[Subscriber, Message]: ...
    @overload
    def receive(self, timeout_seconds: float | None) -> tuple[Subscriber, Message] | None: ...

    def receive(self, timeout_seconds: float | None = None) -> tuple[Subscriber, Message] | None:
        """Wait for the next message of any connection.

        Returns:
            Where it came from and the message; None when the time is over first.

        Raises:
            EndOfStream: every connection has ended.
            PeerLost: the writer of one died, once for each; the next call goes on with the others.
            DecodeError, ChannelClosed: as `Subscriber.receive`.
        """
        if timeout_seconds is not None:
            check_timeout(timeout_seconds)
        return self._doorbell.wait_for(self.take, timeout_seconds)

    @overload
    async def receive_async(self, timeout_seconds: None = None) -> tuple[Subscriber, Message]: ...
    @overload
    async def receive_async(
        self, timeout_seconds: float | None
    ) -> tuple[Subscriber, Message] | None: ...

    async def receive_async(
        self, timeout_seconds: float | None = None
    ) -> tuple[Subscriber, Message] | None:
        """Await the next message of any connection; otherwise as `receive`."""
        if timeout_seconds is not None:
            check_timeout(timeout_seconds)
        if self._doorbell.ends_turn():
            await give_way()
        return await self._doorbell.in_loop().wait_for(self.take, timeout_seconds)

    def take(self) -> tuple[Subscriber, Message] | None:
        """Take the next message of any connection if there is one; errors as `receive`."""
        open_ = self._open
        for _ in range(len(open_)):
            index = self._next % len(open_)
            self._next = index + 1
            subscriber = open_[index]
            if not subscriber.is_due:
                continue
            try:
                message = subscriber.receive_nowait()
            except (EndOfStream, PeerLost) as end:
                open_.remove(subscriber)
                self._next = index
                if isinstance(end, PeerLost):
                    raise
                continue
            if message is not None:
                return subscriber, message
        if len(open_) <= len(self._optional) and all(one in self._optional for one in open_):
            raise EndOfStream("every connection has finished")
        return None
