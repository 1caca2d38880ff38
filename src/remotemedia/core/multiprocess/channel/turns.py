"""Threads that want the same: one has its turn, the others wait for theirs."""

from __future__ import annotations

import functools
import threading
import time
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.multiprocess.transport.doorbell import Doorbell

T = TypeVar("T")
P = ParamSpec("P")


class Shared(Protocol):
    """What threads share by turns, each of which is a call."""

    _turn: threading.RLock


S = TypeVar("S", bound=Shared)


def in_turn(
    method: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], T]:
    """Have calls of these methods come one after another, whichever threads they come from."""

    @functools.wraps(method)
    def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._turn:
            return method(self, *args, **kwargs)

    return call


class Turns:
    """Lets any number of threads wait on a doorbell, which serves one at a time."""

    def __init__(self, doorbell: Doorbell) -> None:
        self._doorbell = doorbell
        self._lock = threading.RLock()  # it knows whose it is: giving it back is one call

    def disown(self) -> None:
        """Leave it to the parent process: a thread that waits there does not exist here."""
        self._lock = threading.RLock()

    def wait_for(self, attempt: Callable[[], T | None], timeout_seconds: float | None) -> T | None:
        """Wait as `Doorbell.wait_for` does, after the threads that do so already.

        A signal handler may raise after every call here, and leaves the turn to the next thread.
        """
        if timeout_seconds is not None and timeout_seconds <= 0:
            return attempt()
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        most = -1 if timeout_seconds is None else min(timeout_seconds, threading.TIMEOUT_MAX)
        try:
            if not self._lock.acquire(timeout=most):
                return attempt()
            left = None if until is None else max(0, until - time.monotonic())
            return self._doorbell.wait_for(attempt, left)
        finally:
            try:  # noqa: SIM105 (a handler could raise before `suppress` is left for the release)
                self._lock.release()
            except RuntimeError:
                pass  # it never was ours
