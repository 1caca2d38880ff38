"""The process that makes channels: services, ledger, doorbells, and the tickets of the others."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from remotemedia.core.multiprocess.channel.bell import Bell
from remotemedia.core.multiprocess.channel.endpoint import Endpoint, Ticket
from remotemedia.core.multiprocess.channel.stats import PortStats, port_stats
from remotemedia.core.multiprocess.plan import (
    MAX_CAPACITY,
    ConnectionPlan,
    EndpointPlan,
    Policy,
    PortPlan,
    SpareTaps,
    service_name,
)
from remotemedia.core.multiprocess.transport.doorbell import DEFAULT_SPIN_NS, Doorbell
from remotemedia.core.multiprocess.transport.ledger import (
    CONNECTION_WORDS,
    ENDPOINT_WORDS,
    PORT_WORDS,
    UNLINKED,
    ConnectionWord,
    EndpointWord,
    Ledger,
    PortState,
    PortWord,
    ReaderState,
    drop_unread,
)
from remotemedia.data.plain import MAX_MESSAGE_BYTES
from remotemedia.errors import ChannelClosed, ChannelError

if TYPE_CHECKING:
    from types import TracebackType

    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.multiprocess.transport.base import Hold, Transport
    from remotemedia.core.multiprocess.transport.iceoryx import IceoryxTransport

DEFAULT_CAPACITY = 100
DEFAULT_MAX_HELD = 4


@dataclass
class Channel:
    """One output port and all that read it.

    Attributes:
        plan: as it is now; it grows with its connections.
        capacity: of connections that do not say otherwise.
        hold: keeps its service alive, once that exists.
        publisher: its sending end, if that lies in this process.
        taken: slots of the connections that took spare taps.
    """

    plan: PortPlan
    capacity: int
    hold: Hold | None = None
    publisher: Publisher | None = None
    taken: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Its name."""
        return self.plan.name

    @property
    def parties(self) -> set[int]:
        """Indices of the endpoints that write or read it."""
        return {self.plan.writer, *(one.reader for one in self.plan.connections)}


@dataclass
class _Party:
    """A process that takes part, as its maker sees it.

    Attributes:
        doorbell_fd: the registry's own; an endpoint opened here has a duplicate.
        is_private: made for one end in this process, and gone with it.
        has_ticket: it may live in another process.
        is_dead: that process is dead.
    """

    index: int
    plan: EndpointPlan
    doorbell_fd: int
    is_private: bool = False
    has_ticket: bool = False
    is_dead: bool = False
    endpoint: Endpoint | None = None


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
        self._own: IceoryxTransport | None = None
        if transport is None:
            # Imported here: who only uses the transport in memory needs no iceoryx2.
            from remotemedia.core.multiprocess.transport.iceoryx import new_domain

            transport = self._own = new_domain()
        self._transport = transport
        self._scope = scope
        self._spin_ns = spin_ns
        self.ledger = Ledger.create()
        self._parties: dict[int, _Party] = {}
        self._indices = itertools.count()
        self._bells: dict[int, Bell] = {}
        self._channels: dict[str, Channel] = {}
        self._has_dead = False
        self._is_closed = False

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
        if name in self._channels:
            raise ChannelError(f"there is a channel {name!r} already")
        _check_range(capacity, f"capacity of channel {name}", MAX_CAPACITY)
        if max_message_bytes is not None:
            _check_range(max_message_bytes, f"max_message_bytes of {name}", MAX_MESSAGE_BYTES)
        party = (
            self._add(f"{name} writer", is_private=True) if writer is None else self._known(writer)
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
        self._add(name)

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
        plan, chosen = channel.plan, _policy(policy, channel.name)
        party = self._known(reader)
        is_late = channel.hold is not None
        if is_late and self._parties[plan.writer].has_ticket and not is_told:
            raise ChannelError(
                f"channel {channel.name} is written in another process, which would not know of "
                f"reader {reader!r}: connect before its ticket is written"
            )
        if capacity is None:
            most = plan.taps.capacity if is_late else MAX_CAPACITY
            capacity = 1 if chosen is Policy.LATEST else min(channel.capacity, most)
        if max_held is None:
            max_held = min(DEFAULT_MAX_HELD, plan.taps.max_held) if is_late else DEFAULT_MAX_HELD
        name = name or f"{channel.name} -> {reader}"
        if any(one.name == name for one in plan.connections):
            raise ChannelError(f"there is a connection {name!r} already; give this one a name")
        _check_range(capacity, f"capacity of {name}", MAX_CAPACITY)
        _check_range(max_held, f"max_held of {name}", MAX_CAPACITY)
        if chosen is Policy.LATEST and capacity != 1:
            raise ChannelError(f"{name}: latest keeps one message; use drop_oldest to keep more")
        if is_late:
            self._reclaim_taps(channel)
        plan = channel.plan
        taps = plan.taps
        if is_late:
            if not taps.count or capacity > taps.capacity or max_held > taps.max_held:
                raise ChannelError(
                    f"{name}: the channel is open and has {taps.count} spare taps of capacity "
                    f"{taps.capacity}, {taps.max_held} held; connect before its ends are opened, "
                    f"or create it with larger taps"
                )
            taps = msgspec.structs.replace(taps, count=taps.count - 1)
        connection = ConnectionPlan(
            name=name,
            policy=chosen,
            capacity=capacity,
            max_held=max_held,
            slot=self.ledger.allocate(CONNECTION_WORDS),
            reader=party.index,
        )
        if is_late:
            self.ledger.words[connection.slot + ConnectionWord.BASE] = UNLINKED
            channel.taken.add(connection.slot)
        connections = (*plan.connections, connection)
        channel.plan = msgspec.structs.replace(plan, connections=connections, taps=taps)
        return connection

    def create_publisher(self, channel: Channel) -> Publisher:
        """Open the sending end of a channel in this process.

        It has a doorbell of its own, so that a thread of its own may use it.

        Args:
            channel: planned without a writer.

        Raises:
            ChannelError, SharedMemoryExhausted: it cannot be opened.
        """
        party = self._parties[channel.plan.writer]
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
        party = self._add(f"reader {next(self._indices)}", is_private=True)
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
            self._remove(party)
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
            channel.publisher.add_connection(connection, self._bells[connection.reader])

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
        return self._bells[self._known(name).index]

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
            self._make_room(party)
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
        party, words = self._known(name), self.ledger.words
        for channel in self._channels.values():
            plan = channel.plan
            if plan.writer == party.index and words[plan.slot] != PortState.FINISHED:
                words[plan.slot + PortWord.STATE] = PortState.LOST
            for connection in plan.connections:
                at = connection.slot + ConnectionWord.STATE
                if connection.reader == party.index and words[at] != ReaderState.CLOSED:
                    words[at] = ReaderState.LOST
                    drop_unread(words, plan.slot, connection.slot, ConnectionWord.DROPPED_LOST)
        for other in self._parties.values():
            os.eventfd_write(other.doorbell_fd, 1)
        party.is_dead = self._has_dead = True
        self._clean_up_dead()

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
                self._remove(party)
        if not any(party.has_ticket for party in parties):
            self.ledger.free(plan.slot, PORT_WORDS)
            for connection in plan.connections:
                self.ledger.free(connection.slot, CONNECTION_WORDS)

    def cleanup(self) -> None:
        """Close everything, and remove what is left of a transport of its own. Twice is harmless.

        For when the other processes are gone: what they still use is pulled from under their feet.
        """
        if self._is_closed:
            return
        self._is_closed = True
        # All ends before all doorbells: an end that closes rings those it had to do with.
        for party in self._parties.values():
            if party.endpoint is not None:
                party.endpoint.close_ends()
        for party in self._parties.values():
            if party.endpoint is not None:
                party.endpoint.close()
                party.endpoint.leave()
            os.close(party.doorbell_fd)
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
        if self._has_dead and (even_unread or not any(map(self._is_owed, self._channels.values()))):
            self._has_dead = False
            self._transport.clean_up_dead()

    def _make_room(self, party: _Party) -> None:
        """Take the place of a dead process for the next."""
        self._clean_up_dead(even_unread=True)
        party.is_dead = False
        words = self.ledger.words
        for plan in (channel.plan for channel in self._channels.values()):
            if plan.writer == party.index:
                words[plan.slot + PortWord.STATE] = PortState.UNOPENED
            for connection in plan.connections:
                if connection.reader == party.index:
                    words[connection.slot + ConnectionWord.STATE] = ReaderState.UNOPENED

    def _is_owed(self, channel: Channel) -> bool:
        """Whether a reader may still take what a dead writer sent."""
        words, port = self.ledger.words, channel.plan.slot
        return words[port + PortWord.STATE] == PortState.LOST and any(
            words[one.slot + ConnectionWord.STATE] == ReaderState.OPEN
            and max(
                words[one.slot + ConnectionWord.POSITION], words[one.slot + ConnectionWord.BASE]
            )
            < words[port + PortWord.SENT]
            for one in channel.plan.connections
        )

    def _create(self, channel: Channel) -> None:
        self._require_open()
        self._clean_up_dead()
        if channel.hold is None:
            channel.hold = self._transport.create(channel.plan)

    def _add(self, name: str, *, is_private: bool = False) -> _Party:
        if any(party.plan.name == name for party in self._parties.values()):
            raise ChannelError(f"there is an endpoint {name!r} already")
        plan = EndpointPlan(name, self.ledger.allocate(ENDPOINT_WORDS))
        party = _Party(next(self._indices), plan, Doorbell.new_fd(), is_private)
        self._parties[party.index] = party
        self._bells[party.index] = Bell(party.doorbell_fd, plan.slot + EndpointWord.ASLEEP)
        return party

    def _remove(self, party: _Party) -> None:
        """Give back what was made for a private end, when nobody rings it any more."""
        del self._parties[party.index], self._bells[party.index]
        if party.endpoint is not None:
            party.endpoint.close()
        os.close(party.doorbell_fd)
        self.ledger.free(party.plan.slot, ENDPOINT_WORDS)

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
                    self._remove(party)

    def _disconnect(self, channel: Channel, connection: ConnectionPlan) -> None:
        """Take a connection out of the plan, and out of its publisher."""
        plan = channel.plan
        connections = tuple(one for one in plan.connections if one is not connection)
        taps = plan.taps
        if connection.slot in channel.taken:
            channel.taken.discard(connection.slot)
            taps = msgspec.structs.replace(taps, count=taps.count + 1)
        channel.plan = msgspec.structs.replace(plan, connections=connections, taps=taps)
        if channel.publisher is not None:
            channel.publisher.remove_connection(connection, self._bells)
        if not self._parties[plan.writer].has_ticket:
            self.ledger.free(connection.slot, CONNECTION_WORDS)

    def _known(self, name: str) -> _Party:
        self._require_open()
        for party in self._parties.values():
            if party.plan.name == name:
                return party
        known = ", ".join(repr(party.plan.name) for party in self._parties.values()) or "none"
        raise ChannelError(
            f"there is no endpoint {name!r} (there are: {known}); add_endpoint it first"
        )

    def _open_here(self, party: _Party) -> Endpoint:
        if party.endpoint is None:
            party.endpoint = Endpoint(
                self._transport,
                self.ledger,
                party.plan,
                os.dup(party.doorbell_fd),
                self._bells,
                spin_ns=self._spin_ns,
            )
        return party.endpoint

    def _require_open(self) -> None:
        if self._is_closed:
            raise ChannelClosed("the channel registry was cleaned up; make another")


def _policy(policy: Policy | str, channel: str) -> Policy:
    try:
        return Policy(policy)
    except ValueError:
        raise ChannelError(
            f"channel {channel}: policy is {policy!r}; it must be one of {', '.join(Policy)}"
        ) from None


def _check_range(value: int, what: str, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ChannelError(f"{what} is {value!r}; it must be a whole number from 1 to {most:,}")
