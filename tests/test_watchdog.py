"""Nodes that are stuck in one message are found, and no others are taken for it."""

from __future__ import annotations

import asyncio
import ctypes
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import remotemedia as rm
from remotemedia.core.multiprocess.watchdog import Look, Watchdog
from tests import executor_nodes as nodes
from tests.executor_helpers import cause_of, is_dead, running, texts, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.anyio

SECONDS = 0.2


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Watched:
    """A node as the ledger shows it."""

    def __init__(self) -> None:
        self.look = Look(0, is_waiting=False, blocked_ns=0, is_traced=False)
        self.looks = 0
        self.stalled_ns = 0
        self.watchdog = Watchdog(SECONDS, self._read, self._stall)

    def _read(self) -> Look:
        self.looks += 1
        return self.look

    def _stall(self) -> None:
        assert not self.stalled_ns
        self.stalled_ns = time.monotonic_ns()

    @property
    def is_armed(self) -> bool:
        return self.watchdog._timer is not None

    def begin(self) -> int:
        now = time.monotonic_ns()
        self.look = replace(self.look, began_ns=now)
        self.watchdog.note_busy(now)
        return now

    async def wait(self, timeouts: float) -> None:
        await asyncio.sleep(SECONDS * timeouts)


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    made = Watched()
    yield made
    made.watchdog.close()


async def test_a_message_that_takes_longer_is_a_stall(watched: Watched) -> None:
    began = watched.begin()
    await watched.wait(3)
    assert watched.stalled_ns >= began + SECONDS * 1e9
    assert not watched.is_armed


async def test_each_message_has_the_whole_time(watched: Watched) -> None:
    watched.begin()
    for _ in range(10):
        await watched.wait(0.5)
        watched.begin()
    assert not watched.stalled_ns
    await watched.wait(3)
    assert watched.stalled_ns


async def test_an_idle_node_is_not_looked_at(watched: Watched) -> None:
    watched.begin()
    watched.look = replace(watched.look, began_ns=0)
    await watched.wait(4)
    assert not watched.is_armed
    looks = watched.looks
    assert looks <= 3
    await watched.wait(4)
    assert watched.looks == looks
    watched.begin()
    await watched.wait(3)
    assert watched.stalled_ns


@pytest.mark.parametrize("excuse", ["is_waiting", "is_traced"])
async def test_who_waits_downstream_or_stands_in_a_debugger_has_not_stalled(
    watched: Watched, excuse: str
) -> None:
    watched.begin()
    watched.look = replace(watched.look, **{excuse: True})
    await watched.wait(5)
    assert not watched.stalled_ns
    watched.look = replace(watched.look, **{excuse: False})
    await watched.wait(4)
    assert watched.stalled_ns


async def test_a_host_that_was_stopped_gives_the_time_again(watched: Watched) -> None:
    watched.begin()
    await watched.wait(0)
    time.sleep(8 * SECONDS)
    await watched.wait(0.5)
    assert not watched.stalled_ns
    await watched.wait(3)
    assert watched.stalled_ns


# Real nodes.


class HoldsGil(rm.Node):
    """Hangs where no other thread of its process can run."""

    def process(self, text: rm.Text) -> rm.Text:
        ctypes.PyDLL(None).sleep(3600)
        return text


class NeverDone(rm.Node):
    async def process(self, text: rm.Text) -> rm.Text:
        await asyncio.Event().wait()
        return text


@pytest.mark.parametrize(
    ("kind", "text", "where"),
    [
        (nodes.Fragile, "!hang", "in breakdown"),
        (nodes.Deaf, "", "in process"),
        (HoldsGil, "", "in process"),
        (NeverDone, "", ""),
    ],
)
async def test_a_node_that_is_stuck_ends_the_session_which_says_where(
    kind: type[rm.Node], text: str, where: str
) -> None:
    node = rm.NodeConfig(kind, "n2", stall_timeout_seconds=0.3)
    async with asyncio.timeout(10), running(nodes.Echo, node) as session:
        await session.send(rm.Text(text))
        start = time.monotonic()
        cause = await cause_of(session.recv())
        assert 0.2 < time.monotonic() - start < 3.0
        assert isinstance(cause, rm.ProcessCrashed)
        assert cause.node_id == "n2"
        assert "stall_timeout_seconds, 0.3 s" in cause.cause
        assert where in cause.traceback + cause.stderr_tail
        assert "input 1" in cause.working_on
        await session.terminate()
        assert time.monotonic() - start < 3.0  # it is not given a grace period
        assert all(map(is_dead, session.pids.values()))


async def test_a_node_that_waits_for_its_reader_has_not_stalled() -> None:
    node = rm.NodeConfig(nodes.Words, "n1", stall_timeout_seconds=0.2)
    async with asyncio.timeout(10), running(node, channel_capacity=1) as session:
        looks = looks_at(session, "n1")
        await session.send(rm.Text("a b c d e f"))
        # Each comes the time of a stall after the one before.
        await wait_until(lambda: sum(look.is_waiting for look in looks) >= 3)
        got = [(await session.recv()) for _ in range(6)]
        assert len(got) == 6
        assert await texts(session, "g") == ["g"]


def looks_at(session: rm.Session, node_id: str) -> list[Look]:
    """Return what the watchdog of a node will see, as it sees it."""
    watchdog, looks = session._parts.nodes[node_id]._watchdog, list[Look]()
    assert watchdog is not None
    look = watchdog._look

    def remember() -> Look:
        looks.append(look())
        return looks[-1]

    watchdog._look = remember
    return looks


async def test_a_node_that_works_in_time_has_not_stalled() -> None:
    node = rm.NodeConfig(nodes.Busy, "n1", config={"seconds": 0.1}, stall_timeout_seconds=0.5)
    async with running(node) as session:
        for number in range(12):
            assert await texts(session, str(number)) == [str(number)]
