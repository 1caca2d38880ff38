"""Kills, stalls and millions: nothing is lost in silence, torn, or left behind.

Short forms by default; `make faults` runs the long ones (10 million messages, 200 kills an end).
"""

from __future__ import annotations

import os
import random
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from remotemedia.errors import PeerLost
from tests.channel_helpers import (
    IS_LONG,
    Background,
    Peer,
    eventually,
    is_asleep,
    new_registry,
    open_fds,
    open_seal,
    sealed,
    send_all,
    shared_mappings,
)

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.channel.endpoint import Endpoint
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
    from remotemedia.core.multiprocess.channel.stats import ConnectionStats
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber

pytestmark = pytest.mark.faults

MESSAGES = 10_000_000 if IS_LONG else 100_000
KILLS = 200 if IS_LONG else 10
LARGEST_BYTES = 1 << (20 if IS_LONG else 18)


def only_stats(registry: ChannelRegistry) -> ConnectionStats:
    """What the ledger says of the one connection there is; it must balance."""
    ((stats,),) = (port.connections for port in registry.stats().values())
    assert stats.is_balanced, stats
    return stats


def here_to_peer(registry: ChannelRegistry, capacity: int = 16) -> Endpoint:
    """Plan a channel from an endpoint here to one in another process, and open this end."""
    registry.add_endpoint("here")
    registry.add_endpoint("peer")
    channel = registry.create_channel("here.out", capacity, writer="here")
    registry.connect(channel, "peer")
    return registry.open("here")


def peer_to_here(registry: ChannelRegistry, capacity: int = 16) -> Endpoint:
    """Plan a channel from an endpoint in another process to one here, and open this end."""
    registry.add_endpoint("peer")
    registry.add_endpoint("here")
    channel = registry.create_channel("peer.out", capacity, writer="peer")
    registry.connect(channel, "here")
    return registry.open("here")


def publisher_of(endpoint: Endpoint) -> Publisher:
    (publisher,) = endpoint.publishers.values()
    return publisher


def subscriber_of(endpoint: Endpoint) -> Subscriber:
    (subscriber,) = endpoint.subscribers.values()
    return subscriber


@pytest.mark.parametrize("toil", [0, 300], ids=["fast reader", "slow reader"])
def test_every_message_arrives_in_order_under_block(toil: int) -> None:
    count = MESSAGES if toil == 0 or IS_LONG else MESSAGES // 10
    with new_registry("iceoryx", spin_ns=50_000) as registry:
        publisher = publisher_of(here_to_peer(registry, 64))
        peer = Peer.of(registry, "peer", "count", toil=toil, spin_ns=50_000)
        peer.wait_ready()
        send_all(publisher, range(count))
        publisher.finish()
        assert peer.hear() == count
        assert peer.end() == 0
        stats = only_stats(registry)
        assert stats.is_confirmed, stats
        assert stats.sent == stats.received == count
        assert stats.released >= count - 1  # the reader ended with its last one in hand


def test_a_reader_that_is_stopped_and_resumed_loses_nothing() -> None:
    count = MESSAGES if IS_LONG else MESSAGES // 10
    with new_registry("iceoryx", spin_ns=50_000) as registry:
        publisher = publisher_of(here_to_peer(registry))
        peer = Peer.of(registry, "peer", "count")
        peer.wait_ready()
        rounds = range(0, count, count // 10)
        for start in rounds:
            peer.process.send_signal(signal.SIGSTOP)
            values = range(start, start + count // 10)
            sender = Background(partial(send_all, publisher, values), patience_seconds=600)
            # The stopped reader fills up, and its writer waits.
            eventually(lambda: only_stats(registry).queued == 16, "the channel is full")
            eventually(lambda: is_asleep(registry, publisher), "the writer waits")
            assert sender.is_running
            peer.process.send_signal(signal.SIGCONT)
            sender.result()
        publisher.finish()
        assert peer.hear() == count
        assert peer.end() == 0
        assert only_stats(registry).received == count


def test_a_stopped_reader_that_may_lose_costs_its_neighbour_nothing() -> None:
    with new_registry("iceoryx", spin_ns=50_000) as registry:
        registry.add_endpoint("here")
        channel = registry.create_channel("here.out", 16, writer="here")
        peers = {}
        for name, policy in (("needs all", "block"), ("oldest", "drop_oldest"), ("last", "latest")):
            registry.add_endpoint(name)
            registry.connect(channel, name, policy=policy)
        publisher = publisher_of(registry.open("here"))
        for name in ("needs all", "oldest", "last"):
            peers[name] = Peer.of(registry, name, "count" if name == "needs all" else "sift")
            peers[name].wait_ready()
        assert publisher.wait_connected(30)
        for name in ("oldest", "last"):
            peers[name].process.send_signal(signal.SIGSTOP)
        send_all(publisher, range(MESSAGES // 10))
        publisher.finish()
        assert peers["needs all"].hear() == MESSAGES // 10
        for name in ("oldest", "last"):
            peers[name].process.send_signal(signal.SIGCONT)
        found = {name: peers[name].hear() for name in ("oldest", "last")}
        assert all(peer.end() == 0 for peer in peers.values())
        everything, oldest, last = registry.stats()["here.out"].connections
        assert sum(everything.dropped.values()) == 0
        for stats, received in ((oldest, found["oldest"]), (last, found["last"])):
            assert stats.is_balanced
            assert stats.received == received
            assert stats.dropped["overwritten"] == MESSAGES // 10 - received


def test_a_killed_reader_leaves_a_balanced_ledger_and_a_told_writer(seed: int) -> None:
    rng = random.Random(seed)
    before = open_fds()
    for _ in range(KILLS):
        with new_registry("iceoryx") as registry:
            publisher = publisher_of(here_to_peer(registry))
            peer = Peer.of(registry, "peer", "check", keeps=rng.randrange(4))
            peer.wait_ready()
            sender = Background(partial(send_until_lost, publisher, rng))
            kill_after(peer, registry, rng)
            registry.endpoint_died("peer")
            assert isinstance(sender.result(), PeerLost)
            stats = only_stats(registry)
            assert stats.is_confirmed, stats
            assert stats.in_flight == stats.held
            assert stats.sent == stats.released + stats.held + sum(stats.dropped.values())
    assert open_fds() == before


def test_a_killed_writer_tears_no_message_and_its_reader_gets_what_is_left(seed: int) -> None:
    rng = random.Random(seed)
    before = open_fds()
    for _ in range(KILLS):
        with new_registry("iceoryx") as registry:
            subscriber = subscriber_of(peer_to_here(registry))
            options = {"seed": rng.randrange(1 << 30), "largest": LARGEST_BYTES}
            peer = Peer.of(registry, "peer", "write", **options)
            peer.wait_ready()
            reader = Background(partial(read_until_lost, subscriber))
            kill_after(peer, registry, rng)
            registry.endpoint_died("peer")
            received = reader.result()
            stats = only_stats(registry)
            assert stats.is_confirmed, stats
            assert stats.received == received
            assert stats.queued == 0
            # What was counted and not handed over is one message at most.
            assert stats.dropped["lost"] <= 1
    assert open_fds() == before


def test_a_new_pair_works_where_one_has_died() -> None:
    with new_registry("iceoryx") as registry:
        for index in range(3):
            writer, reader = f"writer{index}", f"reader{index}"
            registry.add_endpoint(writer)
            registry.add_endpoint(reader)
            channel = registry.create_channel(f"{writer}.out", 8, writer=writer)
            registry.connect(channel, reader)
            endpoint = registry.open(reader)
            peer = Peer.of(registry, writer, "write", seed=index, largest=4096)
            peer.wait_ready()
            assert open_seal(subscriber_of(endpoint).receive(30)) == 1
            peer.kill()
            registry.endpoint_died(writer)
            registry.destroy_channel(channel)


def test_pairs_that_are_killed_at_any_moment_leave_place_for_the_next(seed: int) -> None:
    rng = random.Random(seed)
    fds, mappings = open_fds(), shared_mappings()
    kill_pairs(rng)
    assert open_fds() == fds
    assert shared_mappings() == mappings


def kill_pairs(rng: random.Random) -> None:
    """Kill either end or both, also while they open; then have one pair work in their place."""
    with new_registry("iceoryx") as registry:
        for name in ("writer", "reader"):
            registry.add_endpoint(name)
        channel = registry.create_channel("writer.out", 8, writer="writer")
        registry.connect(channel, "reader")
        registry.ticket("writer")  # makes the service
        fds = open_fds()
        peers: dict[str, Peer] = {}
        for _ in range(KILLS):
            options = {"seed": rng.randrange(1 << 30), "largest": LARGEST_BYTES}
            for name in ("writer", "reader"):
                registry.ticket(name)  # both places are free before either is taken
            peers = {
                "writer": Peer.of(registry, "writer", "write", **options),
                "reader": Peer.of(registry, "reader", "check", keeps=2),
            }
            moment = registry.stats()["writer.out"].sent + rng.choice((0, 0, 1, 5, 60))
            for peer in peers.values():
                if rng.random() < 0.7:
                    peer.wait_ready()
            if all(peer.is_ready for peer in peers.values()):
                reached = partial(has_sent, registry, moment)
                eventually(reached, f"{moment} messages are sent")
            victims = rng.sample(["writer", "reader"], 2)
            for name in victims:  # the second may be on its way out already
                for _ in range(rng.randrange(100)):
                    os.sched_yield()
                peers[name].kill()
                registry.endpoint_died(name)
                assert only_stats(registry).is_balanced
        assert open_fds() == fds
        for name in ("writer", "reader"):
            registry.ticket(name)
        writer = Peer.of(registry, "writer", "burst", times=100, nbytes=64)
        reader = Peer.of(registry, "reader", "count")
        reader.wait_ready()
        writer.wait_ready()
        assert writer.hear() == "sent"
        assert reader.hear() == 100
        assert (writer.end(), reader.end()) == (0, 0)
        assert only_stats(registry).is_balanced


def has_sent(registry: ChannelRegistry, count: int) -> bool:
    return registry.stats()["writer.out"].sent >= count


def send_until_lost(publisher: Publisher, rng: random.Random) -> Exception:
    """Send messages of all sizes until the reader is lost; return the error."""
    count = 0
    while True:
        count += 1
        try:
            publisher.send(sealed(count, rng.choice((16, 700, 5_000, 90_000, LARGEST_BYTES))))
        except PeerLost as error:
            return error


def read_until_lost(subscriber: Subscriber) -> int:
    """Receive until the writer is lost; every message is whole and the next in order."""
    received = 0
    try:
        while True:
            assert open_seal(subscriber.receive()) == received + 1
            received += 1
    except PeerLost:
        return received


def kill_after(peer: Peer, registry: ChannelRegistry, rng: random.Random) -> None:
    """Kill the peer at some moment while messages flow."""
    moment = rng.randrange(1, 300)
    (port,) = registry.stats().values()
    eventually(lambda: registry.stats()[port.name].sent >= moment, f"{moment} messages are sent")
    for _ in range(rng.randrange(200)):
        os.sched_yield()
    peer.kill()


@pytest.fixture
def seed() -> int:
    """A new seed each time; it is printed where a test fails."""
    value = random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {value}\n")
    return value
