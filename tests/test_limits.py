"""A limit of the process that is reached is named, with what to do; what was open goes on."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import Any

import pytest

from remotemedia.core.multiprocess.transport.limits import limit_reached, limits_named
from remotemedia.errors import ResourceLimit

PRELUDE = """
import os, resource, sys
from remotemedia.errors import ResourceLimit, SharedMemoryExhausted
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.data import Binary

def limit(which, soft):
    resource.setrlimit(which, (soft, resource.getrlimit(which)[1]))

def refused(action):
    try:
        action()
    except ResourceLimit as error:
        assert not isinstance(error, SharedMemoryExhausted), error
        print(error)
        return True
    return False

registry = ChannelRegistry()
channel = registry.create_channel("out", 4)
reader, writer = registry.create_subscriber(channel), registry.create_publisher(channel)
number = 0
"""
GOES_ON = """
writer.send(Binary(b"on"), timeout_seconds=0)
assert reader.receive(0) == Binary(b"on")
registry.cleanup()
"""


def run(code: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code + GOES_ON],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.splitlines()


def test_with_too_few_descriptors_whatever_is_opened_names_the_limit() -> None:
    said = run("""
used = len(os.listdir("/proc/self/fd")) - 1
def open_all():
    global number
    number += 1
    with ChannelRegistry() as other:
        one = other.create_channel(f"out{number}", 4)
        other.create_publisher(one).try_connect()
        other.create_subscriber(one)
for left in range(0, 60, 1):
    limit(resource.RLIMIT_NOFILE, used + left)
    if not refused(open_all):
        break
assert 20 < left < 59, left
limit(resource.RLIMIT_NOFILE, 1000)
""")
    assert len(said) > 20
    assert all("raise the limit of open files (RLIMIT_NOFILE, ulimit -n)" in line for line in said)


def test_to_receive_takes_no_descriptor_but_the_three_of_the_library() -> None:
    run("""
writer.send(Binary(bytes(100_000)))
limit(resource.RLIMIT_NOFILE, 100)
fillers = []
try:
    while True:
        fillers.append(os.dup(0))
except OSError:
    for filler in fillers[-3:]:
        os.close(filler)
assert reader.receive(0) == Binary(bytes(100_000))
limit(resource.RLIMIT_NOFILE, 1000)
""")


def test_with_too_little_address_space_a_message_names_the_limit() -> None:
    (said,) = run("""
message = Binary(bytes(5_000_000))
used = int(open("/proc/self/statm").read().split()[0]) * 4096
limit(resource.RLIMIT_AS, used + 20_000_000)
assert refused(lambda: writer.send(message, timeout_seconds=0))
limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
""")
    assert said.startswith("a message of port out needs ")
    assert "raise the limit of address space (RLIMIT_AS, ulimit -v)" in said


def test_with_too_little_address_space_a_declared_port_names_the_limit() -> None:
    (said,) = run("""
large = registry.create_channel("large", 40, max_message_bytes=5_000_000)
registry.create_subscriber(large)
used = int(open("/proc/self/statm").read().split()[0]) * 4096
limit(resource.RLIMIT_AS, used + 20_000_000)
assert refused(lambda: registry.create_publisher(large))
limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
""")
    assert said.startswith("opening the writer of port large needs ")
    assert "RLIMIT_AS" in said


def test_a_limit_of_file_size_is_named() -> None:
    (said,) = run("""
limit(resource.RLIMIT_FSIZE, 1_000_000)
assert refused(lambda: registry.ledger.create())
limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
""")
    assert "RLIMIT_FSIZE" in said


def test_with_too_small_a_limit_of_file_size_a_message_names_the_limit() -> None:
    (said,) = run("""
message = Binary(bytes(5_000_000))
limit(resource.RLIMIT_FSIZE, 6_000_000)
assert refused(lambda: writer.send(message, timeout_seconds=0))
limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
""")
    assert said.startswith("a message of port out needs a file of ")
    assert "raise the limit of the size of files (RLIMIT_FSIZE, ulimit -f)" in said


def test_with_too_small_a_limit_of_file_size_a_declared_port_names_the_limit() -> None:
    (said,) = run("""
large = registry.create_channel("large", 4, max_message_bytes=5_000_000)
registry.create_subscriber(large)
limit(resource.RLIMIT_FSIZE, 6_000_000)
assert refused(lambda: registry.create_publisher(large))
limit(resource.RLIMIT_FSIZE, resource.RLIM_INFINITY)
""")
    assert said.startswith("opening the writer of port large needs a file of ")
    assert "RLIMIT_FSIZE" in said


@pytest.mark.parametrize(
    ("number", "word"), [(errno.EMFILE, "ulimit -n"), (errno.ENFILE, "fs.file-max")]
)
def test_an_error_of_the_system_that_is_a_limit_is_named(number: int, word: str) -> None:
    said = f"^opening it failed .*{word}"
    with pytest.raises(ResourceLimit, match=said), limits_named("opening it"):
        raise OSError(number, os.strerror(number))


def test_other_errors_stay_what_they_are() -> None:
    error: Any = FileNotFoundError(errno.ENOENT, "none")
    with pytest.raises(FileNotFoundError), limits_named("opening it"):
        raise error
    assert limit_reached("nothing") is None
