"""The bare library through its public Python interface: the limit for Python.

It waits like we do, with our own doorbell, and carries no header, type, count or check. It does not
even look at the payload: that is the limit. `raw-iceoryx2-used` is the same with a byte written and
read by its users, as those of every other system do.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import iceoryx2 as iox

from benchmarks.processes import Workers
from benchmarks.rings import DEADLINE_SECONDS, SPIN_NS, Ends, Job, Ring
from remotemedia.core.multiprocess.transport.doorbell import Doorbell
from remotemedia.core.multiprocess.transport.ledger import EndpointWord, Ledger

if TYPE_CHECKING:
    from types import TracebackType

iox.set_log_level(iox.LogLevel.Fatal)


def _node(root: str, prefix: str) -> Any:
    configuration = iox.config.default()
    configuration.global_cfg.root_path = iox.Path.new(root)
    configuration.global_cfg.prefix = iox.FileName.new(prefix)
    builder = iox.NodeBuilder.new().config(configuration)
    return builder.signal_handling_mode(iox.SignalHandlingMode.Disabled).create(iox.ServiceType.Ipc)


def _service(node: Any, link: int, job: Job) -> Any:
    builder = node.service_builder(iox.ServiceName.new(f"link{link}"))
    return (
        builder.publish_subscribe(iox.Slice[ctypes.c_uint8])
        .max_publishers(1)
        .max_subscribers(1)
        .subscriber_max_buffer_size(job.depth)
        .subscriber_max_borrowed_samples(2)
        .history_size(0)
        .enable_safe_overflow(False)
        .open_or_create()
    )


class RawEnds:
    """A publisher, a subscriber, and the doorbells beside them."""

    def __init__(self, node: Any, index: int, fds: list[int], ledger: Ledger, job: Job) -> None:
        count = len(fds)
        before, after = (index - 1) % count, (index + 1) % count
        out, into = _service(node, index, job), _service(node, before, job)
        self._node = node
        self._nbytes = job.size_bytes
        self._words = ledger.words
        self._ledger = ledger
        self._doorbell = Doorbell(ledger.words, _slot(index), fds[index], SPIN_NS[job.mode])
        self._next = (fds[after], _slot(after) + EndpointWord.ASLEEP)
        self._previous = (fds[before], _slot(before) + EndpointWord.ASLEEP)
        self._subscriber = into.subscriber_builder().create()
        self._take = self._subscriber.receive
        self._publisher = (
            out.publisher_builder()
            .initial_max_slice_len(job.size_bytes)
            .max_loaned_samples(2)
            .backpressure_strategy(iox.BackpressureStrategy.DiscardData)
            .create()
        )
        self._out = out
        self._is_connected = False
        self._rings_for_room = job.ack_every > 1
        os.eventfd_write(fds[before], 1)  # who sends to us may be waiting for us to open

    def send(self) -> None:
        """See `Ends.send`."""
        if not self._is_connected or not self._try_send():
            self._wait_to_send()
        fd, asleep = self._next
        if self._words[asleep]:
            os.eventfd_write(fd, 1)

    def receive(self) -> None:
        """See `Ends.receive`."""
        sample = self._doorbell.wait_for(self._take, DEADLINE_SECONDS)
        if sample is None:
            raise TimeoutError
        del sample
        if self._rings_for_room:
            fd, asleep = self._previous
            if self._words[asleep]:
                os.eventfd_write(fd, 1)

    def _wait_to_send(self) -> None:
        if self._doorbell.wait_for(self._try_first, DEADLINE_SECONDS) is None:
            raise TimeoutError

    def _try_first(self) -> bool | None:
        if not self._is_connected:
            if not self._out.dynamic_config.number_of_subscribers:
                os.sched_yield()
                return None
            self._publisher.update_connections()
            self._is_connected = True
        return self._try_send()

    def _try_send(self) -> bool | None:
        return self._publisher.loan_slice_uninit(self._nbytes).assume_init().send() or None


class UsedEnds(RawEnds):
    """The same, and messages are filled and looked at."""

    def __init__(self, node: Any, index: int, fds: list[int], ledger: Ledger, job: Job) -> None:
        super().__init__(node, index, fds, ledger, job)
        self._take = self._take_and_look

    def _take_and_look(self) -> Any:
        sample = self._subscriber.receive()
        assert sample is None or sample.payload()[0] == 1
        return sample

    def _try_send(self) -> bool | None:
        sample = self._publisher.loan_slice_uninit(self._nbytes)
        sample.payload()[0] = 1
        return sample.assume_init().send() or None


_ENDS = {"raw-iceoryx2": RawEnds, "raw-iceoryx2-used": UsedEnds}


class RawRing:
    """A ring over the bare library."""

    def __init__(self, name: str, processes: int, job: Job) -> None:
        self._root = tempfile.mkdtemp(prefix="rmb")
        self._prefix = f"rmb{secrets.token_hex(4)}_"
        self._workers = Workers()
        self._ledger = Ledger.create()
        self._fds = [Doorbell.new_fd() for _ in range(processes)]
        node = _node(self._root, self._prefix)
        holds = [_service(node, link, job) for link in range(processes)]
        for index in range(1, processes):
            arguments: dict[str, object] = {
                "job": job.to_dict(),
                "root": self._root,
                "prefix": self._prefix,
                "index": index,
                "fds": self._fds,
                "ledger_fd": self._ledger.fd,
            }
            self._workers.start(name, arguments, [*self._fds, self._ledger.fd])
        self.ends: Ends = _ENDS[name](node, 0, self._fds, self._ledger, job)
        self._holds = holds

    @property
    def pids(self) -> list[int]:
        """See `Ring.pids`."""
        return self._workers.pids

    def __enter__(self) -> RawRing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._workers.end()
        del self.ends
        self._holds.clear()
        self._ledger.close()
        for path in Path("/dev/shm").glob(f"{self._prefix}*"):
            path.unlink(missing_ok=True)
        shutil.rmtree(self._root, ignore_errors=True)
        for fd in self._fds:
            os.close(fd)


class RawIceoryx2:
    """See `System`."""

    modes = ("block", "adaptive")

    def __init__(self, name: str) -> None:
        self.name = name

    def ring(self, processes: int, job: Job) -> Ring:
        """See `System.ring`."""
        return RawRing(self.name, processes, job)


def open_ends(
    system: str, job: Job, root: str, prefix: str, index: int, fds: list[int], ledger_fd: int
) -> Ends:
    """Open the ends of another process of the ring."""
    return _ENDS[system](_node(root, prefix), index, fds, Ledger(ledger_fd), job)


def _slot(index: int) -> int:
    return 64 + 64 * index
