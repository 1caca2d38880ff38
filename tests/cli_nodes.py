"""Nodes for the tests of the command line; pipelines name this file among their modules."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator  # noqa: TC003 (a node's annotations are read)

import numpy as np

import remotemedia as rm


class Gain(rm.Node):
    """Makes sound louder."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def process(self, audio: rm.Audio) -> rm.Audio:
        return rm.Audio(audio.samples * np.float32(self.factor), audio.sample_rate)


class Loud(rm.Node):
    """Says when sound is louder than silence: nothing comes of silence."""

    def process(self, audio: rm.Audio) -> rm.Json | None:
        peak = float(np.abs(audio.samples).max(initial=0))
        return rm.Json({"peak": round(peak, 3)}) if peak > 0.1 else None


class SoundOnly(rm.Node):
    """Lets sound through that is louder than silence."""

    def process(self, audio: rm.Audio) -> rm.Audio | None:
        return audio if np.abs(audio.samples).max(initial=0) > 0.1 else None


class SpokenUntil(rm.Node):
    """Sends a sound when its input has ended, of something that was said until a time in it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def process(self, audio: rm.Audio) -> None:
        pass

    def finish(self) -> rm.Audio:
        metadata = {"speech_end_s": self.seconds, "end_s": self.seconds + 0.1}
        return rm.Audio(np.zeros(160, np.float32), 16_000, metadata=metadata)

    out = rm.Output(rm.Audio)


class Mono(rm.Node):
    """Takes one channel only, and says so."""

    def process(self, audio: rm.Audio) -> rm.Audio:
        if audio.channels != 1:
            raise ValueError(f"got {audio.channels} channels, and takes 1")
        return audio


class Slow(rm.Node):
    """Takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def process(self, text: rm.Text) -> rm.Text:
        time.sleep(self.seconds)
        return rm.Text(text.text)


class Loading(rm.Node):
    """Starts slowly, says how far it is, and prints."""

    def __init__(self, seconds: float = 0.2) -> None:
        self.seconds = seconds

    def initialize(self) -> None:
        for step in range(4):
            self.progress(step / 4, "the model")
            time.sleep(self.seconds / 4)
        sys.stdout.write("loaded it\n")
        sys.stderr.write("with a warning\n")

    def process(self, text: rm.Text) -> rm.Text:
        return rm.Text(text.text)


class Chatty(rm.Node):
    """Prints a long line."""

    def __init__(self, length: int) -> None:
        self.length = length

    def process(self, text: rm.Text) -> rm.Text:
        sys.stdout.write("x" * self.length + "\n")
        return rm.Text(text.text)


class Boom(rm.Node):
    """Fails on "raise", kills itself on "kill"."""

    def process(self, text: rm.Text) -> rm.Text:
        if text.text == "raise":
            raise RuntimeError("it was asked to")
        if text.text == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return rm.Text(text.text)


class Count(rm.Node):
    """Counts, to an end or without one."""

    def __init__(self, to: int = 0, pause_seconds: float = 0.0) -> None:
        self.to = to
        self.pause_seconds = pause_seconds

    def process(self) -> Iterator[rm.Text]:
        number = 0
        while not self.to or number < self.to:
            number += 1
            yield rm.Text(str(number))
            time.sleep(self.pause_seconds)


class Swallow(rm.Node):
    """Takes texts and sends nothing."""

    def process(self, text: rm.Text) -> None:
        return


class Mixer(rm.Node):
    """Has two inputs of one type."""

    @rm.input
    def on_left(self, text: rm.Text) -> rm.Text:
        return rm.Text(f"left {text.text}")

    @rm.input
    def on_right(self, text: rm.Text) -> rm.Text:
        return rm.Text(f"right {text.text}")


class Sides(rm.Node):
    """Sends what it takes by two outputs."""

    left = rm.Output(rm.Text)
    right = rm.Output(rm.Text)

    def process(self, text: rm.Text) -> Iterator[rm.Addressed]:
        yield self.left(text)
        yield self.right(text)


class Keys(rm.Node):
    """Names the keys of an object."""

    def process(self, value: rm.Json) -> rm.Text:
        assert isinstance(value.value, dict)
        return rm.Text(" ".join(value.value))


class Paths(rm.Node):
    """Takes files."""

    def process(self, file: rm.File) -> rm.Text:
        return rm.Text(file.path)
