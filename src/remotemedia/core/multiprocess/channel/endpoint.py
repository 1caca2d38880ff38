"""One process's share in the channels of a session: its doorbell, and the ends it opens."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.bell import Bell
from remotemedia.core.multiprocess.channel.inbox import Inbox
from remotemedia.core.multiprocess.channel.publisher import Publisher
from remotemedia.core.multiprocess.channel.subscriber import Subscriber
from remotemedia.core.multiprocess.channel.ticket import require_ticket
from remotemedia.core.multiprocess.channel.uncopied import Uncopied
from remotemedia.core.multiprocess.transport.doorbell import DEFAULT_SPIN_NS, Doorbell
from remotemedia.core.multiprocess.transport.ledger import EndpointWord, Ledger
from remotemedia.errors import ChannelError

if TYPE_CHECKING:
    from types import TracebackType

    from remotemedia.core.multiprocess.channel.ticket import Ticket
    from remotemedia.core.multiprocess.plan import ConnectionPlan, EndpointPlan, PortPlan
    from remotemedia.core.multiprocess.transport.base import Transport

LINGER_SECONDS = 5.0


class Endpoint(Uncopied):
    """A process that takes part in channels. Its ends share one doorbell, and so one thread.

    Open it from a ticket: `with Endpoint.open(ticket) as endpoint`.

    Args:
        transport: carries the samples; not owned.
        ledger: counts them; not owned.
        plan: the process's own plan.
        doorbell_fd: its doorbell; owned.
        bells: the doorbells it rings, by endpoint index.
        spin_ns: how long to look for news before blocking; 0 blocks at once.

    Attributes:
        publishers: what it writes, by the name of the channel.
        subscribers: what it reads, by the name of the connection.
    """

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        plan: EndpointPlan,
        doorbell_fd: int,
        bells: dict[int, Bell],
        *,
        spin_ns: int = DEFAULT_SPIN_NS,
    ) -> None:
        self.plan = plan
        self.bells = bells
        self.transport = transport
        self.ledger = ledger
        self.doorbell = Doorbell(ledger.words, plan.slot, doorbell_fd, spin_ns)
        self.publishers: dict[str, Publisher] = {}
        self.subscribers: dict[str, Subscriber] = {}
        self._own_bells: list[Bell] | None = None  # of a ticket, with the transport and the ledger
        self._is_closed = False

    @classmethod
    def open(cls, ticket: Ticket, *, spin_ns: int = DEFAULT_SPIN_NS) -> Endpoint:
        """Open what a ticket describes: every port it writes and every connection it reads.

        Readers open first. The ends are found by name in `publishers` and `subscribers`. The
        descriptors are the endpoint's from now on, also if it cannot be opened.

        Raises:
            ChannelError, SharedMemoryExhausted: an end cannot be opened; all is given back.
            TypeError: `ticket` is no `Ticket`.
        """
        require_ticket(ticket)
        # Imported here: who only uses the transport in memory needs no iceoryx2.
        from remotemedia.core.multiprocess.transport.iceoryx import IceoryxTransport

        try:
            ledger = Ledger(ticket.ledger_fd)
            transport = IceoryxTransport(Path(ticket.root), ticket.prefix)
        except BaseException:
            for fd in ticket.fds:
                with contextlib.suppress(OSError):  # not even a descriptor
                    os.close(fd)
            raise
        bells = {
            index: Bell(fd, plan.slot + EndpointWord.ASLEEP) for index, plan, fd in ticket.peers
        }
        # It may read what it writes itself, and is then its own peer.
        mine = {port.writer for port in ticket.ports} | {one.reader for _, one in ticket.inputs}
        own = Bell(ticket.doorbell_fd, ticket.endpoint.slot + EndpointWord.ASLEEP)
        endpoint = cls(
            transport,
            ledger,
            ticket.endpoint,
            ticket.doorbell_fd,
            bells | dict.fromkeys(mine, own),
            spin_ns=spin_ns,
        )
        endpoint._own_bells = list(bells.values())
        try:
            for port, connection in ticket.inputs:
                endpoint.subscribe(port, connection)
            for port in ticket.ports:
                endpoint.publish(port)
        except BaseException:
            endpoint.close(0)
            raise
        return endpoint

    def publish(self, port: PortPlan) -> Publisher:
        """Open the sending end of a port.

        Raises:
            ChannelError: it has one, or had one whose messages have not been taken yet.
        """
        before = self.publishers.get(port.name)
        if before is not None and before.is_closed and before.is_taken():
            before.leave()
        publisher = Publisher(
            self.transport.open_writer(port), port, self.ledger.words, self.doorbell, self.bells
        )
        self.publishers[port.name] = publisher
        return publisher

    def subscribe(self, port: PortPlan, connection: ConnectionPlan) -> Subscriber:
        """Open the receiving end of a connection.

        Raises:
            ChannelError: it is open, or another of this endpoint has its name.
        """
        if connection.name in self.subscribers:
            raise ChannelError(
                f"endpoint {self.plan.name!r} has an open connection {connection.name!r} already"
            )
        reader = self.transport.open_reader(port, connection)
        bell = self.bells[port.writer]
        subscriber = Subscriber(reader, port, connection, self.ledger.words, self.doorbell, bell)
        self.subscribers[connection.name] = subscriber
        return subscriber

    def add_bell(self, index: int, bell: Bell) -> None:
        """Ring one more process. The bell's descriptor is the endpoint's from now on."""
        if index in self.bells:
            os.close(bell.fd)  # it has this doorbell by another number
            return
        self.bells[index] = bell
        if self._own_bells is not None:
            self._own_bells.append(bell)

    def reads(self, connection: ConnectionPlan) -> bool:
        """Whether it has opened the receiving end of this connection."""
        found = self.subscribers.get(connection.name)
        return found is not None and found.connection == connection

    def inbox(self) -> Inbox:
        """Read all connections of this process as one, fairly."""
        return Inbox(self.doorbell, self.subscribers.values())

    def close_channel(self, port: PortPlan) -> None:
        """Close the ends of one port, if this process has any."""
        publisher = self.publishers.pop(port.name, None)
        if publisher is not None:
            publisher.close()
            publisher.leave()
        for connection in port.connections:
            subscriber = self.subscribers.pop(connection.name, None)
            if subscriber is not None:
                subscriber.close()

    def close_ends(self) -> None:
        """Finish what it writes and close what it reads. Twice is harmless."""
        for publisher in self.publishers.values():
            publisher.close()
        for subscriber in self.subscribers.values():
            subscriber.close()

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closed

    def close(self, linger_seconds: float = LINGER_SECONDS) -> None:
        """Finish what it writes, close what it reads, end its waits. Twice is harmless.

        In the process of its registry, ports whose messages have not been taken stay until they
        have been, or the registry is cleaned up.

        Args:
            linger_seconds: how long, in a process of its own, to wait for readers on lossless
                connections to take what was sent. What they have not taken then is lost, and
                counted so by them.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self.close_ends()
        if self._own_bells is not None and linger_seconds > 0:
            self.doorbell.wait_last(self._is_delivered, linger_seconds)
        self.doorbell.close()
        if self._own_bells is not None:
            self.leave()
            self.transport.close()
            self.ledger.close()
            for bell in self._own_bells:
                os.close(bell.fd)

    def abandon(self) -> None:
        """Leave all ends as they are, for the process that takes the place of this one.

        Not even what is under way is missed by anybody: it is counted as lost.
        """
        for publisher in self.publishers.values():
            publisher.abandon()

    def leave(self) -> None:
        """Give all ports back at once: what readers have not taken may be lost to them."""
        for publisher in self.publishers.values():
            publisher.leave()

    def _is_delivered(self) -> bool | None:
        return all(publisher.is_delivered() for publisher in self.publishers.values()) or None

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(LINGER_SECONDS if kind is None else 0)
