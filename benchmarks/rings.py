"""What is measured: processes in a ring, each sending to the next, the first being this one.

With two processes it is a ping-pong, with more a chain that closes. A system under test provides
the ends of one process; the jobs are the same for all.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from types import TracebackType

DEADLINE_SECONDS = 60.0
"""A process that has heard nothing for so long gives up: its peer is gone."""
_FEW = 3
_DEEP_BYTES = 64 * 1024
SPIN_NS = {"block": 0, "adaptive": 50_000}


@dataclass(frozen=True)
class Job:
    """What one process of the ring does.

    Attributes:
        size_bytes: payload of a message.
        mode: how it waits: "block", or "adaptive" (looks again and again for 50 us, then blocks).
        ack_every: 1 passes every message on; N takes N messages and passes on the last.
    """

    size_bytes: int
    mode: str
    ack_every: int = 1

    @property
    def depth(self) -> int:
        """How many messages may wait for a reader: many small ones, or two large ones."""
        return 64 if self.size_bytes <= _DEEP_BYTES else 2

    def to_dict(self) -> dict[str, object]:
        """The job as plain data."""
        return asdict(self)


class Ends(Protocol):
    """One process's ends: to the next in the ring, and from the one before."""

    def send(self) -> None:
        """Send one message, waiting for room."""

    def receive(self) -> None:
        """Wait for one message and look at it.

        Raises:
            TimeoutError: none came before the deadline.
        """


class Ring(Protocol):
    """A running ring, seen from its first process."""

    ends: Ends
    """The ends of this process."""

    @property
    def pids(self) -> list[int]:
        """The other processes."""

    def __enter__(self) -> Ring:
        """The processes run."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes and leave nothing behind."""


class System(Protocol):
    """A way to send messages between processes."""

    @property
    def name(self) -> str:
        """What it is called in results."""

    @property
    def modes(self) -> tuple[str, ...]:
        """The ways of waiting it has."""

    def ring(self, processes: int, job: Job) -> Ring:
        """Start a ring; the other processes do the job."""


def do_job(ends: Ends, job: Job) -> None:
    """Do a job until the process is ended."""
    while True:
        for _ in range(job.ack_every):
            ends.receive()
        ends.send()


def round_trips(ends: Ends, count: int, seconds: float = DEADLINE_SECONDS) -> list[int]:
    """Send messages around the ring one by one; return the nanoseconds that each took.

    Args:
        ends: of the first process.
        count: how many.
        seconds: when to stop before, once there are a few.
    """
    clock, send, receive = time.perf_counter_ns, ends.send, ends.receive
    times: list[int] = []
    until = clock() + int(seconds * 1e9)
    for number in range(count):
        began = clock()
        if began > until and number >= _FEW:
            break
        send()
        receive()
        times.append(clock() - began)
    return times


def paced_round_trips(ends: Ends, count: int, period_ns: int) -> list[int]:
    """As `round_trips`, one every `period_ns`, asleep in between."""
    clock = time.perf_counter_ns
    times, due = [], clock()
    for _ in range(count):
        due += period_ns
        time.sleep(max(0, due - clock()) / 1e9)
        began = clock()
        ends.send()
        ends.receive()
        times.append(clock() - began)
    return times


def batch_rates(ends: Ends, batches: int, batch: int) -> list[float]:
    """Send batches as fast as they go, each acknowledged once; return messages per second."""
    rates = []
    for _ in range(batches):
        began = time.perf_counter_ns()
        for _ in range(batch):
            ends.send()
        ends.receive()
        rates.append(batch / (time.perf_counter_ns() - began) * 1e9)
    return rates
