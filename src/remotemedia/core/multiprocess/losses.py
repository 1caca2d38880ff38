"""Which inputs a node that crashed and was restarted has cost: whoever streams one is told.

The ledger counts what is lost with a process, and does not know of which input it was. But it knows
which input the node had last, and the session knows which others were under way: what is lost is of
those. They are judged when they end, for by then all that is lost has been counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from remotemedia.core.findings import first_line
from remotemedia.core.multiprocess import flow
from remotemedia.core.multiprocess.transport.ledger import EndpointWord
from remotemedia.errors import NodeFailed, ProcessCrashed

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.wiring import Wiring
    from remotemedia.errors import ExecutorError

__all__ = ["LastState", "Losses"]


@dataclass(frozen=True, slots=True)
class LastState:
    """What the ledger said of a node that crashed, before its next process was waited for.

    Attributes:
        node_id: the node.
        last, is_busy: the input whose message it had last, and whether it was working on that.
        ended: it had finished with every input up to this number.
        taken: up to which message each input of the session that reaches it has been read.
        lost: how many messages had been lost on the way to it and from it.
    """

    node_id: str
    last: int
    is_busy: bool
    ended: int
    taken: dict[tuple[str, str], int]
    lost: tuple[int, int]


@dataclass(slots=True)
class _Suspicion:
    """Inputs that a crash may have cost messages.

    Attributes:
        node_id, error: which node crashed, and how.
        worked_on: the one that certainly lost the message that was worked on; 0 is none.
        ahead: inputs that the node may not have had all of; they may have lost what was lost on the
            way to it.
        numbers: all that were under way; they may have lost what was lost on the way from it.
        lost: how many messages had been lost on the way to it and from it; more are of these.
        keys: where inputs come in that reach the node.
        is_open: the node is still away: what comes in meanwhile may be lost too.
    """

    node_id: str
    error: ExecutorError
    worked_on: int
    ahead: set[int]
    numbers: set[int]
    lost: tuple[int, int]
    keys: set[tuple[str, str]]
    is_open: bool


class Losses:
    """Follows the inputs of a session that somebody streams.

    Args:
        wiring: the session's channels.
    """

    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._words = wiring.registry.ledger.words
        self._entries: dict[int, tuple[tuple[str, str], int]] = {}
        self._suspicions: list[_Suspicion] = []

    def enter(self, number: int, key: tuple[str, str], sequence: int) -> None:
        """An input was sent, by this input port of the session and as this message of it."""
        self._entries[number] = key, sequence
        for one in self._suspicions:
            if one.is_open and key in one.keys:
                one.numbers.add(number)
                one.ahead.add(number)

    def forget(self, number: int) -> None:
        """Nobody waits for an input any more."""
        self._entries.pop(number, None)
        for one in self._suspicions:
            one.numbers.discard(number)
            one.ahead.discard(number)
        self._tidy()

    def last_state(self, node_id: str) -> LastState:
        """Return what the ledger says of a node that crashed; `Wiring.vacate` overwrites it."""
        words, tally = self._words, self._wiring.tally
        slot = tally.slot(node_id)
        return LastState(
            node_id,
            last=words[slot + EndpointWord.CORRELATION],
            is_busy=words[slot + EndpointWord.BEGAN_NS] != 0,
            ended=words[slot + EndpointWord.ENDED],
            taken={key: tally.taken(key) for key in flow.leads_to(self._wiring.pipeline, node_id)},
            lost=tally.lost(node_id),
        )

    def suspect(self, before: LastState, in_hand: int, error: ExecutorError) -> None:
        """Note which inputs a crash may have cost messages.

        Args:
            before: of the node, before all waited for its next process, as they do now.
            in_hand: how many messages it had taken, where none may be lost, and not worked off.
            error: how it crashed.
        """
        node_id, last, taken, keys = before.node_id, before.last, before.taken, set(before.taken)
        # What has not been read where it came in, has not come as far as the node.
        numbers = {
            number
            for number, (key, sequence) in self._entries.items()
            if key in keys and (key[0] == node_id or sequence <= taken[key])
        }
        ahead = {number for number in numbers if number > before.ended}
        if keys and flow.is_single_way(self._wiring.pipeline, node_id):
            # All come to it in the order in which they came in: those before its last have gone by.
            (key,) = keys
            first = taken[key] + 1 - in_hand
            if key[0] != node_id:
                first = self._entries[last][1] if last in self._entries else 0
            ahead = {number for number in ahead if self._entries[number][1] >= first}
        worked_on = last if before.is_busy else 0
        to_it, from_it = before.lost
        lost = to_it + (in_hand if before.is_busy else 0), from_it
        # They may come to it, or to where it was, before its next process does.
        behind = {n for n, (key, _) in self._entries.items() if key in keys} - numbers
        now = self._wiring.tally.lost(node_id)
        self._suspicions += [
            _Suspicion(node_id, error, worked_on, ahead, numbers, lost, keys, is_open=False),
            _Suspicion(node_id, error, 0, behind, set(behind), now, keys, is_open=True),
        ]

    def note_back(self, node_id: str) -> None:
        """The next process of a node is ready."""
        for one in self._suspicions:
            if one.node_id == node_id:
                one.is_open = False
        self._tidy()

    def failure_of(self, number: int) -> NodeFailed | None:
        """Return what an input that has ended has lost; None if it is whole."""
        for one in self._suspicions:
            if number in one.numbers and self._is_hit(one, number):
                return self._failure(one, number)
        return None

    def _is_hit(self, one: _Suspicion, number: int) -> bool:
        if number == one.worked_on:
            return True
        to_it, from_it = self._wiring.tally.lost(one.node_id)
        return (number in one.ahead and to_it > one.lost[0]) or from_it > one.lost[1]

    def _failure(self, one: _Suspicion, number: int) -> NodeFailed:
        error, working_on = one.error, f"messages of input {number}"
        cause, traceback = first_line(error), ""
        if isinstance(error, ProcessCrashed):
            cause, traceback = error.cause, error.traceback
            if number == one.worked_on and error.working_on:
                working_on = error.working_on
        failure = NodeFailed(
            *(one.node_id, self._wiring.session_id, cause),
            traceback=traceback,
            working_on=working_on,
        )
        failure.__cause__ = error
        return failure

    def _tidy(self) -> None:
        self._suspicions = [one for one in self._suspicions if one.numbers or one.is_open]
