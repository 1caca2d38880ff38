"""The registry of channels: tickets, endpoints, taps, errors, and what is left afterwards."""

from __future__ import annotations

import copy
import os
import pickle
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from remotemedia.core.multiprocess.channel.endpoint import Endpoint
from remotemedia.core.multiprocess.channel.registry import Channel, ChannelRegistry
from remotemedia.core.multiprocess.channel.ticket import Ticket
from remotemedia.core.multiprocess.plan import MAX_CAPACITY, Policy, SpareTaps
from remotemedia.core.multiprocess.transport.doorbell import Doorbell
from remotemedia.core.multiprocess.transport.folder import private_folder
from remotemedia.core.multiprocess.transport.iceoryx import IceoryxTransport
from remotemedia.core.multiprocess.transport.ledger import (
    ENDPOINT_WORDS,
    PORT_WORDS,
    WORDS,
    LedgerWord,
)
from remotemedia.core.multiprocess.transport.memory import MemoryReader, MemoryTransport
from remotemedia.data import Binary
from remotemedia.errors import (
    BackpressureError,
    ChannelClosed,
    ChannelError,
    EndOfStream,
    PeerLost,
    ResourceLimit,
    SharedMemoryExhausted,
)
from tests.channel_helpers import (
    IS_LONG,
    Background,
    Peer,
    connection_stats_of,
    eventually,
    leftovers,
    new_registry,
    number,
    open_fds,
    receive_now,
    send_all,
    shared_mappings,
    value_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan


@pytest.fixture
def spin_ns() -> int:
    return 0  # waits block at once


@pytest.fixture
def shared() -> Iterator[ChannelRegistry]:
    with new_registry("iceoryx") as registry:
        yield registry


def place_of(registry: ChannelRegistry) -> tuple[Path, str]:
    """The folder and the prefix of a registry that has its own."""
    transport = registry._transport
    assert isinstance(transport, IceoryxTransport)
    return transport._root, transport._prefix


def read_from_another(registry: ChannelRegistry) -> tuple[Channel, Subscriber]:
    """A port of the endpoint "writer", and its reader here."""
    registry.add_endpoint("writer")
    channel = registry.create_channel("port", 64, writer="writer")
    return channel, registry.create_subscriber(channel)


def write_to_another(registry: ChannelRegistry, policy: str = "block") -> Channel:
    """A port that is written here, and read by the endpoint "reader"."""
    registry.add_endpoint("reader")
    channel = registry.create_channel("port", 8)
    registry.connect(channel, "reader", policy=policy)
    return channel


# Planning


def test_what_is_wrong_with_a_plan_is_said(local: ChannelRegistry) -> None:
    channel = local.create_channel("cam.out", 4)
    local.add_endpoint("viewer")
    local.connect(channel, "viewer")
    calls: dict[str, Callable[[], object]] = {
        r"there is a channel 'cam.out' already": lambda: local.create_channel("cam.out"),
        r"there is an endpoint 'viewer' already": lambda: local.add_endpoint("viewer"),
        r"no endpoint 'x' \(there are: 'cam.out writer', 'viewer'\); add_endpoint": lambda: (
            local.connect(channel, "x")
        ),
        r"no endpoint 'y' ": lambda: local.create_channel("other", writer="y"),
        r"there is a connection 'cam.out -> viewer' already; give": lambda: local.connect(
            channel, "viewer"
        ),
        r"policy is 'drop'; it must be one of block, drop_oldest, latest, error": lambda: (
            local.connect(channel, "viewer", name="a", policy="drop")
        ),
        r"latest keeps one message; use drop_oldest": lambda: local.connect(
            channel, "viewer", name="a", policy="latest", capacity=2
        ),
        r"capacity of a is 0; it must be a whole number from 1 to 65,536": lambda: local.connect(
            channel, "viewer", name="a", capacity=0
        ),
        r"capacity of a is 65537": lambda: local.connect(
            channel, "viewer", name="a", capacity=MAX_CAPACITY + 1
        ),
        r"max_held of a is True": lambda: local.connect(channel, "viewer", name="a", max_held=True),
        r"capacity of channel b is 1.5": lambda: local.create_channel(
            "b",
            1.5,  # type: ignore[arg-type]
        ),
        r"max_message_bytes of b is -1; it must be .* to 268,435,456": lambda: local.create_channel(
            "b", max_message_bytes=-1
        ),
        r"no other processes": lambda: local.ticket("viewer"),
    }
    for text, call in calls.items():
        with pytest.raises(ChannelError, match=text):
            call()


@pytest.mark.parametrize("wrong", ["cam", None, 5])
def test_what_is_no_channel_is_said_to_be_none(local: ChannelRegistry, wrong: Any) -> None:
    for call in (
        local.create_publisher,
        local.create_subscriber,
        local.destroy_channel,
        partial(local.connect, reader="x"),
    ):
        with pytest.raises(TypeError, match=f"a Channel is expected.* this is {wrong!r}"):
            call(wrong)
    with pytest.raises(TypeError, match="it must be a str"):
        local.create_channel(wrong if wrong != "cam" else "")
    with pytest.raises(TypeError, match="must be SpareTaps or None"):
        local.create_channel("cam", taps=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"transport": "iceoryx"}, "transport is 'iceoryx'; it must be None, .* MemoryTransport"),
        ({"scope": 5}, "scope is 5; it must be a str"),
        ({"spin_ns": "1"}, "spin_ns is '1'; it must be a whole number"),
        ({"spin_ns": -1}, "spin_ns is -1; it must be a whole number"),
    ],
)
def test_what_no_registry_is_made_of_is_refused_at_once(wrong: Any, what: str) -> None:
    with pytest.raises(TypeError, match=what):
        ChannelRegistry(**wrong)


def test_what_is_no_name_and_no_ticket_is_refused_with_advice(local: ChannelRegistry) -> None:
    wrong: Any
    for wrong in ("", None, 5):
        with pytest.raises(TypeError, match="it must be a str, not empty"):
            local.add_endpoint(wrong)
    for wrong in ("{}", b"{}"):
        with pytest.raises(TypeError, match=r"a Ticket is expected.*Ticket.from_json\(text\)"):
            Endpoint.open(wrong)


@pytest.mark.parametrize(
    ("taps", "what"),
    [
        (SpareTaps(-1), "count of the taps of channel cam is -1; .* from 0 to 1,024"),
        (SpareTaps(1 << 40), "count of the taps"),
        (SpareTaps(2, 0), "capacity of the taps of channel cam is 0; .* from 1 to 65,536"),
        (SpareTaps(2, 1, -1), "max_held of the taps"),
        (SpareTaps(2, "8"), "capacity of the taps of channel cam is '8'"),  # type: ignore[arg-type]
    ],
)
def test_taps_of_no_possible_size_are_refused(
    local: ChannelRegistry, taps: SpareTaps, what: str
) -> None:
    with pytest.raises(ChannelError, match=what):
        local.create_channel("cam", taps=taps)


def test_a_channel_that_nobody_can_read_opens_and_takes_what_is_sent(
    registry: ChannelRegistry,
) -> None:
    channel = registry.create_channel("port", taps=SpareTaps(0))
    registry.create_publisher(channel).send(number(1))
    assert registry.stats()["port"].sent == 1
    with pytest.raises(ChannelError, match="the channel is open and has 0 spare taps"):
        registry.create_subscriber(channel)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_ends_cannot_be_duplicated_and_go_on(
    registry: ChannelRegistry, duplicate: Callable[[object], object]
) -> None:
    channel = registry.create_channel("port", 4)
    reader = registry.create_subscriber(channel)
    publisher = registry.create_publisher(channel)
    registry.add_endpoint("other")
    for one in (registry, channel, reader, publisher, registry.open("other")):
        with pytest.raises(TypeError, match=f"a {type(one).__name__} cannot be copied .* ticket"):
            duplicate(one)
    publisher.send(number(1))
    assert receive_now(reader) == [1]


def test_threads_may_share_a_registry(registry: ChannelRegistry) -> None:
    def work(name: str) -> None:
        for count in range(10):
            channel = registry.create_channel(f"{name}.{count}", 4)
            readers = [registry.create_subscriber(channel) for _ in range(2)]
            registry.create_publisher(channel).send(number(count))
            assert [receive_now(reader) for reader in readers] == [[count]] * 2
            if count % 2:
                registry.destroy_channel(channel)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [Background(partial(work, name)) for name in ("a", "b", "c")]
        while any(worker.is_running for worker in workers):
            registry.stats()
        for worker in workers:
            worker.result()
    finally:
        sys.setswitchinterval(interval)
    ports = registry.stats()
    assert len(ports) == 15
    connections = [one for port in ports.values() for one in port.connections]
    assert len(connections) == 30
    assert all(one.is_balanced and one.received == 1 for one in connections)


def test_a_channel_of_another_registry_is_refused(local: ChannelRegistry) -> None:
    gone = local.create_channel("gone")
    local.destroy_channel(gone)
    with new_registry() as other:
        for channel in (gone, other.create_channel("gone")):
            for call in (local.create_publisher, local.create_subscriber):
                with pytest.raises(ChannelError, match="was destroyed, or is of another registry"):
                    call(channel)


def test_a_refused_plan_leaves_nothing_behind(local: ChannelRegistry) -> None:
    channel = local.create_channel("port", 4)
    fds, used = open_fds(), local.ledger.words[LedgerWord.ALLOCATED]
    for _ in range(50):
        with pytest.raises(ChannelError):
            local.create_subscriber(channel, policy="no such")
    assert open_fds() == fds
    assert local.ledger.words[LedgerWord.ALLOCATED] - used <= 64
    publisher = local.create_publisher(channel)
    assert publisher.wait_connected(0)


def test_a_channel_that_finds_the_ledger_full_can_be_planned_again(local: ChannelRegistry) -> None:
    party = local.ledger.allocate(ENDPOINT_WORDS)
    left = (WORDS - local.ledger.words[LedgerWord.ALLOCATED]) // PORT_WORDS
    taken = [local.ledger.allocate(PORT_WORDS) for _ in range(left)]
    local.ledger.free(party, ENDPOINT_WORDS)
    fds = open_fds()
    with pytest.raises(ResourceLimit, match="ledger of the session is full"):
        local.create_channel("port")
    assert open_fds() == fds
    local.ledger.free(taken[0], PORT_WORDS)
    assert local.create_channel("port").plan.slot == taken[0]


def test_an_endpoint_that_gets_no_doorbell_gives_its_words_back(
    local: ChannelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> int:
        raise ResourceLimit("too many files are open")

    with monkeypatch.context() as patched:
        patched.setattr(Doorbell, "new_fd", refuse)
        with pytest.raises(ResourceLimit):
            local.add_endpoint("viewer")
    used = local.ledger.words[LedgerWord.ALLOCATED]
    local.add_endpoint("viewer")
    assert local.ledger.words[LedgerWord.ALLOCATED] == used


class NoReaders(MemoryTransport):
    """A machine without memory for one more reader."""

    fails = False

    def open_reader(self, port: PortPlan, connection: ConnectionPlan) -> MemoryReader:
        if self.fails:
            raise SharedMemoryExhausted("a reader", 10, 0, "nowhere")
        return super().open_reader(port, connection)


@pytest.mark.parametrize("is_late", [True, False])
def test_nobody_waits_for_a_reader_that_could_not_be_opened(is_late: bool) -> None:
    transport = NoReaders()
    with ChannelRegistry(transport) as registry:
        channel = registry.create_channel("port", 4)
        publisher = registry.create_publisher(channel) if is_late else None
        transport.fails = True
        for _ in range(20):  # more than there are taps
            with pytest.raises(SharedMemoryExhausted):
                registry.create_subscriber(channel)
        transport.fails = False
        publisher = publisher or registry.create_publisher(channel)
        publisher.send_nowait(number(1))
        late = registry.create_subscriber(channel)
        publisher.send_nowait(number(2))
        assert receive_now(late) == [2]
        assert len(registry.stats()["port"].connections) == 1


def test_connections_take_what_the_channel_says_unless_they_say_otherwise(
    local: ChannelRegistry,
) -> None:
    channel = local.create_channel("port", 7)
    local.add_endpoint("reader")
    plain = local.connect(channel, "reader")
    latest = local.connect(channel, "reader", name="latest", policy=Policy.LATEST)
    own = local.connect(channel, "reader", name="own", capacity=3, max_held=9)
    assert (plain.name, plain.policy, plain.capacity, plain.max_held) == (
        "port -> reader",
        Policy.BLOCK,
        7,
        4,
    )
    assert (latest.name, latest.capacity) == ("latest", 1)
    assert (own.capacity, own.max_held) == (3, 9)
    endpoint = local.open("reader")
    assert set(endpoint.subscribers) == {"port -> reader", "latest", "own"}


def test_a_channel_has_one_publisher_and_says_where(registry: ChannelRegistry) -> None:
    registry.add_endpoint("camera")
    theirs = registry.create_channel("theirs", writer="camera")
    with pytest.raises(ChannelError, match="written by endpoint 'camera': open that"):
        registry.create_publisher(theirs)
    ours = registry.create_channel("ours")
    registry.create_publisher(ours)
    with pytest.raises(ChannelError, match="channel ours has a publisher already"):
        registry.create_publisher(ours)


# Taps


def test_readers_are_numbered_from_1_and_print_where_they_are(registry: ChannelRegistry) -> None:
    channel = registry.create_channel("out", 4)
    publisher = registry.create_publisher(channel)
    for count in (1, 2, 3):
        reader = registry.create_subscriber(channel)
        assert repr(reader) == f"<Subscriber out -> reader {count}: at 0>"
        registry.create_channel(f"other {count}")
    publisher.send(number(1))
    reader.take()
    assert repr(reader) == "<Subscriber out -> reader 3: at 1>"


def test_late_readers_take_spare_taps_until_there_are_none(registry: ChannelRegistry) -> None:
    channel = registry.create_channel("port", 4, taps=SpareTaps(2, 4, 1))
    planned = registry.create_subscriber(channel)  # creates the service
    publisher = registry.create_publisher(channel)
    taps = [registry.create_subscriber(channel) for _ in range(2)]
    with pytest.raises(ChannelError, match="the channel is open and has 0 spare taps"):
        registry.create_subscriber(channel)
    publisher.send(number(1))
    assert [receive_now(one) for one in (planned, *taps)] == [[1]] * 3


def test_a_late_reader_that_wants_more_than_a_tap_has_is_refused(
    registry: ChannelRegistry,
) -> None:
    channel = registry.create_channel("port", 4, taps=SpareTaps(2, 3, 1))
    registry.create_publisher(channel)
    for capacity, max_held in ((4, 1), (3, 2)):
        with pytest.raises(ChannelError, match="2 spare taps of capacity 3, 1 held"):
            registry.create_subscriber(channel, capacity=capacity, max_held=max_held)
    reader = registry.create_subscriber(channel)
    assert (reader.connection.capacity, reader.connection.max_held) == (3, 1)


def test_taps_whose_readers_have_closed_are_free_again_for_ever(
    registry: ChannelRegistry,
) -> None:
    channel = registry.create_channel("port", 4, taps=SpareTaps(2, 4, 2))
    planned = registry.create_subscriber(channel, policy="latest")
    publisher = registry.create_publisher(channel)
    fds = used = None
    for count in range(30):
        taps = [registry.create_subscriber(channel) for _ in range(2)]
        publisher.send(number(count))
        assert [receive_now(one) for one in taps] == [[count]] * 2
        for tap in taps:
            tap.close()
        publisher.send(number(1000))
        if count == 5:
            fds, used = len(open_fds()), registry.ledger.words[LedgerWord.ALLOCATED]
    assert len(open_fds()) == fds
    assert registry.ledger.words[LedgerWord.ALLOCATED] == used
    assert receive_now(planned) == [1000]
    assert len(registry.stats()["port"].connections) == 3


def test_a_tap_is_free_again_once_nothing_is_held_that_came_by_it(
    shared: ChannelRegistry,
) -> None:
    channel = shared.create_channel("port", 2, taps=SpareTaps(1, 2, 2))
    publisher = shared.create_publisher(channel)
    for count in range(5):
        tap = shared.create_subscriber(channel)
        send_all(publisher, [count, count + 100])
        kept = [tap.receive(30), tap.receive(30)]
        tap.close()
        with pytest.raises(ChannelError, match="messages are still held"):
            shared.create_subscriber(channel)
        send_all(publisher, range(1000, 1020))
        assert [value_of(message) for message in kept] == [count, count + 100]
        kept.clear()


def test_a_late_reader_of_a_writer_that_would_not_know_of_it_is_refused(
    shared: ChannelRegistry,
) -> None:
    channel, _ = read_from_another(shared)
    shared.create_subscriber(channel)  # late by the service, not by the writer
    ticket = shared.ticket("writer")
    assert len(ticket.ports[0].connections) == 2
    with pytest.raises(ChannelError, match="written in another process, which would not know"):
        shared.create_subscriber(channel)


# Endpoints in this process


def test_ends_of_one_endpoint_share_a_doorbell_and_others_do_not(
    registry: ChannelRegistry,
) -> None:
    registry.add_endpoint("node")
    inputs = registry.create_channel("inputs", 2)
    outputs = registry.create_channel("outputs", 2, writer="node")
    registry.connect(inputs, "node")
    sink = registry.create_subscriber(outputs)
    source = registry.create_publisher(inputs)
    node = registry.open("node")
    assert registry.open("node").doorbell is node.doorbell
    assert len({end._doorbell for end in (sink, source)} | {node.doorbell}) == 3


def test_a_process_may_read_what_it_writes(registry: ChannelRegistry) -> None:
    registry.add_endpoint("self")
    channel = registry.create_channel("port", 2, writer="self")
    registry.connect(channel, "self")
    endpoint = registry.open("self")
    endpoint.publishers["port"].send(number(1))
    assert value_of(endpoint.subscribers["port -> self"].receive(1)) == 1


def test_an_endpoint_that_was_closed_here_is_rung_no_more_under_any_number(
    registry: ChannelRegistry,
) -> None:
    channel = write_to_another(registry, "drop_oldest")
    publisher = registry.create_publisher(channel)
    endpoint = registry.open("reader")
    words = registry.ledger.words
    words[endpoint.plan.slot] = 5  # it was about to sleep
    endpoint.close()
    # The numbers of closed descriptors are taken at once by others.
    files = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(8)]
    publisher.send(number(1))
    registry.endpoint_died("reader")
    for fd in files:
        with pytest.raises(BlockingIOError):
            os.eventfd_read(fd)
        os.close(fd)


def test_closing_an_endpoint_twice_is_harmless(registry: ChannelRegistry) -> None:
    _, reader = read_from_another(registry)
    with registry.open("writer") as endpoint:
        endpoint.publishers["port"].send(number(1))
    endpoint.close()
    assert [value_of(message) for message in reader] == [1]


# Tickets


def test_a_ticket_is_plain_text_and_comes_back_as_it_was(shared: ChannelRegistry) -> None:
    write_to_another(shared)
    ticket = shared.ticket("reader")
    assert Ticket.from_json(ticket.to_json()) == ticket
    assert Ticket.from_json(ticket.to_json().encode()) == ticket
    assert len(ticket.fds) == 3
    moved = ticket.with_fds([10, 11, 12])
    assert (moved.ledger_fd, moved.doorbell_fd, moved.peers[0][2]) == (10, 11, 12)
    assert moved.fds == (10, 11, 12)
    with pytest.raises(ChannelError, match="the ticket needs 3 descriptors and got 2"):
        ticket.with_fds([1, 2])


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"root": 3}', "\x00", b"\xff"])
def test_what_is_no_ticket_is_said_to_be_none(text: str | bytes) -> None:
    with pytest.raises(ChannelError, match="this is no ticket"):
        Ticket.from_json(text)


def test_an_endpoint_lives_in_one_process(shared: ChannelRegistry) -> None:
    shared.add_endpoint("node")
    shared.open("node")
    with pytest.raises(ChannelError, match="endpoint 'node' is open in this process"):
        shared.ticket("node")


def test_a_ticket_that_cannot_be_opened_gives_its_descriptors_back(
    shared: ChannelRegistry,
) -> None:
    channel = write_to_another(shared)
    ticket = shared.ticket("reader")

    def duplicated() -> Ticket:
        return ticket.with_fds([os.dup(fd) for fd in ticket.fds])

    fds = open_fds()
    damaged = duplicated()
    ledger_fd, doorbell_fd, *rest = damaged.fds
    with pytest.raises(ChannelError, match="no ledger"):
        Endpoint.open(damaged.with_fds([doorbell_fd, ledger_fd, *rest]))
    with pytest.raises(ChannelError, match="no ledger"):
        Endpoint.open(ticket.with_fds([-1, -1, -1]))
    assert open_fds() == fds
    late = duplicated()
    shared.destroy_channel(channel)
    with pytest.raises(ChannelError, match="opening the reader of port -> reader failed"):
        Endpoint.open(late)
    assert not set(late.fds) & {int(name) for name in os.listdir("/proc/self/fd")}


def test_messages_go_to_another_process_and_back(shared: ChannelRegistry) -> None:
    shared.add_endpoint("echo")
    there = shared.create_channel("there", 4)
    back = shared.create_channel("back", 4, writer="echo")
    shared.connect(there, "echo")
    answers = shared.create_subscriber(back)
    peer = Peer.of(shared, "echo", "echo")
    peer.wait_ready()
    publisher = shared.create_publisher(there)
    for count in range(100):
        publisher.send(number(count), timeout_seconds=30)
        assert value_of(answers.receive(30)) == count
    publisher.finish()
    assert peer.end() == 0
    with pytest.raises(EndOfStream):
        answers.receive(30)
    for port in shared.stats().values():
        assert all(one.is_balanced for one in port.connections)
        assert port.sent == 100


@pytest.mark.parametrize("has_membarrier", [True, False], ids=["membarrier", "no membarrier"])
@pytest.mark.parametrize("spins", [(0, 0), (50_000, 50_000), (0, 50_000)], ids=str)
@pytest.mark.parametrize("window", [2])
def test_no_wake_up_is_lost_between_processes_that_wait_for_each_other(
    spins: tuple[int, int], window: int, has_membarrier: bool
) -> None:
    here, there = spins
    rounds = 50_000 if IS_LONG else 1500
    with new_registry("iceoryx", spin_ns=here) as registry:
        registry.add_endpoint("echo")
        question = registry.create_channel("question", 1)
        answer = registry.create_channel("answer", 1, writer="echo")
        registry.connect(question, "echo")
        answers = registry.create_subscriber(answer)
        options = {"spin_ns": there, "has_membarrier": has_membarrier}
        peer = Peer.of(registry, "echo", "echo", **options)
        peer.wait_ready()
        publisher = registry.create_publisher(question)
        for count in range(rounds + window):
            if count < rounds:
                publisher.send(number(count), timeout_seconds=30)
            if count >= window:
                assert value_of(answers.receive(30)) == count - window
        publisher.finish()
        assert peer.end() == 0


def test_a_process_may_read_what_it_writes_by_ticket(shared: ChannelRegistry) -> None:
    shared.add_endpoint("echo")
    loop = shared.create_channel("loop", 4, writer="echo")
    shared.connect(loop, "echo")
    ticket = shared.ticket("echo")
    duplicated = ticket.with_fds([os.dup(fd) for fd in ticket.fds])
    with Endpoint.open(duplicated) as endpoint:
        (publisher,) = endpoint.publishers.values()
        (reader,) = endpoint.subscribers.values()
        publisher.send(number(3))
        assert value_of(reader.receive(1)) == 3


def test_a_process_that_leaves_waits_until_its_readers_have_what_it_sent(
    shared: ChannelRegistry,
) -> None:
    channel, reader = read_from_another(shared)
    preview = shared.create_subscriber(channel, policy="latest")
    peer = Peer.of(shared, "writer", "burst", times=50, nbytes=5000)
    peer.wait_ready()
    assert peer.hear() == "sent"
    assert peer.process.poll() is None
    for count in range(50):
        assert value_of(reader.receive(30)) == count
    assert peer.end() == 0
    with pytest.raises(EndOfStream):
        reader.receive(30)
    # The lossy one was not waited for, and its loss is counted.
    with pytest.raises(EndOfStream):
        preview.receive(30)
    stats = connection_stats_of(shared, preview)
    assert (stats.dropped["lost"], stats.queued) == (50, 0)


def test_a_process_that_leaves_does_not_wait_for_readers_that_are_gone(
    shared: ChannelRegistry,
) -> None:
    _, reader = read_from_another(shared)
    peer = Peer.of(shared, "writer", "burst", times=50, nbytes=16)
    peer.wait_ready()
    assert peer.hear() == "sent"
    reader.close()
    assert peer.end() == 0
    assert connection_stats_of(shared, reader).dropped["closed"] == 50


def test_a_dead_writers_messages_are_there_until_they_have_been_taken(
    shared: ChannelRegistry,
) -> None:
    _, reader = read_from_another(shared)
    peer = Peer.of(shared, "writer", "burst", times=50, nbytes=5000, stays=True)
    peer.wait_ready()
    assert peer.hear() == "sent"
    peer.kill()
    shared.endpoint_died("writer")
    assert [value_of(reader.receive(30)) for _ in range(50)] == list(range(50))
    with pytest.raises(PeerLost):
        reader.receive(30)
    assert connection_stats_of(shared, reader).received == 50


def test_an_endpoint_whose_process_died_may_have_another(shared: ChannelRegistry) -> None:
    _, reader = read_from_another(shared)
    received = 0
    for _ in range(3):
        peer = Peer.of(shared, "writer", "burst", times=10, nbytes=16, stays=True)
        peer.wait_ready()
        assert peer.hear() == "sent"
        for _ in range(5):
            received += reader.receive(30) is not None
        peer.kill()
        shared.endpoint_died("writer")
    while reader.take() is not None:
        received += 1
    stats = connection_stats_of(shared, reader)
    assert stats.received == received
    assert stats.sent == 30


def test_a_reader_waits_for_the_next_process_of_its_writer(shared: ChannelRegistry) -> None:
    _, reader = read_from_another(shared)
    received = []
    for _ in range(3):
        peer = Peer.of(shared, "writer", "burst", times=10, nbytes=16, stays=True)
        peer.wait_ready()
        assert peer.hear() == "sent"
        received.append(value_of(reader.receive(30)))
        peer.kill()
        shared.endpoint_restarts("writer")
        received += [value_of(reader.receive(30)) for _ in range(9)]  # what it had sent is there
        assert reader.receive(0.01) is None  # no `PeerLost`
    assert received == list(range(10)) * 3
    assert connection_stats_of(shared, reader).is_confirmed


def test_what_a_dead_writer_had_sent_outlasts_the_next_process_of_another(
    shared: ChannelRegistry,
) -> None:
    readers, peers = {}, {}
    for name in ("first", "second"):
        shared.add_endpoint(name)
        readers[name] = shared.create_subscriber(shared.create_channel(name, 64, writer=name))
        peers[name] = Peer.of(shared, name, "burst", times=10, nbytes=5000, stays=True)
    for name, peer in peers.items():
        peer.wait_ready()
        assert peer.hear() == "sent"
        peer.kill()
        shared.endpoint_restarts(name, pids={peer.process.pid})
    following = Peer.of(shared, "first", "burst", times=1, nbytes=16, stays=True)
    following.wait_ready()
    # Its memory is in none that the reader has met.
    assert [value_of(readers["second"].receive(30)) for _ in range(10)] == list(range(10))
    following.kill()


@pytest.mark.parametrize("policy", ["block", "error"])
def test_a_writer_waits_for_the_next_process_of_its_reader(
    shared: ChannelRegistry, policy: str
) -> None:
    channel = write_to_another(shared, policy)
    peer = Peer.of(shared, "reader", "take")
    publisher = shared.create_publisher(channel)
    for count in range(8):
        publisher.send(number(count), timeout_seconds=30)
    peer.wait_ready()
    peer.say(3)
    assert peer.hear() == [0, 1, 2]
    peer.kill()
    shared.endpoint_restarts("reader")
    for _ in range(2):
        with pytest.raises(BackpressureError, match="has no reader"):
            publisher.send(number(8), timeout_seconds=0.01)
    waiting = Background(lambda: publisher.send(number(9), timeout_seconds=30))
    following = Peer.of(shared, "reader", "take")
    waiting.result()
    following.wait_ready()
    following.say(1)
    assert following.hear() == [9]
    (stats,) = shared.stats()["port"].connections
    assert (stats.sent, stats.dropped["lost"]) == (9, 6)  # five unread, and one in its hands
    assert stats.is_balanced
    following.kill()
    shared.endpoint_died("reader")


@pytest.mark.parametrize("policy", ["latest", "drop_oldest"])
def test_a_writer_goes_on_while_a_lossy_reader_is_away(
    shared: ChannelRegistry, policy: str
) -> None:
    channel = write_to_another(shared, policy)
    peer = Peer.of(shared, "reader", "take")
    publisher = shared.create_publisher(channel)
    publisher.send(number(0), timeout_seconds=30)
    peer.wait_ready()
    peer.say(1)
    assert peer.hear() == [0]
    peer.kill()
    shared.endpoint_restarts("reader")
    for count in range(1, 100):
        publisher.send(number(count), timeout_seconds=0)
    following = Peer.of(shared, "reader", "take")
    following.wait_ready()
    publisher.send(number(100), timeout_seconds=0)
    following.say(1)
    assert following.hear() == [100]
    (stats,) = shared.stats()["port"].connections
    assert (stats.received, stats.dropped["lost"]) == (1, 100)  # the first was in its hands
    assert stats.is_balanced
    following.kill()
    shared.endpoint_died("reader")


# Several registries


def test_registries_never_cross_whatever_their_channels_are_called() -> None:
    with new_registry("iceoryx") as one, new_registry("iceoryx") as two:
        assert place_of(one) != place_of(two)
        ends = []
        for registry in (one, two):
            channel = registry.create_channel("same.name", 4)
            ends.append((registry.create_subscriber(channel), registry.create_publisher(channel)))
        (first, to_first), (second, to_second) = ends
        send_all(to_first, [1, 2])
        send_all(to_second, [10])
        assert receive_now(first) == [1, 2]
        assert receive_now(second) == [10]
        one.cleanup()
        send_all(to_second, [11])
        assert receive_now(second) == [11]


@pytest.mark.parametrize("transport", ["memory", "iceoryx"])
def test_registries_of_one_transport_are_told_apart_by_scope(transport: str) -> None:
    with new_registry(transport) as owner:
        shared = owner._transport
        with (
            ChannelRegistry(shared, scope="a") as one,
            ChannelRegistry(shared, scope="b") as two,
        ):
            ends = []
            for registry in (one, two):
                channel = registry.create_channel("port", 4)
                ends.append(
                    (registry.create_subscriber(channel), registry.create_publisher(channel))
                )
            send_all(ends[0][1], [1])
            assert receive_now(ends[1][0]) == []
            assert receive_now(ends[0][0]) == [1]


def test_what_a_dead_process_left_goes_with_its_registry_if_the_transport_stays() -> None:
    with new_registry("iceoryx") as owner:
        before = set(leftovers(*place_of(owner)))
        for scope in ("a", "b", "c"):
            with ChannelRegistry(owner._transport, scope=scope) as registry:
                read_from_another(registry)
                peer = Peer.of(registry, "writer", "burst", times=5, nbytes=64, stays=True)
                peer.wait_ready()
                assert peer.hear() == "sent"
                peer.kill()
                registry.endpoint_died("writer")
            left = {Path(path).name for path in set(leftovers(*place_of(owner))) - before}
            # The library keeps its own list of processes.
            assert all("mgmt" in name for name in left), left


def test_names_that_look_alike_when_joined_are_different_channels(
    registry: ChannelRegistry,
) -> None:
    names = ["a_b.c", "a.b_c", "a.b.c", "a b c"]
    ends = []
    for name in names:
        channel = registry.create_channel(name, 4)
        ends.append((registry.create_subscriber(channel), registry.create_publisher(channel)))
    for count, (_, publisher) in enumerate(ends):
        publisher.send(number(count))
    assert [receive_now(reader) for reader, _ in ends] == [[0], [1], [2], [3]]


# Destroying and cleaning up


def test_a_destroyed_channel_ends_its_ends_and_frees_its_name(registry: ChannelRegistry) -> None:
    fds = used = None
    for count in range(20):
        channel = registry.create_channel("port", 4)
        reader, publisher = (
            registry.create_subscriber(channel),
            registry.create_publisher(channel),
        )
        publisher.send(number(count))
        assert receive_now(reader) == [count]
        registry.destroy_channel(channel)
        registry.destroy_channel(channel)
        with pytest.raises(ChannelClosed):
            publisher.send(number(1))
        with pytest.raises(ChannelClosed):
            reader.receive()
        publisher.close()
        reader.close()
        assert registry.stats() == {}
        if count == 3:
            fds, used = len(open_fds()), registry.ledger.words[LedgerWord.ALLOCATED]
    assert len(open_fds()) == fds
    assert registry.ledger.words[LedgerWord.ALLOCATED] == used


def test_destroying_one_channel_leaves_the_others_and_a_namesake_alone(
    registry: ChannelRegistry,
) -> None:
    old = registry.create_channel("port", 4)
    stays = registry.create_channel("stays", 4)
    reader, publisher = registry.create_subscriber(stays), registry.create_publisher(stays)
    registry.destroy_channel(old)
    new = registry.create_channel("port", 4)
    registry.destroy_channel(old)
    assert registry.stats().keys() == {"stays", "port"}
    publisher.send(number(1))
    assert receive_now(reader) == [1]
    assert registry.create_publisher(new)


def test_ends_that_were_closed_write_no_words_that_belong_to_others_by_now(
    local: ChannelRegistry,
) -> None:
    old = local.create_channel("old", 4)
    gone_reader, gone = local.create_subscriber(old), local.create_publisher(old)
    loan = gone.loan(Binary, nbytes=8)
    local.destroy_channel(old)
    new = local.create_channel("new", 4)
    reader, publisher = local.create_subscriber(new), local.create_publisher(new)
    publisher.send(number(1))
    before = local.stats()["new"]
    gone.finish()
    gone.close()
    gone.end_input(5)
    gone_reader.close()
    with pytest.raises(ChannelClosed):
        loan.send()
    assert gone_reader.held == 0
    assert local.stats()["new"] == before
    assert receive_now(reader) == [1]


@pytest.mark.parametrize("transport", ["memory", "iceoryx"])
def test_cleanup_gives_everything_back_and_twice_is_harmless(transport: str) -> None:
    fds = open_fds()
    with new_registry(transport) as registry:
        registry.add_endpoint("node")
        registry.add_endpoint("never opened")
        channel = registry.create_channel("port", 4)
        registry.connect(channel, "node")
        late = registry.create_subscriber(channel)
        publisher = registry.create_publisher(channel)
        node = registry.open("node")
        waiter = Background(node.subscribers["port -> node"].receive)
        eventually(lambda: node.doorbell.is_waited_on)
        place = place_of(registry) if transport == "iceoryx" else None
        registry.cleanup()
        with pytest.raises(ChannelClosed):
            waiter.result()
    registry.cleanup()
    for call in (registry.stats, lambda: registry.create_channel("b"), late.receive):
        with pytest.raises(ChannelClosed):
            call()
    with pytest.raises(ChannelClosed):
        publisher.send(number(1))
    assert open_fds() == fds
    if place is not None:
        assert leftovers(*place) == []
        assert place[0].parent == private_folder()


def test_cleanup_gives_everything_back_though_an_end_fails_to_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    close_ends, failures = Endpoint.close_ends, iter([ZeroDivisionError()])

    def fail_once(endpoint: Endpoint) -> None:
        for failure in failures:
            raise failure
        close_ends(endpoint)

    fds = open_fds()
    registry = ChannelRegistry()
    place = place_of(registry)
    channel = registry.create_channel("port", 4)
    registry.add_endpoint("node")
    registry.connect(channel, "node")
    publisher = registry.create_publisher(channel)
    registry.ticket("node")
    monkeypatch.setattr(Endpoint, "close_ends", fail_once)
    with pytest.raises(ZeroDivisionError):
        registry.cleanup()
    with pytest.raises(ChannelClosed):
        publisher.send(number(1), timeout_seconds=0)
    assert leftovers(*place) == []
    assert open_fds() == fds


def test_the_memory_of_a_registry_goes_with_the_last_that_refers_to_it() -> None:
    mappings = shared_mappings()
    for transport in ("memory", "iceoryx"):
        use_once(transport)
    assert shared_mappings() == mappings


def use_once(transport: str) -> None:
    with new_registry(transport) as registry:
        channel = registry.create_channel("port", 4)
        reader = registry.create_subscriber(channel)
        publisher = registry.create_publisher(channel)
        publisher.send(Binary(bytes(1_000_000)))
        assert len(reader.receive(30)) == 1_000_000  # type: ignore[arg-type]


def test_an_endpoint_that_is_declared_dead_is_known(local: ChannelRegistry) -> None:
    with pytest.raises(ChannelError, match=r"no endpoint 'x' \(there are: none\)"):
        local.endpoint_died("x")


def test_a_writer_that_had_finished_before_it_died_is_no_loss(registry: ChannelRegistry) -> None:
    _, reader = read_from_another(registry)
    endpoint = registry.open("writer")
    endpoint.publishers["port"].send(number(1))
    endpoint.publishers["port"].finish()
    registry.endpoint_died("writer")
    assert [value_of(message) for message in reader] == [1]


def test_a_writer_that_died_before_it_opened_is_lost(registry: ChannelRegistry) -> None:
    _, reader = read_from_another(registry)
    waiter = Background(reader.receive)
    registry.endpoint_died("writer")
    with pytest.raises(PeerLost):
        waiter.result()
