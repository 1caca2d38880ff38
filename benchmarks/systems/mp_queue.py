"""`multiprocessing.Queue` of the standard library, with arrays: what our messages are, too."""

from __future__ import annotations

import multiprocessing
import queue
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.rings import DEADLINE_SECONDS, Ends, Job, Ring, do_job

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from types import TracebackType

    from numpy.typing import NDArray

    Array = NDArray[np.uint8]


class QueueEnds:
    """Puts into one queue, gets from another."""

    def __init__(self, out: Queue[Array], into: Queue[Array], job: Job) -> None:
        self._out, self._into = out, into
        self._array = np.ones(job.size_bytes, np.uint8)

    def send(self) -> None:
        """See `Ends.send`."""
        self._out.put(self._array, timeout=DEADLINE_SECONDS)

    def receive(self) -> None:
        """See `Ends.receive`."""
        try:
            assert self._into.get(timeout=DEADLINE_SECONDS)[0] == 1
        except queue.Empty:
            raise TimeoutError from None


def _work(out: Queue[Array], into: Queue[Array], job: Job) -> None:
    do_job(QueueEnds(out, into, job), job)


class QueueRing:
    """A ring of queues."""

    def __init__(self, processes: int, job: Job) -> None:
        context = multiprocessing.get_context("spawn")
        self._queues: list[Queue[Array]] = [context.Queue(job.depth) for _ in range(processes)]
        self._children = [
            context.Process(
                target=_work, args=(self._queues[index], self._queues[index - 1], job), daemon=True
            )
            for index in range(1, processes)
        ]
        for child in self._children:
            child.start()
        self.ends: Ends = QueueEnds(self._queues[0], self._queues[-1], job)

    @property
    def pids(self) -> list[int]:
        """See `Ring.pids`."""
        return [child.pid for child in self._children if child.pid is not None]

    def __enter__(self) -> QueueRing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in self._children:
            child.kill()
            child.join()
            child.close()
        for one in self._queues:
            one.cancel_join_thread()
            one.close()


class MpQueue:
    """See `System`."""

    name = "mp-queue"
    modes = ("block",)

    def ring(self, processes: int, job: Job) -> Ring:
        """See `System.ring`."""
        return QueueRing(processes, job)
