"""Processes that died, what they left, and those that take their place."""

from __future__ import annotations

import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.deaths import (
    await_again,
    is_mapped,
    note_death,
    note_restart,
    owed,
)
from remotemedia.core.multiprocess.channel.planning import Planner
from remotemedia.core.multiprocess.channel.turns import in_turn
from remotemedia.core.multiprocess.transport.ledger import ConnectionWord, Ledger, PortWord, taken
from remotemedia.errors import ChannelClosed

if TYPE_CHECKING:
    from collections.abc import Collection

    from remotemedia.core.multiprocess.channel.parties import Party
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan
    from remotemedia.core.multiprocess.transport.base import Transport


class Succession(Planner):
    """The part of a registry for dead processes; for how it is used see `ChannelRegistry`.

    Args:
        scope: as for `Planner`.
        ledger: as for `Planner`.
        transport: holds what dead processes left; not owned.
    """

    def __init__(self, scope: str, ledger: Ledger, transport: Transport) -> None:
        super().__init__(scope, ledger)
        self._transport = transport
        # Processes whose memory is still to be freed, by endpoint index; None is any that is dead.
        self._dead_pids: dict[int, set[int] | None] = {}

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
        party = self._known(name)
        for channel in self._channels_of(party):
            note_death(self.ledger.words, channel.plan, party.index)
        self._spread_death(party, pids)

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
        party = self._known(name)
        mine = self._channels_of(party)
        plans = [one.plan for one in mine]
        lost = note_restart(self.ledger.words, plans, party.plan, party.index, processed)
        for channel in mine:
            if channel.publisher is not None:
                channel.publisher.recount()
        self._spread_death(party, pids)
        return lost

    async def wait_until_mapped(self, timeout_seconds: float) -> int:
        """Wait until readers that may lose nothing can do without what dead processes have left.

        For before the next `ticket` of one of those, which frees memory: a message in memory that
        its reader has not mapped is lost then.

        Returns:
            How many messages are to be lost so, when the time is over.
        """
        deadline = time.monotonic() + timeout_seconds
        for party in [one for one in self._parties if one.is_dead]:
            unmapped = self._unmapped_of(party)
            if not unmapped:
                continue
            for _, connection in unmapped:
                self.ledger.words[connection.slot + ConnectionWord.CREDIT_WANTED] = 1
            bell = party.stand_in(self.ledger.words).in_loop()
            left_seconds = max(0.0, deadline - time.monotonic())
            with suppress(ChannelClosed):  # it has got its ticket: nothing of it is left to read
                await bell.wait_for(partial(self._is_mapped, party), left_seconds)
        words = self.ledger.words
        return sum(
            words[port.slot + PortWord.SENT] - taken(words, connection.slot)
            for party in self._parties
            if party.is_dead
            for port, connection in self._unmapped_of(party)
        )

    def _is_mapped(self, party: Party) -> bool | None:
        return None if self._unmapped_of(party) else True

    def _unmapped_of(self, party: Party) -> list[tuple[PortPlan, ConnectionPlan]]:
        """Find the lossless connections with messages of a dead process in unmapped memory."""
        words = self.ledger.words
        plans = [one.plan for one in self._channels_of(party) if one.plan.writer == party.index]
        return [
            (plan, connection)
            for plan in plans
            for connection in owed(words, plan)
            if connection.policy.is_lossless and not is_mapped(words, plan, connection)
        ]

    def _spread_death(self, party: Party, pids: Collection[int] | None) -> None:
        """Have everybody look at what the ledger says by now of the ends of a dead process."""
        self._parties.ring()
        others = self._dead_pids.get(party.index, set())
        both = None if pids is None or others is None else others.union(pids)
        self._dead_pids[party.index] = both
        party.is_dead = True
        self._clean_up_dead()

    def _make_way(self, party: Party) -> None:
        """Have the ends of a dead process awaited again, by the next, and free what it left."""
        # Not what others left that died since: their readers have not been waited for.
        self._free([self._dead_pids.pop(party.index, set())])
        party.is_dead = False
        party.close_stand_in()
        for channel in self._channels_of(party):
            await_again(self.ledger.words, channel.plan, party.index)

    def _clean_up_dead(self, *, even_unread: bool = False) -> None:
        """Free what dead processes left, unless there is something in it that is still to come."""
        if not self._dead_pids:
            return
        words, channels = self.ledger.words, self._channels.values()
        if even_unread or not any(owed(words, one.plan) for one in channels):
            dead, self._dead_pids = self._dead_pids, {}
            self._free(dead.values())

    def _free(self, pids: Collection[set[int] | None]) -> None:
        known = [one for one in pids if one is not None]
        named = set().union(*known) if len(known) == len(pids) else None
        if named is None or named:
            self._transport.clean_up_dead(named)
