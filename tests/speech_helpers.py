"""A recording that a package ships, and how far a text is from what is said in it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile

from remotemedia import Audio

TWO_CITIES = """
It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of
Light, it was the season of Darkness, it was the spring of hope, it was the winter of despair, we
had everything before us, we had nothing before us, we were all going direct to Heaven, we were all
going direct the other way - in short, the period was so far like the present period, that some of
its noisiest authorities insisted on its being received, for good or for evil, in the superlative
degree of comparison only.
"""
"""What is read in `two_cities`; Charles Dickens, 1859."""


def recording() -> Path:
    """Where `two_cities` is."""
    spec = find_spec("moonshine_voice")  # for its recordings alone: it is not imported
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the recording is not installed: run `make test-models`")
    return Path(spec.origin).parent / "assets" / "two_cities.wav"


def two_cities() -> Audio:
    """A person reads for 44 s: one channel at 48,000 Hz."""
    samples, rate = soundfile.read(recording(), dtype="float32", always_2d=True)
    return Audio(samples, rate, timestamp_ns=0)


def cut(audio: Audio, size: int) -> list[Audio]:
    """Return a recording in messages of `size` frames, with the times that a microphone gives."""
    rate = audio.sample_rate
    return [
        Audio(
            audio.samples[at : at + size],
            rate,
            timestamp_ns=audio.timestamp_ns + at * 10**9 // rate,
        )
        for at in range(0, audio.frames, size)
    ]


def words(text: str) -> list[str]:
    """Return the words of a text as they sound: without case and marks."""
    return re.findall(r"[a-z0-9']+", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def word_error_rate(said: str, heard: str) -> float:
    """Return how many words must be changed, added or left out, by the number that were said."""
    reference, hypothesis = words(said), words(heard)
    distances = np.arange(len(hypothesis) + 1)
    for number, word in enumerate(reference, 1):
        before, distances = distances, np.full(len(hypothesis) + 1, number)
        for at, other in enumerate(hypothesis, 1):
            changed = before[at - 1] + (word != other)
            distances[at] = min(changed, before[at] + 1, distances[at - 1] + 1)
    return float(distances[-1] / max(1, len(reference)))
