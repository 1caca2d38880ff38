"""How a process ended, in numbers and in words."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass

__all__ = ["SPAWNER_DIED", "ExitReason", "ProcessExit"]

SPAWNER_DIED = "the spawner died"
"""Cause of the end of every process of a manager whose spawner died."""


class ExitReason(enum.Enum):
    """What ended a process. Whether code 0 came too early is for the session to judge."""

    NORMAL = "normal"
    ERROR = "error"
    KILLED = "killed"
    OUT_OF_MEMORY = "out_of_memory"


@dataclass(frozen=True, slots=True)
class ProcessExit:
    """The end of a process.

    Attributes:
        code: exit code; negative is the number of the signal that killed it.
        timestamp: when the executor learned of it, in seconds of `time.monotonic()`.
        max_rss_bytes: the most memory it had resident; 0 if nobody could ask the kernel.
        is_oom: the kernel killed it for want of memory.
        cause: what is known beyond the code; empty if nothing is.
    """

    code: int
    timestamp: float
    max_rss_bytes: int = 0
    is_oom: bool = False
    cause: str = ""

    @property
    def reason(self) -> ExitReason:
        """The kind of end: the code said by name."""
        if self.is_oom:
            return ExitReason.OUT_OF_MEMORY
        if self.code < 0:
            return ExitReason.KILLED
        return ExitReason.NORMAL if self.code == 0 else ExitReason.ERROR

    @property
    def signal_name(self) -> str:
        """Name of the signal that killed it ("SIGSEGV"); empty if none did."""
        if self.code >= 0:
            return ""
        try:
            return signal.Signals(-self.code).name
        except ValueError:  # most real-time signals have no name
            return f"signal {-self.code}"

    def describe(self) -> str:
        """Return the end in words: "killed by SIGSEGV (segmentation fault)", "exit code 3"."""
        if self.is_oom:
            peak = f"{self.max_rss_bytes / 2**20:,.0f} MiB"
            text = f"out of memory: killed by the kernel after it had used {peak}"
        elif self.code < 0:
            meaning = (signal.strsignal(-self.code) or "").lower()
            is_told = self.code == -signal.SIGKILL or not meaning  # "killed (killed)"
            text = f"killed by {self.signal_name}" + ("" if is_told else f" ({meaning})")
        else:
            text = f"exit code {self.code}"
        return f"{text}: {self.cause}" if self.cause else text
