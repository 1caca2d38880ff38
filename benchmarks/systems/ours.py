"""remotemedia's channels, filled in place (`remotemedia`) or from an array (`remotemedia-copy`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.processes import Workers
from benchmarks.rings import DEADLINE_SECONDS, SPIN_NS, Ends, Job, Ring
from remotemedia.core.multiprocess.channel.endpoint import Endpoint
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.channel.ticket import Ticket
from remotemedia.data import Binary

if TYPE_CHECKING:
    from types import TracebackType


class LoanEnds:
    """Fills each message in place."""

    def __init__(self, endpoint: Endpoint, job: Job) -> None:
        (self._publisher,) = endpoint.publishers.values()
        (self._subscriber,) = endpoint.subscribers.values()
        self._nbytes = job.size_bytes

    def send(self) -> None:
        """See `Ends.send`."""
        with self._publisher.loan(Binary, nbytes=self._nbytes) as message:
            message.array[0] = 1

    def receive(self) -> None:
        """See `Ends.receive`."""
        message = self._subscriber.receive(DEADLINE_SECONDS)
        if message is None:
            raise TimeoutError
        assert isinstance(message, Binary)
        assert message.array[0] == 1


class CopyEnds(LoanEnds):
    """Sends the same array again and again."""

    def __init__(self, endpoint: Endpoint, job: Job) -> None:
        super().__init__(endpoint, job)
        self._message = Binary(b"\1" * job.size_bytes)

    def send(self) -> None:
        """See `Ends.send`."""
        self._publisher.send(self._message)


class OurRing:
    """A ring over one registry."""

    def __init__(self, name: str, processes: int, job: Job) -> None:
        self._registry = ChannelRegistry(spin_ns=SPIN_NS[job.mode])
        self._workers = Workers()
        self._job = job
        registry, names = self._registry, [f"p{index}" for index in range(processes)]
        for endpoint in names:
            registry.add_endpoint(endpoint)
        for index, endpoint in enumerate(names):
            channel = registry.create_channel(f"{endpoint}.out", job.depth, writer=endpoint)
            registry.connect(channel, names[(index + 1) % processes])
        for endpoint in names[1:]:
            ticket = registry.ticket(endpoint)
            arguments: dict[str, object] = {"job": job.to_dict(), "ticket": ticket.to_json()}
            self._workers.start(name, arguments, ticket.fds)
        self.ends: Ends = _ends(name, registry.open(names[0]), job)

    @property
    def pids(self) -> list[int]:
        """See `Ring.pids`."""
        return self._workers.pids

    def __enter__(self) -> OurRing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        stats = self._registry.stats()
        self._workers.end()
        self._registry.cleanup()
        if kind is None:
            for port in stats.values():
                for connection in port.connections:
                    assert not sum(connection.dropped.values()), f"lost messages: {connection}"
                    assert connection.is_confirmed, f"the ledger does not balance: {connection}"


class Remotemedia:
    """See `System`."""

    modes = ("block", "adaptive")

    def __init__(self, name: str) -> None:
        self.name = name

    def ring(self, processes: int, job: Job) -> Ring:
        """See `System.ring`."""
        return OurRing(self.name, processes, job)


def open_ends(system: str, job: Job, ticket: str) -> Ends:
    """Open the ends of another process of the ring."""
    endpoint = Endpoint.open(Ticket.from_json(ticket), spin_ns=SPIN_NS[job.mode])
    return _ends(system, endpoint, job)


def _ends(system: str, endpoint: Endpoint, job: Job) -> Ends:
    return LoanEnds(endpoint, job) if system == "remotemedia" else CopyEnds(endpoint, job)
