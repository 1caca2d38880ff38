"""`vibe_voice`: real code on a model with random weights; and its voices, which need no model."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

import remotemedia as rm
from remotemedia.nodes.vibe_voice import VibeVoice
from remotemedia.testing import run_node
from tests.executor_helpers import chain, running

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.anyio

CHUNK_FRAMES = 3200


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_checkpoint(tmp_path_factory.mktemp("vibe_voice"), pieces=12)


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """A folder of voices, in which sarah hums for a second."""
    hum = np.sin(np.arange(16_000) / 20).astype(np.float32) / 2
    soundfile.write(tmp_path / "sarah.wav", np.stack([hum, hum], axis=1), 16_000)
    (tmp_path / "notes.txt").write_text("no voice")
    return tmp_path


def made_checkpoint(folder: Path, pieces: int) -> Path:
    script = Path(__file__).parent / "vibe_voice_checkpoint.py"
    command = [sys.executable, str(script), str(folder), str(pieces)]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    return folder


def spoken(
    outputs: Sequence[rm.RuntimeData],
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    for out in outputs:
        assert isinstance(out, rm.Audio)
        assert (out.frames, out.channels, out.sample_rate) == (CHUNK_FRAMES, 1, 24_000)
        assert np.isfinite(out.samples).all()
    return [out.samples for out in outputs if isinstance(out, rm.Audio)]


@pytest.mark.models
async def test_sound_leaves_piece_by_piece_and_the_pieces_differ(checkpoint: Path) -> None:
    config = {"model": str(checkpoint), "max_audio_s": 10, "dtype": "float32"}
    pipeline = chain(rm.NodeConfig("vibe_voice", "tts", config=config))
    async with running(pipeline, init_timeout_secs=120) as session:
        text = rm.Text("Hello there.", metadata={"turn": 1})
        outputs = [out async for out in session.stream(text)]
        assert all(out.metadata == {"turn": 1} for out in outputs)
        pieces = spoken(outputs)
        assert len(pieces) >= 12
        assert all(piece.any() for piece in pieces)
        assert not np.array_equal(pieces[0], pieces[1])
        assert [out async for out in session.stream(rm.Text(" \n "))] == []


@pytest.mark.models
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numpy's, in diffusers
def test_a_voice_by_its_name_changes_the_sound_and_a_seed_repeats_it(
    checkpoint: Path, voices: Path
) -> None:
    config = {"model": str(checkpoint), "max_audio_s": 2, "seed": 1}
    plain = run_node(VibeVoice, rm.Text("Hello."), **config)
    again = run_node(VibeVoice, rm.Text("Hello."), **config)
    sarah = run_node(VibeVoice, rm.Text("Hello."), voice="sarah", voices=str(voices), **config)
    assert plain == again
    assert 12 <= len(spoken(sarah)) <= 16
    assert sarah != plain


@pytest.mark.models
async def test_an_interrupt_ends_what_is_being_said(tmp_path: Path) -> None:
    folder = made_checkpoint(tmp_path, pieces=3000)
    config = {"model": str(folder), "max_audio_s": 600}
    pipeline = chain(rm.NodeConfig("vibe_voice", "tts", config=config))
    async with running(pipeline, init_timeout_secs=120) as session:
        await session.send(rm.Text("Say a lot."))
        await session.recv()
        session.interrupt()
        began = time.monotonic()
        await session.close()
        assert time.monotonic() - began < 5


@pytest.mark.models
async def test_a_folder_without_a_model_is_an_error_of_that_node(tmp_path: Path) -> None:
    node = rm.NodeConfig("vibe_voice", "tts", config={"model": str(tmp_path)})
    with pytest.raises(rm.ProcessCrashed, match="'tts'"):
        async with running(chain(node), init_timeout_secs=120):
            pass


def test_an_unknown_voice_is_an_error_that_says_which_there_are(voices: Path) -> None:
    with pytest.raises(ValueError, match=r"no voice 'sara' in .* \(there are: sarah\)"):
        run_node(VibeVoice, voice="sara", voices=str(voices))


def test_voices_are_found_where_the_users_data_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=rf"{tmp_path}/remotemedia/voices \(there are: none\)"):
        run_node(VibeVoice, voice="sarah")


@pytest.mark.parametrize(
    ("name", "value"), [("guidance", 0), ("dtype", "int8"), ("diffusion_steps", 0)]
)
def test_parameters_are_checked(name: str, value: object) -> None:
    with pytest.raises(rm.PipelineError, match=name):
        run_node(VibeVoice, **{name: value})
