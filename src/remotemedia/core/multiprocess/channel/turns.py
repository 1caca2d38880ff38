"""Several threads that wait on one doorbell: one does, the others wait for their turn."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.transport.doorbell import Doorbell

T = TypeVar("T")


class Turns:
    """Lets any number of threads wait on a doorbell, which serves one at a time."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._lock = threading.RLock()

    def disown(self) -> None:
        """Leave it to the parent process: a thread that waits there does not exist here."""
        self._lock = threading.RLock()

    def wait_for(self, attempt: Callable[[], T | None], timeout_seconds: float | None) -> T | None:
        """Wait as `Doorbell.wait_for` does, after the threads that do so already."""
        if timeout_seconds is None:
            with self._lock:
                return self._doorbell.wait_for(attempt, None)
        if timeout_seconds <= 0:
            return attempt()
        deadline = time.monotonic() + timeout_seconds
        if not self._lock.acquire(timeout=min(timeout_seconds, threading.TIMEOUT_MAX)):
            return attempt()
        try:
            return self._doorbell.wait_for(attempt, max(0, deadline - time.monotonic()))
        finally:
            self._lock.release()
