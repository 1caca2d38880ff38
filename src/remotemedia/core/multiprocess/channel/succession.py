"""Processes that died: what the ledger says of their ends until others take their places."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.stats import connection_stats
from remotemedia.core.multiprocess.transport.ledger import (
    ConnectionWord,
    EndpointWord,
    Ledger,
    PortState,
    PortWord,
    ReaderState,
    drop_unread,
    taken,
)
from remotemedia.errors import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from remotemedia.core.multiprocess.channel.parties import Parties, Party
    from remotemedia.core.multiprocess.channel.planning import Planner
    from remotemedia.core.multiprocess.channel.stats import ConnectionStats
    from remotemedia.core.multiprocess.plan import ConnectionPlan, EndpointPlan, PortPlan
    from remotemedia.core.multiprocess.transport.base import Transport


class Succession:
    """Follows the processes of a registry that died, until others have taken their places.

    Args:
        ledger: says how their ends stand; not owned.
        parties: those that take part.
        planner: knows their channels.
        transport: holds what dead processes left; not owned.
    """

    def __init__(
        self, ledger: Ledger, parties: Parties, planner: Planner, transport: Transport
    ) -> None:
        self._words = ledger.words
        self._parties = parties
        self._planner = planner
        self._transport = transport
        # Processes whose memory is still to be freed, by endpoint index; None is any that is dead.
        self._dead_pids: dict[int, set[int] | None] = {}

    def note_death(self, party: Party, pids: Collection[int] | None) -> None:
        """See `ChannelRegistry.endpoint_died`."""
        for channel in self._planner.channels_of(party):
            _mark_lost(self._words, channel.plan, party.index)
        self._spread_death(party, pids)

    def note_restart(
        self, party: Party, processed: int | None, pids: Collection[int] | None
    ) -> int:
        """See `ChannelRegistry.endpoint_restarts`."""
        mine = self._planner.channels_of(party)
        plans = [one.plan for one in mine]
        lost = _count_restart(self._words, plans, party.plan, party.index, processed)
        for channel in mine:
            if channel.publisher is not None:
                channel.publisher.recount()
        self._spread_death(party, pids)
        return lost

    async def wait_until_mapped(self, timeout_seconds: float) -> int:
        """See `ChannelRegistry.wait_until_mapped`."""
        deadline = time.monotonic() + timeout_seconds
        for party in [one for one in self._parties if one.is_dead]:
            unmapped = self._unmapped_of(party)
            if not unmapped:
                continue
            for _, connection in unmapped:
                self._words[connection.slot + ConnectionWord.CREDIT_WANTED] = 1
            bell = party.stand_in(self._words).in_loop()
            left_seconds = max(0.0, deadline - time.monotonic())
            with suppress(ChannelClosed):  # it has got its ticket: nothing of it is left to read
                await bell.wait_for(partial(self._has_mapped, party), left_seconds)
        words = self._words
        return sum(
            words[port.slot + PortWord.SENT] - taken(words, connection.slot)
            for party in self._parties
            if party.is_dead
            for port, connection in self._unmapped_of(party)
        )

    def make_way(self, party: Party) -> None:
        """Have the ends of a dead process awaited again, by the next, and free what it left."""
        # Not what others left that died since: their readers have not been waited for.
        self._free([self._dead_pids.pop(party.index, set())])
        party.is_dead = False
        party.close_stand_in()
        for channel in self._planner.channels_of(party):
            _await_again(self._words, channel.plan, party.index)

    def free_leftovers(self, *, even_unread: bool = False) -> None:
        """Free what dead processes left, unless there is something in it that is still to come."""
        if not self._dead_pids:
            return
        words, channels = self._words, self._planner.channels.values()
        if even_unread or not any(_owed(words, one.plan) for one in channels):
            dead, self._dead_pids = self._dead_pids, {}
            self._free(dead.values())

    def _has_mapped(self, party: Party) -> bool | None:
        return None if self._unmapped_of(party) else True

    def _unmapped_of(self, party: Party) -> list[tuple[PortPlan, ConnectionPlan]]:
        """Find the lossless connections with messages of a dead process in unmapped memory."""
        words = self._words
        plans = [
            one.plan for one in self._planner.channels_of(party) if one.plan.writer == party.index
        ]
        return [
            (plan, connection)
            for plan in plans
            for connection in _owed(words, plan)
            if connection.policy.is_lossless and not _is_mapped(words, plan, connection)
        ]

    def _spread_death(self, party: Party, pids: Collection[int] | None) -> None:
        """Have everybody look at what the ledger says by now of the ends of a dead process."""
        self._parties.ring()
        others = self._dead_pids.get(party.index, set())
        both = None if pids is None or others is None else others.union(pids)
        self._dead_pids[party.index] = both
        party.is_dead = True
        self.free_leftovers()

    def _free(self, pids: Collection[set[int] | None]) -> None:
        known = [one for one in pids if one is not None]
        named = set().union(*known) if len(known) == len(pids) else None
        if named is None or named:
            self._transport.free_leftovers(named)


def _mark_lost(words: memoryview, plan: PortPlan, index: int) -> None:
    """Mark the ends that an endpoint had of a port as lost, unless they had ended before."""
    if plan.writer == index and words[plan.slot + PortWord.STATE] != PortState.FINISHED:
        words[plan.slot + PortWord.STATE] = PortState.LOST
    for connection in plan.connections:
        at = connection.slot + ConnectionWord.STATE
        if connection.reader == index and words[at] != ReaderState.CLOSED:
            words[at] = ReaderState.LOST
            drop_unread(words, plan.slot, connection.slot, ConnectionWord.DROPPED_LOST)


def _await_again(words: memoryview, plan: PortPlan, index: int) -> None:
    """Mark the ends that an endpoint has of a port as still to be opened, by another process."""
    if plan.writer == index:
        words[plan.slot + PortWord.STATE] = PortState.UNOPENED
    for connection in plan.connections:
        if connection.reader == index:
            words[connection.slot + ConnectionWord.STATE] = ReaderState.UNOPENED


def _count_restart(
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
        _await_again(words, plan, index)
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


def _is_mapped(words: memoryview, plan: PortPlan, connection: ConnectionPlan) -> bool:
    """Whether a reader has mapped the memory of all that its port sent: then it can be freed."""
    first = words[connection.slot + ConnectionWord.FIRST]
    moved = words[plan.slot + PortWord.MOVED]
    return bool(words[connection.slot + ConnectionWord.POSITION] >= max(first, moved))


def _owed(words: memoryview, plan: PortPlan) -> list[ConnectionPlan]:
    """Return the connections whose readers may still take what a dead writer sent."""
    if words[plan.slot + PortWord.STATE] not in (PortState.LOST, PortState.UNOPENED):
        return []
    return [
        one
        for one in plan.connections
        if words[one.slot + ConnectionWord.STATE] == ReaderState.OPEN
        and taken(words, one.slot) < words[plan.slot + PortWord.SENT]
    ]
