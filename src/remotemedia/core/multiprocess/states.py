"""The two state machines: of a node's process and of a session. Every pair is written down."""

from __future__ import annotations

from enum import StrEnum
from typing import Generic, TypeVar

__all__ = [
    "PROCESS",
    "SESSION",
    "IllegalTransition",
    "Machine",
    "ProcessEvent",
    "ProcessState",
    "SessionEvent",
    "SessionState",
]


class ProcessState(StrEnum):
    """How far a node's process is."""

    INITIALIZING = "initializing"
    READY = "ready"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"
    PROCESSING = "processing"
    """Ready, and working on a message: read from the ledger, not from this machine."""
    RESTARTING = "restarting"
    """It has failed, and another process takes its place, which begins at INITIALIZING."""


class ProcessEvent(StrEnum):
    """What happens to a node's process."""

    READY = "ready"
    DRAIN = "drain"
    STOP = "stop"
    EXITED = "exited"
    FAILED = "failed"
    REPLACED = "failed, to be restarted"


class SessionState(StrEnum):
    """How far a session is (the contract's SessionStatus)."""

    INITIALIZING = "initializing"
    READY = "ready"
    RUNNING = "running"
    TERMINATING = "terminating"
    TERMINATED = "terminated"
    ERROR = "error"


class SessionEvent(StrEnum):
    """What happens to a session."""

    ALL_READY = "all nodes ready"
    FIRST_INPUT = "first input or output"
    FAILED = "a node failed"
    TERMINATE = "terminate"
    ALL_GONE = "all processes gone"


S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)


class IllegalTransition(RuntimeError):
    """An event came in a state that has no place for it: a fault of ours."""


class Machine(Generic[S, E]):
    """A complete table of states and events.

    Args:
        name: for errors and diagrams.
        first: the state at the beginning.
        table: the next state by state and event; None where the event cannot come.
    """

    def __init__(self, name: str, first: S, table: dict[S, dict[E, S | None]]) -> None:
        self.name = name
        self.first = first
        self.table = table

    def next(self, state: S, event: E) -> S:
        """Return the state that follows.

        Raises:
            IllegalTransition: the event cannot come in this state.
        """
        found = self.table[state][event]
        if found is None:
            raise IllegalTransition(f"{self.name}: {event.value!r} cannot come while {state.value}")
        return found

    def diagram(self) -> str:
        """Draw the table as a Mermaid state diagram."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.first.name}"]
        for state, row in self.table.items():
            for event, following in row.items():
                if following is not None and following is not state:
                    lines.append(f"    {state.name} --> {following.name}: {event.value}")
        return "\n".join(lines)


_P, _PE = ProcessState, ProcessEvent
PROCESS: Machine[ProcessState, ProcessEvent] = Machine(
    "process",
    _P.INITIALIZING,
    {
        _P.INITIALIZING: {
            _PE.READY: _P.READY,
            _PE.DRAIN: None,
            _PE.STOP: _P.STOPPING,
            _PE.EXITED: _P.ERROR,
            _PE.FAILED: _P.ERROR,
            _PE.REPLACED: _P.RESTARTING,
        },
        _P.READY: {
            _PE.READY: None,
            _PE.DRAIN: _P.DRAINING,
            _PE.STOP: _P.STOPPING,
            _PE.EXITED: _P.ERROR,
            _PE.FAILED: _P.ERROR,
            _PE.REPLACED: _P.RESTARTING,
        },
        _P.DRAINING: {
            _PE.READY: _P.DRAINING,
            _PE.DRAIN: _P.DRAINING,
            _PE.STOP: _P.STOPPING,
            _PE.EXITED: _P.ERROR,
            _PE.FAILED: _P.ERROR,
            _PE.REPLACED: _P.RESTARTING,
        },
        _P.STOPPING: {
            _PE.READY: _P.STOPPING,
            _PE.DRAIN: _P.STOPPING,
            _PE.STOP: _P.STOPPING,
            _PE.EXITED: _P.STOPPED,
            _PE.FAILED: _P.STOPPING,
            _PE.REPLACED: None,
        },
        _P.STOPPED: {
            _PE.READY: None,
            _PE.DRAIN: None,
            _PE.STOP: _P.STOPPED,
            _PE.EXITED: None,
            _PE.FAILED: None,
            _PE.REPLACED: None,
        },
        _P.ERROR: {
            _PE.READY: _P.ERROR,
            _PE.DRAIN: _P.ERROR,
            _PE.STOP: _P.ERROR,
            _PE.EXITED: _P.ERROR,
            _PE.FAILED: _P.ERROR,
            _PE.REPLACED: None,
        },
        _P.RESTARTING: {
            _PE.READY: _P.RESTARTING,
            _PE.DRAIN: _P.RESTARTING,
            _PE.STOP: _P.STOPPING,
            _PE.EXITED: _P.RESTARTING,
            _PE.FAILED: _P.RESTARTING,
            _PE.REPLACED: None,
        },
    },
)

_S, _SE = SessionState, SessionEvent
SESSION: Machine[SessionState, SessionEvent] = Machine(
    "session",
    _S.INITIALIZING,
    {
        _S.INITIALIZING: {
            _SE.ALL_READY: _S.READY,
            _SE.FIRST_INPUT: None,
            _SE.FAILED: _S.ERROR,
            _SE.TERMINATE: _S.TERMINATING,
            _SE.ALL_GONE: None,
        },
        _S.READY: {
            _SE.ALL_READY: None,
            _SE.FIRST_INPUT: _S.RUNNING,
            _SE.FAILED: _S.ERROR,
            _SE.TERMINATE: _S.TERMINATING,
            _SE.ALL_GONE: None,
        },
        _S.RUNNING: {
            _SE.ALL_READY: None,
            _SE.FIRST_INPUT: _S.RUNNING,
            _SE.FAILED: _S.ERROR,
            _SE.TERMINATE: _S.TERMINATING,
            _SE.ALL_GONE: None,
        },
        _S.TERMINATING: {
            _SE.ALL_READY: None,
            _SE.FIRST_INPUT: None,
            _SE.FAILED: _S.TERMINATING,
            _SE.TERMINATE: _S.TERMINATING,
            _SE.ALL_GONE: _S.TERMINATED,
        },
        _S.TERMINATED: {
            _SE.ALL_READY: None,
            _SE.FIRST_INPUT: None,
            _SE.FAILED: None,
            _SE.TERMINATE: _S.TERMINATED,
            _SE.ALL_GONE: _S.TERMINATED,
        },
        _S.ERROR: {
            _SE.ALL_READY: None,
            _SE.FIRST_INPUT: None,
            _SE.FAILED: _S.ERROR,
            _SE.TERMINATE: _S.ERROR,
            _SE.ALL_GONE: _S.ERROR,
        },
    },
)
