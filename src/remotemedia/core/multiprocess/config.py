"""Settings of `MultiprocessExecutor`: the contract's names and defaults, and a few of our own."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_CAPACITY", "MultiprocessConfig"]

MAX_CAPACITY = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiprocessConfig:
    """Settings of a `MultiprocessExecutor`; a node can override those of its process.

    Attributes:
        max_processes_per_session: nodes that a session may have; None: any number.
        channel_capacity: messages that a connection holds unless it or its ports say so, 1 to
            65,536.
        init_timeout_secs: how long the nodes of a session may take to be ready, all at once.
        python_executable: interpreter of the nodes: a path, or a name on PATH. The contract's
            "python" may be any interpreter; the default is the one that runs this process.
        enable_backpressure: whether connections without a policy block; else they drop the oldest.
        grace_period_seconds: between the polite request to end, SIGTERM and SIGKILL.
        spin_microseconds: how long a reader polls after its last message before it sleeps; 0
            switches it off.
        max_held_messages: received messages that a node may hold on to without a copy.
        spare_taps: places kept on every output for live taps.
        shared_memory_budget_bytes: shared memory that a session may plan; None: what is free.
        environment: variables to set for every node.
        inherit_environment: whether nodes see the variables of this process.

    Raises:
        ValueError: a value is out of its range.
        TypeError: a value has the wrong type.
    """

    max_processes_per_session: int | None = 10
    channel_capacity: int = 100
    init_timeout_secs: float = 30
    python_executable: str = field(default_factory=lambda: sys.executable)
    enable_backpressure: bool = True
    grace_period_seconds: float = 5.0
    spin_microseconds: int = 50
    max_held_messages: int = 4
    spare_taps: int = 2
    shared_memory_budget_bytes: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    inherit_environment: bool = True

    def __post_init__(self) -> None:
        if self.max_processes_per_session is not None:
            self._check_int("max_processes_per_session", 1, None, "None for any number")
        self._check_int("channel_capacity", 1, MAX_CAPACITY)
        self._check_seconds("init_timeout_secs", is_zero_allowed=False)
        self._check_seconds("grace_period_seconds", is_zero_allowed=True)
        self._check_int("spin_microseconds", 0, 1_000_000)
        self._check_int("max_held_messages", 1, 1024)
        self._check_int("spare_taps", 0, 64)
        if self.shared_memory_budget_bytes is not None:
            self._check_int("shared_memory_budget_bytes", 1, None, "None for what is free")
        for name in ("enable_backpressure", "inherit_environment"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is {getattr(self, name)!r}; it must be True or False")
        if not isinstance(self.python_executable, str) or not self.python_executable:
            raise TypeError(
                f"python_executable is {self.python_executable!r}; it must be the path or name of "
                f"an interpreter"
            )
        for key, value in self.environment.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise TypeError(f"environment has {key!r}: {value!r}; both must be text")
            if not key or "=" in key or "\0" in key + value:
                raise ValueError(f"environment has {key!r}: {value!r}, which no process can be set")

    def _check_int(self, name: str, low: int, high: int | None, other: str = "") -> None:
        value = getattr(self, name)
        what = f"from {low:,} to {high:,}" if high is not None else f"of at least {low:,}"
        problem = f"{name} is {value!r}; it must be a whole number {what}"
        problem += f", or {other}" if other else ""
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(problem)
        if value < low or (high is not None and value > high):
            raise ValueError(problem)

    def _check_seconds(self, name: str, *, is_zero_allowed: bool) -> None:
        value = getattr(self, name)
        problem = f"{name} is {value!r}; it must be a number of seconds, "
        problem += "0 or more" if is_zero_allowed else "more than 0"
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise TypeError(problem)
        if not (0 < value < float("inf") or (is_zero_allowed and value == 0)):
            raise ValueError(problem)
