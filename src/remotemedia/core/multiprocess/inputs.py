"""What goes into a session: by which port, under which number, and once there is room.

Every input has a number. The nodes pass on, beside their messages, up to which input they have
finished (`PortWord.ENDED`); so the session knows that an input is done without a message for it,
and whatever a lossy connection dropped.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from remotemedia.core.arguments import check_input
from remotemedia.core.multiprocess.transport.doorbell import give_way
from remotemedia.core.multiprocess.transport.loop_doorbell import LoopDoorbell
from remotemedia.core.ports import DATA_TYPES
from remotemedia.errors import ChannelClosed, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.channel.endpoint import Endpoint
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.wiring import Wiring
    from remotemedia.data import RuntimeData

__all__ = ["Inputs"]

SLOW_SECONDS = 5.0
"""How long one waits for room to send before it is told that nobody receives."""
_log = logging.getLogger("remotemedia.session")


class _Port:
    """One input port of the session, and the numbers of inputs that are not yet in it."""

    def __init__(self, key: tuple[str, str], publisher: Publisher, kinds: tuple[type, ...]) -> None:
        self.key = key
        self.publisher = publisher
        self.kinds = kinds
        self.pending: set[int] = set()


class Receiving(Protocol):
    """What the other side of a session, where it is received, has to do with what is sent."""

    @property
    def is_stuck(self) -> bool:
        """Whether there are outputs to receive, and nobody does."""

    def require_open(self) -> None:
        """Raise why nothing can be sent any more, if so."""

    def note_sent(self, number: int, key: tuple[str, str], sequence: int) -> None:
        """An input was sent, by this port and as this message of it."""


class Inputs:
    """Sends inputs, for any number of tasks of one event loop.

    Args:
        host: the session's endpoint; not owned.
        wiring: which channel is which port.
        receiving: where the outputs come out.

    Attributes:
        last: the number of the newest input.
    """

    def __init__(self, host: Endpoint, wiring: Wiring, receiving: Receiving) -> None:
        self._host = host
        self._wiring = wiring
        self._receiving = receiving
        self._session_id = wiring.session_id
        self._doorbell = LoopDoorbell.of(host.doorbell)
        self._ports: dict[tuple[str, str], _Port] = {}
        self.last = 0
        self.extend()

    def extend(self) -> None:
        """Take in the ports that the session has got."""
        for one in self._wiring.pipeline.inputs:
            key = one.node_id, one.port.name
            if key not in self._ports:
                kinds = tuple(DATA_TYPES[kind] for kind in one.port.kinds)
                publisher = self._host.publishers[self._wiring.host_inputs[key]]
                self._ports[key] = _Port(key, publisher, kinds)
        self._announce()

    async def send(
        self, message: RuntimeData, to: str | None, timeout_seconds: float | None
    ) -> int:
        """See `Session.send`."""
        port = self._port(to)
        if not isinstance(message, port.kinds):
            takes = " or ".join(kind.__name__ for kind in port.kinds)
            hint = "; await it first" if asyncio.iscoroutine(message) else ""
            raise DataError(
                f"{port.publisher.port.name} takes {takes}, not {type(message).__name__}{hint}"
            )
        self._receiving.require_open()
        self.last += 1
        number = self.last
        port.pending.add(number)
        try:
            # Cancelled here, the message was not sent, and its number is never used again.
            if self._host.doorbell.ends_turn():
                await give_way()
            await self._send(port, message, number, timeout_seconds)
        finally:
            port.pending.discard(number)
            self._announce()
        return number

    def finish(self) -> None:
        """End the input: the nodes work off what was sent."""
        for port in self._ports.values():
            port.publisher.finish()

    async def _send(
        self, port: _Port, message: RuntimeData, number: int, timeout_seconds: float | None
    ) -> None:
        publisher, receiving = port.publisher, self._receiving

        def attempt() -> bool | None:
            receiving.require_open()
            message.correlation_id = number  # only now: others may be sending the same message
            sent = publisher.try_send(message)
            if sent:
                receiving.note_sent(number, port.key, publisher.sent)
            return sent

        try:
            sent = attempt() or await self._wait_for_room(port, attempt, timeout_seconds)
        except ChannelClosed:
            receiving.require_open()  # says it in the words of a session
            raise
        if sent is None:
            raise publisher.refusal()

    async def _wait_for_room(
        self, port: _Port, attempt: Callable[[], bool | None], timeout_seconds: float | None
    ) -> bool | None:
        slow = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._log_slow_send, port)
        try:
            return await self._doorbell.wait_for(attempt, timeout_seconds)
        finally:
            slow.cancel()

    def _log_slow_send(self, port: _Port) -> None:
        if self._receiving.is_stuck:
            _log.warning(
                "session %r: a send to %s.%s has waited %g s for room, and nobody receives what "
                "came out: call recv(), outputs() or stream(), in another task if need be",
                *(self._session_id, *port.key, SLOW_SECONDS),
            )

    def _announce(self) -> None:
        """Tell every port up to which number nothing will be sent to it any more."""
        for port in self._ports.values():
            port.publisher.end_input(min(port.pending) - 1 if port.pending else self.last)

    def _port(self, to: str | None) -> _Port:
        check_input(to)
        if to is None and len(self._ports) == 1:
            return next(iter(self._ports.values()))
        names = {f"{node}.{port}": one for (node, port), one in self._ports.items()}
        if to is not None:
            found = names.get(to)
            of_node = [one for (node, _), one in self._ports.items() if node == to]
            if found is None and len(of_node) == 1:
                found = of_node[0]
            if found is not None:
                return found
        known = ", ".join(names) or "none: all its nodes are sources or connected"
        problem = "say which input" if to is None else f"there is no input {to!r}"
        raise DataError(f"{problem}; the inputs of session {self._session_id!r} are: {known}")
