"""Hours of sessions that come, work, crash and go: what they take stays the same.

`make soak` runs it; REMOTEMEDIA_SOAK_SECONDS says for how long.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest

import remotemedia as rm
from tests import executor_nodes as nodes
from tests.executor_helpers import chain

pytestmark = [pytest.mark.anyio, pytest.mark.soak, pytest.mark.no_residue]

SOAK_SECONDS = float(os.environ.get("REMOTEMEDIA_SOAK_SECONDS", "3600"))
GROWTH_BYTES = 4 << 20
MESSAGES = 100


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


async def live(runtime: rm.Runtime, number: int) -> None:
    """One session: sound through three processes; every fourth has a node killed in the middle."""
    session = await runtime.create_session(f"s{number % 3}", chain(*[nodes.Echo] * 3))
    sound = np.full((480, 1), number, np.float32)
    victim = random.randrange(MESSAGES) if number % 4 == 0 else None
    try:
        for index in range(MESSAGES):
            if index == victim:
                os.kill(session.pids["n2"], signal.SIGKILL)
            await session.send(rm.Audio(sound, sample_rate=48_000))
            output = await session.recv()
            assert isinstance(output, rm.Audio)
            assert output.samples[0, 0] == number
        await session.close()
    except rm.PipelineTerminated:
        assert victim is not None
        await session.terminate()
    assert all(one.is_balanced for port in session.stats().values() for one in port.connections)


async def test_memory_descriptors_and_tasks_stay_the_same() -> None:
    until = time.monotonic() + SOAK_SECONDS
    sizes: list[int] = []
    counts: set[tuple[int, int]] = set()
    async with rm.Runtime() as runtime:
        for number in range(20):  # what is taken once is taken by then
            await live(runtime, number)
        while time.monotonic() < until or len(sizes) < 8:
            number += 1
            await live(runtime, number)
            gc.collect()  # a failure holds what it passed through
            sizes.append(resident_bytes())
            counts.add((len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())))
    quarter = len(sizes) // 4
    growth = median(sizes[-quarter:]) - median(sizes[:quarter])
    print(f"{len(sizes)} sessions, {growth / 1e6:+.2f} MB")  # noqa: T201 (`make soak` shows it)
    assert growth < GROWTH_BYTES
    assert len(counts) == 1, counts
