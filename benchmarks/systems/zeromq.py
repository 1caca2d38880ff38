"""ZeroMQ over its ipc transport, as its guide advises: no copy where a message is large."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING

import zmq

from benchmarks.processes import Workers
from benchmarks.rings import DEADLINE_SECONDS, Ends, Job, Ring

if TYPE_CHECKING:
    from types import TracebackType

_COPIED_BYTES = 64 * 1024  # what pyzmq copies by default


class ZeroMqEnds:
    """PUSH to the next, PULL from the one before."""

    def __init__(self, folder: str, index: int, count: int, job: Job) -> None:
        self._context = zmq.Context()
        self._push = self._context.socket(zmq.PUSH)
        self._pull = self._context.socket(zmq.PULL)
        for socket in (self._push, self._pull):
            socket.setsockopt(zmq.SNDHWM, job.depth)
            socket.setsockopt(zmq.RCVHWM, job.depth)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVTIMEO, int(DEADLINE_SECONDS * 1000))
            socket.setsockopt(zmq.SNDTIMEO, int(DEADLINE_SECONDS * 1000))
        self._pull.bind(f"ipc://{folder}/{index}")
        self._push.connect(f"ipc://{folder}/{(index + 1) % count}")
        self._payload = b"\1" * job.size_bytes
        self._copies = job.size_bytes <= _COPIED_BYTES

    def send(self) -> None:
        """See `Ends.send`."""
        self._push.send(self._payload, 0, self._copies)

    def receive(self) -> None:
        """See `Ends.receive`."""
        if self._copies:
            assert self._pull.recv()[0] == 1
        else:
            assert self._pull.recv(copy=False).buffer[0] == 1

    def close(self) -> None:
        """Give everything back."""
        self._context.destroy(linger=0)


class ZeroMqRing:
    """A ring over sockets in a folder of its own."""

    def __init__(self, processes: int, job: Job) -> None:
        self._folder = tempfile.mkdtemp(prefix="rmb")
        self._workers = Workers()
        for index in range(1, processes):
            arguments: dict[str, object] = {
                "job": job.to_dict(),
                "folder": self._folder,
                "index": index,
                "count": processes,
            }
            self._workers.start("pyzmq", arguments)
        self._ends = ZeroMqEnds(self._folder, 0, processes, job)
        self.ends: Ends = self._ends

    @property
    def pids(self) -> list[int]:
        """See `Ring.pids`."""
        return self._workers.pids

    def __enter__(self) -> ZeroMqRing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._workers.end()
        self._ends.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class ZeroMq:
    """See `System`."""

    name = "pyzmq"
    modes = ("block",)

    def ring(self, processes: int, job: Job) -> Ring:
        """See `System.ring`."""
        return ZeroMqRing(processes, job)


def open_ends(system: str, job: Job, folder: str, index: int, count: int) -> Ends:
    """Open the ends of another process of the ring."""
    del system
    return ZeroMqEnds(folder, index, count, job)
