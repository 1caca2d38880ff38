"""What exists of planned channels: their services, the ends in this process, tickets for others."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.endpoint import Endpoint
from remotemedia.core.multiprocess.channel.ticket import Ticket
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.errors import ChannelClosed, ChannelError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from remotemedia.core.multiprocess.channel.channel import Channel
    from remotemedia.core.multiprocess.channel.parties import Parties, Party
    from remotemedia.core.multiprocess.channel.planning import Planner
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.multiprocess.channel.succession import Succession
    from remotemedia.core.multiprocess.plan import ConnectionPlan, Policy
    from remotemedia.core.multiprocess.transport.base import Transport
    from remotemedia.core.multiprocess.transport.ledger import Ledger


class Opener:
    """Opens planned channels here, or writes down how others open them; that makes their services.

    Args:
        transport: carries the samples; not owned.
        ledger: counts them; not owned.
        parties: whose ends are opened; they own these.
        planner: knows the channels.
        succession: frees what dead processes left, so that there is room.
        spin_ns: how long ends opened here look for news before they block.
    """

    def __init__(
        self,
        transport: Transport,
        ledger: Ledger,
        parties: Parties,
        planner: Planner,
        succession: Succession,
        spin_ns: int,
    ) -> None:
        self._transport = transport
        self._ledger = ledger
        self._parties = parties
        self._planner = planner
        self._succession = succession
        self._spin_ns = spin_ns
        self._readers = itertools.count(1)

    def open_publisher(self, channel: Channel) -> Publisher:
        """See `ChannelRegistry.create_publisher`."""
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

    def open_subscriber(
        self,
        channel: Channel,
        *,
        policy: Policy | str,
        capacity: int | None,
        max_held: int | None,
    ) -> Subscriber:
        """See `ChannelRegistry.create_subscriber`."""
        party = self._parties.add(f"reader {next(self._readers)}", is_private=True)
        connection = None
        try:
            connection = self._planner.connect(
                channel,
                party.plan.name,
                name="",
                policy=policy,
                capacity=capacity,
                max_held=max_held,
                is_told=False,
            )
            self._create(channel)
            subscriber = self._open_here(party).subscribe(channel.plan, connection)
        except BaseException:
            # Nobody may wait for a reader that will never open.
            if connection is not None:
                self._planner.disconnect(channel, connection)
            self._parties.remove(party)
            raise
        self._link_late(channel, connection)
        return subscriber

    def open(self, party: Party) -> Endpoint:
        """See `ChannelRegistry.open`."""
        endpoint = self._open_here(party)
        if endpoint.is_closed:
            raise ChannelClosed(f"endpoint {party.plan.name!r} was closed; plan another")
        mine = self._planner.channels_of(party)
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

    def ticket(self, party: Party, rings: Iterable[Party]) -> Ticket:
        """See `ChannelRegistry.ticket`."""
        if party.is_dead:
            self._succession.make_way(party)
        self._succession.free_leftovers()
        if party.endpoint is not None:
            raise ChannelError(
                f"endpoint {party.plan.name!r} is open in this process; one process has it"
            )
        address = self._transport.address
        if address is None:
            raise ChannelError("the transport in memory has no other processes")
        ports, inputs = [], []
        peers = {one.index for one in rings}
        for channel in self._planner.channels_of(party):
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
            ledger_fd=self._ledger.fd,
            doorbell_fd=party.doorbell_fd,
        )

    def _create(self, channel: Channel) -> None:
        """Make the service of a channel, unless it exists; what can be freed makes room for it."""
        self._succession.free_leftovers()
        if channel.hold is None:
            channel.hold = self._transport.create(channel.plan)

    def _open_here(self, party: Party) -> Endpoint:
        """Return the endpoint that a party has in this process; it is made when first asked for."""
        if party.endpoint is None:
            with limits_named(f"opening endpoint {party.plan.name!r}"):
                doorbell_fd = os.dup(party.doorbell_fd)
            party.endpoint = Endpoint(
                self._transport,
                self._ledger,
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
