"""`audio.resample` and `audio.chunk`: what leaves is the stream that came in, in another form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from remotemedia import Audio, PipelineError
from remotemedia.nodes.audio_chunk import Chunk
from remotemedia.nodes.audio_resample import Resample
from remotemedia.testing import run_node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from remotemedia import RuntimeData

SECOND_NS = 10**9


def tone(rate: int, seconds: float = 1.0, hz: float = 440.0) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate).astype(np.float32)


def stream_of(samples: NDArray[np.float32], rate: int, size: int) -> list[RuntimeData]:
    """A recording in messages of `size` frames, as a microphone would send them from time 0 on."""
    return [
        Audio(samples[at : at + size], rate, timestamp_ns=at * SECOND_NS // rate)
        for at in range(0, len(samples), size)
    ]


def audios(outputs: Sequence[RuntimeData]) -> list[Audio]:
    assert all(isinstance(out, Audio) for out in outputs)
    return [out for out in outputs if isinstance(out, Audio)]


def joined(outputs: Sequence[RuntimeData]) -> NDArray[np.float32]:
    return np.concatenate([out.samples for out in audios(outputs)])


@pytest.mark.parametrize(("rate", "wanted"), [(48_000, 16_000), (8_000, 16_000), (44_100, 24_000)])
@pytest.mark.parametrize("size", [1, 320, 10**6])
def test_a_tone_stays_the_same_tone_however_it_is_cut(rate: int, wanted: int, size: int) -> None:
    given = stream_of(tone(rate, 0.5), rate, size)
    made = joined(run_node(Resample, given, sample_rate=wanted))
    expected = tone(wanted, 0.5)
    assert abs(len(made) - len(expected)) <= 1
    middle = slice(wanted // 10, wanted // 10 * 4)  # a filter rings where a tone begins and ends
    assert np.abs(made[middle, 0] - expected[middle]).max() < 1e-3


def test_what_leaves_has_the_time_of_the_sound_in_it() -> None:
    outputs = audios(run_node(Resample, stream_of(tone(48_000), 48_000, 480), sample_rate=16_000))
    position = 0
    for out in outputs:
        assert out.timestamp_ns == pytest.approx(position * SECOND_NS / 16_000, abs=50_000)
        position += out.frames


@pytest.mark.parametrize("size", [1, 441, 480, 1000])
@pytest.mark.parametrize(("rate", "wanted"), [(44_100, 16_000), (8_000, 48_000)])
def test_times_do_not_go_back_where_sound_comes_faster_than_live(
    size: int, rate: int, wanted: int
) -> None:
    sound = stream_of(tone(rate, 0.3), rate, size)
    for number, chunk in enumerate(sound):
        chunk.timestamp_ns = number * 100_000
    times = [out.timestamp_ns for out in audios(run_node(Resample, sound, sample_rate=wanted))]
    assert times[0] == 0
    assert times == sorted(times)


def test_times_follow_a_gap_and_a_new_beginning() -> None:
    first, second, third = (stream_of(tone(48_000, 0.2), 48_000, 960) for _ in range(3))
    for chunk in second:
        chunk.timestamp_ns += 100 * SECOND_NS
    outputs = audios(run_node(Resample, [*first, *second, *third], sample_rate=16_000))
    position = 0
    for out in outputs:
        seconds = position / 16_000
        expected = seconds % 0.2 + (100 if 0.2 <= seconds < 0.4 else 0)
        assert out.timestamp_ns == pytest.approx(expected * SECOND_NS, abs=50_000)
        position += out.frames
    assert position == pytest.approx(0.6 * 16_000, abs=2)


def test_what_has_the_right_format_passes_as_it_is() -> None:
    given: list[RuntimeData] = [Audio(tone(16_000), 16_000, metadata={"a": 1})]
    assert run_node(Resample, given, sample_rate=16_000) == given


def test_mono_is_the_mean_of_the_channels() -> None:
    stereo = np.stack([tone(16_000), -tone(16_000) / 2], axis=1)
    given = Audio(stereo, 16_000, timestamp_ns=7, metadata={"a": 1})
    (out,) = audios(run_node(Resample, given, sample_rate=16_000, mono=True))
    assert out.channels == 1
    assert np.allclose(out.samples[:, 0], tone(16_000) / 4, atol=1e-6)
    assert (out.timestamp_ns, out.metadata) == (7, {"a": 1})
    assert audios(run_node(Resample, given, sample_rate=8_000))[0].channels == 2


def test_a_change_of_format_sends_what_was_held_and_begins_anew() -> None:
    given: list[RuntimeData] = [
        *stream_of(tone(48_000, 0.1), 48_000, 480),
        *stream_of(tone(8_000, 0.1), 8_000, 80),
    ]
    assert len(joined(run_node(Resample, given))) == pytest.approx(3_200, abs=2)


def test_after_an_interrupt_nothing_of_before_comes_out() -> None:
    node = Resample(16_000)
    node.initialize()
    list(node.process(Audio(tone(48_000), 48_000)))
    node.interrupt()
    assert list(node.finish()) == []
    made = [*node.process(Audio(np.zeros(4_800, np.float32), 48_000)), *node.finish()]
    assert not joined(made).any()


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_a_stream_of_almost_nothing_comes_through(frames: int) -> None:
    outputs = run_node(Resample, Audio(np.ones(frames, np.float32), 48_000))
    assert sum(out.frames for out in audios(outputs)) <= 1


@pytest.mark.parametrize(
    ("parameters", "wrong"),
    [({"sample_rate": 0}, "sample_rate"), ({"quality": "best"}, "quality")],
)
def test_parameters_of_resample_are_checked(parameters: dict[str, object], wrong: str) -> None:
    with pytest.raises(PipelineError, match=wrong):
        run_node(Resample, **parameters)


@pytest.mark.parametrize("size", [1, 100, 320, 333, 10**6])
def test_pieces_have_one_size_and_make_the_same_stream(size: int) -> None:
    samples = tone(16_000, 0.1)
    outputs = audios(run_node(Chunk, stream_of(samples, 16_000, size), duration_ms=20))
    assert [out.frames for out in outputs] == [320] * 5
    assert np.array_equal(joined(outputs)[:, 0], samples)
    assert [out.timestamp_ns for out in outputs] == [
        pytest.approx(n * 20_000_000, abs=50_000) for n in range(5)
    ]


def test_what_is_left_over_leaves_at_the_end() -> None:
    outputs = audios(run_node(Chunk, Audio(tone(16_000, 0.05), 16_000), frames=300))
    assert [out.frames for out in outputs] == [300, 300, 200]


def test_what_is_left_over_leaves_before_another_format() -> None:
    given: list[RuntimeData] = [Audio(tone(16_000, 0.03), 16_000), Audio(tone(8_000, 0.02), 8_000)]
    outputs = audios(run_node(Chunk, given))
    assert [(out.frames, out.sample_rate) for out in outputs] == [
        (320, 16_000),
        (160, 16_000),
        (160, 8_000),
    ]


def test_an_interrupt_forgets_what_is_left_over() -> None:
    node = Chunk(frames=300)
    list(node.process(Audio(np.ones(100, np.float32), 16_000)))
    node.interrupt()
    assert list(node.finish()) == []


@pytest.mark.parametrize("parameters", [{"duration_ms": 0}, {"duration_ms": -1}, {"frames": 0}])
def test_parameters_of_chunk_are_checked(parameters: dict[str, object]) -> None:
    with pytest.raises(PipelineError, match=next(iter(parameters))):
        run_node(Chunk, **parameters)
