"""`lfm2_audio`: real code on a model with random weights; and its decoders, which need no model."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest

import remotemedia as rm
from remotemedia.nodes.lfm2_audio import Lfm2Audio
from remotemedia.nodes.lfm2_decoding import FRAME_SAMPLES, SoundDecoder, TextDecoder
from remotemedia.testing import run_node
from tests.executor_helpers import running
from tests.lfm2_nodes import AnyPythonLfm2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

pytestmark = pytest.mark.anyio

OVERLAP = 480


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lfm2")
    command = [sys.executable, "-m", "tests.lfm2_checkpoint", str(folder)]
    root = Path(__file__).parent.parent
    subprocess.run(command, check=True, timeout=120, capture_output=True, cwd=root)
    return folder


def pipeline(checkpoint: Path, **config: object) -> rm.Pipeline:
    config = {"model": str(checkpoint), "seed": 1, **config}
    return rm.Pipeline("s2s").add_node("s2s", AnyPythonLfm2, **config)


def speech(seconds: float) -> rm.Audio:
    noise = np.random.default_rng(0).normal(0, 0.1, round(16_000 * seconds))
    return rm.Audio(noise.astype(np.float32), 16_000, metadata={"turn": 1})


def sound_of(outputs: list[rm.RuntimeData]) -> NDArray[np.float32]:
    pieces = [out for out in outputs if isinstance(out, rm.Audio)]
    assert all((piece.channels, piece.sample_rate) == (1, 24_000) for piece in pieces)
    return np.concatenate([piece.samples[:, 0] for piece in pieces])


@pytest.mark.models
async def test_speech_is_answered_by_speech_and_text_and_turns_are_kept(checkpoint: Path) -> None:
    async with running(pipeline(checkpoint, max_tokens=60), init_timeout_secs=120) as session:
        first = [out async for out in session.stream(speech(1))]
        again = [out async for out in session.stream(speech(1))]
        typed = [out async for out in session.stream(rm.Text("Hello."))]
        assert [out async for out in session.stream(speech(0.05))] == []
    sound = sound_of(first)
    assert len(sound) % FRAME_SAMPLES == 0
    assert 30 <= len(sound) // FRAME_SAMPLES <= 54
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() > 1e-3
    assert any(isinstance(out, rm.Text) for out in first)
    assert all(out.metadata == {"turn": 1} for out in first)
    assert sound_of(typed).any()
    assert again != first  # the same question in a longer chat, with the same seed


@pytest.mark.models
async def test_an_interrupt_ends_the_answer(checkpoint: Path) -> None:
    long = pipeline(checkpoint, max_tokens=30_000)
    async with running(long, init_timeout_secs=120) as session:
        await session.send(speech(1))
        await session.recv()
        session.interrupt()
        began = time.monotonic()
        await session.close()
        assert time.monotonic() - began < 5


class Mumbling:
    """A model whose steps come to no sound and no sentence."""

    def __init__(self) -> None:
        self.at_work = threading.Event()
        self.is_closed = False

    def generate_interleaved(self, **_: object) -> Iterator[EndOfSound]:
        deadline = time.monotonic() + 10
        try:
            while time.monotonic() < deadline:
                yield EndOfSound()
                self.at_work.set()
        except GeneratorExit:
            self.is_closed = True
            raise


class EndOfSound:
    """A token of the model, as far as the node looks at it."""

    def numel(self) -> int:
        return 8

    def tolist(self) -> list[int]:
        return [2048] * 8


class WithoutCheckpoint(Lfm2Audio):
    def __init__(self, model: Mumbling) -> None:
        super().__init__()
        self._model = model

    def _chat(self, turn: object) -> dict[str, object]:
        return {}


async def test_an_interrupt_ends_an_answer_of_which_nothing_has_been_sent() -> None:
    model = Mumbling()
    answer = WithoutCheckpoint(model).process(rm.Text("Hello."))
    waiting = asyncio.ensure_future(anext(answer))
    assert await asyncio.to_thread(model.at_work.wait, 10)
    waiting.cancel()  # as an interrupt does
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert model.is_closed


def causal(frames: list[list[int]]) -> NDArray[np.float32]:
    """Sound that depends on 20 frames before, and at its end on whether another frame comes."""
    codes = np.array([frame[0] for frame in frames], np.float32)
    sums = [codes[max(0, at - 20) : at + 1].sum() for at in range(len(codes))]
    sound = np.repeat(np.array(sums, np.float32), FRAME_SAMPLES)
    sound[-OVERLAP:] *= 0.5
    return sound


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 25, 100])
def test_sound_that_is_made_in_pieces_is_that_of_the_whole(count: int) -> None:
    frames = [[int(code)] * 8 for code in np.random.default_rng(0).integers(0, 2048, count)]
    decoded: list[int] = []

    def decode(some: list[list[int]]) -> NDArray[np.float32]:
        decoded.append(len(some))
        return causal(some)

    decoder = SoundDecoder(decode)
    pieces = [piece for frame in frames for piece in decoder.add(frame)]
    assert decoder.add([2048] * 8) == []  # the end of the sound is no sound
    pieces += decoder.rest()
    assert decoder.rest() == []
    whole = causal(frames) if frames else np.empty(0, np.float32)
    assert np.array_equal(np.concatenate([np.empty(0, np.float32), *pieces]), whole)
    assert max(decoded, default=0) < 35  # not all of it again and again


def test_the_first_sound_leaves_when_the_second_frame_is_known() -> None:
    decoder = SoundDecoder(causal)
    assert decoder.add([1] * 8) == []
    assert [len(piece) for piece in decoder.add([2] * 8)] == [FRAME_SAMPLES]


def test_a_letter_of_several_tokens_is_not_torn() -> None:
    letters = "Stra\N{LATIN SMALL LETTER SHARP S}e. Ja".encode()
    decoder = TextDecoder(lambda ids: bytes(ids).decode(errors="replace"))
    assert [sentence for token in letters for sentence in decoder.add(token)] == [
        "Stra\N{LATIN SMALL LETTER SHARP S}e."
    ]
    assert decoder.rest() == ["Ja"]


async def test_audio_of_another_format_is_an_error_that_says_what_to_put_before() -> None:
    with pytest.raises(rm.DataError, match=r"put audio\.resample before it"):
        _ = [out async for out in Lfm2Audio().process(rm.Audio(np.zeros(9, np.float32), 48_000))]


def test_a_missing_library_is_an_error_that_says_where_the_interpreter_is_too_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "liquid_audio", None)
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    with pytest.raises(ModuleNotFoundError, match=r"\[lfm2\]'") as raised:
        run_node(Lfm2Audio)
    is_old = sys.version_info < (3, 12)
    assert ("needs Python 3.12, and this is" in str(raised.value)) == is_old


@pytest.mark.parametrize(("name", "value"), [("audio_top_k", -1), ("max_tokens", 0)])
def test_parameters_are_checked(name: str, value: object) -> None:
    with pytest.raises(rm.PipelineError, match=name):
        run_node(Lfm2Audio, **{name: value})
