"""What the tests of channels share: registries by transport, threads, peers, conditions."""

from __future__ import annotations

import gc
import glob
import json
import os
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pytest

from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.transport.ledger import EndpointWord
from remotemedia.core.multiprocess.transport.memory import MemoryTransport
from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER
from remotemedia.data import Binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.stats import ConnectionStats
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.data import Message

T = TypeVar("T")
PATIENCE_SECONDS = 60.0
both_transports = pytest.mark.parametrize("transport", ["memory", "iceoryx"])
IS_LONG = os.environ.get("REMOTEMEDIA_FAULTS") == "long"


def new_registry(transport: str = "memory", *, spin_ns: int = 0) -> ChannelRegistry:
    """Make a registry over the transport of that name; its waits block at once."""
    return ChannelRegistry(MemoryTransport() if transport == "memory" else None, spin_ns=spin_ns)


def number(value: int) -> Binary:
    """Make a message that carries a number."""
    return Binary(value.to_bytes(8, "little"))


def send_all(publisher: Publisher, values: Iterable[int]) -> None:
    """Send numbers, waiting as long as it takes."""
    for value in values:
        publisher.send(number(value))


def value_of(message: Message | None) -> int:
    """Read the number that a message carries."""
    assert isinstance(message, Binary)
    return int.from_bytes(message.array[:8].tobytes(), "little")


def receive_now(subscriber: Subscriber, most: int = 1 << 30) -> list[int]:
    """Take the numbers that are there; give `most` where a sender may be adding to them."""
    values: list[int] = []
    while len(values) < most and (message := subscriber.take()) is not None:
        values.append(value_of(message))
    return values


def sealed(value: int, nbytes: int) -> Binary:
    """Make a message of at least 16 bytes that carries a number, a checksum and a pattern."""
    body = np.resize(np.frombuffer(value.to_bytes(8, "little"), np.uint8), max(16, nbytes))
    body[8:12] = np.frombuffer(zlib.crc32(body[12:].data).to_bytes(4, "little"), np.uint8)
    return Binary(body)


def open_seal(message: Message | None) -> int:
    """Read the number of a sealed message.

    Raises:
        AssertionError: it is torn.
    """
    assert isinstance(message, Binary)
    body = message.array
    checksum = int.from_bytes(body[8:12].tobytes(), "little")
    assert zlib.crc32(np.ascontiguousarray(body[12:]).data) == checksum, "a torn message"
    return int.from_bytes(body[:8].tobytes(), "little")


def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Give way to others until a condition holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"it never came true: {what or condition}"
        os.sched_yield()


class Background(Generic[T]):
    """A function in a thread of its own; its result or its error is there at the end."""

    def __init__(
        self, function: Callable[[], T], patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._function = function
        self._patience_seconds = patience_seconds
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result.append(self._function())
        except BaseException as error:
            self._error = error

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> T:
        self._thread.join(self._patience_seconds)
        assert not self._thread.is_alive(), "the thread hangs"
        if self._error is not None:
            raise self._error
        return self._result[0]


def is_asleep(registry: ChannelRegistry, end: Publisher | Subscriber) -> bool:
    """Whether the process or thread that has this end says that it waits."""
    words, doorbell = registry.ledger.words, end._doorbell
    return bool(words[doorbell._asleep]) and doorbell.is_waited_on


def connection_stats_of(registry: ChannelRegistry, subscriber: Subscriber) -> ConnectionStats:
    """What the ledger says of a connection, which must balance."""
    (found,) = (
        one
        for port in registry.stats().values()
        for one in port.connections
        if one.name == subscriber.connection.name
    )
    assert found.is_balanced, found
    return found


def open_fds() -> list[str]:
    """What the descriptors of this process refer to, but for the one that lists them."""
    gc.collect()
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return sorted(links)


def leftovers(root: Path, prefix: str) -> list[str]:
    """List what an executor has in shared memory and in its runtime folder."""
    return [*glob.glob(f"{SHM_FOLDER}/{glob.escape(prefix)}*"), *([str(root)] * root.exists())]


def shared_mappings() -> int:
    """How many mappings of shared memory this process has."""
    gc.collect()
    maps = Path("/proc/self/maps").read_text()
    return sum("/dev/shm/" in line or "memfd:remotemedia" in line for line in maps.splitlines())


class Peer:
    """Another process with one end of a channel; see `channel_peer.py` for what it can do."""

    def __init__(self, role: str, fds: tuple[int, ...] = (), **options: Any) -> None:
        root = Path(__file__).parent.parent
        source = str(root / "src")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.channel_peer", role, json.dumps(options)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": source},
            pass_fds=fds,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @classmethod
    def of(cls, registry: ChannelRegistry, endpoint: str, role: str, **options: Any) -> Peer:
        """Start one that opens an endpoint of a registry."""
        ticket = registry.ticket(endpoint)
        return cls(role, ticket.fds, ticket=ticket.to_json(), **options)

    def hear(self) -> Any:
        """Wait for what it says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the peer ended with {self.process.wait()} and said nothing"
        return json.loads(line)

    is_ready = False

    def wait_ready(self) -> None:
        assert self.hear() == "ready"
        self.is_ready = True

    def say(self, command: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """Kill it by SIGKILL, and reap it."""
        self.process.kill()
        self.end()

    def end(self) -> int:
        """Wait for its end."""
        with self.process as process:  # closes the pipes, and waits
            return process.wait(PATIENCE_SECONDS)


ASLEEP = int(EndpointWord.ASLEEP)
