"""The processes that take part in the channels of one registry."""

from __future__ import annotations

import itertools
import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.channel.bell import Bell
from remotemedia.core.multiprocess.plan import EndpointPlan
from remotemedia.core.multiprocess.transport.doorbell import Doorbell
from remotemedia.core.multiprocess.transport.ledger import ENDPOINT_WORDS, EndpointWord, Ledger
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.errors import ChannelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotemedia.core.multiprocess.channel.endpoint import Endpoint


@dataclass
class Party:
    """A process that takes part, as its maker sees it.

    Attributes:
        doorbell_fd: the registry's own; an endpoint opened here has a duplicate.
        is_private: made for one end in this process, and gone with it.
        has_ticket: it may live in another process.
        is_dead: that process is dead.
        endpoint: its end that is open in this process.
    """

    index: int
    plan: EndpointPlan
    doorbell_fd: int
    is_private: bool = False
    has_ticket: bool = False
    is_dead: bool = False
    endpoint: Endpoint | None = None
    _stand_in: Doorbell | None = None

    def stand_in(self, words: memoryview) -> Doorbell:
        """Return its doorbell to wait on in its place, for as long as it is dead."""
        if self._stand_in is None:
            with limits_named(f"waiting in the place of endpoint {self.plan.name!r}"):
                fd = os.dup(self.doorbell_fd)
            self._stand_in = Doorbell(words, self.plan.slot, fd)
        return self._stand_in

    def close_stand_in(self) -> None:
        """End the waits in its place; twice is harmless."""
        stand_in, self._stand_in = self._stand_in, None
        if stand_in is not None:
            stand_in.close()

    def close(self) -> None:
        """Give its doorbell back."""
        self.close_stand_in()
        os.close(self.doorbell_fd)


class Parties:
    """All that take part, by the indices that plans and tickets call them.

    Args:
        ledger: where each has a block.

    Attributes:
        bells: their doorbells, by index. Endpoints that are opened here ring by it.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.bells: dict[int, Bell] = {}
        self._ledger = ledger
        self._parties: dict[int, Party] = {}
        self._indices = itertools.count()

    def __iter__(self) -> Iterator[Party]:
        return iter(self._parties.values())

    def __getitem__(self, index: int) -> Party:
        return self._parties[index]

    def add(self, name: str, *, is_private: bool = False) -> Party:
        """Plan one more.

        Raises:
            ChannelError: the name is taken.
            ResourceLimit: the ledger is full, or too many files are open; nothing is planned.
        """
        if any(party.plan.name == name for party in self):
            raise ChannelError(f"there is an endpoint {name!r} already")
        slot = self._ledger.allocate(ENDPOINT_WORDS)
        try:
            doorbell_fd = Doorbell.new_fd()
        except BaseException:
            self._ledger.free(slot, ENDPOINT_WORDS)
            raise
        plan = EndpointPlan(name, slot)
        party = Party(next(self._indices), plan, doorbell_fd, is_private)
        self._parties[party.index] = party
        self.bells[party.index] = Bell(party.doorbell_fd, plan.slot + EndpointWord.ASLEEP)
        return party

    def named(self, name: str) -> Party:
        """Return the one of that name.

        Raises:
            ChannelError: it is unknown.
        """
        for party in self:
            if party.plan.name == name:
                return party
        known = ", ".join(repr(party.plan.name) for party in self) or "none"
        raise ChannelError(
            f"there is no endpoint {name!r} (there are: {known}); add_endpoint it first"
        )

    def remove(self, party: Party) -> None:
        """Give back what was made for a private end, when nobody rings it any more."""
        del self._parties[party.index], self.bells[party.index]
        if party.endpoint is not None:
            party.endpoint.close()
        party.close()
        self._ledger.free(party.plan.slot, ENDPOINT_WORDS)

    def ring(self) -> None:
        """Wake everybody, whether or not they sleep."""
        for party in self:
            os.eventfd_write(party.doorbell_fd, 1)

    def close(self) -> None:
        """Close what is open here, and every doorbell: ends first, which ring those they know."""
        endpoints = [party.endpoint for party in self if party.endpoint is not None]
        with ExitStack() as steps:  # which are all taken, from the last to the first
            for party in self:
                steps.callback(party.close)
            for endpoint in endpoints:
                steps.callback(endpoint.leave)
                steps.callback(endpoint.close)
            for endpoint in endpoints:
                steps.callback(endpoint.close_ends)
