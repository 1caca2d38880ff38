"""Which channels there are, who writes and who reads them: decided before anything of it exists."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec

from remotemedia.core.multiprocess.channel.channel import (
    DEFAULT_CAPACITY,
    DEFAULT_MAX_HELD,
    Channel,
    require_channel,
)
from remotemedia.core.multiprocess.channel.parties import Parties
from remotemedia.core.multiprocess.channel.turns import in_turn
from remotemedia.core.multiprocess.channel.uncopied import Uncopied
from remotemedia.core.multiprocess.plan import (
    MAX_CAPACITY,
    MAX_TAPS,
    ConnectionPlan,
    EndpointPlan,
    Policy,
    PortPlan,
    SpareTaps,
    service_name,
)
from remotemedia.core.multiprocess.transport.forks import tell_children
from remotemedia.core.multiprocess.transport.ledger import (
    CONNECTION_WORDS,
    PORT_WORDS,
    UNLINKED,
    ConnectionWord,
    Ledger,
    ReaderState,
)
from remotemedia.data.plain import MAX_MESSAGE_BYTES
from remotemedia.errors import ChannelClosed, ChannelError

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.channel.parties import Party


class Planner(Uncopied):
    """The part of a registry that plans; for how it is used see `ChannelRegistry`.

    It opens nothing: plans are made and checked, and given their words in the ledger.

    Args:
        scope: what tells the channels of this registry from others of the same transport.
        ledger: where plans get their words; owned.
    """

    def __init__(self, scope: str, ledger: Ledger) -> None:
        self.ledger = ledger
        self._turn = threading.RLock()
        tell_children(self)
        self._scope = scope
        self._parties = Parties(self.ledger)
        self._channels: dict[str, Channel] = {}
        self._is_closed = False

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
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of a channel is {name!r}; it must be a str, not empty")
        if taps is not None:
            _check_taps(taps, name)
        if name in self._channels:
            raise ChannelError(f"there is a channel {name!r} already")
        _check_range(capacity, f"capacity of channel {name}", MAX_CAPACITY)
        if max_message_bytes is not None:
            _check_range(max_message_bytes, f"max_message_bytes of {name}", MAX_MESSAGE_BYTES)
        party = (
            self._parties.add(f"{name} writer", is_private=True)
            if writer is None
            else self._known(writer)
        )
        try:
            slot = self.ledger.allocate(PORT_WORDS)
        except BaseException:
            if party.is_private:
                self._parties.remove(party)
            raise
        plan = PortPlan(
            name=name,
            service=service_name(self._scope, name),
            slot=slot,
            writer=party.index,
            max_message_bytes=max_message_bytes,
            taps=taps or SpareTaps(8, capacity, DEFAULT_MAX_HELD),
        )
        channel = self._channels[name] = Channel(plan, capacity)
        return channel

    @in_turn
    def add_endpoint(self, name: str) -> None:
        """Plan another process that takes part.

        Raises:
            ChannelError: the name is taken.
            TypeError: it is no str, or empty.
        """
        self._require_open()
        if not isinstance(name, str) or not name:
            raise TypeError(f"the name of an endpoint is {name!r}; it must be a str, not empty")
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
        chosen = _chosen_policy(policy, channel.name)
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
        _check_connection(channel.plan, name, chosen, capacity, max_held)
        taps = channel.plan.taps
        if channel.is_open:
            self._reclaim_taps(channel)
            taps = _taps_left(channel.plan.taps, name, capacity, max_held)
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

    def _known(self, name: str) -> Party:
        self._require_open()
        return self._parties.named(name)

    def _channels_of(self, party: Party) -> list[Channel]:
        """Return the channels that a process writes or reads."""
        return [one for one in self._channels.values() if party.index in one.parties]

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


def _chosen_policy(policy: Policy | str, channel: str) -> Policy:
    """Return a policy by its name; raise `ChannelError` if there is none."""
    try:
        return Policy(policy)
    except ValueError:
        raise ChannelError(
            f"channel {channel}: policy is {policy!r}; it must be one of {', '.join(Policy)}"
        ) from None


def _check_range(value: int, what: str, most: int, *, least: int = 1) -> None:
    """Raise `ChannelError` unless a number is a whole one from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ChannelError(
            f"{what} is {value!r}; it must be a whole number from {least} to {most:,}"
        )


def _check_taps(taps: object, channel: str) -> None:
    """Raise `TypeError` unless they are spare taps, and `ChannelError` unless of allowed sizes."""
    if not isinstance(taps, SpareTaps):
        raise TypeError(f"taps of channel {channel} are {taps!r}; they must be SpareTaps or None")
    _check_range(taps.count, f"count of the taps of channel {channel}", MAX_TAPS, least=0)
    _check_range(taps.capacity, f"capacity of the taps of channel {channel}", MAX_CAPACITY)
    _check_range(taps.max_held, f"max_held of the taps of channel {channel}", MAX_CAPACITY)


def _check_connection(
    plan: PortPlan, name: str, policy: Policy, capacity: int, max_held: int
) -> None:
    """Raise `ChannelError` unless a port may have a connection of that name and size."""
    if any(one.name == name for one in plan.connections):
        raise ChannelError(f"there is a connection {name!r} already; give this one a name")
    _check_range(capacity, f"capacity of {name}", MAX_CAPACITY)
    _check_range(max_held, f"max_held of {name}", MAX_CAPACITY)
    if policy is Policy.LATEST and capacity != 1:
        raise ChannelError(f"{name}: latest keeps one message; use drop_oldest to keep more")


def _taps_left(taps: SpareTaps, name: str, capacity: int, max_held: int) -> SpareTaps:
    """Return the spare taps of an open channel after one is taken; raise if none has that size."""
    if not taps.count or capacity > taps.capacity or max_held > taps.max_held:
        raise ChannelError(
            f"{name}: the channel is open and has {taps.count} spare taps of capacity "
            f"{taps.capacity}, {taps.max_held} held; connect before its ends are opened, "
            f"or create it with larger taps"
        )
    return msgspec.structs.replace(taps, count=taps.count - 1)
