"""Doorbells: no wake-up is lost, every wait ends, threads and loops do not mix."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING

import pytest

from remotemedia.core.multiprocess.transport import doorbell as doorbell_module
from remotemedia.core.multiprocess.transport.doorbell import Doorbell
from remotemedia.core.multiprocess.transport.ledger import ALWAYS_ASLEEP, ENDPOINT_WORDS, Ledger
from remotemedia.core.multiprocess.transport.loop_doorbell import LoopDoorbell
from remotemedia.core.multiprocess.transport.membarrier import Membarrier
from remotemedia.errors import ChannelClosed, ChannelError
from tests.channel_helpers import IS_LONG, Background, Peer, eventually, open_fds
from tests.strikes import strikes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK, ADAPTIVE = 0, 50_000
ROUNDS = 100_000 if IS_LONG else 20_000


class NoMembarrier(Membarrier):
    """A kernel without the system call."""

    def __init__(self) -> None:
        self.is_available = False

    def fence(self) -> None:
        raise AssertionError("nobody may call what is not there")


class Side:
    """One side of a pair: its block of words, its doorbell and how to ring it."""

    def __init__(self, ledger: Ledger, spin_ns: int) -> None:
        self.words = ledger.words
        self.slot = ledger.allocate(ENDPOINT_WORDS)
        self.news_at = self.slot + 1
        self.fd = Doorbell.new_fd()
        self.bell = Doorbell(ledger.words, self.slot, self.fd, spin_ns)

    def news(self) -> int | None:
        return self.words[self.news_at] or None

    def bring(self, news: int) -> None:
        """Bring news, as a sender does: the news first, then a look at who sleeps."""
        self.words[self.news_at] = news
        if self.words[self.slot]:
            os.eventfd_write(self.fd, 1)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger.create() as ledger:
        yield ledger


@pytest.fixture
def side(ledger: Ledger) -> Iterator[Side]:
    side = Side(ledger, BLOCK)
    yield side
    side.bell.close()


def is_armed(side: Side) -> Callable[[], bool]:
    return lambda: side.bell.is_waited_on and bool(side.words[side.slot])


@pytest.fixture(params=[True, False], ids=["membarrier", "no membarrier"])
def has_membarrier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(doorbell_module, "membarrier", NoMembarrier())
    return bool(request.param)


modes = pytest.mark.parametrize(
    ("here_spins", "there_spins"),
    [(BLOCK, BLOCK), (ADAPTIVE, ADAPTIVE), (BLOCK, ADAPTIVE), (ADAPTIVE, BLOCK)],
    ids=["block", "adaptive", "block and adaptive", "adaptive and block"],
)


def counts_to(words: memoryview, at: int, count: int) -> Callable[[], bool | None]:
    return lambda: words[at] >= count or None


def rally(here: Side, there: Side, times: int, *, serves: bool) -> None:
    """Count up in turns; each waits for the other's count."""
    for count in range(1, times + 1):
        if serves:
            there.bring(count)
        at = here.news_at
        found = here.bell.wait_for(counts_to(here.words, at, count), 30)
        assert found is True, f"ring {count} was lost"
        if not serves:
            there.bring(count)


@modes
def test_no_wake_up_is_lost_between_threads(
    ledger: Ledger, has_membarrier: bool, here_spins: int, there_spins: int
) -> None:
    here, there = Side(ledger, here_spins), Side(ledger, there_spins)
    answers = Background(lambda: rally(there, here, ROUNDS // 2, serves=False))
    rally(here, there, ROUNDS // 2, serves=True)
    answers.result()
    here.bell.close()
    there.bell.close()


@modes
def test_no_wake_up_is_lost_between_processes(
    ledger: Ledger, has_membarrier: bool, here_spins: int, there_spins: int
) -> None:
    here, there = Side(ledger, here_spins), Side(ledger, there_spins)
    peer = Peer(
        "pong",
        (ledger.fd, here.fd, there.fd),
        ledger_fd=ledger.fd,
        mine=there.slot,
        theirs=here.slot,
        doorbell_fd=there.fd,
        peer_fd=here.fd,
        spin_ns=there_spins,
        has_membarrier=has_membarrier,
        times=ROUNDS,
    )
    peer.wait_ready()
    # The peer answers in its own block, which is where we look.
    for count in range(1, ROUNDS + 1):
        here.words[here.news_at] = count
        if here.words[there.slot]:
            os.eventfd_write(there.fd, 1)
        at = there.news_at
        found = here.bell.wait_for(counts_to(here.words, at, count), 30)
        assert found is True, f"ring {count} was lost"
    assert peer.hear() == "done"
    assert peer.end() == 0
    here.bell.close()
    there.bell.close()


def test_a_sleeper_says_so_and_one_that_is_awake_is_never_rung(side: Side) -> None:
    assert side.words[side.slot] == 0
    waiter = Background(lambda: side.bell.wait_for(side.news, None))
    eventually(is_armed(side))
    side.bring(5)
    assert waiter.result() == 5
    assert side.words[side.slot] == 0
    assert side.bell.wait_for(side.news, None) == 5
    with pytest.raises(BlockingIOError):
        os.eventfd_read(side.fd)


def test_without_membarrier_a_process_counts_as_asleep_always(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorbell_module, "membarrier", NoMembarrier())
    side = Side(ledger, BLOCK)
    assert not side.bell.is_fenced
    assert side.words[side.slot] == ALWAYS_ASLEEP
    assert side.bell.wait_for(side.news, 0.001) is None
    assert side.words[side.slot] == ALWAYS_ASLEEP
    side.bring(1)
    assert side.bell.wait_for(side.news, None) == 1
    side.bell.close()


def test_rings_coalesce_and_a_stale_one_ends_no_wait(side: Side) -> None:
    for _ in range(3):
        side.bell.ring()
    assert side.bell.wait_for(side.news, 0.01) is None
    with pytest.raises(BlockingIOError):
        os.eventfd_read(side.fd)


@pytest.mark.parametrize("spin_ns", [BLOCK, ADAPTIVE])
@pytest.mark.parametrize("timeout_seconds", [0, -1, 1e-9, 0.001, 0.02])
def test_a_wait_ends_with_its_time_and_not_before(
    ledger: Ledger, spin_ns: int, timeout_seconds: float
) -> None:
    side = Side(ledger, spin_ns)
    began = time.monotonic()
    assert side.bell.wait_for(side.news, timeout_seconds) is None
    assert time.monotonic() - began >= timeout_seconds
    assert side.words[side.slot] == 0
    side.bell.close()


@pytest.mark.parametrize("timeout_seconds", [1e7, 1e300, float("inf")])
def test_a_wait_may_be_as_long_as_you_like(side: Side, timeout_seconds: float) -> None:
    waiter = Background(lambda: side.bell.wait_for(side.news, timeout_seconds))
    eventually(is_armed(side))
    side.bring(1)
    assert waiter.result() == 1


def test_closing_ends_a_wait_in_another_thread(side: Side) -> None:
    waiter = Background(lambda: side.bell.wait_for(side.news, None))
    eventually(is_armed(side))
    side.bell.close()
    assert not side.bell.is_waited_on
    with pytest.raises(ChannelClosed, match="cannot be waited on"):
        waiter.result()


def test_a_closed_doorbell_refuses_waits_and_ignores_rings(ledger: Ledger) -> None:
    fds = open_fds()
    side = Side(ledger, BLOCK)
    side.bell.close()
    side.bell.close()
    side.bell.ring()
    assert open_fds() == fds
    assert side.bell.wait_for(lambda: 5, None) == 5
    with pytest.raises(ChannelClosed):
        side.bell.wait_for(side.news, None)


def test_two_threads_on_one_doorbell_are_told_so(side: Side) -> None:
    waiter = Background(lambda: side.bell.wait_for(side.news, None))
    eventually(is_armed(side))
    with pytest.raises(ChannelError, match="two threads wait on one doorbell"):
        side.bell.wait_for(lambda: None, None)
    assert side.bell.wait_for(lambda: None, 0) is None
    side.bring(1)
    assert waiter.result() == 1
    assert side.bell.wait_for(side.news, None) == 1


def interrupt_main_thread() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("spin_ns", [BLOCK, 60_000_000_000], ids=["blocked", "spinning"])
def test_ctrl_c_ends_a_wait_and_leaves_the_doorbell_usable(ledger: Ledger, spin_ns: int) -> None:
    side = Side(ledger, spin_ns)

    def interrupt() -> None:
        eventually(lambda: side.bell.is_waited_on and (spin_ns or side.words[side.slot]))
        interrupt_main_thread()

    interrupter = Background(interrupt)
    with pytest.raises(KeyboardInterrupt):
        side.bell.wait_for(side.news, None)
    interrupter.result()
    side.bell.spin_ns = 0
    waiter = Background(lambda: side.bell.wait_for(side.news, None))
    eventually(is_armed(side))
    side.bring(3)
    assert waiter.result() == 3
    side.bell.close()


@pytest.mark.parametrize("is_last", [False, True])
def test_a_signal_handler_that_raises_leaves_the_doorbell_usable(
    ledger: Ledger, is_last: bool
) -> None:
    side = Side(ledger, BLOCK)

    def wait() -> None:
        if is_last:
            side.bell.wait_last(lambda: None, 0.001)
        else:
            side.bell.wait_for(lambda: None, 0.001)

    for place in strikes(wait, "doorbell.py"):
        assert not side.bell.is_waited_on, place
        waiter = Background(lambda: side.bell.wait_for(side.news, None), 10)
        eventually(is_armed(side))
        side.bring(place + 1)
        assert waiter.result() == place + 1
        side.words[side.news_at] = 0
    Background(side.bell.close, 10).result()


def test_closing_may_be_repeated_after_a_signal_handler_raised(ledger: Ledger) -> None:
    fds = open_fds()
    bells = [Side(ledger, BLOCK).bell for _ in range(50)]
    next_bell = iter(bells)
    for place in strikes(lambda: next(next_bell).close(), "doorbell.py"):
        Background(bells[place].close, 10).result()
        assert bells[place].fd < 0
    for bell in next_bell:
        bell.close()
    assert open_fds() == fds


def test_an_error_of_the_attempt_leaves_the_doorbell_usable(side: Side) -> None:
    attempts = iter([None, None, ZeroDivisionError()])

    def attempt() -> None:
        found = next(attempts)
        if found is not None:
            raise found
        side.bell.ring()

    with pytest.raises(ZeroDivisionError):
        side.bell.wait_for(attempt, None)
    side.bring(1)
    assert side.bell.wait_for(side.news, None) == 1


def test_a_signal_handler_may_close_the_doorbell_that_its_thread_waits_on(ledger: Ledger) -> None:
    fds = open_fds()
    side = Side(ledger, BLOCK)
    before = signal.signal(signal.SIGUSR1, lambda *_: side.bell.close())
    try:

        def signal_us() -> None:
            eventually(is_armed(side))
            os.kill(os.getpid(), signal.SIGUSR1)

        sender = Background(signal_us)
        with pytest.raises(ChannelClosed):
            side.bell.wait_for(side.news, None)
        sender.result()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert open_fds() == fds


def test_other_threads_run_while_one_waits(side: Side) -> None:
    waiter = Background(lambda: side.bell.wait_for(side.news, None))
    eventually(is_armed(side))
    assert sum(range(100_000)) == 4_999_950_000
    side.bring(1)
    assert waiter.result() == 1


class TestLoop:
    """Waiting in an event loop."""

    def test_a_task_gets_what_is_there_without_giving_way(self, side: Side) -> None:
        async def main() -> int | None:
            side.bring(4)
            return await LoopDoorbell.of(side.bell).wait_for(side.news, None)

        assert asyncio.run(main()) == 4

    @pytest.mark.parametrize("has_time", [True, False])
    def test_news_from_another_thread_wakes_a_task(self, side: Side, has_time: bool) -> None:
        async def main() -> int | None:
            bell = LoopDoorbell.of(side.bell)
            task = asyncio.create_task(bell.wait_for(side.news, 30 if has_time else None))
            await asyncio.sleep(0)
            assert side.words[side.slot]
            Background(lambda: side.bring(7)).result()
            return await task

        assert asyncio.run(main()) == 7

    def test_no_wake_up_is_lost_between_a_loop_and_a_thread(
        self, ledger: Ledger, has_membarrier: bool
    ) -> None:
        here, there = Side(ledger, BLOCK), Side(ledger, BLOCK)
        times = ROUNDS // 4

        async def main() -> None:
            bell = LoopDoorbell.of(here.bell)
            for count in range(1, times + 1):
                there.bring(count)
                found = await bell.wait_for(counts_to(here.words, here.news_at, count), 30)
                assert found is True, f"ring {count} was lost"

        answers = Background(lambda: rally(there, here, times, serves=False))
        asyncio.run(main())
        answers.result()
        here.bell.close()
        there.bell.close()

    def test_each_of_several_tasks_gets_its_own_news(self, side: Side) -> None:
        inbox: list[int] = []

        async def one(bell: LoopDoorbell, wanted: int) -> int | None:
            return await bell.wait_for(lambda: wanted if wanted in inbox else None, 30)

        async def main() -> list[int | None]:
            bell = LoopDoorbell.of(side.bell)
            tasks = [asyncio.create_task(one(bell, wanted)) for wanted in range(5)]
            await asyncio.sleep(0)
            for news in (3, 1, 4, 0, 2):
                inbox.append(news)
                side.bring(1)
                assert await tasks[news] == news
            return [await task for task in tasks]

        assert asyncio.run(main()) == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("has_time", [True, False])
    def test_a_cancelled_wait_takes_nothing(self, side: Side, has_time: bool) -> None:
        queue = [1]
        takes: list[int] = []

        def take() -> int | None:
            if side.news() is None or not queue:
                return None
            takes.append(queue.pop())
            return takes[-1]

        async def main() -> None:
            bell = LoopDoorbell.of(side.bell)
            task = asyncio.create_task(bell.wait_for(take, 30 if has_time else None))
            await asyncio.sleep(0)
            side.bring(1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert takes == []
            assert await bell.wait_for(take, 30) == 1

        asyncio.run(main())

    @pytest.mark.parametrize("has_time", [True, False])
    def test_a_cancellation_is_not_lost_to_a_ring_at_the_same_moment(
        self, side: Side, has_time: bool
    ) -> None:
        async def main() -> None:
            bell = LoopDoorbell.of(side.bell)
            task = asyncio.create_task(bell.wait_for(side.news, 30 if has_time else None))
            await asyncio.sleep(0)
            bell._rung()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())

    @pytest.mark.parametrize("timeout_seconds", [0, -1, 0.001, 0.02])
    def test_a_wait_ends_with_its_time_and_not_before(
        self, side: Side, timeout_seconds: float
    ) -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert await LoopDoorbell.of(side.bell).wait_for(side.news, timeout_seconds) is None
            assert loop.time() - began >= timeout_seconds - 0.001  # the resolution of loops

        asyncio.run(main())

    @pytest.mark.parametrize("by_thread", [True, False])
    def test_closing_ends_all_waits(self, ledger: Ledger, by_thread: bool) -> None:
        fds = open_fds()
        side = Side(ledger, BLOCK)
        # What other processes have: the closed descriptor is not the last of its kind.
        duplicate = os.dup(side.fd)

        async def main() -> None:
            errors: list[dict[str, object]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, what: errors.append(what))
            bell = LoopDoorbell.of(side.bell)
            tasks = [asyncio.create_task(bell.wait_for(side.news, None)) for _ in range(3)]
            await asyncio.sleep(0)
            if by_thread:
                await asyncio.to_thread(side.bell.close)
            else:
                side.bell.close()
            for task in tasks:
                with pytest.raises(ChannelClosed):
                    await task
            os.eventfd_write(duplicate, 1)
            for _ in range(3):
                await asyncio.sleep(0)
            assert errors == []

        asyncio.run(main())
        os.close(duplicate)
        assert open_fds() == fds

    def test_a_watcher_that_is_closed_ends_its_waits_and_leaves_the_doorbell(
        self, side: Side
    ) -> None:
        async def main() -> None:
            bell = LoopDoorbell.of(side.bell)
            task = asyncio.create_task(bell.wait_for(side.news, None))
            await asyncio.sleep(0)
            bell.close()
            bell.close()
            with pytest.raises(ChannelClosed, match="no longer watched"):
                await task
            side.bring(2)
            assert await LoopDoorbell.of(side.bell).wait_for(side.news, None) == 2

        asyncio.run(main())

    def test_a_closed_doorbell_is_refused(self, side: Side) -> None:
        async def main() -> None:
            side.bell.close()
            with pytest.raises(ChannelClosed):
                LoopDoorbell.of(side.bell)

        asyncio.run(main())

    def test_one_loop_after_another_may_use_it(self, ledger: Ledger) -> None:
        fds = open_fds()
        side = Side(ledger, BLOCK)

        async def main(count: int) -> int | None:
            bell = LoopDoorbell.of(side.bell)
            assert LoopDoorbell.of(side.bell) is bell
            side.words[side.news_at] = 0
            task = asyncio.create_task(bell.wait_for(side.news, 30))
            await asyncio.sleep(0)
            Background(lambda: side.bring(count)).result()
            return await task

        for count in range(1, 6):
            assert asyncio.run(main(count)) == count
            assert side.bell.wait_for(side.news, None) == count
        side.bell.close()
        assert open_fds() == fds

    def test_a_loop_that_rests_makes_way_for_another(self, ledger: Ledger) -> None:
        fds = open_fds()
        side = Side(ledger, BLOCK)
        first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

        async def wait(seconds: float) -> int | None:
            return await LoopDoorbell.of(side.bell).wait_for(side.news, seconds)

        assert first.run_until_complete(wait(0.001)) is None
        waiter = Background(lambda: second.run_until_complete(wait(30)))
        eventually(lambda: side.bell.watcher is not None and side.bell.watcher._waiters)
        first.run_until_complete(asyncio.sleep(0))
        side.bring(6)
        assert waiter.result() == 6
        first.close()
        second.close()
        side.bell.close()
        assert open_fds() == fds

    def test_loops_and_threads_that_wait_at_once_are_told_so(self, side: Side) -> None:
        async def main() -> None:
            bell = LoopDoorbell.of(side.bell)
            task = asyncio.create_task(bell.wait_for(side.news, None))
            await asyncio.sleep(0)
            with pytest.raises(ChannelError, match="two threads wait on one doorbell"):
                await asyncio.to_thread(side.bell.wait_for, lambda: None, None)
            with pytest.raises(ChannelError, match="two event loops wait on one doorbell"):
                await asyncio.to_thread(asyncio.run, other_loop())
            side.bring(1)
            assert await task == 1
            side.words[side.news_at] = 0
            waiter = Background(lambda: side.bell.wait_for(side.news, None))
            eventually(is_armed(side))
            with pytest.raises(ChannelError, match="a thread waits on this event loop's doorbell"):
                await bell.wait_for(lambda: None, None)
            side.bring(2)
            assert waiter.result() == 2

        async def other_loop() -> None:
            LoopDoorbell.of(side.bell)

        asyncio.run(main())

    def test_a_wait_of_the_loops_own_thread_takes_no_ring_from_its_tasks(self, side: Side) -> None:
        async def main() -> None:
            bell = LoopDoorbell.of(side.bell)
            mail: list[str] = []
            task = asyncio.create_task(bell.wait_for(lambda: mail.pop() if mail else None, None))
            await asyncio.sleep(0)

            def bring_both() -> None:
                eventually(is_armed(side))
                mail.append("for the task")
                side.bring(1)

            bringer = Background(bring_both)
            assert side.bell.wait_for(side.news, None) == 1
            bringer.result()
            async with asyncio.timeout(30):
                assert await task == "for the task"

        asyncio.run(main())

    def test_doorbells_and_loops_that_are_gone_are_forgotten(self, ledger: Ledger) -> None:
        fds = open_fds()
        side = Side(ledger, BLOCK)

        async def main(side: Side) -> None:
            await LoopDoorbell.of(side.bell).wait_for(side.news, 0.001)

        asyncio.run(main(side))
        side.bell.close()
        gone = weakref.ref(side.bell)
        del side
        gc.collect()
        assert gone() is None
        assert open_fds() == fds


def test_a_thread_may_leave_its_wait_just_when_the_doorbell_is_closed(ledger: Ledger) -> None:
    for _ in range(200):
        side = Side(ledger, BLOCK)
        waiter = Background(partial(side.bell.wait_for, side.news, None))
        eventually(is_armed(side))
        side.bring(1)
        side.bell.close()
        with contextlib.suppress(ChannelClosed):
            assert waiter.result() == 1


def test_many_threads_may_ring_while_it_is_closed(ledger: Ledger) -> None:
    for _ in range(20):
        side = Side(ledger, BLOCK)
        is_over = threading.Event()

        def ring(side: Side = side, is_over: threading.Event = is_over) -> None:
            while not is_over.is_set():
                side.bell.ring()

        ringers = [Background(ring) for _ in range(2)]
        side.bell.close()
        is_over.set()
        for ringer in ringers:
            ringer.result()
