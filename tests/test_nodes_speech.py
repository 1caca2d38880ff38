"""The nodes for speech, as far as that needs no model: segments of probabilities, and formats."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pytest

from remotemedia import Audio, DataError, PipelineError
from remotemedia.nodes.silero_vad import Segmenter, SileroVad, Span
from remotemedia.nodes.tts_hibari import Hibari
from remotemedia.nodes.whisper import Whisper
from remotemedia.testing import run_node
from tests.speech_helpers import word_error_rate

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from remotemedia import Node

T = TypeVar("T")
LIMITS: dict[str, Any] = {
    "window": 10,
    "threshold": 0.5,
    "min_speech": 20,
    "min_silence": 30,
    "padding": 10,
    "max_segment": 200,
    "shortest_gap": 20,
}
LEVELS = {"-": 0.0, "o": 0.45, "#": 1.0}  # silence, neither, speech


def segments(windows: str, **limits: int) -> list[tuple[int, int]]:
    """Return the segments of a stream that is drawn with one sign per window of 10 frames."""
    segmenter = Segmenter(**{**LIMITS, **limits})
    spans = [segmenter.step(LEVELS[sign]) for sign in windows] + [segmenter.finish()]
    return [(span.start, span.end) for span in spans if span is not None]


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ("", []),
        ("------", []),
        ("oooooo", []),  # not sure enough to begin
        ("--##---", [(10, 50)]),
        ("##---", [(0, 30)]),  # nothing is before the begin
        ("--#---", []),  # too short
        ("--##--##---", [(10, 90)]),  # too short a silence
        ("--##---##---", [(10, 50), (60, 100)]),
        ("--##oo##---", [(10, 90)]),  # not sure enough to end
        ("--#o#o---", [(10, 70)]),
        ("--##", [(10, 40)]),  # the end of the stream ends it
        ("--##-", [(10, 50)]),
        ("--#", []),
    ],
)
def test_speech_is_cut_out_at_silence(windows: str, expected: list[tuple[int, int]]) -> None:
    assert segments(windows) == expected


def test_segments_never_overlap() -> None:
    assert segments("--##---##---", padding=1_000) == [(0, 70), (70, 120)]


def test_no_padding_and_no_shortest_speech_can_be_asked_for() -> None:
    assert segments("--#---", padding=0, min_speech=0, min_silence=0) == [(20, 30)]


def test_speech_that_is_too_long_is_cut_at_its_last_silence() -> None:
    found = segments("-" + "####" * 2 + "--" + "########" + "---", max_segment=150)
    assert found == [(0, 100), (100, 200)]


def test_speech_without_a_silence_is_cut_where_it_must_and_nothing_is_lost() -> None:
    found = segments("#" * 31 + "---", max_segment=150)
    assert found == [(0, 150), (150, 300), (300, 320)]
    assert all(end - start <= 150 for start, end in found)


def test_a_segment_that_is_too_long_ends_at_a_silence_that_has_just_begun() -> None:
    assert segments("###########-----", max_segment=120, min_silence=50) == [(0, 120)]


def test_a_segment_stays_short_enough_where_what_is_cut_off_was_too_short_to_send() -> None:
    found = segments("##########" + "#--#######" * 3 + "---", max_segment=100, padding=1_000)
    assert max(end - start for start, end in found) <= 100


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        ("--##---", [("early", 10, 50), ("ended", 10, 50)]),
        ("--##-##---", [("early", 10, 80), ("ended", 10, 80)]),  # too short a silence
        ("--##--##---", [("early", 10, 50), ("early", 10, 90), ("ended", 10, 90)]),
        ("--##-o---", [("early", 10, 50), ("ended", 10, 50)]),  # once in a silence
        ("--#---", []),  # too short
        ("--##", [("ended", 10, 40)]),
    ],
)
def test_a_segment_that_is_likely_to_end_is_told_early_as_it_will_be(
    windows: str, expected: list[tuple[str, int, int]]
) -> None:
    segmenter = Segmenter(**LIMITS, early_silence=20)
    found = []
    for sign in windows:
        ended = segmenter.step(LEVELS[sign])
        found += [("ended", ended.start, ended.end)] if ended is not None else []
        early = segmenter.early()
        found += [("early", early.start, early.end)] if early is not None else []
    ended = segmenter.finish()
    found += [("ended", ended.start, ended.end)] if ended is not None else []
    assert found == expected


@pytest.mark.parametrize(("early", "problem"), [(199, "at least padding_ms, 200"), (500, "500")])
def test_a_segment_can_be_early_only_where_it_is_already_as_it_will_be(
    early: float, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        SileroVad(early_silence_ms=early)


def test_after_a_skip_what_was_not_ended_is_forgotten_and_time_goes_on() -> None:
    segmenter = Segmenter(**LIMITS)
    for _ in range(5):
        segmenter.step(1.0)
    segmenter.skip(7)
    assert segmenter.finish() is None
    assert segmenter.needed_from == 57
    spans = [segmenter.step(probability) for probability in (1.0, 1.0, 0.0, 0.0, 0.0)]
    assert spans[-1] == Span(57, 87, 77)


@pytest.mark.parametrize(
    "audio", [Audio(np.zeros(4, np.float32), 48_000), Audio(np.zeros((4, 2), np.float32), 16_000)]
)
@pytest.mark.parametrize("node", [SileroVad(), Whisper()])
def test_audio_of_another_format_is_an_error_that_says_what_to_put_before(
    node: SileroVad | Whisper, audio: Audio
) -> None:
    with pytest.raises(DataError, match=r"put audio\.resample before it, with sample_rate: 16000"):
        list(node.process(audio))


@pytest.mark.parametrize(
    ("node", "parameter", "value"),
    [
        (SileroVad, "threshold", 1.5),
        (SileroVad, "padding_ms", -1),
        (SileroVad, "max_segment_s", 0),
        (Whisper, "beam_size", 0),
        (Whisper, "device", "tpu"),
        (Hibari, "speed", 3),
        (Hibari, "threads", -1),
        (Whisper, "threads", 257),
    ],
)
def test_parameters_are_checked_before_anything_is_loaded(
    node: type[Node], parameter: str, value: object
) -> None:
    with pytest.raises(PipelineError, match=parameter):
        run_node(node, **{parameter: value})


class Heard:
    """A model of faster-whisper that hears parts of given times."""

    def __init__(self, *times: tuple[float, float]) -> None:
        self.times = times

    def transcribe(self, samples: NDArray[np.float32], **options: object) -> object:
        parts = [SimpleNamespace(text="so", start=start, end=end) for start, end in self.times]
        return parts, SimpleNamespace(language="en")


def test_the_last_part_of_what_was_said_ends_where_its_audio_does() -> None:
    node = Whisper()
    node._model = Heard((0.0, 0.6), (0.6, 1.25))  # it counts in hundredths of a second
    about: dict[str, float] = {"start_s": 8.1, "end_s": 9.352, "speech_end_s": 9.352}
    said = list(node.process(Audio(np.zeros(20_032, np.float32), 16_000, metadata=about)))
    times = [(one.metadata["start_s"], one.metadata["end_s"]) for one in said]
    assert times == [(8.1, 8.7), (8.7, 9.352)]
    node = Whisper()
    node._model = Heard((0.0, 2.0))  # more than there was
    [one] = node.process(Audio(np.zeros(20_032, np.float32), 16_000))
    assert one.metadata["end_s"] == 1.252


class Queue:
    """A context of a node before which so many messages wait."""

    node_id, session_id = "asr", "s"
    length = 0

    def progress(self, fraction: float, message: str) -> None:
        raise AssertionError(message)

    def queued(self) -> int:
        return self.length

    def loan(self, kind: type[T], port: str, shape: dict[str, object]) -> AbstractContextManager[T]:
        raise AssertionError(kind)


class Counted(Heard):
    """The same, counting how often it listens."""

    calls = 0

    def transcribe(self, samples: NDArray[np.float32], **options: object) -> object:
        self.calls += 1
        return super().transcribe(samples, **options)


def test_what_came_early_is_written_down_once_and_sent_when_it_comes_again() -> None:
    node = Whisper()
    node.bind(context := Queue())
    node._model = model = Counted((0.0, 0.5))
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    times: dict[str, float] = {"start_s": 2.0, "end_s": 3.0}
    early = Audio(samples, 16_000, metadata={**times, "early": True})
    last = Audio(samples, 16_000, metadata=times)
    other = Audio(samples * 0.5, 16_000, metadata=times)
    assert list(node.process(early)) == []
    assert model.calls == 1
    [said] = node.process(last)
    assert model.calls == 1
    assert "early" not in said.metadata
    assert (said.metadata["start_s"], said.metadata["end_s"]) == (2.0, 2.5)
    list(node.process(last))  # it was sent, and is listened to as any other
    assert model.calls == 2
    list(node.process(early))
    assert len(list(node.process(other))) == 1  # speech went on
    assert model.calls == 4
    list(node.process(early))
    node.interrupt()
    list(node.process(last))
    assert model.calls == 6
    context.length = 1  # it is behind: what comes next says more
    list(node.process(early))
    assert model.calls == 6


@pytest.mark.parametrize(
    ("heard", "rate"),
    [
        ("It was the best of times.", 0),
        ("it was the worst of times", 1 / 6),
        ("it was best of times", 1 / 6),
        ("it was the very best of times", 1 / 6),
        ("", 1),
    ],
)
def test_the_word_error_rate_counts_changed_missing_and_added_words(
    heard: str, rate: float
) -> None:
    assert word_error_rate("It was the best of times", heard) == pytest.approx(rate)
