"""Nodes that the executor's scenarios run."""

from __future__ import annotations

import time

import numpy as np

import remotemedia as rm


class Relay(rm.Node):
    """Passes a message on, made in place."""

    def process(self, message: rm.Binary) -> rm.Binary | None:
        """Lend as much as came, and touch both."""
        assert message.array[0] == 1
        with self.loan(rm.Binary, nbytes=len(message)) as out:
            out.array[0] = 1
        return None


class Meter(rm.Node):
    """Sends messages around a ring of nodes and reports how long each took.

    Args:
        size_bytes: payload of a message.
        count: how many are measured.
        warm: how many go before.
    """

    around = rm.Output(rm.Binary)
    report = rm.Output(rm.Json)

    def __init__(self, size_bytes: int, count: int, warm: int = 200) -> None:
        self._size_bytes = size_bytes
        self._left = count + warm
        self._count = count
        self._began_ns = 0
        self._times: list[int] = []

    @rm.input
    def on_start(self, message: rm.Control) -> None:
        """Send the first."""
        assert message.name == "start"
        self._send()

    @rm.input
    def on_back(self, message: rm.Binary) -> rm.Addressed | None:
        """Note how long it took, and send the next; report after the last."""
        now = time.perf_counter_ns()
        self._times.append(now - self._began_ns)
        assert message.array[0] == 1
        del message
        self._left -= 1
        if self._left:
            self._send()
            return None
        return self.report(rm.Json(list(self._times[-self._count :])))

    def _send(self) -> None:
        self._began_ns = time.perf_counter_ns()
        with self.loan(rm.Binary, port="around", nbytes=self._size_bytes) as out:
            out.array[0] = 1


class Worker(rm.Node):
    """Works in pure Python for each message.

    Args:
        loops: how long.
    """

    def __init__(self, loops: int) -> None:
        self._loops = loops

    def process(self, text: rm.Text) -> rm.Text:
        """Count, and pass the text on."""
        work(self._loops)
        return rm.Text(text.text)


class Multiplier(rm.Node):
    """Multiplies matrices at a steady pace, and reports how long each product took.

    Args:
        count: how many.
        pace: how many a second.
    """

    def __init__(self, count: int, pace: float = 40.0) -> None:
        self._count = count
        self._pause_seconds = 1 / pace

    def process(self, start: rm.Control) -> rm.Json:
        """Measure, and report."""
        assert start.name == "start"
        matrix = np.ones((128, 128), np.float32)
        times: list[int] = []
        for _ in range(self._count):
            time.sleep(self._pause_seconds)  # the pace is part of what is measured
            began = time.perf_counter_ns()
            matrix @ matrix
            times.append(time.perf_counter_ns() - began)
        return rm.Json(list(times))


class Idle(rm.Node):
    """Passes text on."""

    def process(self, text: rm.Text) -> rm.Text:
        """Pass it on."""
        return text


def work(loops: int, times: int = 1) -> int:
    """Work in pure Python, so many times."""
    total = 0
    for _ in range(times):
        for index in range(loops):
            total += index & 7
    return total
