"""What happens in a session, as typed objects, and the bus that carries them."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.exits import ProcessExit
    from remotemedia.core.multiprocess.states import SessionState

__all__ = [
    "Event",
    "EventBus",
    "EventStream",
    "EventsMissed",
    "NodeError",
    "NodeProgress",
    "NodeReady",
    "NodeRestarting",
    "PipelineTerminated",
    "ProcessExited",
    "ProcessStarted",
    "SessionReady",
    "SessionStateChanged",
]

MAX_WAITING_EVENTS = 1024


@dataclass(frozen=True, slots=True)
class ProcessStarted:
    """A node's process runs."""

    session_id: str
    node_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """How far a node is with its start, or with its work (phase "processing") where it tells that.

    Of the phase the fraction that is done, 0.0 to 1.0, and what the node says of it.
    """

    session_id: str
    node_id: str
    phase: str
    fraction: float
    message: str


@dataclass(frozen=True, slots=True)
class NodeReady:
    """A node is initialised and connected; `seconds` since its session began to start."""

    session_id: str
    node_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class NodeError:
    """A message failed in a node that lives on (`on_error: skip`)."""

    session_id: str
    node_id: str
    correlation_id: int
    error: str
    traceback: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProcessExited:
    """A node's process has ended; `is_expected` unless it came before the end of its work."""

    session_id: str
    node_id: str
    pid: int
    exit: ProcessExit
    is_expected: bool


@dataclass(frozen=True, slots=True)
class NodeRestarting:
    """A node whose process has ended gets another (`restart: {policy: on_failure}`).

    Attributes:
        session_id, node_id: the node.
        incarnation: how many processes it has had before the next.
        attempt: which restart of those that count, those within `window_seconds`, from 1.
        delay_seconds: pause before the next process is started.
        cause: the end of the last one in words.
    """

    session_id: str
    node_id: str
    incarnation: int
    attempt: int
    delay_seconds: float
    cause: str


@dataclass(frozen=True, slots=True)
class SessionReady:
    """All nodes are ready; `seconds` since the session began to start."""

    session_id: str
    seconds: float


@dataclass(frozen=True, slots=True)
class SessionStateChanged:
    """The session has gone from one state to another."""

    session_id: str
    before: SessionState
    after: SessionState


@dataclass(frozen=True, slots=True)
class PipelineTerminated:
    """The session has ended because of a failure."""

    session_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class EventsMissed:
    """This subscriber was too slow: so many events before the next one are missing."""

    count: int


Event: TypeAlias = (
    ProcessStarted
    | NodeProgress
    | NodeReady
    | NodeError
    | NodeRestarting
    | ProcessExited
    | SessionReady
    | SessionStateChanged
    | PipelineTerminated
    | EventsMissed
)


class EventStream:
    """The events of one subscriber, from the moment it subscribed: `async for event in stream`.

    It ends when the bus is closed. A subscriber that does not keep up loses its oldest events, and
    is told how many; one that is dropped costs nothing any more.
    """

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._missed = 0
        self._news = asyncio.Event()
        self._is_closed = False

    def put(self, event: Event) -> None:
        """Add an event, at the cost of the oldest if there is no room."""
        if self._is_closed:
            return
        if len(self._waiting) >= MAX_WAITING_EVENTS:
            self._waiting.popleft()
            self._missed += 1
        self._waiting.append(event)
        self._news.set()

    def close(self) -> None:
        """End the stream behind what waits."""
        self._is_closed = True
        self._news.set()

    async def aclose(self) -> None:
        """Follow no more. Twice is harmless."""
        self._waiting.clear()
        self.close()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        while not self._waiting:
            if self._is_closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()  # cancelled here, no event is lost
        if self._missed:
            missed, self._missed = self._missed, 0
            return EventsMissed(missed)
        return self._waiting.popleft()


class EventBus:
    """Carries events from one session, or one executor, to any number of subscribers."""

    def __init__(self) -> None:
        self._streams: WeakSet[EventStream] = WeakSet()
        self._listeners: list[Callable[[Event], object]] = []
        self._is_closed = False

    def listen(self, listener: Callable[[Event], object]) -> None:
        """Have the event loop call this with all that happens from now on, one after the other."""
        self._listeners.append(listener)

    def subscribe(self) -> EventStream:
        """Follow what happens from now on."""
        stream = EventStream()
        if self._is_closed:
            stream.close()
        self._streams.add(stream)
        return stream

    def emit(self, event: Event) -> None:
        """Tell every subscriber. Never waits."""
        for stream in self._streams:
            stream.put(event)
        for listener in self._listeners:
            asyncio.get_running_loop().call_soon(listener, event)

    def close(self) -> None:
        """End every stream behind what waits in it. Twice is harmless."""
        self._is_closed = True
        for stream in self._streams:
            stream.close()
