"""What happens in a session, as typed objects: `Session.events` yields them, `on_event` hears."""

from remotemedia.core.multiprocess.events import (
    Event,
    EventsMissed,
    NodeError,
    NodeProgress,
    NodeReady,
    NodeRestarting,
    PipelineTerminated,
    ProcessExited,
    ProcessStarted,
    SessionReady,
    SessionStateChanged,
)

__all__ = [
    "Event",
    "EventsMissed",
    "NodeError",
    "NodeProgress",
    "NodeReady",
    "NodeRestarting",
    "PipelineTerminated",
    "ProcessExited",
    "ProcessStarted",
    "SessionReady",
    "SessionStateChanged",
]
