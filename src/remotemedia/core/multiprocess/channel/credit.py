"""Credit: how much a port may send before its lossless readers have to read on.

Credit is a connection's capacity less what its reader has not taken yet: what a reader holds has
left the queue, so that a hoarder never stops its writer. It is read from the ledger, and only
when what was known of it is used up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.plan import ConnectionPlan, Policy, PortPlan
from remotemedia.core.multiprocess.transport.ledger import (
    UNLINKED,
    ConnectionWord,
    PortWord,
    ReaderState,
    taken,
)
from remotemedia.errors import BackpressureError, PeerLost

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.transport.doorbell import Doorbell

_NO_LIMIT = (1 << 63) - 1


class Credit:
    """The readers of one port, and what they have room for. Used under its publisher's lock.

    A publisher that is short asks its readers for credit by a word of each connection: then every
    message that is taken wakes it. Woken at each and not at some, because a reader may take one and
    then wait for something else.

    Args:
        port: the plan of the port.
        words: the ledger.
        doorbell: the publisher's.
        connect: has the transport look for readers that have opened.

    Attributes:
        connections: all that are sent to.
    """

    def __init__(
        self, port: PortPlan, words: memoryview, doorbell: Doorbell, connect: Callable[[], None]
    ) -> None:
        self.connections: list[ConnectionPlan] = []
        self._lossless: list[ConnectionPlan] = []
        self._unopened: list[ConnectionPlan] = []
        self._refused_at = port.slot + PortWord.REFUSED
        self._name = port.name
        self._words = words
        self._doorbell = doorbell
        self._connect = connect
        # Without a fence an asking that is seen too late could be missed: then it never ends.
        self._asks = not doorbell.is_fenced
        self._is_short = False
        self._short: ConnectionPlan | None = None

    def add(self, connection: ConnectionPlan, sent: int) -> None:
        """Send to a connection; one of a port that was open is owed what comes after `sent`."""
        words, at = self._words, connection.slot
        if words[at + ConnectionWord.BASE] == UNLINKED:
            words[at + ConnectionWord.BASE] = sent
        self.connections.append(connection)
        self._unopened.append(connection)
        if connection.policy.is_lossless:
            self._lossless.append(connection)
            words[at + ConnectionWord.CREDIT_WANTED] = self._asks

    def remove(self, connection: ConnectionPlan) -> None:
        """Forget a connection; no word of it is touched any more."""
        for known in (self.connections, self._lossless, self._unopened):
            if connection in known:
                known.remove(connection)
        self._short = None

    def limit(self, sent: int) -> int:
        """Look up the sequence number up to which everybody has room, after `sent` messages.

        Whoever is short after this is woken when that may have changed.

        Raises:
            PeerLost: a lossless reader died.
            BackpressureError: an `error` connection is full.
        """
        if not self.connect():
            self._short = self._unopened[0]
            return 0
        limit = self._look_up(sent)
        if sent >= limit and not self._asks:
            # Asked before they are looked at once more: who frees a slot after that, wakes us.
            self._ask(True)
            self._doorbell.fence()
            limit = self._look_up(sent)
        was_short, self._is_short = self._is_short, sent >= limit
        # Who was short just now, will be so again: asking goes on until there is room at once.
        if self._asks and not self._is_short and not was_short and self._doorbell.is_fenced:
            self._ask(False)
            if self._doorbell.is_asleep:
                self._doorbell.ring()  # others of us wait: they have to ask anew
        return limit

    def lookable(self) -> tuple[tuple[int, int], ...] | None:
        """The slots and capacities of the lossless readers, where a look at them is all it takes.

        Then there is credit up to the least of what each has taken and its capacity, as long as
        all of them are open. None: `limit` has more to do.
        """
        if self._unopened or self._asks:
            return None
        return tuple((one.slot, one.capacity) for one in self._lossless)

    def connect(self) -> bool:
        """Connect to readers that have opened; whether all have."""
        if not self._unopened:
            return True
        words, at = self._words, ConnectionWord.STATE
        waiting = [c for c in self._unopened if words[c.slot + at] == ReaderState.UNOPENED]
        if len(waiting) < len(self._unopened):
            self._connect()
            self._unopened = waiting
        return not waiting

    def refusal(self) -> BackpressureError:
        """Count a message that is turned away, and make the error for it."""
        self._words[self._refused_at] += 1
        short = self._short
        if short is None:
            return BackpressureError(self._name, 0, "no reader")
        is_open = self._words[short.slot + ConnectionWord.STATE] != ReaderState.UNOPENED
        return BackpressureError(short.name, short.capacity, short.policy, is_open=is_open)

    def is_taken(self, sent: int, *, by_lossless: bool = False) -> bool:
        """Whether every reader that is open, or every lossless one, has taken all of `sent`.

        Lossless ones that have not, wake us when they have.
        """
        waits_for = [
            one
            for one in (self._lossless if by_lossless else self.connections)
            if self._words[one.slot + ConnectionWord.STATE] == ReaderState.OPEN
            and taken(self._words, one.slot) < sent
        ]
        if waits_for and by_lossless and not self._asks:
            self._ask(True)
        return not waits_for

    def _look_up(self, sent: int) -> int:
        words, limit = self._words, _NO_LIMIT
        for connection in self._lossless:
            state = words[connection.slot + ConnectionWord.STATE]
            if state == ReaderState.LOST:
                raise PeerLost(f"the reader of connection {connection.name} died")
            if state == ReaderState.CLOSED:
                continue
            room = taken(words, connection.slot) + connection.capacity
            if state == ReaderState.UNOPENED:  # another process takes the place of one that died
                self._short, room = connection, 0
                if connection not in self._unopened:
                    self._unopened.append(connection)
            elif room <= sent:
                self._short = connection
                if connection.policy is Policy.ERROR:
                    words[self._refused_at] += 1
                    raise BackpressureError(connection.name, connection.capacity, "error")
            limit = min(limit, room)
        return limit

    def _ask(self, asks: bool) -> None:
        self._asks = False  # interrupted in between, it must not be taken for asked
        for connection in self._lossless:
            self._words[connection.slot + ConnectionWord.CREDIT_WANTED] = asks
        self._asks = asks
