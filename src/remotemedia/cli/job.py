"""One run of a pipeline: started, fed, emptied, and brought to its end."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remotemedia.cli.watch import Watch
from remotemedia.core.ids import id_of
from remotemedia.core.multiprocess.config import MultiprocessConfig
from remotemedia.core.runtime import Runtime
from remotemedia.data import Audio
from remotemedia.errors import ChannelClosed, RemoteMediaError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from remotemedia.cli.screen import Screen
    from remotemedia.cli.sinks import Sink
    from remotemedia.cli.sources import Source
    from remotemedia.core.multiprocess.events import Event
    from remotemedia.core.multiprocess.session import Session
    from remotemedia.core.validation import SessionPort, ValidatedPipeline

__all__ = ["Feed", "Job"]

REFRESH_SECONDS = 0.2
GRACE_SECONDS = 2.0
"""How long nodes have to end by themselves where the user does not force it."""
DRAIN_SECONDS = 86_400.0
"""How long a pipeline may take to work off what was sent: who is tired of waiting says so."""
END_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Feed:
    """What goes in.

    Attributes:
        source: where it comes from.
        port: the input that it goes to.
        kind: the type of its messages.
        is_realtime: whether sound is sent at the pace of its own time.
        seconds: how much sound is sent; None: all.
    """

    source: Source
    port: SessionPort
    kind: str
    is_realtime: bool = False
    seconds: float | None = None


class Job:
    """Runs a pipeline once, from `run()`.

    The first SIGINT or SIGTERM ends the input and lets what is under way come out; the second
    kills the nodes.

    Args:
        pipeline: what to run.
        feed: what to send; None: nothing.
        sinks: where outputs go.
        screen: shows how it goes.
        start_seconds: how long its nodes may take to get ready.
    """

    def __init__(
        self,
        pipeline: ValidatedPipeline,
        feed: Feed | None,
        sinks: Sequence[Sink],
        screen: Screen,
        *,
        start_seconds: float,
    ) -> None:
        self.watch = Watch(pipeline)
        self.ended_by: signal.Signals | None = None
        self.unclaimed: dict[str, int] = {}
        self._pipeline = pipeline
        self._feed = feed
        self._sinks = sinks
        self._screen = screen
        self._config = MultiprocessConfig(
            max_processes_per_session=None,
            init_timeout_secs=start_seconds,
            grace_period_seconds=GRACE_SECONDS,
            drain_timeout_seconds=DRAIN_SECONDS,
        )
        self._is_asked = asyncio.Event()
        self._is_forced = asyncio.Event()
        self._blinded_by: Exception | None = None

    async def run(self) -> None:
        """Run it to its end.

        Raises:
            ExecutorError: it failed.
            Failure: its input could not be read, or its output not be written.
        """
        loop = asyncio.get_running_loop()
        for number in END_SIGNALS:
            loop.add_signal_handler(number, self._end_by, signal.Signals(number))
        try:
            async with Runtime(self._config) as runtime:
                refresh = asyncio.create_task(self._refresh())
                try:
                    session = await self._start(runtime)
                    if session is not None:
                        await self._work(session)
                finally:
                    refresh.cancel()
                    await asyncio.wait([refresh])
        except RemoteMediaError:
            if self._blinded_by is None:  # else it was brought to its end for that
                raise
        finally:
            for number in END_SIGNALS:
                loop.remove_signal_handler(number)
        if self._blinded_by is not None:
            raise self._blinded_by

    def _end_by(self, number: signal.Signals) -> None:
        if self._is_asked.is_set():
            self._screen.note("ending now", "yellow")
            self._is_forced.set()
            return
        self.ended_by = number
        self.watch.is_ending = True
        self._is_asked.set()
        if self.watch.ready_at is not None:
            hint = "; Ctrl-C again ends it now" if number == signal.SIGINT else ""
            self._screen.note(f"ending when what is under way is out{hint}", "yellow")

    async def _start(self, runtime: Runtime) -> Session | None:
        """Start the session; None if it was to end before it had started."""
        name = id_of(self._pipeline.name) or "run"
        start = asyncio.create_task(
            runtime.create_session(name, self._pipeline, on_event=self._hear)
        )
        if await _first(start, self._is_asked.wait()) is not start:
            start.cancel()
            with suppress(asyncio.CancelledError):
                await start
            if self._blinded_by is None:
                self._screen.note("interrupted while starting", "yellow")
            return None
        self.watch.follow(start.result())
        return start.result()

    async def _work(self, session: Session) -> None:
        receive = asyncio.create_task(self._receive(session))
        send = None if self._feed is None else asyncio.create_task(self._send(session, self._feed))
        try:
            # A pipeline without input ends by itself, or when it is asked to.
            working = receive if send is None else send
            await _first(working, receive, self._is_asked.wait())
            if send is not None and not send.done():
                send.cancel()
            if send is not None:
                self.watch.input_ended_at = time.monotonic()
            end = asyncio.create_task(_close(session, receive))
            if await _first(end, self._is_forced.wait()) is not end:
                # Where nobody sees it any more nobody is waiting either: nodes may clean up.
                await (session.kill() if self._blinded_by is None else session.terminate())
            await end
            self.watch.finished_at = time.monotonic()
            if send is not None:
                with suppress(asyncio.CancelledError):
                    await send
        finally:
            tasks = [receive] if send is None else [receive, send]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await session.terminate()

    async def _send(self, session: Session, feed: Feed) -> None:
        began = time.monotonic()
        watch = self.watch
        to = str(feed.port)
        if feed.is_realtime:
            watch.latency.stream_began_at = began
        async for message in feed.source.messages(feed.kind):
            seconds = message.duration_seconds if isinstance(message, Audio) else 0.0
            until = round(watch.sent_seconds + seconds, 9)
            if feed.seconds is not None and until > feed.seconds:
                return
            watch.sent_seconds = until
            if feed.is_realtime:  # a piece is there when its last frame has been recorded
                await asyncio.sleep(began + until - time.monotonic())
            number = await session.send(message, to)
            watch.latency.note_sent(number)
            watch.sent += 1

    async def _receive(self, session: Session) -> None:
        try:
            await self._take_all(session)
        except ChannelClosed:
            if not self._is_asked.is_set():  # who asked for the end knows that there was more
                raise

    async def _take_all(self, session: Session) -> None:
        async for message in session.outputs():
            self.watch.received += 1
            self.watch.latency.note_output(message)
            kind = type(message).__name__
            takers = [sink for sink in self._sinks if kind in sink.kinds]
            takers = takers or [sink for sink in self._sinks if not sink.kinds]
            for sink in takers:
                await sink.write(message)
            if not takers:
                self.unclaimed[kind] = self.unclaimed.get(kind, 0) + 1

    def _hear(self, event: Event) -> None:
        with self._ending_if_blind():
            self.watch.hear(event)
            self._screen.hear(self.watch, event)

    async def _refresh(self) -> None:
        while self._blinded_by is None:
            with self._ending_if_blind():
                self._screen.refresh(self.watch)
            await asyncio.sleep(REFRESH_SECONDS)

    @contextmanager
    def _ending_if_blind(self) -> Iterator[None]:
        """Show something; where that fails, nobody sees any more how it goes: end it."""
        try:
            yield
        except Exception as error:  # raised by `run`, when all has ended
            self._blinded_by = self._blinded_by or error
            self._is_asked.set()
            self._is_forced.set()


async def _close(session: Session, receive: asyncio.Task[None]) -> None:
    """Close a session, with its outputs received to the last."""
    closing = asyncio.create_task(session.close())
    try:
        await receive  # raises how the session failed, if it did
    finally:
        if receive.cancelled() or receive.exception() is not None:
            await session.terminate()
        with suppress(asyncio.CancelledError):
            await closing


async def _first(*what: asyncio.Task[Any] | Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
    """Wait for the first of several, and return it; the others that are no tasks are cancelled."""
    tasks = [one if isinstance(one, asyncio.Task) else asyncio.create_task(one) for one in what]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task, given in zip(tasks, what, strict=True):
        if task is not given:
            task.cancel()
    return next(task for task in tasks if task in done)
