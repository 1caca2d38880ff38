"""The process that makes channels: services, ledger, doorbells, and the tickets of the others."""

from __future__ import annotations

import atexit
import itertools
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.channel import Channel, require_channel
from remotemedia.core.multiprocess.channel.endpoint import Endpoint
from remotemedia.core.multiprocess.channel.stats import PortStats, port_stats
from remotemedia.core.multiprocess.channel.succession import Succession
from remotemedia.core.multiprocess.channel.ticket import Ticket
from remotemedia.core.multiprocess.channel.turns import in_turn
from remotemedia.core.multiprocess.plan import Policy
from remotemedia.core.multiprocess.transport.doorbell import DEFAULT_SPIN_NS
from remotemedia.core.multiprocess.transport.ledger import CONNECTION_WORDS, PORT_WORDS, Ledger
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.errors import ChannelClosed, ChannelError

if TYPE_CHECKING:
    from types import TracebackType

    from remotemedia.core.multiprocess.channel.parties import Party
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.multiprocess.plan import ConnectionPlan
    from remotemedia.core.multiprocess.transport.base import Transport
    from remotemedia.core.multiprocess.transport.domain import Domain

__all__ = ["Channel", "ChannelRegistry"]


class ChannelRegistry(Succession):
    """Creates channels, opens their ends here or writes tickets for other processes.

    In one process:

        registry = ChannelRegistry()
        camera = registry.create_channel("camera")
        preview = registry.create_subscriber(camera, policy="latest")
        publisher = registry.create_publisher(camera)

    Across processes, say who writes and who reads, then pass each its ticket and descriptors:

        registry.add_endpoint("viewer")
        registry.connect(camera, "viewer", policy="latest")
        ticket = registry.ticket("viewer")
        Popen([..., ticket.to_json()], pass_fds=ticket.fds)     # Endpoint.open(ticket) in there

    A channel's service is made when its first end is opened or its first ticket is written;
    connections made after that take the port's spare taps. Threads may share a registry: their
    calls come one after another.

    Args:
        transport: carries the samples, and stays the caller's; None is one of its own.
        scope: what tells the channels of this registry from others of the same transport.
        spin_ns: how long ends opened here look for news before they block; 0 blocks at once.

    Raises:
        TypeError: an argument is none of these.
    """

    def __init__(
        self,
        transport: Transport | None = None,
        *,
        scope: str = "",
        spin_ns: int = DEFAULT_SPIN_NS,
    ) -> None:
        _check_arguments(transport, scope, spin_ns)
        ledger = Ledger.create()
        self._own: Domain | None = None
        if transport is None:
            transport = self._own = _new_domain(ledger)
            atexit.register(self.cleanup)  # its files would stay until the next one starts
        super().__init__(scope, ledger, transport)
        self._spin_ns = spin_ns
        self._readers = itertools.count(1)
        self._pid = os.getpid()

    @in_turn
    def create_publisher(self, channel: Channel) -> Publisher:
        """Open the sending end of a channel in this process.

        It has a doorbell of its own, so that a thread of its own may use it.

        Args:
            channel: planned without a writer.

        Raises:
            ChannelError, SharedMemoryExhausted: it cannot be opened.
        """
        self._require_own(channel)
        party = self._parties[channel.plan.writer]
        if channel.publisher is not None and not channel.publisher.is_closed:
            raise ChannelError(
                f"channel {channel.name} has a publisher already: use that, or close it first"
            )
        if not party.is_private:
            raise ChannelError(
                f"channel {channel.name} is written by endpoint {party.plan.name!r}: open that"
            )
        self._create(channel)
        endpoint = self._open_here(party)
        channel.publisher = endpoint.publish(channel.plan)
        return channel.publisher

    @in_turn
    def create_subscriber(
        self,
        channel: Channel,
        *,
        policy: Policy | str = Policy.BLOCK,
        capacity: int | None = None,
        max_held: int | None = None,
    ) -> Subscriber:
        """Connect to a channel, and open the receiving end in this process.

        A subscriber made before the publisher gets every message; one made after it takes a spare
        tap and gets what is sent from then on. It has a doorbell of its own, so that a thread of
        its own may use it.

        Args:
            channel: what it reads; its publisher, if there is one, must be in this process.
            policy: as for `connect`.
            capacity: as for `connect`.
            max_held: as for `connect`.

        Raises:
            ChannelError, SharedMemoryExhausted: it cannot be opened.
        """
        self._require_own(channel)
        party = self._parties.add(f"reader {next(self._readers)}", is_private=True)
        connection = None
        try:
            connection = self.connect(
                channel, party.plan.name, policy=policy, capacity=capacity, max_held=max_held
            )
            self._create(channel)
            subscriber = self._open_here(party).subscribe(channel.plan, connection)
        except BaseException:
            # Nobody may wait for a reader that will never open.
            if connection is not None:
                self._disconnect(channel, connection)
            self._parties.remove(party)
            raise
        self._link_late(channel, connection)
        return subscriber

    @in_turn
    def open(self, name: str) -> Endpoint:
        """Open an endpoint in this process: every port it writes and every connection it reads.

        Called again, it opens what has been planned since. Its ends share one doorbell, and so one
        thread or event loop.

        Raises:
            ChannelClosed: it was open here, and was closed.
            ChannelError, SharedMemoryExhausted: it is unknown, or an end cannot be opened.
        """
        party = self._known(name)
        endpoint = self._open_here(party)
        if endpoint.is_closed:
            raise ChannelClosed(f"endpoint {name!r} was closed; plan another")
        mine = self._channels_of(party)
        for channel in mine:
            self._create(channel)
            for connection in channel.plan.connections:
                if connection.reader == party.index and not endpoint.reads(connection):
                    endpoint.subscribe(channel.plan, connection)
                    self._link_late(channel, connection)
        for channel in mine:
            if channel.plan.writer == party.index and channel.name not in endpoint.publishers:
                channel.publisher = endpoint.publish(channel.plan)
        return endpoint

    @property
    def crosses_processes(self) -> bool:
        """Whether other processes can take part."""
        return self._transport.address is not None

    @in_turn
    def ticket(self, name: str, *, rings: tuple[str, ...] = ()) -> Ticket:
        """Write down what another process needs to open its ends.

        All its channels and connections must be planned; what they need is created now. The
        descriptors stay the registry's: hand over duplicates, as `subprocess` does.

        For an endpoint whose process died, it is the ticket of the next: ends that were lost or
        closed are awaited again. What is sent to it before it opens is lost, and counted.

        Args:
            name: the endpoint.
            rings: endpoints whose doorbells it rings besides those it has channels with.

        Raises:
            ChannelError: the endpoint is unknown, or lies in this process.
            SharedMemoryExhausted: there is no memory for its channels.
        """
        party = self._known(name)
        if party.is_dead:
            self._make_way(party)
        self._clean_up_dead()
        if party.endpoint is not None:
            raise ChannelError(f"endpoint {name!r} is open in this process; one process has it")
        address = self._transport.address
        if address is None:
            raise ChannelError("the transport in memory has no other processes")
        ports, inputs = [], []
        peers = {self._known(one).index for one in rings}
        for channel in self._channels_of(party):
            self._create(channel)
            peers |= channel.parties - {party.index}
            plan = channel.plan
            ports += [plan] if plan.writer == party.index else []
            reads = [one for one in plan.connections if one.reader == party.index]
            inputs += [(plan, one) for one in reads]
            for connection in reads:
                self._link_late(channel, connection)
        others = (self._parties[index] for index in sorted(peers))
        party.has_ticket = True
        return Ticket(
            root=address[0],
            prefix=address[1],
            endpoint=party.plan,
            ports=tuple(ports),
            inputs=tuple(inputs),
            peers=tuple((other.index, other.plan, other.doorbell_fd) for other in others),
            ledger_fd=self.ledger.fd,
            doorbell_fd=party.doorbell_fd,
        )

    @in_turn
    def stats(self) -> dict[str, PortStats]:
        """Counts and latencies of every channel, from the ledger.

        As every use of a registry, it frees what dead processes held where their readers have
        taken all by now: files are removed, which takes milliseconds.
        """
        self._require_open()
        self._clean_up_dead()
        words = self.ledger.words
        return {name: port_stats(words, one.plan) for name, one in self._channels.items()}

    @in_turn
    def destroy_channel(self, channel: Channel) -> None:
        """Close a channel's ends in this process and let go of its service. Twice is harmless.

        Its final counts are returned by `stats` no more. What was made for it alone is given back,
        so that channels may come and go for ever; what another process may still write is not.
        """
        require_channel(channel)
        if self._channels.get(channel.name) is not channel:
            return
        del self._channels[channel.name]
        plan, parties = channel.plan, [self._parties[index] for index in channel.parties]
        for party in parties:
            if party.endpoint is not None:
                party.endpoint.close_channel(plan)
        if channel.hold is not None:
            channel.hold.close()
        for party in parties:
            if party.is_private:
                self._parties.remove(party)
        if not any(party.has_ticket for party in parties):
            self.ledger.free(plan.slot, PORT_WORDS)
            for connection in plan.connections:
                self.ledger.free(connection.slot, CONNECTION_WORDS)

    def cleanup(self) -> None:
        """Close everything, and remove what is left of a transport of its own. Twice is harmless.

        For when the other processes are gone: what they still use is pulled from under their feet.
        With a transport of its own, it comes at the latest when the program exits. In a forked
        child nothing happens: all of it is the parent's.
        """
        if self._pid != os.getpid():
            return
        self._clean_up()

    @in_turn
    def _clean_up(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        atexit.unregister(self.cleanup)
        with ExitStack() as steps:  # which are all taken, from the last to the first
            steps.callback(self.ledger.close)
            if self._own is not None:
                steps.callback(self._own.close_and_sweep)
            steps.callback(self._clean_up_dead, even_unread=True)
            for channel in self._channels.values():
                if channel.hold is not None:
                    steps.callback(channel.hold.close)
            steps.callback(self._parties.close)

    def __enter__(self) -> ChannelRegistry:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cleanup()

    def _create(self, channel: Channel) -> None:
        """Make the service of a channel, unless it exists; what can be freed makes room for it."""
        self._clean_up_dead()
        if channel.hold is None:
            channel.hold = self._transport.create(channel.plan)

    def _open_here(self, party: Party) -> Endpoint:
        """Return the endpoint that a party has in this process; it is made when first asked for."""
        if party.endpoint is None:
            with limits_named(f"opening endpoint {party.plan.name!r}"):
                doorbell_fd = os.dup(party.doorbell_fd)
            party.endpoint = Endpoint(
                self._transport,
                self.ledger,
                party.plan,
                doorbell_fd,
                self._parties.bells,
                spin_ns=self._spin_ns,
            )
        return party.endpoint

    def _link_late(self, channel: Channel, connection: ConnectionPlan) -> None:
        """Have a publisher that is open here send to a connection that was made after it."""
        if channel.publisher is not None and connection not in channel.publisher.port.connections:
            channel.publisher.add_connection(connection, self._parties.bells[connection.reader])


def _check_arguments(transport: object, scope: object, spin_ns: object) -> None:
    """Raise `TypeError` unless they are what a registry is made of."""
    if transport is not None and not hasattr(transport, "open_writer"):
        raise TypeError(
            f"transport is {transport!r}; it must be None, for one of its own in shared memory, or "
            f"a transport such as MemoryTransport()"
        )
    if not isinstance(scope, str):
        raise TypeError(f"scope is {scope!r}; it must be a str")
    if not isinstance(spin_ns, int) or spin_ns < 0:
        raise TypeError(f"spin_ns is {spin_ns!r}; it must be a whole number of nanoseconds from 0")


def _new_domain(ledger: Ledger) -> Domain:
    """Make the transport of a registry that is given none; if it cannot be, close its ledger."""
    # Imported here: who only uses the transport in memory needs no iceoryx2.
    from remotemedia.core.multiprocess.transport.domain import new_domain

    try:
        return new_domain()
    except BaseException:
        ledger.close()
        raise
