"""What `run` sees of a session, for views: nodes, counts, latencies from input to output."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from remotemedia.cli.usage import UsageMeter
from remotemedia.core.multiprocess import events
from remotemedia.data import Audio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from remotemedia.core.multiprocess.channel.stats import ConnectionStats
    from remotemedia.core.multiprocess.session import Session
    from remotemedia.core.validation import ValidatedPipeline
    from remotemedia.data import RuntimeData

__all__ = ["EndToEnd", "NodeView", "Watch", "percentile"]

MAX_REMEMBERED = 100_000
"""Inputs whose first output is waited for, and latencies that are kept."""


@dataclass(slots=True)
class NodeView:
    """One node, as far as it is known.

    Attributes:
        node_id, type_name: the node.
        phase, fraction, message: of its start; `phase` is a state once it is ready.
        ready_seconds: how long its start took; None until then.
        meter: of its process; None until that runs.
        skipped: messages that failed in it and were skipped.
        restarts: how often it was restarted.
        cpu_percent, memory_bytes: at the last reading.
    """

    node_id: str
    type_name: str
    phase: str = "waiting"
    fraction: float = 0.0
    message: str = ""
    ready_seconds: float | None = None
    meter: UsageMeter | None = None
    skipped: int = 0
    restarts: int = 0
    cpu_percent: float = 0.0
    memory_bytes: int = 0


@dataclass(slots=True)
class EndToEnd:
    """Times from an input to what came of it, in seconds.

    Attributes:
        sent_at: when inputs were sent of which nothing has come yet, by their numbers.
        delays: from sending an input to its first output.
        last_sent_at, after_last: of the last input, and from there to the next output.
        stream_began_at: when the first frame of the sound was recorded, if it is paced as live.
        to_first_sound: from the end of something that was said to the first sound that came of
            it, by where in the stream its end is.
    """

    sent_at: dict[int, float] = field(default_factory=dict)
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_REMEMBERED))
    last_sent_at: float | None = None
    after_last: float | None = None
    stream_began_at: float | None = None
    to_first_sound: dict[float, float] = field(default_factory=dict)

    def note_sent(self, number: int) -> None:
        """An input has gone in."""
        now = time.monotonic()
        self.sent_at[number] = self.last_sent_at = now
        self.after_last = None
        if len(self.sent_at) > MAX_REMEMBERED:
            del self.sent_at[next(iter(self.sent_at))]

    def note_output(self, message: RuntimeData) -> None:
        """Something has come out."""
        now = time.monotonic()
        self._note_sound(message, now)
        if self.last_sent_at is not None and self.after_last is None:
            self.after_last = now - self.last_sent_at
        sent_at = self.sent_at.pop(message.correlation_id, None)
        if sent_at is not None:
            self.delays.append(now - sent_at)

    def _note_sound(self, message: RuntimeData, now: float) -> None:
        end = message.metadata.get("speech_end_s", message.metadata.get("end_s"))
        if (
            isinstance(message, Audio)
            and self.stream_began_at is not None
            and isinstance(end, int | float)
            and len(self.to_first_sound) < MAX_REMEMBERED
        ):
            self.to_first_sound.setdefault(end, now - self.stream_began_at - end)


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that `percent` of all do not exceed; there must be one."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]  # the nearest rank


class Watch:
    """Follows one session.

    Args:
        pipeline: what runs.
    """

    def __init__(self, pipeline: ValidatedPipeline) -> None:
        self.pipeline = pipeline
        self.nodes = {one.node_id: NodeView(one.node_id, one.type.name) for one in pipeline.nodes}
        self.started_at = time.monotonic()
        self.ready_at: float | None = None
        self.sent = 0
        self.received = 0
        self.sent_seconds = 0.0
        self.latency = EndToEnd()
        self.input_ended_at: float | None = None
        self.finished_at: float | None = None
        self.is_ending = False
        self._session: Session | None = None
        self._counts: dict[str, tuple[float, int, float]] = {}

    @property
    def drain_seconds(self) -> float | None:
        """From the end of the input to the end of the output; None where there was not both."""
        if self.input_ended_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.input_ended_at

    def follow(self, session: Session) -> None:
        """Look at this session from now on."""
        self._session = session

    def hear(self, event: events.Event) -> None:
        """Take in what happened."""
        match event:
            case events.ProcessStarted():
                node = self.nodes[event.node_id]
                node.meter, node.phase = UsageMeter(event.pid), "starting"
            case events.NodeProgress():
                node = self.nodes[event.node_id]
                node.phase, node.fraction = event.phase, event.fraction
                node.message = event.message
            case events.NodeReady():
                node = self.nodes[event.node_id]
                node.phase, node.message, node.ready_seconds = "ready", "", event.seconds
            case events.SessionReady():
                self.ready_at = time.monotonic()
            case events.NodeError():
                self.nodes[event.node_id].skipped += 1
            case events.NodeRestarting():
                node = self.nodes[event.node_id]
                node.meter, node.restarts = None, event.incarnation

    def read_nodes(self) -> list[NodeView]:
        """Return the nodes with what they use now."""
        states = {} if self._session is None else self._session.nodes
        for node in self.nodes.values():
            usage = None if node.meter is None else node.meter.read()
            node.cpu_percent, node.memory_bytes = usage or (0.0, 0)
            if node.ready_seconds is not None and node.node_id in states:
                node.phase = str(states[node.node_id])
        return list(self.nodes.values())

    def connections(self) -> list[ConnectionStats]:
        """Return all connections with their counts, from the inputs to the outputs."""
        ports = {} if self._session is None else self._session.stats()
        found = [connection for port in ports.values() for connection in port.connections]
        written = [str(connection) for connection in self.pipeline.connections]

        def place(name: str) -> int:
            if name in written:
                return written.index(name)
            return -1 if name.startswith("input ") else len(written)

        return sorted(found, key=lambda one: place(one.name))

    def rate(self, connection: ConnectionStats) -> float:
        """Return messages per second through a connection, over about the last second."""
        now = time.monotonic()
        at, sent, before = self._counts.get(connection.name, (now, connection.sent, 0.0))
        if now - at < 0.9:
            self._counts.setdefault(connection.name, (at, sent, before))
            return before
        rate = (connection.sent - sent) / (now - at)
        self._counts[connection.name] = now, connection.sent, rate
        return rate
