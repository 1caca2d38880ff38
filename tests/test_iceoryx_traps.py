"""What iceoryx2 would do to a process or its data, if one let it.

Each row is a habit of the library (0.10.0, in Python). It has a test here or elsewhere, or a reason
why it cannot matter.

| The library ...                                       | so, or see                               |
|-------------------------------------------------------|------------------------------------------|
| aborts on a second send, and on use after `delete()`  | test_loan; nothing is deleted: below  |
| waits in `send()` holding the GIL, if told to         | it is not told to: below                 |
| takes over signal handlers                            | below                                    |
| lends memory views that do not keep their sample      | none are used: below; test_views         |
| maps what is received read-only: a write is SIGSEGV   | test_views                               |
| leaves a loan writable after it was sent              | test_loan                                |
| makes sparse segments: SIGBUS when memory is full     | test_shared_memory, test_pages           |
| may lose a wake-up of a WaitSet, and hold the GIL     | none is used: below                      |
| loses a message whose segment was never mapped        | counted: below                           |
| aborts over 128 dead writers whose samples are held   | a reader holds no more than its share |
| waits for ever in `timed_wait(0)`                     | nothing of it is waited on: below        |
| aborts when a segment runs out of chunks              | it never does: test_segments             |
| counts memory by a formula of its own                 | test_segments                            |
| queues by the reader's buffer, not by history         | below                                    |
| evicts the oldest silently                            | counted: test_subscriber, test_transport |
| forgets what was sent before a reader connected       | below                                    |
| is unfair between the writers of one service          | a port has one: test_transport           |
| lends memory with old bytes in it                     | all that is read was written: below      |
| has listeners that no event loop can watch            | none is used: below                      |
| takes about 13 descriptors for each open service      | below                                    |
| takes a stopped process for a living one              | and we do not clean up after it: below   |
| cleans up dead processes in whoever opens something   | one place does it: below                 |
| leaves marks of those killed as they came or opened   | those files are removed: below           |
| reads configuration from the working directory        | below                                    |
| makes socket paths of at most 108 bytes               | no sockets; paths are short: test_folder |
| lets all processes of a user write to its queues      | others cannot: below                     |
| believes the size that a writer claims                | it is held against the segment: below    |
| gives back in a forked child what is its parent's     | nothing is dropped there: test_forks     |
| drops a service with its creator                      | the maker holds it: test_transport       |
| tells errors by name only                             | one module knows the names: below        |
| leaves one file behind by design                      | swept: every test checks                 |
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import remotemedia
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.plan import SpareTaps
from remotemedia.core.multiprocess.transport import library
from remotemedia.core.multiprocess.transport.domain import new_domain
from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER
from remotemedia.data import Binary, Tensor, Text
from remotemedia.data.layout import tensor_layout
from remotemedia.data.wire import HEADER
from remotemedia.errors import BackpressureError, DecodeError, PeerLost
from tests.executor_helpers import repeated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.native.portable import Chunk
    from remotemedia.core.multiprocess.transport.iceoryx import IceoryxTransport

SOURCE = Path(remotemedia.__file__).parent
FEW_TAPS = SpareTaps(2, 2, 1)


@pytest.fixture
def registry() -> Iterator[ChannelRegistry]:
    with ChannelRegistry(spin_ns=0) as made:
        yield made


def run(code: str, *arguments: object, **options: Any) -> str:
    """Run some Python in a process of its own; what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent), **options.pop("env", {})}
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


class Other:
    """Another process that has an endpoint, and does a line of Python for each line it gets."""

    CODE = """
import sys, numpy as np
from remotemedia.core.multiprocess.channel.endpoint import Endpoint
from remotemedia.core.multiprocess.channel.ticket import Ticket
from remotemedia.data import Binary
with Endpoint.open(Ticket.from_json(sys.argv[1])) as endpoint:
    publishers = list(endpoint.publishers.values())
    print("ready", flush=True)
    for line in sys.stdin:
        exec(line)
        print("done", flush=True)
"""

    def __init__(self, registry: ChannelRegistry, endpoint: str) -> None:
        ticket = registry.ticket(endpoint)
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE, ticket.to_json()],
            env={**os.environ, "PYTHONPATH": str(SOURCE.parent)},
            pass_fds=ticket.fds,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hear()

    def hear(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() in ("ready\n", "done\n")

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def do(self, line: str) -> None:
        self.tell(line)
        self.hear()

    def end(self, signal_number: int | None = None) -> None:
        if signal_number is not None:
            self.process.send_signal(signal_number)
        with self.process:  # closes the pipes, and waits
            pass


def code_of(path: Path) -> str:
    """Python without its comments and texts."""
    text = re.sub(r'"""(.|\n)*?"""', "", path.read_text(encoding="utf-8"))
    return re.sub(r"#.*", "", text)


@pytest.mark.parametrize(
    "habit",
    [
        r"\.delete\(",
        "RetryUntilDelivered",
        "as_memory_view",
        r"\.payload\(",
        "WaitSet",
        "Listener",
        "Notifier",
        "timed_wait",
        r"_node\.wait",
        "open_or_create",
        "Blackboard",
    ],
)
def test_what_is_dangerous_is_not_used_anywhere(habit: str) -> None:
    users = [path for path in SOURCE.rglob("*.py") if re.search(habit, code_of(path))]
    assert users == []


def test_one_module_knows_the_names_of_the_errors() -> None:
    names = re.findall(r'"([A-Z][a-z]+[A-Z]\w+)"', code_of(Path(library.__file__)))
    assert {"ExceedsMaxLoans", "DoesNotExist"} <= set(names)
    known = "|".join(name for name in names if name.startswith("Exceeds"))
    others = [path for path in SOURCE.rglob("*.py") if path.name != "library.py"]
    assert not [path for path in others if re.search(f'"({known})"', code_of(path))]


def test_a_stalled_reader_does_not_stop_the_other_threads_of_its_writer(
    registry: ChannelRegistry,
) -> None:
    channel = registry.create_channel("out", 1)
    reader = registry.create_subscriber(channel)
    writer = registry.create_publisher(channel)
    writer.send(Text("1"))
    thread = threading.Thread(target=writer.send, args=(Text("2"),))
    thread.start()
    # Were the GIL held by the waiting send, nothing here would ever run.
    messages = [reader.receive(10), reader.receive(10)]
    thread.join()
    assert messages == [Text("1"), Text("2")]


def test_signal_handlers_and_masks_stay_as_they_are() -> None:
    code = """
import re, signal
def look():
    status = open("/proc/self/status").read()
    return [re.search(f"{name}:.*", status)[0] for name in ("SigBlk", "SigIgn", "SigCgt")], [
        signal.getsignal(number) for number in signal.valid_signals()
    ]
import numpy
before = look()
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.data import Text
assert look() == before
with ChannelRegistry() as registry:
    channel = registry.create_channel("out", 4)
    reader, writer = registry.create_subscriber(channel), registry.create_publisher(channel)
    writer.send(Text("x"))
    assert reader.receive() == Text("x")
    assert reader.receive(0.001) is None
    assert look() == before
assert look() == before
"""
    run(code)


@pytest.mark.parametrize("waits", ["receive", "send"])
def test_a_signal_during_a_wait_reaches_the_handler_of_the_program(waits: str) -> None:
    code = """
import signal, sys
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.data import Text
class Rang(Exception): pass
def ring(*_): raise Rang
signal.signal(signal.SIGALRM, ring)
with ChannelRegistry() as registry:
    channel = registry.create_channel("out", 1)
    reader, writer = registry.create_subscriber(channel), registry.create_publisher(channel)
    for _ in range(3):
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        try:
            if sys.argv[1] == "receive":
                reader.receive()
            else:
                while True:
                    writer.send(Text("x"))
        except Rang:
            print("rang")
    reader.take()
    writer.send(Text("on"))
"""
    assert run(code, waits) == "rang\n" * 3


def test_a_message_whose_memory_went_with_its_sender_is_counted(
    registry: ChannelRegistry,
) -> None:
    registry.add_endpoint("writer")
    channel = registry.create_channel("out", 8, writer="writer")
    reader = registry.create_subscriber(channel)
    other = Other(registry, "writer")
    other.do("publishers[0].send(Binary(b'small'))")
    message = reader.receive(5)
    assert message is not None
    other.do("publishers[0].send(Binary(bytes(100_000)))")  # in a segment of its own
    other.end(signal.SIGKILL)
    registry.endpoint_died("writer")
    registry.ticket("writer")  # whoever takes its place takes its memory
    registry.endpoint_died("writer")
    with pytest.raises(PeerLost):
        reader.receive(5)
    (stats,) = registry.stats()["out"].connections
    assert (stats.sent, stats.received, stats.dropped["lost"]) == (2, 1, 1)
    assert stats.is_balanced


def test_many_dead_writers_whose_messages_are_held_do_not_abort_their_reader() -> None:
    code = """
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.plan import SpareTaps
from remotemedia.data import Tensor
import numpy as np
hoard = []
with ChannelRegistry() as registry:
    channel = registry.create_channel("out", 2, max_message_bytes=64, taps=SpareTaps(0, 1, 1))
    reader = registry.create_subscriber(channel, max_held=4)
    for number in range(150):
        writer = registry.create_publisher(channel)
        writer.send(Tensor(np.full(4, number)))
        hoard.append(reader.receive(5))
        writer.close()
    assert reader.held == 4
    assert [message.array[3] for message in hoard] == list(range(150))
assert [message.array[3] for message in hoard] == list(range(150))
"""
    run(code)


def test_a_writers_word_for_the_size_of_a_message_is_not_believed(
    registry: ChannelRegistry,
) -> None:
    channel = registry.create_channel("out", 4)
    reader, writer = registry.create_subscriber(channel), registry.create_publisher(channel)
    writer.send(Text("before"))
    assert reader.receive(1) == Text("before")
    layout = tensor_layout((1 << 27,), np.dtype(np.uint8))
    for elements in (1 << 21, (1 << 58) - 1):
        chunk, token = forge(writer, elements)
        HEADER.pack_into(chunk.header, 0, layout.block, 0, 0, *next_envelope(writer))
        writer._writer.send(token)
        with pytest.raises(DecodeError, match="its header describes 134,217,728 of payload"):
            reader.receive(1)
        writer._sent += 1
    writer.send(Binary(bytes(1_000_000)))  # and what is larger than all before, is
    assert reader.receive(1) == Binary(bytes(1_000_000))
    (stats,) = registry.stats()["out"].connections
    assert stats.dropped["unreadable"] == 2
    assert stats.is_balanced


def forge(writer: Publisher, elements: int) -> tuple[Chunk, Any]:
    """Lend a small chunk whose header of the library says that it is large."""
    chunk, token = writer._writer.loan(64)
    sample: Any = token
    elements_at = ctypes.c_uint64.from_address(sample.user_header_ptr - 16)
    assert elements_at.value == sample.header.number_of_elements == 1
    elements_at.value = elements
    return chunk, token


def next_envelope(writer: Publisher) -> tuple[int, bytes, int, int, int]:
    """The rest of the header of the next message, which is counted as sent."""
    writer._words[writer._sent_at] = writer._sent + 1
    return writer._sent + 1, writer._context, 0, 0, 0


def test_a_channel_of_capacity_100_holds_100(registry: ChannelRegistry) -> None:
    channel = registry.create_channel("out", 100, taps=FEW_TAPS)
    reader = registry.create_subscriber(channel, policy="error")
    writer = registry.create_publisher(channel)
    for number in range(100):
        writer.send(Text(str(number)))
    with pytest.raises(BackpressureError, match="100 messages wait"):
        writer.send(Text("one too many"))
    assert [reader.receive(1) for _ in range(100)] == [Text(str(n)) for n in range(100)]


def test_policies_mix_on_one_port(registry: ChannelRegistry) -> None:
    channel = registry.create_channel("out", 8)
    every = registry.create_subscriber(channel, policy="block")
    newest = registry.create_subscriber(channel, policy="latest")
    writer = registry.create_publisher(channel)
    for number in range(8):
        writer.send(Text(str(number)), timeout_seconds=0)
    late = registry.create_subscriber(channel, policy="latest")
    assert every.receive(1) == Text("0")
    writer.send(Text("last"), timeout_seconds=0)
    assert [newest.receive(1), newest.receive(0)] == [Text("last"), None]
    assert [late.receive(1), late.receive(0)] == [Text("last"), None]
    assert [every.receive(1) for _ in range(8)] == [*map(Text, "1234567"), Text("last")]
    for stats in registry.stats()["out"].connections:
        assert stats.is_balanced


def test_nothing_is_sent_while_a_planned_reader_has_not_opened(registry: ChannelRegistry) -> None:
    registry.add_endpoint("reader")
    channel = registry.create_channel("out", 8)
    registry.connect(channel, "reader")
    writer = registry.create_publisher(channel)
    with pytest.raises(BackpressureError, match="has no reader yet"):
        writer.send(Text("1"), timeout_seconds=0)
    (reader,) = registry.open("reader").subscribers.values()
    writer.send(Text("1"), timeout_seconds=0)
    assert reader.receive(1) == Text("1")


def test_old_bytes_of_reused_memory_are_never_read(registry: ChannelRegistry) -> None:
    channel = registry.create_channel("out", 2)
    reader = registry.create_subscriber(channel)
    writer = registry.create_publisher(channel)
    for number in range(40):
        size = (997 * number) % 300
        writer.send(Binary(b"\xff" * 400, metadata={"a": "b" * 300}))
        reader.receive(1)
        sent = Tensor(np.arange(size, dtype=np.uint8), correlation_id=number)
        writer.send(sent)
        found = reader.receive(1)
        assert found == sent
        assert isinstance(found, Tensor)
        assert (found.correlation_id, found.metadata) == (number, {})


def test_a_channel_takes_few_descriptors_and_gives_all_back(registry: ChannelRegistry) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    channels = [registry.create_channel(f"out{n}", 2, taps=FEW_TAPS) for n in range(10)]
    for channel in channels:
        registry.create_subscriber(channel)
        registry.create_publisher(channel)
    assert descriptors() - before <= 10 * 20
    for channel in channels:
        registry.destroy_channel(channel)
    del channel, channels
    assert descriptors() - before <= 10 * 2  # doorbells


def nodes(domain: IceoryxTransport) -> list[Path]:
    root, _ = domain.address
    return [path for path in Path(root, "nodes").iterdir() if path.is_dir()]


def test_a_stopped_process_is_not_cleaned_up_and_goes_on(registry: ChannelRegistry) -> None:
    registry.add_endpoint("writer")
    channel = registry.create_channel("out", 8, writer="writer")
    reader = registry.create_subscriber(channel)
    other = Other(registry, "writer")
    other.do("publishers[0].send(Binary(b'1'))")
    other.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, other.process.pid, os.WSTOPPED | os.WNOWAIT)
    transport: Any = registry._transport
    transport.free_leftovers()
    other.process.send_signal(signal.SIGCONT)
    other.do("publishers[0].send(Binary(b'2'))")
    assert [reader.receive(5), reader.receive(5)] == [Binary(b"1"), Binary(b"2")]
    other.end()


def test_the_dead_are_cleaned_up_in_one_place_only(registry: ChannelRegistry) -> None:
    for name in ("one", "two"):
        registry.add_endpoint(name)
        channel = registry.create_channel(f"{name}.out", 8, writer=name, taps=FEW_TAPS)
        registry.create_subscriber(channel)
    transport: Any = registry._transport
    one = Other(registry, "one")
    one.end(signal.SIGKILL)
    assert len(nodes(transport)) == 2
    two = Other(registry, "two")  # opens and closes services and a node
    assert len(nodes(transport)) == 3
    two.end()
    assert len(nodes(transport)) == 2
    registry.endpoint_died("one")
    assert len(nodes(transport)) == 1


def test_the_dead_of_another_registry_are_left_to_it(registry: ChannelRegistry) -> None:
    transport: Any = registry._transport
    with (
        ChannelRegistry(transport, scope="a") as mine,
        ChannelRegistry(transport, scope="b") as theirs,
    ):
        dead = []
        for one in (mine, theirs):
            one.add_endpoint("writer")
            one.create_subscriber(one.create_channel("out", 8, writer="writer", taps=FEW_TAPS))
            other = Other(one, "writer")
            other.do("publishers[0].send(Binary(b'unread'))")
            other.end(signal.SIGKILL)
            dead.append(other.process.pid)
        mine.endpoint_died("writer", pids=dead[:1])
        mine.cleanup()
        assert len(nodes(transport)) == 2
        theirs.endpoint_died("writer", pids=dead[1:])
        theirs.cleanup()
        assert len(nodes(transport)) == 1


JOINS_AND_LEAVES = """
import sys
from pathlib import Path
from remotemedia.core.multiprocess.transport.library import new_node

while True:
    new_node(Path(sys.argv[1]), sys.argv[2])
    print(flush=True)
"""


@repeated(200, short=6)
def test_a_process_killed_while_it_joins_or_leaves_leaves_nothing(
    registry: ChannelRegistry, round_: int
) -> None:
    transport: Any = registry._transport
    root, _ = transport.address
    before = set(Path(root).rglob("*"))
    command = [sys.executable, "-c", JOINS_AND_LEAVES, *transport.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        # It joins and leaves in turn as fast as it can: somewhere in the one or in the other.
        for _ in range(1 + round_ % 12):
            process.stdout.readline()
        process.kill()
        process.wait()
    transport.free_leftovers([process.pid])
    assert set(Path(root).rglob("*")) == before


OPENS = """
import sys
from remotemedia.core.multiprocess.channel.endpoint import Endpoint
from remotemedia.core.multiprocess.channel.ticket import Ticket
import remotemedia.core.multiprocess.transport.iceoryx

print(flush=True)
Endpoint.open(Ticket.from_json(sys.argv[1]))
sys.stdin.read()
"""


@repeated(200, short=12)
def test_a_process_killed_while_it_opens_its_ports_leaves_nothing(
    registry: ChannelRegistry, round_: int
) -> None:
    transport: Any = registry._transport
    registry.create_subscriber(registry.create_channel("mine"))  # the folders are made with it
    root, prefix = transport.address

    def left() -> set[Path]:
        return {*Path(root).rglob("*"), *Path(SHM_FOLDER).glob(f"{prefix}*")}

    before = left()
    with ChannelRegistry(transport, scope="other") as other:
        other.add_endpoint("middle")
        other.connect(other.create_channel("in", 8), "middle")
        other.create_subscriber(other.create_channel("out", 8, writer="middle"))
        ticket = other.ticket("middle")
        command = [sys.executable, "-c", OPENS, ticket.to_json()]
        with subprocess.Popen(
            command, pass_fds=ticket.fds, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(random.uniform(0, 0.02))  # any moment of its opening
            process.kill()
            process.wait()
    transport.free_leftovers([process.pid])
    assert left() == before


def test_no_configuration_is_picked_up(tmp_path: Path) -> None:
    stray = tmp_path / "stray"
    stray.mkdir()
    lines = f'[global]\nroot-path = "{stray}"\nprefix = "evil_"\n'
    home = tmp_path / "home"
    for place in (
        "iceoryx2.toml",
        "config/iceoryx2.toml",
        "home/.config/iceoryx2/iceoryx2.toml",
        "home/.config/iceoryx2.toml",
    ):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lines)
    code = """
import os
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.data import Text
with ChannelRegistry() as registry:
    channel = registry.create_channel("out", 4)
    reader, writer = registry.create_subscriber(channel), registry.create_publisher(channel)
    writer.send(Text("x"))
    assert reader.receive() == Text("x")
    print(*(name for name in os.listdir("/dev/shm") if name.startswith("evil_")))
"""
    environment = {"HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    assert run(code, cwd=tmp_path, env=environment) == "\n"
    assert list(stray.iterdir()) == []


def test_nobody_else_can_read_or_write_what_is_shared(registry: ChannelRegistry) -> None:
    channel = registry.create_channel("out", 4)
    registry.create_subscriber(channel)
    registry.create_publisher(channel).send(Binary(bytes(100_000)))
    transport: Any = registry._transport
    root, prefix = transport.address
    files = list(Path(SHM_FOLDER).glob(f"{prefix}*"))
    assert len(files) >= 4
    for path in (*files, *Path(root).rglob("*"), Path(root)):
        state = path.stat()
        assert state.st_uid == os.getuid()
        if path.is_file():
            assert stat.S_IMODE(state.st_mode) & 0o077 == 0, path
    assert stat.S_IMODE(Path(root).stat().st_mode) == 0o700


def test_domains_never_meet() -> None:
    with ChannelRegistry() as one, ChannelRegistry() as two:
        ends = []
        for registry in (one, two):
            channel = registry.create_channel("out", 4)
            ends.append((registry.create_subscriber(channel), registry.create_publisher(channel)))
        (reader, writer), (other_reader, _) = ends
        writer.send(Text("x"))
        assert other_reader.receive(0) is None
        assert reader.receive(0) == Text("x")
    assert new_prefixes_differ()


def new_prefixes_differ() -> bool:
    domains = [new_domain(), new_domain()]
    prefixes = {domain.address[1] for domain in domains}
    for domain in domains:
        domain.close_and_sweep()
    return len(prefixes) == 2


def test_a_process_forked_before_any_node_can_use_channels() -> None:
    code = """
import os
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.data import Text
def use():
    with ChannelRegistry() as registry:
        channel = registry.create_channel("out", 4)
        reader, writer = registry.create_subscriber(channel), registry.create_publisher(channel)
        writer.send(Text("x"))
        assert reader.receive(5) == Text("x")
pids = []
for _ in range(3):
    pids.append(os.fork())
    if pids[-1] == 0:
        use()
        os._exit(7)
use()
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
"""
    assert run(code) == "[7, 7, 7]\n"


def test_the_version_whose_habits_these_are_is_pinned() -> None:
    from importlib.metadata import requires, version

    wanted = [line for line in requires("remotemedia") or [] if line.startswith("iceoryx2")]
    assert wanted == [f"iceoryx2=={version('iceoryx2')}"] == ["iceoryx2==0.10.0"]
