"""CPU and memory of processes, from /proc."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["UsageMeter"]

_TICKS_HZ = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")


class UsageMeter:
    """Reads what one process uses, again and again.

    Args:
        pid: the process.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu_seconds = 0.0
        self._read_at = 0.0

    def read(self) -> tuple[float, int] | None:
        """Return its CPU in percent of one, since the last reading, and its memory in bytes.

        Memory is what is resident, shared pages included. None: there is no such process.
        """
        try:
            stat = Path(f"/proc/{self._pid}/stat").read_bytes()
            pages = int(Path(f"/proc/{self._pid}/statm").read_bytes().split()[1])
        except (OSError, IndexError):
            return None
        # proc_pid_stat(5): utime and stime are fields 14 and 15; the name, field 2, ends with ")".
        fields = stat.rpartition(b")")[2].split()
        now, cpu = time.monotonic(), (int(fields[11]) + int(fields[12])) / _TICKS_HZ
        elapsed = now - self._read_at
        percent = 0.0 if not self._read_at else (cpu - self._cpu_seconds) / elapsed * 100
        self._cpu_seconds, self._read_at = cpu, now
        return percent, pages * _PAGE_BYTES
