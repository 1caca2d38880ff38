"""The microphone and the speaker, played by a stand-in for their library."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile

from remotemedia.nodes.extras import install_command
from tests.cli_helpers import remotemedia, start, write_pipeline


@pytest.fixture
def speaker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in's speaker writes."""
    folder = tmp_path / "path"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("fake_sounddevice.py"), folder / "sounddevice.py")
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("SPEAKER", str(tmp_path / "played"))
    return tmp_path / "played"


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "in.wav"
    soundfile.write(path, np.linspace(-0.5, 0.5, 1600, dtype=np.float32), 16_000, subtype="FLOAT")
    return path


@pytest.fixture
def gain(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path, ("Gain", {}))


def test_the_microphone_is_heard_until_ctrl_c(speaker: Path, gain: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    with start("run", gain, "-i", "mic", "-o", out, "-o", "-") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert "ready" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


def test_what_the_microphone_hears_comes_out_in_order(
    speaker: Path, gain: Path, tmp_path: Path
) -> None:
    with start("run", gain, "-i", "mic", "-o", "speaker") as process:
        while not speaker.exists() or speaker.stat().st_size < 10 * 320 * 4:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    played = np.frombuffer(speaker.read_bytes(), np.float32)[::320]
    assert np.allclose(played * 1000, np.arange(1, len(played) + 1))


def test_the_speaker_plays_all_of_it(speaker: Path, gain: Path, sound: Path) -> None:
    done = remotemedia("run", gain, "-i", sound, "-o", "speaker")
    assert done.returncode == 0, done.stderr
    played = np.frombuffer(speaker.read_bytes(), np.float32)
    assert np.array_equal(played, soundfile.read(sound, dtype="float32")[0])


@pytest.mark.parametrize(
    ("variable", "arguments", "problem"),
    [
        ("NO_MICROPHONE", ["-i", "mic"], "the microphone cannot be opened"),
        ("BROKEN_SPEAKER", ["-i", "SOUND", "-o", "speaker"], "the speaker cannot be used"),
    ],
)
def test_a_device_that_fails_is_a_clear_error(
    speaker: Path,
    gain: Path,
    sound: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    arguments: list[str],
    problem: str,
) -> None:
    monkeypatch.setenv(variable, "1")
    done = remotemedia("run", gain, *(str(sound) if one == "SOUND" else one for one in arguments))
    assert done.returncode == 3
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("where", [["-i", "mic"], ["-i", "SOUND", "-o", "speaker"]], ids=str)
@pytest.mark.parametrize(
    ("problem", "advice"),
    [
        ("raise OSError('PortAudio library not found')", "libportaudio2"),
        ("raise ModuleNotFoundError", install_command("mic")),
    ],
)
def test_a_missing_library_is_an_error_that_says_what_to_install(
    speaker: Path, gain: Path, sound: Path, where: list[str], problem: str, advice: str
) -> None:
    (speaker.parent / "path" / "sounddevice.py").write_text(problem)
    done = remotemedia("run", gain, *(str(sound) if one == "SOUND" else one for one in where))
    assert done.returncode == 1  # as of all that a pipeline needs and that is not installed
    assert advice in done.stderr
    assert "Traceback" not in done.stderr
