"""The two state machines: complete tables, and what they forbid."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotemedia.core.multiprocess.states import (
    PROCESS,
    SESSION,
    IllegalTransition,
    Machine,
    ProcessEvent,
    ProcessState,
    SessionEvent,
    SessionState,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_every_pair_of_state_and_event_is_written_down() -> None:
    # PROCESSING is read from the ledger: no event leads to it or away from it.
    assert set(PROCESS.table) == set(ProcessState) - {ProcessState.PROCESSING}
    assert set(SESSION.table) == set(SessionState)
    assert all(set(row) == set(ProcessEvent) for row in PROCESS.table.values())
    assert all(set(row) == set(SessionEvent) for row in SESSION.table.values())


def test_a_process_lives_from_initializing_to_stopped() -> None:
    state = PROCESS.first
    for event in (ProcessEvent.READY, ProcessEvent.DRAIN, ProcessEvent.STOP, ProcessEvent.EXITED):
        state = PROCESS.next(state, event)
    assert state is ProcessState.STOPPED


def test_a_session_lives_from_initializing_to_terminated() -> None:
    state = SESSION.first
    for event in (
        SessionEvent.ALL_READY,
        SessionEvent.FIRST_INPUT,
        SessionEvent.TERMINATE,
        SessionEvent.ALL_GONE,
    ):
        state = SESSION.next(state, event)
    assert state is SessionState.TERMINATED


@pytest.mark.parametrize(
    "state", [ProcessState.INITIALIZING, ProcessState.READY, ProcessState.DRAINING]
)
def test_an_exit_that_was_not_asked_for_is_an_error(state: ProcessState) -> None:
    assert PROCESS.next(state, ProcessEvent.EXITED) is ProcessState.ERROR


def test_stopping_and_terminating_can_be_asked_for_at_any_time_and_again() -> None:
    for process_state in PROCESS.table:
        asked = PROCESS.next(process_state, ProcessEvent.STOP)
        assert PROCESS.next(asked, ProcessEvent.STOP) is asked
    for session_state in SESSION.table:
        ended = SESSION.next(session_state, SessionEvent.TERMINATE)
        assert SESSION.next(ended, SessionEvent.TERMINATE) is ended


class Life(NamedTuple):
    """What is known of a process, as far as it decides which events can come next."""

    state: ProcessState = PROCESS.first
    is_ready: bool = False
    has_failed: bool = False
    is_told: bool = False
    has_exited: bool = False

    def events(self) -> Iterator[tuple[ProcessEvent, Life]]:
        """What can come now, and what is known after it; the state is that before it."""
        yield ProcessEvent.STOP, self._replace(is_told=True)
        if self.state in (ProcessState.READY, ProcessState.DRAINING):
            yield ProcessEvent.DRAIN, self
        if not self.is_ready and not self.has_exited:
            yield ProcessEvent.READY, self._replace(is_ready=True)
        if not self.has_failed and self.state is not ProcessState.STOPPED:
            yield ProcessEvent.FAILED, self._replace(has_failed=True)
            if not self.is_told:  # an end lets go of restarts before it stops anything
                yield ProcessEvent.REPLACED, self._replace(has_failed=True)
        is_replaced = self.has_exited and self.state is ProcessState.STOPPING
        if is_replaced or (not self.has_exited and (self.has_failed or self.is_told)):
            yield ProcessEvent.EXITED, self._replace(has_exited=True)


def test_every_event_that_can_come_to_a_process_has_a_place_in_the_table() -> None:
    seen, new = set[Life](), {Life()}
    while new:
        seen |= new
        pairs = [(life.state, *then) for life in new for then in life.events()]
        new = {after._replace(state=PROCESS.next(state, event)) for state, event, after in pairs}
        new -= seen
    assert {life.state for life in seen} == set(PROCESS.table)


@pytest.mark.parametrize("state", PROCESS.table)
def test_a_node_can_be_restarted_wherever_its_failure_would_be_an_error(
    state: ProcessState,
) -> None:
    is_first_failure = (
        state is not ProcessState.ERROR
        and PROCESS.table[state][ProcessEvent.FAILED] is ProcessState.ERROR
    )
    expected = ProcessState.RESTARTING if is_first_failure else None
    assert PROCESS.table[state][ProcessEvent.REPLACED] is expected


def test_an_event_that_cannot_come_raises_and_names_it() -> None:
    with pytest.raises(IllegalTransition, match="process: 'ready' cannot come while ready"):
        PROCESS.next(ProcessState.READY, ProcessEvent.READY)
    with pytest.raises(IllegalTransition, match="session: 'all processes gone' cannot come"):
        SESSION.next(SessionState.RUNNING, SessionEvent.ALL_GONE)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(ProcessEvent), max_size=12))
def test_no_process_comes_back_from_stopped_or_error(events: list[ProcessEvent]) -> None:
    state, ended = PROCESS.first, None
    for event in events:
        if PROCESS.table[state][event] is not None:
            state = PROCESS.next(state, event)
        if ended is not None:
            assert state is ended
        if state in (ProcessState.STOPPED, ProcessState.ERROR):
            ended = state


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(SessionEvent), max_size=12))
def test_no_session_comes_back_from_terminated_or_error(events: list[SessionEvent]) -> None:
    state, ended = SESSION.first, None
    for event in events:
        if SESSION.table[state][event] is not None:
            state = SESSION.next(state, event)
        if ended is not None:
            assert state is ended
        if state in (SessionState.TERMINATED, SessionState.ERROR):
            ended = state


def test_the_diagram_draws_exactly_the_changes_of_the_table() -> None:
    class Light(StrEnum):
        OFF = "off"
        ON = "on"

    class Switch(StrEnum):
        PRESS = "press"
        HOLD = "hold"

    machine: Machine[Light, Switch] = Machine(
        "light",
        Light.OFF,
        {
            Light.OFF: {Switch.PRESS: Light.ON, Switch.HOLD: None},
            Light.ON: {Switch.PRESS: Light.OFF, Switch.HOLD: Light.ON},
        },
    )
    assert machine.diagram() == (
        "stateDiagram-v2\n    [*] --> OFF\n    OFF --> ON: press\n    ON --> OFF: press"
    )
