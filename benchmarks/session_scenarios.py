"""What is measured of the executor: starts, ends, crashes, and messages from node to node."""

from __future__ import annotations

import asyncio
import compileall
import itertools
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import remotemedia as rm
from benchmarks.nodes import Idle, Meter, Multiplier, Relay, Worker, work
from benchmarks.records import RATE, REFERENCE, Record
from benchmarks.rings import SPIN_NS, Job, round_trips

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.effort import Effort
    from benchmarks.rings import System

FLOOR_COMMAND = (sys.executable, "-c", "import numpy, iceoryx2")


def startup(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """From `create_session` to READY for three nodes, beside three bare interpreters at once.

    And beside three that have one thread for linear algebra, as nodes have unless told otherwise.
    """
    del systems
    # As an installer does: where Python may not write what it compiles, each process would compile.
    compileall.compile_dir(Path(rm.__file__).parent, quiet=1)
    ours: list[float] = []
    floor: list[float] = []
    floor_of_one: list[float] = []

    async def measure() -> None:
        async with rm.MultiprocessExecutor() as executor:
            for index in range(effort.starts + 1):
                began = time.perf_counter()
                session = await executor.create_session(f"s{index}", _line(3))
                ours.append((time.perf_counter() - began) * 1e3)
                await session.close()
                floor.append(_bare_start(3) * 1e3)
                floor_of_one.append(_bare_start(3, OPENBLAS_NUM_THREADS="1") * 1e3)

    asyncio.run(measure())
    yield Record.of("startup", "bare-interpreters", floor[1:], "ms")
    yield Record.of("startup", "bare-one-thread", floor_of_one[1:], "ms")
    yield Record.of("startup", "remotemedia", ours[1:], "ms")


def validate(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """Checking a pipeline of fifty nodes before anything starts."""
    del systems, effort
    pipeline, limits = _line(50), rm.MultiprocessConfig(max_processes_per_session=None)
    times: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        rm.validate(pipeline, None, limits)
        times.append((time.perf_counter() - began) * 1e3)
    yield Record.of("validate", "remotemedia", times, "ms")


def teardown(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """Ending a session of ten idle nodes."""
    del systems
    times: list[float] = []

    async def measure() -> None:
        async with rm.MultiprocessExecutor() as executor:
            for index in range(effort.session_rounds):
                session = await executor.create_session(f"s{index}", _line(10))
                began = time.perf_counter()
                await session.close()
                times.append((time.perf_counter() - began) * 1e3)

    asyncio.run(measure())
    yield Record.of("teardown", "remotemedia", times, "ms")


def crash_detect(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """From the SIGKILL of a node to the exception at the caller who waits for output."""
    del systems
    times: list[float] = []

    async def measure() -> None:
        async with rm.MultiprocessExecutor() as executor:
            for index in range(effort.kills):
                session = await executor.create_session(f"s{index}", _line(2))
                waiting = asyncio.create_task(session.recv())
                pids = list(session.pids.values())
                await asyncio.sleep(0)  # the task is to wait before the node is killed
                began = time.perf_counter()
                os.kill(pids[index % 2], signal.SIGKILL)
                await asyncio.wait([waiting])
                times.append((time.perf_counter() - began) * 1e3)
                assert isinstance(waiting.exception(), rm.PipelineTerminated)
                await session.terminate()

    asyncio.run(measure())
    yield Record.of("crash_detect", "remotemedia", times, "ms")


def concurrency(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """Two nodes of pure-Python work, beside the same two in one process.

    And beside what the machine gives: the work alone, in one process that does nothing else, and in
    two that exchange nothing.
    """
    del systems
    loops, count = 240_000, effort.worked_off  # some 10 ms of work for each message
    ours: list[float] = []
    inline: list[float] = []
    alone: list[float] = []
    bare: list[float] = []

    def pair(executor: str) -> rm.Pipeline:
        pipeline = rm.Pipeline("work")
        for node_id in ("a", "b"):
            pipeline.add_node(
                rm.NodeConfig(Worker, node_id, config={"loops": loops}, executor=executor)
            )
        return pipeline.connect("a", "b")

    async def measure() -> None:
        async with rm.Runtime() as runtime:
            session = await runtime.create_session("apart", pair("python"))
            together = await runtime.create_session("together", pair("inline"))
            for _ in range(effort.rounds):
                ours.append(await _throughput(session, count))
                inline.append(await _throughput(together, count))
                began = time.perf_counter()
                work(loops, 2 * count)
                alone.append(count / (time.perf_counter() - began))
                began = time.perf_counter()
                list(pool.map(work, (loops, loops), (count, count)))
                bare.append(count / (time.perf_counter() - began))
            await together.close()
            await session.close()

    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        list(pool.map(work, (loops, loops)))  # starts both
        asyncio.run(measure())
    yield Record.of("concurrency", "bare-loop", alone, RATE)
    yield Record.of("concurrency", "bare-processes", bare, RATE)
    yield Record.of("concurrency", "one-process", inline, RATE)
    yield Record.of("concurrency", "remotemedia", ours, RATE)


def blas(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """Products of small matrices in three nodes at once, 40 a second each.

    Beside the same with what OpenBLAS takes by itself: a thread for each core, in each process.
    """
    del systems
    threads = {"remotemedia": 1, "thread-per-core": os.cpu_count()}  # the first is the default
    values: dict[str, list[float]] = {name: [] for name in threads}
    for _ in range(effort.session_rounds):
        for name, count in threads.items():
            environment = {"OPENBLAS_NUM_THREADS": str(count)}
            pipeline = rm.Pipeline("blas")
            for node_id in ("a", "b", "c"):
                config = {"count": effort.products // effort.session_rounds}
                pipeline.add_node(
                    rm.NodeConfig(Multiplier, node_id, config=config, environment=environment)
                )
            times = asyncio.run(_reported(pipeline, ("a.in", "b.in", "c.in")))
            values[name] += [one / 1e3 for one in times]
    for name, measured in values.items():
        yield Record.of("blas", name, measured)


def node_hop(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """From `process` to `process` through the public node interface, one way.

    Beside the bare library, which has no nodes: its hop, measured in turns with ours.
    """
    raw = [one for one in systems if one.name == REFERENCE]
    names, modes = ("remotemedia", *(one.name for one in raw)), ("adaptive", "block")
    values: dict[tuple[int, str, str], list[float]] = {
        key: [] for key in itertools.product(effort.sizes, modes, names)
    }
    for _ in range(effort.session_rounds):
        for size, mode in itertools.product(effort.sizes, modes):
            times = asyncio.run(_ring_times(size, mode, effort.node_trips))
            values[size, mode, "remotemedia"] += [one / 1e3 / 2 for one in times]
            for system in raw:
                with system.ring(2, Job(size, mode)) as ring:
                    round_trips(ring.ends, 200)
                    times = round_trips(ring.ends, effort.node_trips)
                values[size, mode, system.name] += [one / 1e3 / 2 for one in times]
    for (size, mode, name), measured in values.items():
        yield Record.of("node_hop", name, measured, size_bytes=size, mode=mode)


def idle_session(systems: Sequence[System], effort: Effort) -> Iterator[Record]:
    """How much of a core five nodes use that have nothing to do."""
    del systems
    shares: list[float] = []

    async def measure() -> None:
        async with rm.MultiprocessExecutor() as executor:
            session = await executor.create_session("idle", _line(5))
            async for _ in session.stream(rm.Text("once")):
                pass
            pids = list(session.pids.values())
            before = sum(map(cpu_seconds, pids))
            await asyncio.sleep(effort.idle_seconds)  # the idle time is what is measured
            shares.append((sum(map(cpu_seconds, pids)) - before) / effort.idle_seconds * 100)
            await session.close()

    asyncio.run(measure())
    yield Record.of("idle_session", "remotemedia", shares, "% core")


def cpu_seconds(pid: int) -> float:
    """How much processor time a process has used, all its threads together, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)  # its clock: clock_getcpuclockid(3)


async def _ring_times(size: int, mode: str, count: int) -> list[int]:
    pipeline = rm.Pipeline("ring")
    pipeline.add_node("meter", Meter, size_bytes=size, count=count).add_node("relay", Relay)
    pipeline.connect("meter.around", "relay", capacity=4)
    pipeline.connect("relay", "meter.back", policy="error", capacity=4)
    config = rm.MultiprocessConfig(spin_microseconds=SPIN_NS[mode] // 1000)
    return await _reported(pipeline, ("meter.start",), config)


async def _reported(
    pipeline: rm.Pipeline, inputs: Sequence[str], config: rm.MultiprocessConfig | None = None
) -> list[int]:
    """Start the nodes that measure, by these inputs, and gather what they report."""
    times: list[int] = []
    async with rm.Runtime(config) as runtime, runtime.session(pipeline) as session:
        for to in inputs:
            await session.send(rm.Control("start"), to=to)
        for _ in inputs:
            report = await session.recv()
            assert isinstance(report, rm.Json)
            assert isinstance(report.value, list)
            times += [int(str(one)) for one in report.value]
    return times


async def _throughput(session: rm.Session, count: int) -> float:
    began = time.perf_counter()

    async def feed() -> None:
        for index in range(count):
            await session.send(rm.Text(str(index)))

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        for index in range(count):
            output = await session.recv()
            assert isinstance(output, rm.Text)
            assert output.text == str(index)
    return count / (time.perf_counter() - began)


def _line(count: int) -> rm.Pipeline:
    pipeline = rm.Pipeline("line")
    for index in range(count):
        pipeline.add_node(f"n{index}", Idle)
        if index:
            pipeline.connect(f"n{index - 1}", f"n{index}")
    return pipeline


def _bare_start(count: int, **variables: str) -> float:
    environment = {**os.environ, **variables}
    began = time.perf_counter()
    children = [subprocess.Popen(FLOOR_COMMAND, env=environment) for _ in range(count)]
    for child in children:
        assert child.wait() == 0
    return time.perf_counter() - began
