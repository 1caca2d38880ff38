"""What the ledger says of the ends of a process that died, until another takes its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.transport.ledger import (
    ConnectionWord,
    PortState,
    PortWord,
    ReaderState,
    drop_unread,
)

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.plan import PortPlan


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


def is_owed(words: memoryview, plan: PortPlan) -> bool:
    """Whether a reader may still take what a dead writer sent."""
    return words[plan.slot + PortWord.STATE] == PortState.LOST and any(
        words[one.slot + ConnectionWord.STATE] == ReaderState.OPEN
        and max(words[one.slot + ConnectionWord.POSITION], words[one.slot + ConnectionWord.BASE])
        < words[plan.slot + PortWord.SENT]
        for one in plan.connections
    )
