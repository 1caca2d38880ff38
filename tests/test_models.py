"""Real models on real speech: `make test-models` installs them and runs these."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import remotemedia as rm
from remotemedia.nodes.audio_resample import Resample
from remotemedia.nodes.silero_vad import SileroVad
from remotemedia.nodes.tts_hibari import Hibari
from remotemedia.nodes.whisper import Whisper
from remotemedia.testing import run_node
from tests.executor_helpers import chain, running
from tests.speech_helpers import TWO_CITIES, cut, two_cities, word_error_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

pytestmark = [pytest.mark.models, pytest.mark.anyio]

RATE_HZ = 16_000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def reading() -> rm.Audio:
    """The reading as models want it."""
    outputs = audios(run_node(Resample, two_cities(), sample_rate=RATE_HZ, mono=True))
    samples = np.concatenate([out.samples for out in outputs])
    return rm.Audio(samples, RATE_HZ, timestamp_ns=0)


def audios(outputs: Sequence[rm.RuntimeData]) -> list[rm.Audio]:
    assert all(isinstance(out, rm.Audio) for out in outputs)
    return [out for out in outputs if isinstance(out, rm.Audio)]


def texts(outputs: Sequence[rm.RuntimeData]) -> list[rm.Text]:
    assert all(isinstance(out, rm.Text) for out in outputs)
    return [out for out in outputs if isinstance(out, rm.Text)]


def number(message: rm.RuntimeData, name: str) -> float:
    value = message.metadata[name]
    assert isinstance(value, float)
    return value


async def through(session: rm.Session, inputs: Sequence[rm.Audio]) -> list[rm.RuntimeData]:
    """Send a stream, end it, and return all that comes out."""

    async def outputs() -> list[rm.RuntimeData]:
        return [output async for output in session.outputs()]

    collecting = asyncio.create_task(outputs())
    for message in inputs:
        await session.send(message)
    await session.close()
    return await collecting


def seconds_of(what: str) -> NDArray[np.float32]:
    frames = 3 * RATE_HZ
    match what:
        case "silence":
            return np.zeros(frames, np.float32)
        case "noise":
            return np.random.default_rng(0).normal(0, 0.1, frames).astype(np.float32)
        case _:
            angles = np.arange(frames) * 2 * np.pi * 440 / RATE_HZ
            return np.sin(angles).astype(np.float32)


@pytest.mark.parametrize("what", ["silence", "noise", "tone"])
def test_what_is_no_speech_is_no_segment(what: str) -> None:
    assert run_node(SileroVad, rm.Audio(seconds_of(what), RATE_HZ)) == []


@pytest.mark.parametrize("frames", [0, 1, 511, 513])
def test_a_stream_of_almost_nothing_is_no_segment(frames: int) -> None:
    assert run_node(SileroVad, rm.Audio(np.ones(frames, np.float32), RATE_HZ)) == []


@pytest.mark.parametrize("size", [160, 512, 10**9])
def test_a_segment_is_the_sound_of_its_times(reading: rm.Audio, size: int) -> None:
    segments = audios(run_node(SileroVad, cut(reading, size)))
    assert 4 <= len(segments) <= 12
    until = 0.0
    for segment in segments:
        start, end = number(segment, "start_s"), number(segment, "end_s")
        assert until <= start < end
        until = end
        expected = reading.samples[round(start * RATE_HZ) : round(end * RATE_HZ)]
        assert np.array_equal(segment.samples, expected)
        assert segment.timestamp_ns == pytest.approx(start * 1e9, abs=1000)
    spoken = sum(segment.duration_seconds for segment in segments)
    assert spoken == pytest.approx(40, abs=4)


def test_segments_are_the_same_however_the_stream_is_cut(reading: rm.Audio) -> None:
    assert run_node(SileroVad, cut(reading, 333)) == run_node(SileroVad, reading)


def test_early_segments_are_those_that_end_later_or_parts_of_them(reading: rm.Audio) -> None:
    expected = audios(run_node(SileroVad, reading, padding_ms=100))
    found = audios(run_node(SileroVad, reading, padding_ms=100, early_silence_ms=100))
    early = [one for one in found if one.metadata.get("early")]
    assert [one for one in found if not one.metadata.get("early")] == expected
    for one in expected[:-1]:  # the last ends with the reading
        assert any(np.array_equal(one.samples, other.samples) for other in early)


def test_no_segment_is_longer_than_asked_for(reading: rm.Audio) -> None:
    segments = audios(run_node(SileroVad, reading, max_segment_s=2))
    assert max(segment.duration_seconds for segment in segments) <= 2


def test_speech_at_8_khz_is_found_as_well() -> None:
    slow = list(run_node(Resample, two_cities(), sample_rate=8_000))
    assert 4 <= len(run_node(SileroVad, slow)) <= 12


def test_an_interrupt_forgets_speech_and_keeps_the_time(reading: rm.Audio) -> None:
    node = SileroVad()
    node.initialize()
    spoken = rm.Audio(reading.samples[: 4 * RATE_HZ + 7], RATE_HZ, timestamp_ns=0)
    assert list(node.process(spoken)) == []
    node.interrupt()
    assert list(node.finish()) == []
    node = SileroVad()
    node.initialize()
    list(node.process(spoken))
    node.interrupt()
    rest = rm.Audio(reading.samples[4 * RATE_HZ + 7 :], RATE_HZ, timestamp_ns=4 * 10**9)
    first = next(iter(node.process(rest))).data
    assert number(first, "start_s") >= 4
    assert number(first, "start_s") == pytest.approx(first.timestamp_ns / 1e9, abs=1e-3)


async def test_a_reading_is_written_down_as_it_was_read() -> None:
    recording = two_cities()
    pipeline = chain(
        rm.NodeConfig("audio.resample", "resample", config={"sample_rate": RATE_HZ, "mono": True}),
        rm.NodeConfig("silero_vad", "vad"),
        rm.NodeConfig("whisper", "asr", config={"model": "tiny.en"}),
    )
    async with running(pipeline, init_timeout_secs=120) as session:
        began = time.monotonic()
        heard = texts(await through(session, cut(recording, 960)))
        seconds = time.monotonic() - began
    rate = word_error_rate(TWO_CITIES, " ".join(text.text for text in heard))
    factor = seconds / recording.duration_seconds
    print(f"word error rate {rate:.3f}, real-time factor {factor:.3f}")  # noqa: T201
    assert rate <= 0.10
    assert factor < 0.5  # it keeps up with a speaker, with room to spare
    until = 0.0
    for text in heard:
        start, end = number(text, "start_s"), number(text, "end_s")
        assert until <= start < end <= recording.duration_seconds
        assert number(text, "speech_end_s") <= end
        assert round(end, 3) == end
        assert text.timestamp_ns == pytest.approx(start * 1e9, abs=1e6)
        assert text.metadata["language"] == "en"
        until = end


async def test_a_reading_in_real_time_keeps_up_and_loses_nothing() -> None:
    recording = two_cities()
    pipeline = chain(
        rm.NodeConfig("audio.resample", "resample", config={"sample_rate": RATE_HZ, "mono": True}),
        rm.NodeConfig("silero_vad", "vad"),
        rm.NodeConfig("whisper", "asr", config={"language": "en"}),
    )
    heard: list[rm.Text] = []
    delays: list[float] = []
    async with running(pipeline, init_timeout_secs=120) as session:
        began = time.monotonic()

        async def listen() -> None:
            async for output in session.outputs():
                delays.append(time.monotonic() - began - number(output, "speech_end_s"))
                heard.extend(texts([output]))

        listening = asyncio.create_task(listen())
        late = 0.0
        for message in cut(recording, 960):
            due = message.timestamp_ns / 1e9 + message.duration_seconds
            await asyncio.sleep(began + due - time.monotonic())
            await session.send(message)
            late = max(late, time.monotonic() - began - due)
        await session.close()
        await listening
    print(f"at most {max(delays):.2f} s after the end of speech; {late:.3f} s late")  # noqa: T201
    assert word_error_rate(TWO_CITIES, " ".join(text.text for text in heard)) <= 0.10
    assert max(delays) < 5  # what is said next takes longer than what is said is written down
    assert late < 1  # nobody had to wait for room
    connections = [one for port in session.stats().values() for one in port.connections]
    assert len(connections) == 4
    assert all(one.policy == "block" and not sum(one.dropped.values()) for one in connections)


def test_audio_that_nobody_cut_has_times_by_how_much_came(reading: rm.Audio) -> None:
    part = rm.Audio(reading.samples[: 5 * RATE_HZ], RATE_HZ)
    first, second = texts(run_node(Whisper, [part, part], language="en"))
    assert first.text == second.text
    assert (number(first, "start_s"), number(second, "start_s")) == (0.0, 5.0)


@pytest.mark.parametrize("frames", [0, 1])
def test_of_almost_nothing_whisper_makes_at_most_something_short(frames: int) -> None:
    assert len(run_node(Whisper, rm.Audio(np.zeros(frames, np.float32), RATE_HZ))) <= 1


async def test_an_unknown_model_is_an_error_that_says_what_may_be_given() -> None:
    node = rm.NodeConfig("whisper", "asr", config={"model": "tinny.en"})
    with pytest.raises(rm.ProcessCrashed, match=r"'tinny\.en' is no folder and no name of a model"):
        async with running(chain(node), init_timeout_secs=120):
            pass


async def test_a_model_of_english_alone_refuses_another_language_before_it_is_ready() -> None:
    node = rm.NodeConfig("whisper", "asr", config={"model": "tiny.en", "language": "de"})
    with pytest.raises(rm.ProcessCrashed, match=r"'de' is none that .* English only"):
        async with running(chain(node), init_timeout_secs=120):
            pass


async def test_speech_leaves_sentence_by_sentence_and_says_the_text() -> None:
    sentences = ["The weather is fine today.", "Shall we go for a walk in the park?"]
    pipeline = chain(rm.NodeConfig("tts.hibari", "tts", config={"seed": 1}))
    async with running(pipeline, init_timeout_secs=120) as session:
        said = rm.Text(" ".join(sentences), metadata={"turn": 1})
        spoken = audios([out async for out in session.stream(said)])
    assert [dict(one.metadata) for one in spoken] == [
        {"turn": 1, "text": sentence} for sentence in sentences
    ]
    assert all(one.sample_rate == 24_000 and 1 < one.duration_seconds < 5 for one in spoken)
    assert all(0.05 < np.abs(one.samples).max() <= 1 for one in spoken)
    heard = texts(run_node(Whisper, list(run_node(Resample, spoken)), language="en"))
    assert word_error_rate(said.text, " ".join(text.text for text in heard)) <= 0.25


@pytest.mark.parametrize("text", ["", "  \n", "...", "\N{HEAVY BLACK HEART}"])
def test_where_there_is_nothing_to_say_nothing_is_said(text: str) -> None:
    assert sum(out.duration_seconds for out in audios(run_node(Hibari, rm.Text(text)))) < 1


def test_a_seed_makes_the_same_sound() -> None:
    one, two = (run_node(Hibari, rm.Text("Hello."), seed=3) for _ in range(2))
    assert one == two


async def test_a_language_model_answers_in_sentences_and_remembers() -> None:
    pipeline = chain(rm.NodeConfig("llm.chat", "llm", config={"max_tokens": 40}))
    async with running(pipeline, init_timeout_secs=120) as session:
        question = rm.Text("What color is the sky?", metadata={"turn": 1})
        answer = texts([out async for out in session.stream(question)])
        assert "blue" in " ".join(one.text for one in answer).lower()
        assert all(one.metadata == {"turn": 1} for one in answer)
        assert [out async for out in session.stream(rm.Text("Name three fruits."))]


async def test_an_interrupt_ends_what_a_language_model_says() -> None:
    config = {"prompt": "model", "max_tokens": 1500, "system": ""}
    pipeline = chain(rm.NodeConfig("llm.chat", "llm", config=config))
    async with running(pipeline, init_timeout_secs=120) as session:
        await session.send(rm.Text("Write a very long story about a dog. Once upon a time"))
        await session.recv()
        session.interrupt()
        began = time.monotonic()
        await session.close()
        assert time.monotonic() - began < 5


async def test_an_unknown_language_model_is_an_error_that_says_what_may_be_given() -> None:
    node = rm.NodeConfig("llm.chat", "llm", config={"model": "gemma"})
    with pytest.raises(rm.ProcessCrashed, match=r"'gemma' is no file; give the path of a GGUF"):
        async with running(chain(node), init_timeout_secs=120):
            pass


@pytest.mark.parametrize("node_type", ["whisper", "llm.chat"])
async def test_a_path_that_is_not_there_is_an_error_that_names_it(node_type: str) -> None:
    node = rm.NodeConfig(node_type, "it", config={"model": "/nope/model.gguf"})
    with pytest.raises(rm.ProcessCrashed, match=r"there is no (folder|file) /nope/model\.gguf"):
        async with running(chain(node), init_timeout_secs=120):
            pass


async def test_speech_in_is_answered_by_speech_out() -> None:
    pipeline = chain(
        rm.NodeConfig("audio.resample", "resample", config={"mono": True}),
        rm.NodeConfig("silero_vad", "vad"),
        rm.NodeConfig("whisper", "asr"),
        rm.NodeConfig("text.answer", "answer", config={"words": "You said: {text}"}),
        rm.NodeConfig("tts.hibari", "tts"),
    )
    recording = two_cities()
    begin = rm.Audio(recording.samples[: 14 * recording.sample_rate], recording.sample_rate)
    async with running(pipeline, init_timeout_secs=120) as session:
        spoken = audios(await through(session, cut(begin, 960)))
    said = " ".join(str(one.metadata["text"]) for one in spoken)
    assert word_error_rate(TWO_CITIES[:180], said.replace("You said: ", "")) <= 0.25
    heard = texts(run_node(Whisper, list(run_node(Resample, spoken)), language="en"))
    assert word_error_rate(said, " ".join(text.text for text in heard)) <= 0.25
