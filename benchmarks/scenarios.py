"""What is measured, and how often. Systems take turns, so that noise hits all alike."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import session_scenarios
from benchmarks.records import Record, percentile
from benchmarks.rings import Job, batch_rates, paced_round_trips, round_trips
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.data import Binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.rings import Ends, Ring, System

SIZES = (1_280, 921_600, 6_220_800, 24_883_200)
SMALL = SIZES[0]
CHAIN_PROCESSES = 8
PERIOD_NS = 5_000_000  # 200 messages a second
THROUGHPUT_BYTES = 1024


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: how often the systems take turns.
        trips: round trips of a small message per round; larger ones get fewer.
        paced: paced round trips per round.
        batch: messages of a throughput batch.
        idle_seconds: how long an idle reader is watched.
        kills: nodes that are killed.
        session_rounds: sessions that are started to be measured.
        sizes: of the hop.
    """

    rounds: int = 5
    trips: int = 4_000
    paced: int = 100
    batch: int = 20_000
    idle_seconds: float = 10.0
    sizes: tuple[int, ...] = SIZES
    kills: int = 100
    session_rounds: int = 5


QUICK = Effort(2, 600, 20, 4_000, 1.0, (SIZES[0], SIZES[3]), 3, 1)
FULL = Effort()


def hop(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """Two processes pass a message back and forth; a hop is half a round trip."""
    for size in effort.sizes:
        for mode in ("adaptive", "block"):
            yield from _trips("hop", systems, size, mode, effort, 2)


def chain(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """Eight processes in a ring: more than there are cores on a small machine."""
    for mode in ("adaptive", "block"):
        yield from _trips("chain", systems, SMALL, mode, effort, CHAIN_PROCESSES)


def hop_paced(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """As `hop`, 200 messages a second: every message finds its reader asleep."""

    def measure(ends: Ends) -> list[int]:
        return paced_round_trips(ends, effort.paced, PERIOD_NS)

    for mode in ("block", "adaptive"):
        yield from _latency("hop_paced", systems, SMALL, mode, effort.rounds, 2, measure, 5)


def throughput(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """How many messages of 1 KiB get through in a second, none lost."""
    for mode in ("adaptive", "block"):
        job = Job(THROUGHPUT_BYTES, mode, ack_every=effort.batch)
        chosen = [one for one in systems if mode in one.modes]
        values: dict[str, list[float]] = {one.name: [] for one in chosen}
        with ExitStack() as stack:
            rings = [(one.name, stack.enter_context(one.ring(2, job))) for one in chosen]
            for ring in rings:
                batch_rates(ring[1].ends, 1, effort.batch)  # warm
            for _ in range(effort.rounds):
                for name, running in rings:
                    values[name] += batch_rates(running.ends, 2, effort.batch)
        for name, rates in values.items():
            yield Record(
                "throughput",
                name,
                THROUGHPUT_BYTES,
                mode,
                "msg/s",
                percentile(rates, 50),
                percentile(rates, 1),
                len(rates),
            )


def idle_cpu(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """How much of a core a reader uses that nobody sends anything; all idle at the same time."""
    with ExitStack() as stack:
        rings = [
            (system.name, mode, stack.enter_context(system.ring(2, Job(SMALL, mode))))
            for system in systems
            for mode in system.modes
        ]
        for _, _, ring in rings:
            round_trips(ring.ends, 100)
        before = [_cpu_seconds(ring) for _, _, ring in rings]
        time.sleep(effort.idle_seconds)  # the idle time is what is measured
        after = [_cpu_seconds(ring) for _, _, ring in rings]
    for (name, mode, _), start, end in zip(rings, before, after, strict=True):
        share = (end - start) / effort.idle_seconds * 100
        yield Record("idle_cpu", name, SMALL, mode, "% core", share, share, 1)


def copy_floor(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """One `np.copyto` into warm shared memory: what a message that is copied in cannot beat."""
    del systems
    for size in effort.sizes:
        source = np.ones(size, np.uint8)
        with ChannelRegistry() as registry:
            channel = registry.create_channel("floor.out", 2)
            reader = registry.create_subscriber(channel)
            publisher = registry.create_publisher(channel)
            values = []
            for index in range(40):
                with publisher.loan(Binary, nbytes=size) as message:
                    began = time.perf_counter_ns()
                    np.copyto(message.array, source)
                    if index >= 10:  # the chunks are warm by then
                        values.append((time.perf_counter_ns() - began) / 1e3)
                assert reader.receive() is not None
        yield Record(
            "copy_floor",
            "numpy",
            size,
            "-",
            "us",
            percentile(values, 50),
            percentile(values, 99),
            len(values),
        )


SCENARIOS: dict[str, Callable[[Sequence[System], Effort], Iterator[Record]]] = {
    "hop": hop,
    "hop_paced": hop_paced,
    "chain": chain,
    "throughput": throughput,
    "idle_cpu": idle_cpu,
    "copy_floor": copy_floor,
    "node_hop": session_scenarios.node_hop,
    "startup": session_scenarios.startup,
    "teardown": session_scenarios.teardown,
    "crash_detect": session_scenarios.crash_detect,
    "concurrency": session_scenarios.concurrency,
    "idle_session": session_scenarios.idle_session,
}


def _trips(
    scenario: str,
    systems: Sequence[System],
    size: int,
    mode: str,
    effort: Effort,
    processes: int,
) -> Iterator[Record]:
    # A round is to take about as long whatever the size.
    count = max(20, int(effort.trips / (1 + size / 200_000) / (processes / 2)))

    def measure(ends: Ends) -> list[int]:
        return round_trips(ends, count)

    yield from _latency(
        scenario, systems, size, mode, effort.rounds, processes, measure, count // 5
    )


def _latency(
    scenario: str,
    systems: Sequence[System],
    size: int,
    mode: str,
    rounds: int,
    processes: int,
    measure: Callable[[Ends], list[int]],
    warm: int,
) -> Iterator[Record]:
    chosen = [one for one in systems if mode in one.modes]
    values: dict[str, list[float]] = {one.name: [] for one in chosen}
    with ExitStack() as stack:
        rings = [
            (one.name, stack.enter_context(one.ring(processes, Job(size, mode)))) for one in chosen
        ]
        for _, ring in rings:
            round_trips(ring.ends, max(10, warm))
        for _ in range(rounds):
            for name, ring in rings:
                values[name] += [one / 1e3 / processes for one in measure(ring.ends)]
    for name, times in values.items():
        yield Record(
            scenario,
            name,
            size,
            mode,
            "us",
            percentile(times, 50),
            percentile(times, 99),
            len(times),
        )


def _cpu_seconds(ring: Ring) -> float:
    return sum(map(session_scenarios.cpu_seconds, ring.pids))
