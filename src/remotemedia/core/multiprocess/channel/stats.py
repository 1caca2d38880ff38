"""What the ledger says of ports and connections: counts, latency, and whether they balance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from remotemedia.core.multiprocess.transport.ledger import (
    HISTOGRAM_AT,
    HISTOGRAM_BUCKETS,
    UNLINKED,
    ConnectionWord,
    PortWord,
    ReaderState,
)

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan

DROP_REASONS = {
    "overwritten": ConnectionWord.DROPPED_OVERWRITTEN,
    "lost": ConnectionWord.DROPPED_LOST,
    "interrupted": ConnectionWord.DROPPED_INTERRUPTED,
    "unreadable": ConnectionWord.DROPPED_UNREADABLE,
    "closed": ConnectionWord.DROPPED_CLOSED,
}


class LatencyHistogram(msgspec.Struct, frozen=True):
    """Durations by power of two: `counts[k]` of them were below 2**k ns and not below half that."""

    counts: tuple[int, ...]

    def __repr__(self) -> str:
        if not self.total:
            return "<no durations>"
        half, most = (self.percentile_ns(percent) / 1000 for percent in (50, 99))
        return f"<{self.total:,} durations, half <= {half:,.1f} us, 99% <= {most:,.1f} us>"

    @property
    def total(self) -> int:
        """How many durations."""
        return sum(self.counts)

    def percentile_ns(self, percent: float) -> int:
        """An upper bound of the percentile, within a factor of two; 0 if there is nothing."""
        wanted = self.total * percent / 100
        reached = 0
        for bucket, count in enumerate(self.counts):
            reached += count
            if count and reached >= wanted:
                return 1 << bucket
        return 0


class ConnectionStats(msgspec.Struct, frozen=True):
    """One connection, at one moment.

    Attributes:
        name, policy, capacity: from the plan.
        sent: messages sent since the connection was made and until its reader closed or died.
        received: handed to the reader.
        released: given back by it. Counted when it next looks for a message.
        copied: of those received, how many became copies because it kept too many views.
        dropped: by reason: overwritten, lost, interrupted, unreadable, closed.
        queued: waiting to be read.
        latency: from send to receive.
    """

    name: str
    policy: str
    capacity: int
    sent: int
    received: int
    released: int
    copied: int
    dropped: dict[str, int]
    queued: int
    latency: LatencyHistogram

    def __repr__(self) -> str:
        drops = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items() if count)
        return (
            f"<{self.name} ({self.policy}, {self.capacity}): {self.sent:,} sent, "
            f"{self.received:,} received, {self.held:,} held, {self.queued:,} queued, "
            f"{drops or 'nothing'} dropped, {self.latency!r}>"
        )

    @property
    def held(self) -> int:
        """Received and not yet released."""
        return self.received - self.released

    @property
    def in_flight(self) -> int:
        """Waiting to be read, or held by the reader."""
        return self.queued + self.held

    @property
    def is_balanced(self) -> bool:
        """The invariant: `sent = released + dropped + in flight`, each within its bounds."""
        parts = (self.released, self.held, self.queued, *self.dropped.values())
        return self.sent == sum(parts) and min(parts) >= 0 and self.queued <= self.capacity

    @property
    def is_confirmed(self) -> bool:
        """Whether it balances and, with its reader at rest, is borne out by a second count.

        What was received is counted twice, apart: by the reader's position, and by the latency of
        each message. A reader that was killed may have counted its last one the first way only;
        what a reader had taken that was restarted then is counted as lost.
        """
        return self.is_balanced and -self.dropped["lost"] <= self._unseen <= 1

    @property
    def _unseen(self) -> int:
        return self.received - self.latency.total


class PortStats(msgspec.Struct, frozen=True):
    """One output port, at one moment.

    Attributes:
        name: from the plan.
        sent: messages sent.
        bytes: payload bytes sent, each message counted once however many read it.
        blocked_seconds: time spent waiting for credit.
        refused: messages turned away for lack of credit.
        loan_copies: loans that were copied because their array was still in use.
        connections: its readers.
    """

    name: str
    sent: int
    bytes: int
    blocked_seconds: float
    refused: int
    loan_copies: int
    connections: tuple[ConnectionStats, ...]


def connection_stats(
    words: memoryview, port: PortPlan, connection: ConnectionPlan
) -> ConnectionStats:
    """Read a connection's words. They move while they are read, but the account always balances."""
    at = connection.slot
    # A reader moves its position before it counts what became of the message. So: first how many
    # were sent, then what became of them, the position last, which covers all that was counted.
    sent_last = words[port.slot + PortWord.SENT]
    dropped = {reason: words[at + word] for reason, word in DROP_REASONS.items()}
    released, copied = words[at + ConnectionWord.RELEASED], words[at + ConnectionWord.COPIED]
    state = words[at + ConnectionWord.STATE]
    position, base = words[at + ConnectionWord.POSITION], words[at + ConnectionWord.BASE]
    counts = words[at + HISTOGRAM_AT : at + HISTOGRAM_AT + HISTOGRAM_BUCKETS].tolist()
    taken = max(0, position - base)
    received = taken - sum(dropped.values())
    if state in (ReaderState.CLOSED, ReaderState.LOST) or base == UNLINKED:
        queued = 0
    else:
        queued = max(0, sent_last - max(position, base))
    sent = taken + queued
    if not connection.policy.is_lossless:
        # A full queue loses its oldest before its reader knows.
        overwritten = max(0, queued - connection.capacity)
        dropped["overwritten"] += overwritten
        queued -= overwritten
    return ConnectionStats(
        name=connection.name,
        policy=connection.policy,
        capacity=connection.capacity,
        sent=sent,
        received=received,
        released=released,
        copied=copied,
        dropped=dropped,
        queued=queued,
        latency=LatencyHistogram(tuple(counts)),
    )


def port_stats(words: memoryview, port: PortPlan) -> PortStats:
    """Read a port's words and those of its connections."""
    connections = tuple(connection_stats(words, port, one) for one in port.connections)
    at = port.slot
    return PortStats(
        name=port.name,
        sent=words[at + PortWord.SENT],
        bytes=words[at + PortWord.BYTES],
        blocked_seconds=words[at + PortWord.BLOCKED_NS] / 1e9,
        refused=words[at + PortWord.REFUSED],
        loan_copies=words[at + PortWord.COPIES],
        connections=connections,
    )
