"""The process that makes channels: services, ledger, doorbells, and the tickets of the others."""

from __future__ import annotations

import atexit
import itertools
import os
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.deaths import (
    await_again,
    is_owed,
    note_death,
    note_restart,
)
from remotemedia.core.multiprocess.channel.endpoint import Endpoint
from remotemedia.core.multiprocess.channel.parties import Parties
from remotemedia.core.multiprocess.channel.planning import (
    DEFAULT_CAPACITY,
    DEFAULT_MAX_HELD,
    Channel,
    check_connection,
    check_range,
    chosen_policy,
    require_channel,
    taps_left,
)
from remotemedia.core.multiprocess.channel.stats import PortStats, port_stats
from remotemedia.core.multiprocess.channel.ticket import Ticket
from remotemedia.core.multiprocess.plan import (
    MAX_CAPACITY,
    ConnectionPlan,
    EndpointPlan,
    Policy,
    PortPlan,
    SpareTaps,
    service_name,
)
from remotemedia.core.multiprocess.transport.doorbell import DEFAULT_SPIN_NS
from remotemedia.core.multiprocess.transport.ledger import (
    CONNECTION_WORDS,
    PORT_WORDS,
    UNLINKED,
    ConnectionWord,
    Ledger,
    ReaderState,
)
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.data.plain import MAX_MESSAGE_BYTES
from remotemedia.errors import ChannelClosed, ChannelError

if TYPE_CHECKING:
    from types import TracebackType

    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.channel.parties import Party
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.multiprocess.transport.base import Transport
    from remotemedia.core.multiprocess.transport.domain import Domain

__all__ = ["Channel", "ChannelRegistry"]


class ChannelRegistry:
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
    connections made after that take the port's spare taps.

    Args:
        transport: carries the samples, and stays the caller's; None is one of its own.
        scope: what tells the channels of this registry from others of the same transport.
        spin_ns: how long ends opened here look for news before they block; 0 blocks at once.
    """

    def __init__(
        self,
        transport: Transport | None = None,
        *,
        scope: str = "",
        spin_ns: int = DEFAULT_SPIN_NS,
    ) -> None:
        self._own: Domain | None = None
        if transport is None:
            # Imported here: who only uses the transport in memory needs no iceoryx2.
            from remotemedia.core.multiprocess.transport.domain import new_domain

            transport = self._own = new_domain()
            atexit.register(self.cleanup)  # its files would stay until the next one starts
        self._transport = transport
        self._scope = scope
        self._spin_ns = spin_ns
        self.ledger = Ledger.create()
        self._parties = Parties(self.ledger)
        self._readers = itertools.count(1)
        self._channels: dict[str, Channel] = {}
        self._has_dead = False
        self._is_closed = False
        self._pid = os.getpid()

    def create_channel(
        self,
        name: str,
        capacity: int = DEFAULT_CAPACITY,
        *,
        writer: str | None = None,
        max_message_bytes: int | None = None,
        taps: SpareTaps | None = None,
    ) -> Channel:
        """Plan a channel: one output port, with no reader yet.

        Args:
            name: "node.port"; one channel of that name.
            capacity: how many messages may wait for each reader, unless the reader says otherwise.
            writer: the endpoint that will write it; None is an end in this process.
            max_message_bytes: declared size of a payload: memory is reserved at the start and
                larger messages are refused. None: memory grows by itself, up to 256 MiB a message.
            taps: room for readers that come after the channel has opened; None is eight, each with
                the channel's capacity.

        Raises:
            ChannelError: the name is taken, the endpoint is unknown or a number is out of range.
        """
        self._require_open()
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a channel is {name!r}; it must be a str, not empty")
        if taps is not None and not isinstance(taps, SpareTaps):
            raise TypeError(f"taps of channel {name} are {taps!r}; they must be SpareTaps or None")
        if name in self._channels:
            raise ChannelError(f"there is a channel {name!r} already")
        check_range(capacity, f"capacity of channel {name}", MAX_CAPACITY)
        if max_message_bytes is not None:
            check_range(max_message_bytes, f"max_message_bytes of {name}", MAX_MESSAGE_BYTES)
        party = (
            self._parties.add(f"{name} writer", is_private=True)
            if writer is None
            else self._known(writer)
        )
        plan = PortPlan(
            name=name,
            service=service_name(self._scope, name),
            slot=self.ledger.allocate(PORT_WORDS),
            writer=party.index,
            max_message_bytes=max_message_bytes,
            taps=taps or SpareTaps(8, capacity, DEFAULT_MAX_HELD),
        )
        channel = self._channels[name] = Channel(plan, capacity)
        return channel

    def add_endpoint(self, name: str) -> None:
        """Plan another process that takes part.

        Raises:
            ChannelError: the name is taken.
        """
        self._require_open()
        self._parties.add(name)

    def connect(
        self,
        channel: Channel,
        reader: str,
        *,
        name: str = "",
        policy: Policy | str = Policy.BLOCK,
        capacity: int | None = None,
        max_held: int | None = None,
        is_told: bool = False,
    ) -> ConnectionPlan:
        """Plan a connection from a channel to an endpoint.

        Args:
            channel: what it reads.
            reader: the endpoint.
            name: of the connection; empty is "channel -> reader". Two connections of one reader to
                one channel need names.
            policy: what happens when it is full.
            capacity: how many messages may wait to be read; None is the channel's, 1 for `latest`.
            max_held: how many received messages the reader may keep as views; None is 4, or what a
                spare tap has.
            is_told: the processes that write and read it are told of it by whoever calls this.

        Raises:
            ChannelError: the policy is unknown, a number is out of range, or the channel is open
                and has no spare tap of that size.
        """
        self._require_own(channel)
        chosen = chosen_policy(policy, channel.name)
        party = self._known(reader)
        if channel.is_open and self._parties[channel.plan.writer].has_ticket and not is_told:
            raise ChannelError(
                f"channel {channel.name} is written in another process, which would not know of "
                f"reader {reader!r}: connect before its ticket is written"
            )
        defaults = channel.default_sizes(chosen)
        capacity = defaults[0] if capacity is None else capacity
        max_held = defaults[1] if max_held is None else max_held
        name = name or f"{channel.name} -> {reader}"
        check_connection(channel.plan, name, chosen, capacity, max_held)
        if channel.is_open:
            self._reclaim_taps(channel)
        taps = channel.plan.taps
        if channel.is_open:
            taps = taps_left(taps, name, capacity, max_held)
        connection = ConnectionPlan(
            name=name,
            policy=chosen,
            capacity=capacity,
            max_held=max_held,
            slot=self.ledger.allocate(CONNECTION_WORDS),
            reader=party.index,
        )
        if channel.is_open:
            self.ledger.words[connection.slot + ConnectionWord.BASE] = UNLINKED
        channel.add(connection, taps)
        return connection

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
        mine = [one for one in self._channels.values() if party.index in one.parties]
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

    def _link_late(self, channel: Channel, connection: ConnectionPlan) -> None:
        """Have a publisher that is open here send to a connection that was made after it."""
        if channel.publisher is not None and connection not in channel.publisher.port.connections:
            channel.publisher.add_connection(connection, self._parties.bells[connection.reader])

    @property
    def crosses_processes(self) -> bool:
        """Whether other processes can take part."""
        return self._transport.address is not None

    def index(self, name: str) -> int:
        """Return the index of an endpoint; it is what tickets and plans call it.

        Raises:
            ChannelError: it is unknown.
        """
        return self._known(name).index

    def bell(self, name: str) -> Bell:
        """Return the doorbell of an endpoint; its descriptor stays the registry's.

        Raises:
            ChannelError: it is unknown.
        """
        return self._parties.bells[self._known(name).index]

    def endpoint_plan(self, name: str) -> EndpointPlan:
        """Return the plan of an endpoint.

        Raises:
            ChannelError: it is unknown.
        """
        return self._known(name).plan

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
            self._clean_up_dead(even_unread=True)
            party.is_dead = False
            for channel in self._channels.values():
                await_again(self.ledger.words, channel.plan, party.index)
        self._clean_up_dead()
        if party.endpoint is not None:
            raise ChannelError(f"endpoint {name!r} is open in this process; one process has it")
        address = self._transport.address
        if address is None:
            raise ChannelError("the transport in memory has no other processes")
        ports, inputs = [], []
        peers = {self._known(one).index for one in rings}
        for channel in self._channels.values():
            if party.index not in channel.parties:
                continue
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

    def endpoint_died(self, name: str) -> None:
        """Tell everybody that a process is dead. Call it once the process has been reaped.

        Readers of its ports get what is left and then `PeerLost`; writers that wait for it get
        `PeerLost`. What it held is freed once its readers have taken what it sent, which is looked
        at whenever the registry is used; at the latest by `cleanup`, or when the endpoint gets a
        new ticket.

        Raises:
            ChannelError: the endpoint is unknown.
        """
        party = self._known(name)
        for channel in self._channels.values():
            note_death(self.ledger.words, channel.plan, party.index)
        self._parties.ring()
        party.is_dead = self._has_dead = True
        self._clean_up_dead()

    def endpoint_restarts(self, name: str, *, processed: int | None = None) -> int:
        """Say that a process is dead and another is to take its place: nobody gets `PeerLost`.

        Call it once the process has been reaped; the next `ticket` of the endpoint is the next
        process's. Writers wait for it, in other processes once they `recount`. What it had not read
        or was working on is counted as lost; its readers get what is left of what it sent.

        Args:
            name: the endpoint.
            processed: how many messages it has worked off; None: those that it has released.

        Returns:
            How many messages it had taken, by connections that lose none, and not worked off.

        Raises:
            ChannelError: the endpoint is unknown.
        """
        party = self._known(name)
        mine = [one for one in self._channels.values() if party.index in one.parties]
        plans = [one.plan for one in mine]
        lost = note_restart(self.ledger.words, plans, party.plan, party.index, processed)
        for channel in mine:
            if channel.publisher is not None:
                channel.publisher.recount()
        self._parties.ring()
        party.is_dead = self._has_dead = True
        self._clean_up_dead()
        return lost

    def stats(self) -> dict[str, PortStats]:
        """Counts and latencies of every channel, from the ledger."""
        self._require_open()
        self._clean_up_dead()
        words = self.ledger.words
        return {name: port_stats(words, one.plan) for name, one in self._channels.items()}

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
        if self._is_closed or self._pid != os.getpid():
            return
        self._is_closed = True
        atexit.unregister(self.cleanup)
        self._parties.close()
        for channel in self._channels.values():
            if channel.hold is not None:
                channel.hold.close()
        self._clean_up_dead(even_unread=True)
        if self._own is not None:
            self._own.close_and_sweep()
        self.ledger.close()

    def __enter__(self) -> ChannelRegistry:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cleanup()

    def _clean_up_dead(self, *, even_unread: bool = False) -> None:
        """Free what dead processes left, unless there is something in it that is still to come."""
        if not self._has_dead:
            return
        words, channels = self.ledger.words, self._channels.values()
        if even_unread or not any(is_owed(words, one.plan) for one in channels):
            self._has_dead = False
            self._transport.clean_up_dead()

    def _create(self, channel: Channel) -> None:
        self._require_open()
        self._clean_up_dead()
        if channel.hold is None:
            channel.hold = self._transport.create(channel.plan)

    def _reclaim_taps(self, channel: Channel) -> None:
        """Free the spare taps whose readers have closed or died, once there are no others."""
        if channel.plan.taps.count:
            return
        words = self.ledger.words
        for connection in channel.plan.connections:
            state = words[connection.slot + ConnectionWord.STATE]
            if connection.slot in channel.taken and state in (ReaderState.CLOSED, ReaderState.LOST):
                party = self._parties[connection.reader]
                self._disconnect(channel, connection)
                if party.is_private:
                    self._parties.remove(party)

    def _disconnect(self, channel: Channel, connection: ConnectionPlan) -> None:
        """Take a connection out of the plan, and out of its publisher."""
        channel.remove(connection)
        if channel.publisher is not None:
            channel.publisher.remove_connection(connection, self._parties.bells)
        if not self._parties[channel.plan.writer].has_ticket:
            self.ledger.free(connection.slot, CONNECTION_WORDS)

    def _known(self, name: str) -> Party:
        self._require_open()
        return self._parties.named(name)

    def _open_here(self, party: Party) -> Endpoint:
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

    def _require_own(self, channel: Channel) -> None:
        require_channel(channel)
        self._require_open()
        if self._channels.get(channel.name) is not channel:
            raise ChannelError(
                f"channel {channel.name!r} was destroyed, or is of another registry; create it here"
            )

    def _require_open(self) -> None:
        if self._is_closed:
            raise ChannelClosed("the channel registry was cleaned up; make another")
