"""Runs a scenario with a shared memory of its own: a small tmpfs that nobody else sees.

As a program (`python -m tests.small_shm SIZE_KIB SCENARIO [ARGUMENT...]`, in a private mount
namespace) it mounts the tmpfs, runs the scenario, and writes its result as JSON.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.plan import SpareTaps
from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER, free_bytes
from remotemedia.data import Binary
from remotemedia.errors import SharedMemoryExhausted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber

T = TypeVar("T")
KIB, MIB = 1 << 10, 1 << 20
FEW_TAPS = SpareTaps(1, 2, 1)
DONE, EXHAUSTED, WRONG = 0, 3, 4
"""How an attempt in a process of its own ended."""


@functools.cache
def unshare() -> list[str] | None:
    """The command that gives a process a mount table of its own; None where that is forbidden."""
    for flags in ("-m", "-Urm"):
        command = [shutil.which("unshare") or "unshare", flags]
        trial = [*command, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", SHM_FOLDER]
        with contextlib.suppress(OSError):
            if subprocess.run(trial, capture_output=True, timeout=30).returncode == 0:
                return command
    return None


def run(size_kib: int, scenario: str, *arguments: object) -> Any:
    """Run a scenario over a shared memory of that size; what it returned.

    Raises:
        AssertionError: it ended in another way, by a signal say.
    """
    command = unshare()
    assert command is not None
    program = [sys.executable, "-m", "tests.small_shm", str(size_kib), scenario]
    done = subprocess.run(
        [*command, *program, *map(str, arguments)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)


def resize(size_kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_kib}k", SHM_FOLDER], check=True)


@contextlib.contextmanager
def filled(leave_bytes: int) -> Iterator[None]:
    """Somebody else has all of the memory but so much."""
    path = f"{SHM_FOLDER}/somebody"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        os.posix_fallocate(fd, 0, max(4096, free_bytes() - leave_bytes))
        yield
    finally:
        os.close(fd)
        os.unlink(path)


def describe(error: SharedMemoryExhausted) -> dict[str, Any]:
    return {
        "text": str(error),
        "needed": error.needed_bytes,
        "free": error.free_bytes,
        "path": error.path,
    }


def ends(registry: ChannelRegistry, **options: Any) -> tuple[Subscriber, Publisher]:
    channel = registry.create_channel("camera.out", **{"taps": FEW_TAPS, **options})
    return registry.create_subscriber(channel), registry.create_publisher(channel)


def send(publisher: Publisher, number: int, nbytes: int) -> None:
    publisher.send(Binary(np.full(nbytes, number % 251, np.uint8)), timeout_seconds=0)


def check(subscriber: Subscriber, number: int, nbytes: int) -> None:
    message = subscriber.receive(0)
    assert isinstance(message, Binary), message
    assert len(message) == nbytes
    assert message.array[0] == message.array[-1] == number % 251, "torn"


def attempt(action: Callable[[], None]) -> int:
    """Do something in a process of its own; how that ended, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = WRONG
        try:
            action()
            status = DONE
        except SharedMemoryExhausted as error:
            is_told = error.needed_bytes > error.free_bytes and "--shm-size" in str(error)
            status = EXHAUSTED if is_told else WRONG
        finally:
            if status == WRONG:
                traceback.print_exc()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def opening_at_every_size(first_kib: int, last_kib: int, step_kib: int) -> dict[str, Any]:
    """Open a channel and use it, with ever more memory."""

    def action() -> None:
        with ChannelRegistry() as registry:
            subscriber, publisher = ends(registry, capacity=40, taps=SpareTaps(4, 40, 4))
            channel = next(iter(registry._channels.values()))
            for number, nbytes in enumerate((100, 100_000, 5)):
                send(publisher, number, nbytes)
                check(subscriber, number, nbytes)
            tap = registry.create_subscriber(channel, policy="latest")
            send(publisher, 9, 5000)
            check(subscriber, 9, 5000)
            check(tap, 9, 5000)

    statuses: list[int] = []
    left: list[str] = []
    for size_kib in range(first_kib, last_kib, step_kib):
        resize(size_kib)
        statuses.append(attempt(action))
        left += os.listdir(SHM_FOLDER)
        for name in os.listdir(SHM_FOLDER):
            os.unlink(f"{SHM_FOLDER}/{name}")
    return {"statuses": statuses, "left": left}


def too_large(nbytes: int) -> dict[str, Any]:
    """Send a message that the memory could never hold, then others."""
    with ChannelRegistry() as registry:
        subscriber, publisher = ends(registry)
        send(publisher, 1, 100)
        try:
            send(publisher, 2, nbytes)
        except SharedMemoryExhausted as error:
            said = describe(error)
        for loaned in (nbytes, nbytes + 1):
            with contextlib.suppress(SharedMemoryExhausted), publisher.loan(Binary, nbytes=loaned):
                raise AssertionError("it was lent")
        send(publisher, 3, 200)
        send(publisher, 4, 300_000)
        for number, size in ((1, 100), (3, 200), (4, 300_000)):
            check(subscriber, number, size)
        return {**said, "stats": stats(registry)}


def stats(registry: ChannelRegistry) -> dict[str, Any]:
    port = registry.stats()["camera.out"]
    return {"sent": port.sent, "balanced": all(one.is_balanced for one in port.connections)}


def until_full(nbytes: int) -> dict[str, Any]:
    """Queue messages until there is no memory for another; then read them, and go on."""
    with ChannelRegistry() as registry:
        subscriber, publisher = ends(registry, capacity=100)
        accepted, said = 0, None
        for number in range(100):
            try:
                send(publisher, number, nbytes)
            except SharedMemoryExhausted as error:
                said = describe(error)
                break
            accepted += 1
        for number in range(accepted):
            check(subscriber, number, nbytes)
        after = 0
        for number in range(50):  # memory that was there once is there again
            send(publisher, number, nbytes)
            check(subscriber, number, nbytes)
            after += 1
        return {"accepted": accepted, "said": said, "after": after, "stats": stats(registry)}


def growth_when_nearly_full() -> dict[str, Any]:
    """Grow while somebody else has the memory, and again once it is free."""
    with ChannelRegistry() as registry:
        subscriber, publisher = ends(registry, capacity=4)
        number, refused, accepted = 0, 0, 0
        for leave_kib in [*range(0, 2000, 50), 4000, 6000]:
            for nbytes in (50, 30_000, 400_000, 60):
                number += 1
                with filled(leave_kib * KIB):
                    try:
                        send(publisher, number, nbytes)
                    except SharedMemoryExhausted:
                        refused += 1
                        continue
                    accepted += 1
                    check(subscriber, number, nbytes)
        for nbytes in (50, 500_000, 1_000_000, 60):
            send(publisher, number, nbytes)
            check(subscriber, number, nbytes)
        return {"refused": refused, "accepted": accepted, "stats": stats(registry)}


def declared_too_large() -> dict[str, Any]:
    """Declare more than there is; then less, in the same registry."""
    with ChannelRegistry() as registry:
        channel = registry.create_channel("large", 16, max_message_bytes=MIB, taps=FEW_TAPS)
        registry.create_subscriber(channel)
        try:
            registry.create_publisher(channel)
        except SharedMemoryExhausted as error:
            said = describe(error)
        registry.destroy_channel(channel)
        subscriber, publisher = ends(registry, capacity=4, max_message_bytes=100_000)
        before = free_bytes()
        with filled(0):  # what was declared is reserved: nobody can take it
            for number in range(40):
                send(publisher, number, 100_000)
                check(subscriber, number, 100_000)
        return {**said, "taken": before - free_bytes(), "stats": stats(registry)}


@contextlib.contextmanager
def contended(seed: int) -> Iterator[None]:
    """Somebody takes and gives back the memory as fast as can be."""
    ours, theirs = os.pipe()
    path = f"{SHM_FOLDER}/somebody"
    pid = os.fork()
    if pid == 0:
        os.close(theirs)
        os.set_blocking(ours, False)
        dice, fd = random.Random(seed), os.open(path, os.O_CREAT | os.O_RDWR)
        while True:
            with contextlib.suppress(OSError):
                for step in range(10_000):
                    os.posix_fallocate(fd, step * 16 * KIB, 16 * KIB)
            os.ftruncate(fd, dice.randrange(4) * MIB)
            with contextlib.suppress(BlockingIOError):
                if os.read(ours, 1) == b"":
                    os._exit(0)
    os.close(ours)
    try:
        yield
    finally:
        os.close(theirs)
        os.waitpid(pid, 0)
        os.unlink(path)


def sending_race(messages: int, seed: int) -> dict[str, Any]:
    """Send on an open channel while somebody else fights for the memory."""
    dice = random.Random(seed)
    accepted = refused = 0
    with ChannelRegistry() as registry:
        subscriber, publisher = ends(registry, capacity=4)
        # Grown before: in the moment of growing, only the library's own processes are kept away.
        send(publisher, 0, 300_000)
        check(subscriber, 0, 300_000)
        with contended(seed):
            for number in range(messages):
                nbytes = dice.choice((10, 1000, 20_000, 300_000))
                try:
                    send(publisher, number, nbytes)
                except SharedMemoryExhausted:
                    refused += 1
                    continue
                accepted += 1
                check(subscriber, number, nbytes)
        return {"accepted": accepted, "refused": refused, "stats": stats(registry)}


def together(processes: int, rounds: int) -> dict[str, Any]:
    """Several processes open and grow channels at once, in less memory than they want."""

    def action() -> None:
        with ChannelRegistry() as registry:
            subscriber, publisher = ends(registry, capacity=4)
            for number, nbytes in enumerate((10, 20_000, 300_000, 2_000_000)):
                send(publisher, number, nbytes)
                check(subscriber, number, nbytes)

    def work() -> None:
        statuses = [attempt(action) for _ in range(rounds)]
        os.write(theirs, "".join(f"{status}\n" for status in statuses).encode())

    ours, theirs = os.pipe()
    pids = []
    for _ in range(processes):
        pids.append(os.fork())
        if pids[-1] == 0:
            work()
            os._exit(0)
    os.close(theirs)
    for pid in pids:
        os.waitpid(pid, 0)
    with open(ours, encoding="utf-8") as reports:
        return {"statuses": [int(line) for line in reports]}


def late_ends_when_nearly_full() -> dict[str, Any]:
    """Open ends whose queues are large, with ever more memory left."""
    statuses: list[int] = []
    with ChannelRegistry() as registry:
        channel = registry.create_channel("camera.out", 300, taps=SpareTaps(2, 300, 1))
        subscriber = _opened(lambda: registry.create_subscriber(channel), statuses)
        publisher = _opened(lambda: registry.create_publisher(channel), statuses)
        tap = _opened(lambda: registry.create_subscriber(channel, policy="latest"), statuses)
        send(publisher, 1, 100)
        check(subscriber, 1, 100)
        check(tap, 1, 100)
        return {"statuses": statuses, "stats": stats(registry)}


def _opened(action: Callable[[], T], statuses: list[int]) -> T:
    for leave_kib in range(0, 8000, 200):
        with contextlib.suppress(SharedMemoryExhausted), filled(leave_kib * KIB):
            end = action()
            statuses.append(DONE)
            return end
        statuses.append(EXHAUSTED)
    raise AssertionError("it never opened")


def main() -> None:
    size_kib, scenario, *arguments = sys.argv[1:]
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", SHM_FOLDER], check=True
    )
    result = globals()[scenario](*map(int, arguments))
    result["left_at_the_end"] = os.listdir(SHM_FOLDER)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
