"""Nodes that the tests of the executor run: tiny, slow or broken on purpose."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from remotemedia import (
    Addressed,
    Audio,
    Binary,
    Control,
    File,
    Json,
    Node,
    Output,
    RuntimeData,
    Tensor,
    Text,
    Video,
    input,  # noqa: A004
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Upper(Node):
    def process(self, text: Text) -> Text:
        return Text(text.text.upper())


class Echo(Node):
    """Sends whatever it gets on."""

    def process(
        self, message: Audio | Video | Tensor | Text | Json | Binary | File | Control
    ) -> Audio | Video | Tensor | Text | Json | Binary | File | Control:
        return message


class Loans(Node):
    """Sends one more than it gets, made in place."""

    out = Output(Tensor)

    def process(self, tensor: Tensor) -> None:
        shape, dtype = tensor.array.shape, tensor.array.dtype
        with self.loan(Tensor, shape=shape, dtype=dtype) as more:
            more.array[...] = tensor.array + 1


class AsyncEcho(Node):
    async def process(self, text: Text) -> Text:
        await asyncio.sleep(0)
        return text


class Kind(Node):
    """Two inputs: says what each got."""

    @input
    def on_text(self, text: Text) -> Text:
        return Text(type(text).__name__)

    @input
    async def on_data(self, data: Json | Binary) -> Text:
        return Text(type(data).__name__)


class Suffix(Node):
    """Says whom it works for: tells sessions and nodes apart."""

    def __init__(self, end: str = "!") -> None:
        self.end = end

    def process(self, text: Text) -> Text:
        return Text(text.text + self.end)


class Words(Node):
    """One input, as many outputs as it has words: none for an empty text."""

    def process(self, text: Text) -> Iterator[Text]:
        for word in text.text.split():
            yield Text(word)


class SlowWords(Node):
    """A word at once, the next after a while."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds

    def process(self, text: Text) -> Iterator[Text]:
        for word in text.text.split():
            yield Text(word)
            time.sleep(self.seconds)


class AsyncSlowWords(Node):
    """The same on an event loop; says when it was cancelled."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.seconds = seconds
        self.cancelled = 0
        self.interrupted = 0

    async def process(self, text: Text) -> AsyncIterator[Text]:
        if text.text == "?":
            yield Text(f"{self.cancelled} {self.interrupted}")
            return
        try:
            for word in text.text.split():
                yield Text(word)
                await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def interrupt(self) -> None:
        self.interrupted += 1


class Letters:
    """An asynchronous iterator that is no generator: it cannot be closed."""

    def __init__(self, letters: str) -> None:
        self.letters = iter(letters)

    def __aiter__(self) -> Letters:
        return self

    async def __anext__(self) -> Text:
        for letter in self.letters:
            return Text(letter)
        raise StopAsyncIteration


class Speller(Node):
    """Returns what its outputs are iterated from."""

    async def process(self, text: Text) -> AsyncIterator[Text]:
        return Letters(text.text)


class StuckInterrupt(Node):
    """Never comes back from its hook; files say that it is there, and that it cleaned up."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    async def process(self, text: Text) -> Text:
        return text

    async def interrupt(self) -> None:
        (self.folder / "begun").touch()
        await asyncio.sleep(3600)

    async def cleanup(self) -> None:
        (self.folder / "cleaned up").touch()


class CleansUp(Node):
    """Takes its time to clean up when it is cancelled, and says how that went, to one who asks."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def process(self, text: Text) -> AsyncIterator[Text]:
        task = asyncio.current_task()
        assert task is not None
        if text.text == "?":
            yield Text(f"{' '.join(self.log)} {task.cancelling()}")
            return
        yield Text("begun")
        try:
            await asyncio.sleep(3600)
        finally:
            self.log.append("began")
            await asyncio.sleep(0.2)
            self.log.append("ended")


class Careful(Node):
    """Says in which order its generator was closed and its hook called, to one who sends "?"."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def process(self, text: Text) -> Iterator[Text]:
        if text.text == "?":
            yield Text(" ".join(self.log))
            return
        try:
            while True:
                yield Text("more")
        finally:
            self.log.append("closed")

    def interrupt(self) -> None:
        self.log.append("interrupt")


class AsyncCareful(Careful):
    """The same on an event loop."""

    async def process(self, text: Text) -> AsyncIterator[Text]:  # type: ignore[override]
        for output in super().process(text):
            yield output


class CancelsItself(Node):
    """Awaits a task that it has cancelled, in one of its methods."""

    def __init__(self, where: str = "process") -> None:
        self.where = where

    async def initialize(self) -> None:
        await self._at("initialize")

    async def process(self, text: Text) -> Text:
        await self._at("process")
        return text

    async def _at(self, where: str) -> None:
        if where == self.where:
            task = asyncio.create_task(asyncio.sleep(3600))
            task.cancel()
            await task


class Large(Node):
    """May send messages of 16 MB, a hundred at a time."""

    out = Output(Text, max_message_bytes=16_000_000)

    def process(self, text: Text) -> Addressed:
        return self.out(text)


class Filled(Node):
    """Large arrays of the number that comes in."""

    def process(self, number: Json) -> Tensor:
        return Tensor(np.full(100_000, number.value, np.float32))


class Sink(Node):
    """Takes and gives nothing."""

    def process(self, text: Text) -> None:
        return None


class Pid(Node):
    def process(self, text: Text) -> Json:
        return Json({"pid": os.getpid(), "node": self.node_id, "session": self.session_id})


class Count(Node):
    """A source: numbers as fast as they are taken, or up to an end."""

    def __init__(self, end: int = 0, seconds: float = 0.0) -> None:
        self.end = end
        self.seconds = seconds

    def process(self) -> Iterator[Json]:
        number = 0
        while not self.end or number < self.end:
            yield Json(number)
            number += 1
            time.sleep(self.seconds)


class Quiet(Node):
    """A source that waits for what comes once: a websocket, say."""

    async def process(self) -> AsyncIterator[Json]:
        yield Json(0)
        await asyncio.sleep(3600)
        yield Json(1)


class QuietSync(Node):
    def process(self) -> Iterator[Json]:
        yield Json(0)
        time.sleep(3600)
        yield Json(1)


class Ticks(Node):
    """A source that says what it made of the time since: a microphone, say."""

    def process(self) -> Iterator[Json]:
        for number in range(1000):
            time.sleep(0.1)
            yield Json(number)


class AsyncTicks(Node):
    async def process(self) -> AsyncIterator[Json]:
        for number in range(1000):
            await asyncio.sleep(0.1)
            yield Json(number)


class Beats(Node):
    """Has a task of its own, and counts the messages that go by between two turns of it.

    It begins when 200 messages wait, answers "many" by 200 messages without awaiting anything, and
    "last" by the most that went by.
    """

    async def initialize(self) -> None:
        self.row = self.most = 0
        self.task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            self.row = 0
            await asyncio.sleep(0)

    def _count(self) -> None:
        self.row += 1
        self.most = max(self.most, self.row)

    async def process(self, text: Text) -> AsyncIterator[Json]:
        while text.text == "first" and self.queued() < 200:
            await asyncio.sleep(0.001)
        self._count()
        for number in range(200 if text.text == "many" else 0):
            yield Json(number)
            self._count()
        if text.text == "last":
            yield Json(self.most)

    async def cleanup(self) -> None:
        self.task.cancel()


class CancelsAtCleanup(Node):
    """Awaits, when it cleans up, a task that it has cancelled."""

    async def initialize(self) -> None:
        self.task = asyncio.create_task(asyncio.sleep(3600))

    async def process(self, text: Text) -> Text:
        return text

    async def cleanup(self) -> None:
        self.task.cancel()
        await self.task


class AsyncCount(Node):
    async def process(self) -> AsyncIterator[Json]:
        number = 0
        while True:
            yield Json(number)
            number += 1
            await asyncio.sleep(0.001)


class Collect(Node):
    """Emits nothing until its end."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def process(self, text: Text) -> None:
        self.texts.append(text.text)

    def finish(self) -> Text:
        return Text(" ".join(self.texts))


class Join(Node):
    """Two inputs, two outputs."""

    left = Output(Text)
    right = Output(Text)

    @input
    def on_a(self, text: Text) -> Addressed:
        return self.left(Text("a:" + text.text))

    @input
    def on_b(self, text: Text) -> Addressed:
        return self.right(Text("b:" + text.text))


class Mix(Node):
    """Takes numbers by the way, and says of each text which was the newest."""

    newest = -1

    @input
    def on_text(self, text: Text) -> Text:
        return Text(f"{text.text} {self.newest >= 0}")

    @input(capacity=1)
    def on_number(self, value: Json) -> None:
        self.newest = int(str(value.value))


class Loop(Node):
    """Adds one until it is enough, by way of a connection that leads back."""

    out = Output(Json)
    again = Output(Json)

    def __init__(self, enough: int = 3) -> None:
        self.enough = enough

    @input
    def on_start(self, value: Json) -> Iterator[Addressed]:
        yield from self.on_back(value)

    @input
    def on_back(self, value: Json) -> Iterator[Addressed]:
        number = int(str(value.value))
        yield self.out(Json(number)) if number >= self.enough else self.again(Json(number + 1))


# Starts.


class SlowStart(Node):
    """Takes a while to load and says how far it is; cannot be told anything meanwhile."""

    def __init__(self, seconds: float = 0.5) -> None:
        self.seconds = seconds
        self.is_loaded = False

    def initialize(self) -> None:
        for step in range(5):
            self.progress(step / 5, f"step {step}")
            time.sleep(self.seconds / 5)
        self.is_loaded = True

    def process(self, text: Text) -> Text:
        return Text(f"{text.text} {self.is_loaded}")


class BadStart(Node):
    def initialize(self) -> None:
        raise OSError("no such model: tiny.bin")

    def process(self, text: Text) -> Text:
        return text


class BadImport(Node):
    def initialize(self) -> None:
        import no_such_library_at_all  # type: ignore[import-not-found]  # noqa: F401

    def process(self, text: Text) -> Text:
        return text


class NeverReady(Node):
    def initialize(self) -> None:
        time.sleep(3600)

    def process(self, text: Text) -> Text:
        return text


class NeedsModel(Node):
    """Has a parameter without a default."""

    def __init__(self, model: str, beams: int = 1) -> None:
        self.model = model
        self.beams = beams

    def process(self, text: Text) -> Json:
        return Json({"model": self.model, "beams": self.beams})


# Noise, and what a process is made of.


class Noisy(Node):
    """Prints a megabyte, then does its work."""

    def process(self, text: Text) -> Text:
        for _ in range(16):
            os.write(1, b"x" * 65_535 + b"\n")
            os.write(2, b"y" * 65_535 + b"\n")
        return text


class Surroundings(Node):
    """Says how its process is set up."""

    def process(self, text: Text) -> Json:
        import resource

        return Json(
            {
                "executable": sys.executable,
                "environment": dict(os.environ),
                "folder": os.getcwd(),
                "cpus": [*sorted(os.sched_getaffinity(0))],
                "memory": resource.getrlimit(resource.RLIMIT_AS)[0],
                "threads": len(os.listdir("/proc/self/task")),
            }
        )


class Glutton(Node):
    """Takes as much memory as it is told, in MiB."""

    def process(self, text: Text) -> Text:
        taken = np.ones(int(text.text) * 2**20, np.uint8)
        return Text(str(int(taken[-1])))


class Parent(Node):
    """Starts children of its own: one in its group, one in a session of its own."""

    def initialize(self) -> None:
        command = [sys.executable, "-I", "-S", "-c", "import signal; signal.pause()"]
        self.children = [
            subprocess.Popen(command),
            subprocess.Popen(command, start_new_session=True),
        ]

    def process(self, text: Text) -> Json:
        return Json([child.pid for child in self.children])


class Marker(Node):
    """Writes a file when it is interrupted, cleaned up, finished."""

    def __init__(self, path: str) -> None:
        self.path = path

    def process(self, text: Text) -> Text:
        return text

    def _mark(self, name: str) -> None:
        with Path(self.path).open("a") as file:
            file.write(name + "\n")

    def finish(self) -> None:
        self._mark("finish")

    def interrupt(self) -> None:
        self._mark("interrupt")

    def cleanup(self) -> None:
        self._mark("cleanup")


# Ends.


class Fragile(Node):
    """Breaks in the way and at the moment it is told; also by the text of a message.

    Args:
        how: a way of `breakdown`.
        when: "initialize", "process", "finish", "cleanup", "interrupt" or "" for never.
    """

    def __init__(self, how: str = "raise", when: str = "") -> None:
        self.how = how
        self.when = when

    def _at(self, moment: str) -> None:
        if self.when == moment:
            breakdown(self.how)

    def initialize(self) -> None:
        self._at("initialize")

    def process(self, text: Text) -> Text:
        self._at("process")
        if text.text.startswith("!"):
            breakdown(text.text[1:])
        return text

    def finish(self) -> None:
        self._at("finish")

    def interrupt(self) -> None:
        self._at("interrupt")

    def cleanup(self) -> None:
        self._at("cleanup")


class Fussy(Node):
    """Breaks at all that is no text."""

    def process(self, message: Text | File | Control) -> Text:
        if not isinstance(message, Text):
            raise TypeError("no text")
        return message


class AsyncFragile(Fragile):
    async def process(self, text: Text) -> Text:  # type: ignore[override]
        await asyncio.sleep(0)
        self._at("process")
        if text.text.startswith("!"):
            breakdown(text.text[1:])
        return text


def breakdown(how: str) -> None:
    """Fail: "raise", "exit" (code 3), "exit0", "hang", "segfault" or the name of a signal."""
    match how:
        case "raise":
            raise ValueError("broken on purpose")
        case "exit":
            sys.stderr.write("last words\n")
            os._exit(3)
        case "exit0":
            os._exit(0)
        case "sys.exit":
            sys.exit(0)
        case "hang":
            time.sleep(3600)
        case "segfault":
            ctypes.string_at(0)
        case _:
            os.kill(os.getpid(), signal.Signals[how])


class Exits(Node):
    """Exits with what it is sent, or by a KeyboardInterrupt of its own."""

    def process(self, text: Text) -> None:
        if text.text == "KeyboardInterrupt":
            raise KeyboardInterrupt("of a node")
        sys.exit(text.text)


class ExitsInATask(Node):
    """The same in a task of its own, while its main one waits."""

    async def process(self, text: Text) -> None:
        async def exit_() -> None:
            Exits().process(text)

        task = asyncio.create_task(exit_())
        await asyncio.sleep(3600)
        await task


class ExitsLate(Exits):
    """Exits, and would never be done: hangs in a hook, or behind them all."""

    def __init__(self, hangs_in: str) -> None:
        self.hangs_in = hangs_in

    def process(self, text: Text) -> None:
        if self.hangs_in == "atexit":
            atexit.register(time.sleep, 3600)
        super().process(text)

    def cleanup(self) -> None:
        if self.hangs_in == "cleanup":
            time.sleep(3600)


class ExitsLateInATask(ExitsInATask):
    """The same, and async."""

    async def cleanup(self) -> None:
        await asyncio.sleep(3600)


class ExitsWith(Node):
    """Exits with the number it is sent."""

    def process(self, text: Text) -> None:
        sys.exit(int(text.text))


class ExitsMute(Exits):
    """Exits without a standard error, and with a thread that would keep an interpreter alive."""

    def process(self, text: Text) -> None:
        threading.Thread(target=time.sleep, args=(3600,)).start()
        sys.stderr.close()
        super().process(text)


class Unprintable(Node):
    """Fails on what is empty, with an error that `traceback` cannot print: its text is no text."""

    def process(self, text: Text) -> Text:
        if not text.text:
            raise SyntaxError("odd", ("a file", 1, 1, 2))  # type: ignore[arg-type]
        return text


class FragileAndSlow(Fragile):
    """Fails as `Fragile` does, and is told to stop while it still cleans up."""

    def cleanup(self) -> None:
        time.sleep(0.5)


class SlowCleanup(Node):
    """Fails, and then takes its time to clean up."""

    def process(self, text: Text) -> Text:
        raise ValueError("broken on purpose")

    def cleanup(self) -> None:
        time.sleep(3600)


class Keeper(Node):
    """Keeps what it received last, as a filter does that looks back."""

    def process(self, data: Binary) -> Binary:
        self.last = data.array
        return Binary(b"")


class Deaf(Node):
    """Hangs in `process` and does not react to SIGTERM."""

    def initialize(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def process(self, text: Text) -> Text:
        time.sleep(3600)
        return text


class Busy(Node):
    """Works a while on every message, without giving up the interpreter."""

    def __init__(self, seconds: float = 0.002) -> None:
        self.seconds = seconds

    def process(self, text: Text) -> Text:
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            continue
        return text


def shout(text: Text) -> Text:
    """A bare function is a node too."""
    return Text(text.text + "!")


def anything(message: RuntimeData) -> Text:
    """Takes every type."""
    return Text(type(message).__name__)


class Endless(Node):
    """One input, and outputs without end."""

    def process(self, text: Text) -> Iterator[Text]:
        while True:
            yield text


class EndlessTail(Node):
    """As `Endless`, of the end of its input."""

    def process(self, text: Text) -> Text:
        return text

    def finish(self) -> Iterator[Text]:
        while True:
            yield Text("tail")
