"""Settings of the executor: the contract's names and defaults, and what this one adds."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from remotemedia.core.multiprocess.plan import MAX_CAPACITY

__all__ = ["MultiprocessConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiprocessConfig:
    """How a `MultiprocessExecutor` runs sessions.

    Attributes:
        max_processes_per_session: the most nodes a pipeline may have; None is no limit.
        channel_capacity: messages that a connection holds, where nobody says otherwise.
        init_timeout_secs: time that all nodes of a session have to get ready, in seconds.
        python_executable: interpreter of nodes that have none of their own.
        enable_backpressure: whether connections that say nothing are lossless (`block`) or lose
            their oldest messages (`drop_oldest`).
        grace_period_seconds: time that nodes have to end by themselves, before they are killed.
        drain_timeout_seconds: time that a closing session gives what is under way to come out.
        spin_microseconds: how long a process looks for news before it sleeps; 0 sleeps at once.
        max_held_messages: received messages that a node may keep as views; more become copies.

    Raises:
        ValueError: a value is out of range; the text names it and says what is allowed.
    """

    max_processes_per_session: int | None = 10
    channel_capacity: int = 100
    init_timeout_secs: float = 30.0
    python_executable: str = field(default_factory=lambda: sys.executable)
    enable_backpressure: bool = True
    grace_period_seconds: float = 5.0
    drain_timeout_seconds: float = 30.0
    spin_microseconds: int = 50
    max_held_messages: int = 4

    def __post_init__(self) -> None:
        if self.max_processes_per_session is not None:
            _check("max_processes_per_session", self.max_processes_per_session, 1, 100_000)
        _check("channel_capacity", self.channel_capacity, 1, MAX_CAPACITY)
        _check("init_timeout_secs", self.init_timeout_secs, 0.001, 86_400)
        _check("grace_period_seconds", self.grace_period_seconds, 0, 3_600)
        _check("drain_timeout_seconds", self.drain_timeout_seconds, 0, 86_400)
        _check("spin_microseconds", self.spin_microseconds, 0, 1_000_000)
        _check("max_held_messages", self.max_held_messages, 1, MAX_CAPACITY)
        if not isinstance(self.enable_backpressure, bool):
            raise ValueError(
                f"enable_backpressure is {self.enable_backpressure!r}; it must be True or False"
            )
        if not isinstance(self.python_executable, str) or not self.python_executable:
            raise ValueError(
                f"python_executable is {self.python_executable!r}; it must be a path as a str, or "
                f"left out for this interpreter"
            )


def _check(name: str, value: float, low: float, high: float) -> None:
    is_whole = name not in _SECONDS
    kinds = int if is_whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        what = "a whole number" if is_whole else "a number"
        raise ValueError(f"{name} is {value!r}; it must be {what} from {low:g} to {high:g}")


_SECONDS = ("init_timeout_secs", "grace_period_seconds", "drain_timeout_seconds")
