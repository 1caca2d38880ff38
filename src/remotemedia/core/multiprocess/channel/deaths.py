"""What the ledger says of the ends of a process that died, until another takes its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.stats import connection_stats
from remotemedia.core.multiprocess.transport.ledger import (
    ConnectionWord,
    EndpointWord,
    PortState,
    PortWord,
    ReaderState,
    drop_unread,
    taken,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from remotemedia.core.multiprocess.channel.stats import ConnectionStats
    from remotemedia.core.multiprocess.plan import ConnectionPlan, EndpointPlan, PortPlan


def note_death(words: memoryview, plan: PortPlan, index: int) -> None:
    """Mark the ends that an endpoint had of a port as lost, unless they had ended before."""
    if plan.writer == index and words[plan.slot + PortWord.STATE] != PortState.FINISHED:
        words[plan.slot + PortWord.STATE] = PortState.LOST
    for connection in plan.connections:
        at = connection.slot + ConnectionWord.STATE
        if connection.reader == index and words[at] != ReaderState.CLOSED:
            words[at] = ReaderState.LOST
            drop_unread(words, plan.slot, connection.slot, ConnectionWord.DROPPED_LOST)


def await_again(words: memoryview, plan: PortPlan, index: int) -> None:
    """Mark the ends that an endpoint has of a port as still to be opened, by another process."""
    if plan.writer == index:
        words[plan.slot + PortWord.STATE] = PortState.UNOPENED
    for connection in plan.connections:
        if connection.reader == index:
            words[connection.slot + ConnectionWord.STATE] = ReaderState.UNOPENED


def note_restart(
    words: memoryview,
    plans: Collection[PortPlan],
    endpoint: EndpointPlan,
    index: int,
    processed: int | None,
) -> int:
    """Mark the ends of a process that died as awaited again, and count what is lost with it.

    Nobody ever sees them lost: who writes to it waits for the next process, who reads from it too.

    Args:
        words: the ledger.
        plans: the ports that it has ends of.
        endpoint: the process.
        index: its index.
        processed: how many messages it has worked off; None: those that it has released.

    Returns:
        How many messages it had taken, by connections that lose none, and not worked off.
    """
    mine = [(plan, one) for plan in plans for one in plan.connections if one.reader == index]
    for plan in plans:
        # Before anything is counted: what is dropped must not look like room to its writer.
        await_again(words, plan, index)
        if plan.writer == index:
            # What its readers do not find in their queues is excused.
            words[plan.slot + PortWord.SKIPPED] = words[plan.slot + PortWord.SENT]
            words[plan.slot + PortWord.HANDED] = words[plan.slot + PortWord.SENT]
    found = [(one, connection_stats(words, plan, one)) for plan, one in mine]
    in_hand, missed = _in_hand(words, found, endpoint, processed), 0
    for (connection, stats), lost in zip(found, in_hand, strict=True):
        missed += lost if connection.policy.is_lossless else 0
        words[connection.slot + ConnectionWord.DROPPED_LOST] += lost
        words[connection.slot + ConnectionWord.RELEASED] = stats.received - lost
    for plan, connection in mine:
        drop_unread(words, plan.slot, connection.slot, ConnectionWord.DROPPED_LOST)
    words[endpoint.slot + EndpointWord.BEGAN_NS] = 0
    return missed


def _in_hand(
    words: memoryview,
    found: Sequence[tuple[ConnectionPlan, ConnectionStats]],
    endpoint: EndpointPlan,
    processed: int | None,
) -> list[int]:
    """Return how many messages of each connection a dead process had taken and not worked off."""
    if processed is None:
        return [stats.held for _, stats in found]
    left, lost = sum(stats.received for _, stats in found) - processed, [0] * len(found)
    is_busy = words[endpoint.slot + EndpointWord.BEGAN_NS]
    at = words[endpoint.slot + EndpointWord.CONNECTION] if is_busy else 0

    def is_elsewhere(number: int) -> tuple[bool, int]:
        return found[number][0].slot != at, -found[number][1].held

    for number in sorted(range(len(found)), key=is_elsewhere):
        lost[number] = max(0, min(left, found[number][1].received))
        left -= lost[number]
    return lost


def is_mapped(words: memoryview, plan: PortPlan, connection: ConnectionPlan) -> bool:
    """Whether a reader has mapped the memory of all that its port sent: then it can be freed."""
    first = words[connection.slot + ConnectionWord.FIRST]
    moved = words[plan.slot + PortWord.MOVED]
    return bool(words[connection.slot + ConnectionWord.POSITION] >= max(first, moved))


def owed(words: memoryview, plan: PortPlan) -> list[ConnectionPlan]:
    """Return the connections whose readers may still take what a dead writer sent."""
    if words[plan.slot + PortWord.STATE] not in (PortState.LOST, PortState.UNOPENED):
        return []
    return [
        one
        for one in plan.connections
        if words[one.slot + ConnectionWord.STATE] == ReaderState.OPEN
        and taken(words, one.slot) < words[plan.slot + PortWord.SENT]
    ]
