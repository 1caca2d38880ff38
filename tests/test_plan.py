"""Plans: arithmetic that is right for every legal sequence of operations."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TypeAlias, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remotemedia.core.multiprocess.plan import (
    HELD_RESERVE,
    MAX_LOANS,
    ConnectionPlan,
    Policy,
    PolicyName,
    PortPlan,
    SpareTaps,
    service_name,
)

Reader: TypeAlias = tuple[Policy, int, int]


def port_of(readers: list[Reader], taps: SpareTaps) -> PortPlan:
    connections = tuple(
        ConnectionPlan(f"c{index}", policy, capacity, max_held, 0, 0)
        for index, (policy, capacity, max_held) in enumerate(readers)
    )
    return PortPlan("port", "service", 0, 0, connections, taps)


readers_ = st.lists(
    st.tuples(st.sampled_from(Policy), st.integers(1, 5), st.integers(1, 4)), max_size=4
)
taps_ = st.builds(SpareTaps, st.integers(0, 2), st.integers(1, 4), st.integers(1, 3))


@pytest.mark.parametrize(
    ("readers", "taps", "subscribers", "depth", "borrowed", "chunks"),
    [
        ([], SpareTaps(0), 1, 1, 2, MAX_LOANS),
        ([], SpareTaps(2, 8, 1), 2, 8, 2, MAX_LOANS + 2 * (8 + 1 + HELD_RESERVE)),
        ([(Policy.BLOCK, 100, 4)], SpareTaps(0), 1, 100, 5, MAX_LOANS + 105),
        ([(Policy.BLOCK, 4, 1), (Policy.LATEST, 1, 9)], SpareTaps(0), 2, 4, 10, MAX_LOANS + 17),
        ([(Policy.BLOCK, 4, 1)], SpareTaps(1, 6, 3), 2, 6, 4, MAX_LOANS + 6 + 10),
    ],
)
def test_counts_of_a_port(
    readers: list[Reader],
    taps: SpareTaps,
    subscribers: int,
    depth: int,
    borrowed: int,
    chunks: int,
) -> None:
    port = port_of(readers, taps)
    assert port.max_subscribers == subscribers
    assert port.buffer_size == depth
    assert port.max_borrowed == borrowed
    assert port.chunks == chunks


@dataclass
class Hands:
    """Where the chunks of a reader are: waiting, held as views, and the one being looked at."""

    policy: Policy
    capacity: int
    max_held: int
    queue: deque[int] = field(default_factory=deque)
    held: list[int] = field(default_factory=list)
    copying: list[int] = field(default_factory=list)


class Pool:
    """The memory of a port by the rules of channels; a chunk is free when nobody has it."""

    def __init__(self, port: PortPlan) -> None:
        planned = [(one.policy, one.capacity, one.max_held) for one in port.connections]
        taps = [(Policy.BLOCK, port.taps.capacity, port.taps.max_held)] * port.taps.count
        self.readers = [Hands(*one) for one in planned + taps]
        self.free = set(range(port.chunks))
        self.shares: Counter[int] = Counter()
        self.loans: list[int] = []

    def lend(self) -> None:
        if len(self.loans) < MAX_LOANS:
            assert self.free, "the pool has run out of chunks"
            self.loans.append(self.free.pop())

    def discard(self) -> None:
        if self.loans:
            self.free.add(self.loans.pop())

    def send(self) -> None:
        is_full = any(
            one.policy.is_lossless and len(one.queue) >= one.capacity for one in self.readers
        )
        if not self.loans or is_full:
            return
        chunk = self.loans.pop()
        self.shares[chunk] = 1
        for one in self.readers:
            self.shares[chunk] += 1
            one.queue.append(chunk)
            if len(one.queue) > one.capacity:
                self.drop(one.queue.popleft())
        self.drop(chunk)

    def take(self, index: int) -> None:
        """What the reader copied last time is given back first, then the next is taken."""
        if self.readers:
            one = self.readers[index % len(self.readers)]
            while one.copying:
                self.drop(one.copying.pop())
            if one.queue:
                chunk = one.queue.popleft()
                (one.copying if len(one.held) >= one.max_held else one.held).append(chunk)

    def release(self, index: int) -> None:
        if self.readers:
            one = self.readers[index % len(self.readers)]
            if one.held:
                self.drop(one.held.pop(0))

    def drop(self, chunk: int) -> None:
        self.shares[chunk] -= 1
        if not self.shares[chunk]:
            self.free.add(chunk)


operations_ = st.lists(
    st.one_of(
        st.sampled_from([("lend", None), ("send", None), ("discard", None)]),
        st.tuples(st.sampled_from(["take", "release"]), st.integers(0, 5)),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(readers=readers_, taps=taps_, operations=operations_)
def test_no_legal_sequence_runs_the_pool_out_of_chunks(
    readers: list[Reader], taps: SpareTaps, operations: list[tuple[str, int | None]]
) -> None:
    pool = Pool(port_of(readers, taps))
    for name, index in operations:
        if index is None:
            getattr(pool, name)()
        else:
            getattr(pool, name)(index)


@settings(max_examples=100, deadline=None)
@given(readers=readers_, taps=taps_)
def test_the_worst_case_takes_every_chunk_and_no_more(
    readers: list[Reader], taps: SpareTaps
) -> None:
    pool = Pool(port_of(readers, taps))
    # Each reader in turn holds all it may of messages that nobody else has any more.
    for mine in pool.readers:
        for _ in range(mine.max_held + HELD_RESERVE):
            pool.lend()
            for one in pool.readers:
                while one is not mine and one.policy.is_lossless and one.queue:
                    self_take_and_forget(pool, one)
            pool.send()
            pool.take(pool.readers.index(mine))
    for _ in range(MAX_LOANS):
        pool.lend()
    assert len(pool.loans) == MAX_LOANS


def self_take_and_forget(pool: Pool, one: Hands) -> None:
    pool.drop(one.queue.popleft())


def test_a_policy_is_lossless_or_not() -> None:
    assert [policy for policy in Policy if policy.is_lossless] == [Policy.BLOCK, Policy.ERROR]


@given(st.lists(st.text(max_size=6), min_size=1, max_size=4, unique=True))
def test_service_names_tell_all_ways_apart_to_cut_a_name(parts: list[str]) -> None:
    joined = "".join(parts)
    ways = {service_name(*parts), service_name(joined, ""), service_name("", joined)}
    ways |= {service_name(joined[:cut], joined[cut:]) for cut in range(1, len(joined))}
    expected = {tuple(parts), (joined, ""), ("", joined)}
    expected |= {(joined[:cut], joined[cut:]) for cut in range(1, len(joined))}
    assert len(ways) == len(expected)
    assert all(len(name) == 32 for name in ways)
    assert service_name(*parts) == service_name(*parts)


def test_plans_travel_as_they_are() -> None:
    port = port_of([(Policy.BLOCK, 4, 1), (Policy.LATEST, 1, 1)], SpareTaps(1, 2, 3))
    for codec in (msgspec.json, msgspec.msgpack):
        assert codec.decode(codec.encode(port), type=PortPlan) == port


def test_policies_are_written_as_people_write_them() -> None:
    assert [str(policy) for policy in Policy] == ["block", "drop_oldest", "latest", "error"]
    pairs = itertools.product(Policy, ["block", "drop_oldest", "latest", "error"])
    assert sum(Policy(text) is policy for policy, text in pairs) == len(Policy)


def test_the_names_of_the_policies_are_those_of_the_policies() -> None:
    assert get_args(PolicyName) == tuple(Policy)
