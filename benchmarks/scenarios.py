"""What is measured. Systems take turns, so that noise hits all alike."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import session_scenarios
from benchmarks.effort import SMALL
from benchmarks.records import RATE, USED_REFERENCE, Record
from benchmarks.rings import Job, batch_rates, paced_round_trips, round_trips
from benchmarks.speech import speech
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.data import Binary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.effort import Effort
    from benchmarks.rings import Ends, Ring, System

MODES = ("adaptive", "block")
CHAIN_PROCESSES = 8
PERIOD_NS = 5_000_000  # 200 messages a second
THROUGHPUT_BYTES = 1024


def hop(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """Two processes pass a message back and forth; a hop is half a round trip."""
    yield from _trips("hop", systems, effort.sizes, MODES, effort, 2)


def chain(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """Eight processes in a ring: more than there are cores on a small machine."""
    for mode in MODES:  # one after the other: both at once are dozens of processes
        yield from _trips("chain", _main(systems), (SMALL,), (mode,), effort, CHAIN_PROCESSES)


def hop_paced(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """As `hop`, 200 messages a second: every message finds its reader asleep."""

    def measure(ends: Ends) -> list[int]:
        return paced_round_trips(ends, effort.paced, PERIOD_NS)

    yield from _latency("hop_paced", systems, (SMALL,), MODES, effort.rounds, 2, measure)


def throughput(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """How many messages of 1 KiB get through in a second, none lost."""

    def job(mode: str) -> Job:
        return Job(THROUGHPUT_BYTES, mode, ack_every=effort.batch)

    with ExitStack() as stack:
        rings = _start(stack, _main(systems), MODES, 2, job)
        for one in rings:
            batch_rates(one.ring.ends, 1, effort.batch)  # warm
        for one in _turns(rings, effort.rounds):
            one.values += batch_rates(one.ring.ends, 2, effort.batch)
    for one in rings:
        yield Record.of(
            "throughput",
            one.name,
            one.values,
            RATE,
            size_bytes=one.size_bytes,
            mode=one.mode,
        )


def idle_cpu(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """How much of a core a reader uses that nobody sends anything; all idle at the same time."""
    with ExitStack() as stack:
        rings = _start(stack, _main(systems), MODES, 2, lambda mode: Job(SMALL, mode))
        for one in rings:
            round_trips(one.ring.ends, 100)
        before = [_cpu_seconds(one.ring) for one in rings]
        time.sleep(effort.idle_seconds)  # the idle time is what is measured
        after = [_cpu_seconds(one.ring) for one in rings]
    for one, start, end in zip(rings, before, after, strict=True):
        share = (end - start) / effort.idle_seconds * 100
        yield Record.of(
            "idle_cpu", one.name, [share], "% core", size_bytes=one.size_bytes, mode=one.mode
        )


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
        yield Record.of("copy_floor", "numpy", values, size_bytes=size)


SCENARIOS: dict[str, Callable[[Sequence[System], Effort], Iterator[Record]]] = {
    "hop": hop,
    "hop_paced": hop_paced,
    "chain": chain,
    "throughput": throughput,
    "idle_cpu": idle_cpu,
    "copy_floor": copy_floor,
    "node_hop": session_scenarios.node_hop,
    "validate": session_scenarios.validate,
    "startup": session_scenarios.startup,
    "teardown": session_scenarios.teardown,
    "crash_detect": session_scenarios.crash_detect,
    "concurrency": session_scenarios.concurrency,
    "idle_session": session_scenarios.idle_session,
    "blas": session_scenarios.blas,
    "speech": speech,
}


@dataclass
class _Running:
    """A running ring, and what was measured of it."""

    name: str
    size_bytes: int
    mode: str
    ring: Ring
    values: list[float]


def _main(systems: Sequence[System]) -> list[System]:
    """All but those that only the scenarios of a hop compare."""
    return [one for one in systems if one.name != USED_REFERENCE]


def _start(
    stack: ExitStack,
    systems: Sequence[System],
    modes: Sequence[str],
    processes: int,
    job: Callable[[str], Job],
) -> list[_Running]:
    """Start a ring of every system in every mode it has, until the stack unwinds."""
    running = []
    for mode in modes:
        for one in systems:
            if mode in one.modes:
                work = job(mode)
                ring = stack.enter_context(one.ring(processes, work))
                running.append(_Running(one.name, work.size_bytes, mode, ring, []))
    return running


def _turns(rings: Sequence[_Running], rounds: int) -> Iterator[_Running]:
    """Every ring once a round, so that noise hits all alike; another one first every time."""
    for number in range(rounds):
        first = number % max(1, len(rings))
        yield from (*rings[first:], *rings[:first])


def _trips(
    scenario: str,
    systems: Sequence[System],
    sizes: Sequence[int],
    modes: Sequence[str],
    effort: Effort,
    processes: int,
) -> Iterator[Record]:
    # A round takes about as long whatever the size and the system.
    def measure(ends: Ends) -> list[int]:
        return round_trips(ends, effort.trips, effort.trips_seconds)

    yield from _latency(scenario, systems, sizes, modes, effort.rounds, processes, measure)


def _latency(
    scenario: str,
    systems: Sequence[System],
    sizes: Sequence[int],
    modes: Sequence[str],
    rounds: int,
    processes: int,
    measure: Callable[[Ends], list[int]],
) -> Iterator[Record]:
    with ExitStack() as stack:
        # Of all sizes at once, and in turns: sizes are compared as systems are.
        rings = [
            ring
            for size in sizes
            for ring in _start(stack, systems, modes, processes, partial(Job, size))
        ]
        for one in rings:
            round_trips(one.ring.ends, 100, 0.1)
        for one in _turns(rings, rounds):
            one.values += [trip / 1e3 / processes for trip in measure(one.ring.ends)]
    for one in rings:
        yield Record.of(scenario, one.name, one.values, size_bytes=one.size_bytes, mode=one.mode)


def _cpu_seconds(ring: Ring) -> float:
    return sum(map(session_scenarios.cpu_seconds, ring.pids))
