"""A channel: one output port and all that read it, as it is planned and as far as it exists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from remotemedia.core.multiprocess.channel.uncopied import Uncopied
from remotemedia.core.multiprocess.plan import Policy

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan, SpareTaps
    from remotemedia.core.multiprocess.transport.base import Hold

DEFAULT_CAPACITY = 100
DEFAULT_MAX_HELD = 4


@dataclass
class Channel(Uncopied):
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


def require_name(name: object, of: str) -> None:
    """Raise `TypeError` unless something can be called so."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of {of} is {name!r}; it must be a str, not empty")


def require_channel(channel: object) -> None:
    """Raise `TypeError` unless it is a channel."""
    if not isinstance(channel, Channel):
        raise TypeError(
            f"a Channel is expected, as create_channel returned it, and this is {channel!r}"
        )
