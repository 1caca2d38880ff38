"""Which channels there are, who writes and who reads them: decided before anything of it exists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from remotemedia.core.multiprocess.channel.channel import DEFAULT_MAX_HELD, Channel, require_name
from remotemedia.core.multiprocess.plan import (
    MAX_CAPACITY,
    MAX_TAPS,
    ConnectionPlan,
    Policy,
    PortPlan,
    SpareTaps,
    service_name,
)
from remotemedia.core.multiprocess.transport.ledger import (
    CONNECTION_WORDS,
    PORT_WORDS,
    UNLINKED,
    ConnectionWord,
    Ledger,
    ReaderState,
)
from remotemedia.data.plain import MAX_MESSAGE_BYTES
from remotemedia.errors import ChannelError

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.channel.parties import Parties, Party


class Planner:
    """Plans the channels and connections of a registry, and knows those that are planned.

    It opens nothing: plans are made and checked, and given their words in the ledger.

    Args:
        scope: what tells the channels of this registry from others of the same transport.
        ledger: where plans get their words; not owned.
        parties: who may write and read; private ones are added for ends in this process.

    Attributes:
        channels: by name.
    """

    def __init__(self, scope: str, ledger: Ledger, parties: Parties) -> None:
        self.channels: dict[str, Channel] = {}
        self._scope = scope
        self._ledger = ledger
        self._parties = parties

    def create_channel(
        self,
        name: str,
        capacity: int,
        writer: str | None,
        max_message_bytes: int | None,
        taps: SpareTaps | None,
    ) -> Channel:
        """See `ChannelRegistry.create_channel`."""
        require_name(name, "a channel")
        if taps is not None:
            _check_taps(taps, name)
        if name in self.channels:
            raise ChannelError(f"there is a channel {name!r} already")
        _check_range(capacity, f"capacity of channel {name}", MAX_CAPACITY)
        if max_message_bytes is not None:
            _check_range(max_message_bytes, f"max_message_bytes of {name}", MAX_MESSAGE_BYTES)
        party = (
            self._parties.add(f"{name} writer", is_private=True)
            if writer is None
            else self._parties.named(writer)
        )
        try:
            slot = self._ledger.allocate(PORT_WORDS)
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
        channel = self.channels[name] = Channel(plan, capacity)
        return channel

    def connect(
        self,
        channel: Channel,
        reader: str,
        *,
        name: str,
        policy: Policy | str,
        capacity: int | None,
        max_held: int | None,
        is_told: bool,
    ) -> ConnectionPlan:
        """See `ChannelRegistry.connect`."""
        chosen = _chosen_policy(policy, channel.name)
        party = self._parties.named(reader)
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
            slot=self._ledger.allocate(CONNECTION_WORDS),
            reader=party.index,
        )
        if channel.is_open:
            self._ledger.words[connection.slot + ConnectionWord.BASE] = UNLINKED
        channel.add(connection, taps)
        return connection

    def disconnect(self, channel: Channel, connection: ConnectionPlan) -> None:
        """Take a connection out of the plan, and out of its publisher."""
        channel.remove(connection)
        if channel.publisher is not None:
            channel.publisher.remove_connection(connection, self._parties.bells)
        if not self._parties[channel.plan.writer].has_ticket:
            self._ledger.free(connection.slot, CONNECTION_WORDS)

    def channels_of(self, party: Party) -> list[Channel]:
        """Return the channels that a process writes or reads."""
        return [one for one in self.channels.values() if party.index in one.parties]

    def require_own(self, channel: Channel) -> None:
        """Raise `ChannelError` unless a channel is one of these."""
        if self.channels.get(channel.name) is not channel:
            raise ChannelError(
                f"channel {channel.name!r} was destroyed, or is of another registry; create it here"
            )

    def _reclaim_taps(self, channel: Channel) -> None:
        """Free the spare taps whose readers have closed or died, once there are no others."""
        if channel.plan.taps.count:
            return
        words = self._ledger.words
        for connection in channel.plan.connections:
            state = words[connection.slot + ConnectionWord.STATE]
            if connection.slot in channel.taken and state in (ReaderState.CLOSED, ReaderState.LOST):
                party = self._parties[connection.reader]
                self.disconnect(channel, connection)
                if party.is_private:
                    self._parties.remove(party)


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
