"""The two state machines: complete tables, and what they forbid."""

from __future__ import annotations

from enum import StrEnum

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
