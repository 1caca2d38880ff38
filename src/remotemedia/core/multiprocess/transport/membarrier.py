"""A full memory fence for all processes at once, paid for by the one that asks: membarrier(2).

Registering takes the kernel some microseconds in a process with one thread, and about 10 ms in one
with more: it waits until every processor has seen it. Importing numpy starts threads. So a process
that wants to be quick imports this before.
"""

from __future__ import annotations

import ctypes
import os

from remotemedia.errors import ChannelError

_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283, "riscv64": 283}.get(os.uname().machine)
_CMD_GLOBAL_EXPEDITED = 1 << 1
_CMD_REGISTER_GLOBAL_EXPEDITED = 1 << 2


class Membarrier:
    """The system call. This process is registered for it when it is made.

    Attributes:
        is_available: whether the kernel has it, and this process may use it.
    """

    def __init__(self) -> None:
        self._call = ctypes.CDLL(None).syscall
        self.is_available = _SYS_MEMBARRIER is not None and not self._call(
            _SYS_MEMBARRIER, _CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0
        )

    def fence(self) -> None:
        """Order all memory accesses of all registered processes around this point."""
        if self._call(_SYS_MEMBARRIER, _CMD_GLOBAL_EXPEDITED, 0, 0):
            raise ChannelError("membarrier failed after it was registered")


membarrier = Membarrier()
