"""Counts from the ledger: that they add up, and that what does not add up is seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from remotemedia.core.multiprocess.channel.stats import (
    DROP_REASONS,
    ConnectionStats,
    LatencyHistogram,
    PortStats,
    connection_stats,
)
from remotemedia.core.multiprocess.plan import ConnectionPlan, Policy, PortPlan
from remotemedia.core.multiprocess.transport.ledger import (
    CONNECTION_WORDS,
    HISTOGRAM_AT,
    HISTOGRAM_BUCKETS,
    PORT_WORDS,
    UNLINKED,
    ConnectionWord,
    Ledger,
    PortWord,
    ReaderState,
)
from tests.channel_helpers import new_registry, number, receive_now, send_all

if TYPE_CHECKING:
    from collections.abc import Iterator

BALANCED = ConnectionStats(
    name="a -> b",
    policy="block",
    capacity=4,
    sent=20,
    received=12,
    released=10,
    copied=1,
    dropped={"overwritten": 1, "lost": 2, "interrupted": 1, "unreadable": 1, "closed": 0},
    queued=3,
    latency=LatencyHistogram(()),
)


class Account:
    """One connection's words, to be set by hand."""

    def __init__(self, ledger: Ledger, policy: Policy = Policy.BLOCK) -> None:
        self.words = ledger.words
        self.port_slot = ledger.allocate(PORT_WORDS)
        self.slot = ledger.allocate(CONNECTION_WORDS)
        self.connection = ConnectionPlan("a -> b", policy, 4, 2, self.slot, 0)
        self.port = PortPlan("a", "service", self.port_slot, 0, (self.connection,))
        self[ConnectionWord.STATE] = ReaderState.OPEN

    def __setitem__(self, word: ConnectionWord, value: int) -> None:
        self.words[self.slot + word] = value

    @property
    def sent(self) -> int:
        return self.words[self.port_slot + PortWord.SENT]

    @sent.setter
    def sent(self, value: int) -> None:
        self.words[self.port_slot + PortWord.SENT] = value

    @property
    def stats(self) -> ConnectionStats:
        return connection_stats(self.words, self.port, self.connection)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger.create() as ledger:
        yield ledger


def test_the_invariant_holds_where_every_message_is_accounted_for() -> None:
    assert BALANCED.is_balanced
    assert (BALANCED.held, BALANCED.in_flight) == (2, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sent": 21},
        {"sent": 19},
        {"queued": 5, "sent": 22},
        {"queued": -1, "sent": 16},
        {"released": 13},
        {"dropped": {**BALANCED.dropped, "lost": 3}},
        {"dropped": {**BALANCED.dropped, "lost": -1, "closed": 3}},
    ],
)
def test_what_does_not_add_up_is_seen(wrong: dict[str, object]) -> None:
    assert not msgspec.structs.replace(BALANCED, **wrong).is_balanced


def test_nothing_has_happened_on_a_new_connection(ledger: Ledger) -> None:
    stats = Account(ledger).stats
    assert stats.is_balanced
    assert (stats.sent, stats.received, stats.queued, stats.held) == (0, 0, 0, 0)
    assert stats.dropped.keys() == DROP_REASONS.keys()


def test_a_late_connection_counts_from_its_base(ledger: Ledger) -> None:
    account = Account(ledger)
    account.sent = 50
    account[ConnectionWord.BASE] = UNLINKED
    assert (account.stats.sent, account.stats.queued) == (0, 0)
    account[ConnectionWord.BASE] = 47
    assert (account.stats.sent, account.stats.queued) == (3, 3)
    account[ConnectionWord.POSITION] = 48
    assert (account.stats.sent, account.stats.queued, account.stats.received) == (3, 2, 1)
    assert account.stats.is_balanced


def test_a_lossy_queue_has_lost_its_oldest_before_its_reader_knows(ledger: Ledger) -> None:
    account = Account(ledger, Policy.DROP_OLDEST)
    account.sent = 10
    stats = account.stats
    assert (stats.queued, stats.dropped["overwritten"]) == (4, 6)
    assert stats.is_balanced


@pytest.mark.parametrize("state", [ReaderState.CLOSED, ReaderState.LOST])
def test_nothing_is_sent_to_a_reader_that_is_gone(ledger: Ledger, state: ReaderState) -> None:
    account = Account(ledger)
    account.sent = 10
    account[ConnectionWord.POSITION] = 10
    account[ConnectionWord.DROPPED_CLOSED] = 3
    account[ConnectionWord.RELEASED] = 7
    account[ConnectionWord.STATE] = state
    account.sent = 99
    assert (account.stats.sent, account.stats.queued) == (10, 0)
    assert account.stats.is_balanced


@pytest.mark.parametrize(
    "steps",
    [
        # A gap: the position moves to the message, then the gap is counted.
        [(ConnectionWord.POSITION, 9), (ConnectionWord.DROPPED_LOST, 4)],
        # An old message: the position, then the drop.
        [(ConnectionWord.POSITION, 6), (ConnectionWord.DROPPED_INTERRUPTED, 1)],
        # Closing: the state, the position, then what was unread.
        [
            (ConnectionWord.STATE, ReaderState.CLOSED),
            (ConnectionWord.POSITION, 9),
            (ConnectionWord.DROPPED_CLOSED, 4),
        ],
        # A message, and its release.
        [(ConnectionWord.POSITION, 6), (ConnectionWord.RELEASED, 6)],
    ],
)
def test_a_reader_may_die_between_any_two_words_that_it_writes(
    ledger: Ledger, steps: list[tuple[ConnectionWord, int]]
) -> None:
    account = Account(ledger)
    account.sent = 9
    account[ConnectionWord.POSITION] = 5
    account[ConnectionWord.RELEASED] = 5
    assert account.stats.is_balanced
    for word, value in steps:
        account[word] = value
        assert account.stats.is_balanced, (word, account.stats)


def test_percentiles_are_upper_bounds_within_a_factor_of_two() -> None:
    counts = [0] * HISTOGRAM_BUCKETS
    for duration in (1, 3, 100, 1000, 1000, 100_000):
        counts[duration.bit_length()] += 1
    histogram = LatencyHistogram(tuple(counts))
    assert histogram.total == 6
    assert histogram.percentile_ns(50) == 128
    assert histogram.percentile_ns(80) == 1024
    assert histogram.percentile_ns(100) == 131_072
    assert histogram.percentile_ns(0) == 2
    assert LatencyHistogram((0,) * HISTOGRAM_BUCKETS).percentile_ns(99) == 0


def test_every_message_that_was_received_is_in_the_histogram(ledger: Ledger) -> None:
    account = Account(ledger)
    account.words[account.slot + HISTOGRAM_AT + HISTOGRAM_BUCKETS - 1] = 7
    assert account.stats.latency.counts[-1] == 7
    with new_registry() as registry:
        channel = registry.create_channel("port", 4)
        reader = registry.create_subscriber(channel)
        publisher = registry.create_publisher(channel)
        for count in range(30):
            publisher.send(number(count))
            receive_now(reader)
        (stats,) = registry.stats()["port"].connections
        assert stats.latency.total == 30
        assert 0 < stats.latency.percentile_ns(50) < 1 << 34


def test_stats_travel_as_json() -> None:
    with new_registry() as registry:
        channel = registry.create_channel("port", 4)
        registry.create_subscriber(channel)
        send_all(registry.create_publisher(channel), range(3))
        stats = registry.stats()
        encoded = msgspec.json.encode(stats)
        assert msgspec.json.decode(encoded)["port"]["connections"][0]["queued"] == 3
        assert msgspec.json.decode(encoded, type=dict[str, PortStats]) == stats


def test_what_is_printed_fits_a_line(ledger: Ledger) -> None:
    one = Account(ledger)
    assert repr(one.stats.latency) == "<no durations>"
    assert len(repr(one.stats)) < 160
    histogram = LatencyHistogram((0, 0, 0, 3, 1))
    assert repr(histogram) == "<4 durations, half <= 0.0 us, 99% <= 0.0 us>"
