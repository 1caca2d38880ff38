"""A channel as plain data, before anything exists: names, counts, ledger slots, memory.

Everything here can be sent to another process as it is, and decided without one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, TypeAlias

import msgspec

HELD_RESERVE = 1  # one more than its share, so that a hoarder's next message can be copied out
MAX_LOANS = 4
METADATA_ROOM_BYTES = 256  # kept behind a loan's payload for metadata that is set later
MAX_CAPACITY = 65_536
MAX_TAPS = 1024


class EndpointPlan(msgspec.Struct, frozen=True):
    """One process that takes part: it has one doorbell and one block in the ledger.

    Attributes:
        name: for people.
        slot: first ledger word of its block.
    """

    name: str
    slot: int


class Policy(StrEnum):
    """What a full connection does to the producer."""

    BLOCK = "block"
    """Lossless: the producer waits for the reader."""
    DROP_OLDEST = "drop_oldest"
    """The oldest unread message makes room; the loss is counted."""
    LATEST = "latest"
    """Only the newest message is kept: `drop_oldest` with capacity 1."""
    ERROR = "error"
    """The producer gets a `BackpressureError`, and nobody gets the message."""

    @property
    def is_lossless(self) -> bool:
        """Whether a message that was accepted always arrives."""
        return self in (Policy.BLOCK, Policy.ERROR)


PolicyName: TypeAlias = Literal["block", "drop_oldest", "latest", "error"]
"""The values of `Policy` for type checkers: what pipelines are written with."""


class ConnectionPlan(msgspec.Struct, frozen=True):
    """One reader of an output port.

    Attributes:
        name: "producer.port -> consumer.port", for people.
        policy: what happens when it is full.
        capacity: how many messages may wait to be read; 1 for `latest`.
        max_held: how many received messages the reader may keep as views; more become copies.
        slot: first ledger word of its block.
        reader: index of the reading process's endpoint.
    """

    name: str
    policy: Policy
    capacity: int
    max_held: int
    slot: int
    reader: int


class SpareTaps(msgspec.Struct, frozen=True):
    """Subscriber slots kept free for readers that come after the writer has opened.

    Attributes:
        count: how many, at most 1,024; 0 keeps none.
        capacity: the most messages that may wait for such a reader, 1 to 65,536.
        max_held: the most messages it may keep as views, 1 to 65,536.
    """

    count: int = 2
    capacity: int = 8
    max_held: int = 1


class PortPlan(msgspec.Struct, frozen=True):
    """One output port: one service, one publisher, a subscriber per connection, spare taps.

    Attributes:
        name: "producer.port", for people.
        service: name of the shared-memory service.
        slot: first ledger word of its block.
        writer: index of the writing process's endpoint.
        connections: its readers.
        taps: slots kept free for readers that come later.
        max_message_bytes: declared size; memory for it is reserved at the start. None: grows.
    """

    name: str
    service: str
    slot: int
    writer: int
    connections: tuple[ConnectionPlan, ...] = ()
    taps: SpareTaps = SpareTaps()
    max_message_bytes: int | None = None

    @property
    def max_subscribers(self) -> int:
        """How many readers the service admits at once; a service admits one at least."""
        return max(1, len(self.connections) + self.taps.count)

    @property
    def buffer_size(self) -> int:
        """Queue depth of the service: that of its deepest reader."""
        return max([1, *(capacity for capacity, _ in self._readers())])

    @property
    def max_borrowed(self) -> int:
        """How many samples one reader may hold at once."""
        return HELD_RESERVE + max([1, *(max_held for _, max_held in self._readers())])

    @property
    def chunks(self) -> int:
        """How many messages the port's memory holds: all that can be queued, held and on loan."""
        return MAX_LOANS + sum(
            capacity + max_held + HELD_RESERVE for capacity, max_held in self._readers()
        )

    def _readers(self) -> list[tuple[int, int]]:
        """Capacity and share of every reader there can be."""
        planned = [(connection.capacity, connection.max_held) for connection in self.connections]
        return planned + [(self.taps.capacity, self.taps.max_held)] * self.taps.count


def service_name(*parts: str) -> str:
    """Hash the parts of a name: "a_b" and "c" never meet "a" and "b_c"."""
    # Imported here: it loads OpenSSL, and a node's process is told the names.
    import hashlib

    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return digest.hexdigest()
