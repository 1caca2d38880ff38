"""The process that makes channels: services, ledger, doorbells, and the tickets of the others."""

from __future__ import annotations

import atexit
import os
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.channel import (
    DEFAULT_CAPACITY,
    Channel,
    require_channel,
    require_name,
)
from remotemedia.core.multiprocess.channel.opening import Opener
from remotemedia.core.multiprocess.channel.parties import Parties
from remotemedia.core.multiprocess.channel.planning import Planner
from remotemedia.core.multiprocess.channel.stats import PortStats, port_stats
from remotemedia.core.multiprocess.channel.succession import Succession
from remotemedia.core.multiprocess.channel.turns import in_turn
from remotemedia.core.multiprocess.channel.uncopied import Uncopied
from remotemedia.core.multiprocess.plan import Policy
from remotemedia.core.multiprocess.transport.doorbell import DEFAULT_SPIN_NS
from remotemedia.core.multiprocess.transport.forks import tell_children
from remotemedia.core.multiprocess.transport.ledger import CONNECTION_WORDS, PORT_WORDS, Ledger
from remotemedia.errors import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.channel.endpoint import Endpoint
    from remotemedia.core.multiprocess.channel.parties import Party
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.multiprocess.channel.ticket import Ticket
    from remotemedia.core.multiprocess.plan import ConnectionPlan, EndpointPlan, SpareTaps
    from remotemedia.core.multiprocess.transport.base import Transport
    from remotemedia.core.multiprocess.transport.domain import Domain

__all__ = ["Channel", "ChannelRegistry"]


class ChannelRegistry(Uncopied):
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
        self.ledger = ledger
        self._transport = transport
        self._parties = Parties(ledger)
        self._planner = Planner(scope, ledger, self._parties)
        self._channels = self._planner.channels
        self._succession = Succession(ledger, self._parties, self._planner, transport)
        self._opener = Opener(
            transport, ledger, self._parties, self._planner, self._succession, spin_ns
        )
        self._pid = os.getpid()
        self._is_closed = False
        self._turn = threading.RLock()
        tell_children(self)

    def disown(self) -> None:
        """Leave it to the parent process: a thread that has its turn there does not exist here."""
        self._turn = threading.RLock()

    @in_turn
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
            TypeError: the name is no str, or `taps` are no `SpareTaps`.
        """
        self._require_open()
        return self._planner.create_channel(name, capacity, writer, max_message_bytes, taps)

    @in_turn
    def add_endpoint(self, name: str) -> None:
        """Plan another process that takes part.

        Raises:
            ChannelError: the name is taken.
            TypeError: it is no str, or empty.
        """
        self._require_open()
        require_name(name, "an endpoint")
        self._parties.add(name)

    @in_turn
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
        return self._planner.connect(
            channel,
            reader,
            name=name,
            policy=policy,
            capacity=capacity,
            max_held=max_held,
            is_told=is_told,
        )

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
        return self._opener.open_publisher(channel)

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
        return self._opener.open_subscriber(
            channel, policy=policy, capacity=capacity, max_held=max_held
        )

    @in_turn
    def open(self, name: str) -> Endpoint:
        """Open an endpoint in this process: every port it writes and every connection it reads.

        Called again, it opens what has been planned since. Its ends share one doorbell, and so one
        thread or event loop.

        Raises:
            ChannelClosed: it was open here, and was closed.
            ChannelError, SharedMemoryExhausted: it is unknown, or an end cannot be opened.
        """
        return self._opener.open(self._known(name))

    @in_turn
    def index(self, name: str) -> int:
        """Return the index of an endpoint; it is what tickets and plans call it.

        Raises:
            ChannelError: it is unknown.
        """
        return self._known(name).index

    @in_turn
    def bell(self, name: str) -> Bell:
        """Return the doorbell of an endpoint; its descriptor stays the registry's.

        Raises:
            ChannelError: it is unknown.
        """
        return self._parties.bells[self._known(name).index]

    @in_turn
    def endpoint_plan(self, name: str) -> EndpointPlan:
        """Return the plan of an endpoint.

        Raises:
            ChannelError: it is unknown.
        """
        return self._known(name).plan

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
        return self._opener.ticket(party, [self._known(one) for one in rings])

    @in_turn
    def endpoint_died(self, name: str, *, pids: Collection[int] | None = None) -> None:
        """Tell everybody that a process is dead. Call it once the process has been reaped.

        Readers of its ports get what is left and then `PeerLost`; writers that wait for it get
        `PeerLost`. What it held is freed once its readers have taken what it sent, which is looked
        at whenever the registry is used; at the latest by `cleanup`, or when the endpoint gets a
        new ticket.

        Args:
            name: the endpoint.
            pids: its processes, if others of the same transport may be dead that another registry
                looks after; None frees what any dead process held.

        Raises:
            ChannelError: the endpoint is unknown.
        """
        self._succession.note_death(self._known(name), pids)

    @in_turn
    def endpoint_restarts(
        self, name: str, *, processed: int | None = None, pids: Collection[int] | None = None
    ) -> int:
        """Say that a process is dead and another is to take its place: nobody gets `PeerLost`.

        Call it once the process has been reaped; the next `ticket` of the endpoint is the next
        process's. Writers wait for it, in other processes once they `recount`. What it had not read
        or was working on is counted as lost; its readers get what is left of what it sent.

        Args:
            name: the endpoint.
            processed: how many messages it has worked off; None: those that it has released.
            pids: as for `endpoint_died`.

        Returns:
            How many messages it had taken, by connections that lose none, and not worked off.

        Raises:
            ChannelError: the endpoint is unknown.
        """
        return self._succession.note_restart(self._known(name), processed, pids)

    async def wait_until_mapped(self, timeout_seconds: float) -> int:
        """Wait until readers that may lose nothing can do without what dead processes have left.

        For before the next `ticket` of one of those, which frees memory: a message in memory that
        its reader has not mapped is lost then.

        Returns:
            How many messages are to be lost so, when the time is over.
        """
        return await self._succession.wait_until_mapped(timeout_seconds)

    @in_turn
    def stats(self) -> dict[str, PortStats]:
        """Counts and latencies of every channel, from the ledger.

        As every use of a registry, it frees what dead processes held where their readers have
        taken all by now: files are removed, which takes milliseconds.
        """
        self._require_open()
        self._succession.free_leftovers()
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
        if self._pid == os.getpid():
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
            steps.callback(self._succession.free_leftovers, even_unread=True)
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

    def _known(self, name: str) -> Party:
        self._require_open()
        return self._parties.named(name)

    def _require_own(self, channel: Channel) -> None:
        require_channel(channel)
        self._require_open()
        self._planner.require_own(channel)

    def _require_open(self) -> None:
        if self._is_closed:
            raise ChannelClosed("the channel registry was cleaned up; make another")


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
