"""What a channel is planned to be, decided and checked before anything of it exists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from remotemedia.core.multiprocess.plan import MAX_CAPACITY, Policy, PortPlan, SpareTaps
from remotemedia.errors import ChannelError

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.plan import ConnectionPlan
    from remotemedia.core.multiprocess.transport.base import Hold

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
    def is_open(self) -> bool:
        """Whether its service exists: connections that come now take spare taps."""
        return self.hold is not None

    @property
    def parties(self) -> set[int]:
        """Indices of the endpoints that write or read it."""
        return {self.plan.writer, *(one.reader for one in self.plan.connections)}

    def default_sizes(self, policy: Policy) -> tuple[int, int]:
        """Return capacity and `max_held` of a connection that does not say them."""
        taps = self.plan.taps
        capacity = min(self.capacity, taps.capacity) if self.is_open else self.capacity
        max_held = min(DEFAULT_MAX_HELD, taps.max_held) if self.is_open else DEFAULT_MAX_HELD
        return 1 if policy is Policy.LATEST else capacity, max_held

    def add(self, connection: ConnectionPlan, taps: SpareTaps) -> None:
        """Take a connection into the plan, which has these taps left then."""
        if self.is_open:
            self.taken.add(connection.slot)
        connections = (*self.plan.connections, connection)
        self.plan = msgspec.structs.replace(self.plan, connections=connections, taps=taps)

    def remove(self, connection: ConnectionPlan) -> None:
        """Take a connection out of the plan; the tap that it took is free again."""
        taps = self.plan.taps
        connections = tuple(one for one in self.plan.connections if one is not connection)
        if connection.slot in self.taken:
            self.taken.discard(connection.slot)
            taps = msgspec.structs.replace(taps, count=taps.count + 1)
        self.plan = msgspec.structs.replace(self.plan, connections=connections, taps=taps)


def require_channel(channel: object) -> None:
    """Raise `TypeError` unless it is a channel."""
    if not isinstance(channel, Channel):
        raise TypeError(
            f"a Channel is expected, as create_channel returned it, and this is {channel!r}"
        )


def chosen_policy(policy: Policy | str, channel: str) -> Policy:
    """Return a policy by its name; raise `ChannelError` if there is none."""
    try:
        return Policy(policy)
    except ValueError:
        raise ChannelError(
            f"channel {channel}: policy is {policy!r}; it must be one of {', '.join(Policy)}"
        ) from None


def check_range(value: int, what: str, most: int) -> None:
    """Raise `ChannelError` unless a number is a whole one from 1 to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ChannelError(f"{what} is {value!r}; it must be a whole number from 1 to {most:,}")


def check_connection(
    plan: PortPlan, name: str, policy: Policy, capacity: int, max_held: int
) -> None:
    """Raise `ChannelError` unless a port may have a connection of that name and size."""
    if any(one.name == name for one in plan.connections):
        raise ChannelError(f"there is a connection {name!r} already; give this one a name")
    check_range(capacity, f"capacity of {name}", MAX_CAPACITY)
    check_range(max_held, f"max_held of {name}", MAX_CAPACITY)
    if policy is Policy.LATEST and capacity != 1:
        raise ChannelError(f"{name}: latest keeps one message; use drop_oldest to keep more")


def taps_left(taps: SpareTaps, name: str, capacity: int, max_held: int) -> SpareTaps:
    """Return the spare taps of an open channel after one is taken; raise if none has that size."""
    if not taps.count or capacity > taps.capacity or max_held > taps.max_held:
        raise ChannelError(
            f"{name}: the channel is open and has {taps.count} spare taps of capacity "
            f"{taps.capacity}, {taps.max_held} held; connect before its ends are opened, "
            f"or create it with larger taps"
        )
    return msgspec.structs.replace(taps, count=taps.count - 1)
