"""The examples run as they say, where what they need is installed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.effort import FULL

from tests.speech_helpers import TWO_CITIES, recording, word_error_rate

PROJECT = Path(__file__).parent.parent
EXAMPLES = PROJECT / "examples"
SECONDS = 60
SPOKEN_SECONDS = 13.44
"""How much of the recording the demo plays."""
FIRST_SENTENCES = TWO_CITIES[: TWO_CITIES.index(", it was the season of\nLight")]
"""What is read in that time."""


def run(*words: str | Path, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def remotemedia_run(example: str, *words: str | Path, folder: Path) -> str:
    return run("-m", "remotemedia", "run", EXAMPLES / example, "-q", *words, folder=folder)


def test_text_goes_in_and_comes_out(tmp_path: Path) -> None:
    text = ("--text", "every word by itself")
    said = remotemedia_run("text/words.yaml", *text, folder=tmp_path)
    assert said == "EVERY + WORD\nBY + ITSELF\n"


def test_a_recorder_gets_every_frame_beside_a_slow_preview(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="needs the extra: pip install 'remotemedia[video]'")
    said = run(EXAMPLES / "video" / "studio.py", folder=tmp_path)
    assert "'recorded': 100" in said
    assert "(block): 100 sent, 0 dropped" in said
    assert "(latest): 100 sent, 0 dropped" not in said
    with av.open(str(tmp_path / "recording.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 100


def test_a_node_runs_on_another_interpreter(tmp_path: Path) -> None:
    # A virtual environment of its own, which sees the packages of this one.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "other"], check=True)
    (site,) = (tmp_path / "other").glob("lib/python*/site-packages")
    (site / "ours.pth").write_text("\n".join(path for path in sys.path if path) + "\n")
    other = tmp_path / "other" / "bin" / "python"
    said = run(EXAMPLES / "other_interpreter" / "versions.py", other, folder=tmp_path)
    assert said.startswith("start -> Python ")
    assert f"({sys.executable})" in said
    assert f"({other})" in said


def test_the_demo_plays_what_is_measured_and_tested() -> None:
    played = re.findall(r"--seconds (\S+)", (PROJECT / "Makefile").read_text())
    assert played == [str(SPOKEN_SECONDS)]
    assert SPOKEN_SECONDS in FULL.speech_seconds


@pytest.mark.models
def test_all_that_the_demo_says_is_answered_before_its_input_ends(tmp_path: Path) -> None:
    arguments = ("-i", recording(), "--seconds", str(SPOKEN_SECONDS), "--json", "-o", "-")
    lines = remotemedia_run("voice_assistant/pipeline.yaml", *arguments, folder=tmp_path)
    inputs = [json.loads(line).get("input") for line in lines.splitlines()[:-1]]
    assert 0 not in inputs  # what the end of the input brings
    assert len(set(inputs)) == 2


@pytest.mark.models
def test_a_file_is_captioned(tmp_path: Path) -> None:
    spoken = ("-i", str(recording()), "--seconds", str(SPOKEN_SECONDS))
    said = remotemedia_run("captions/captions.yaml", *spoken, folder=tmp_path)
    until = 0.0
    for start, end in re.findall(r"^\[(\S+) - (\S+) s\] \w", said, re.MULTILINE):
        assert until <= float(start) < float(end) <= SPOKEN_SECONDS
        until = float(end)
    heard = re.sub(r"\[.*?\]", "", said)
    assert word_error_rate(FIRST_SENTENCES, heard) <= 0.25


@pytest.mark.models
@pytest.mark.parametrize("example", ["pipeline.yaml", "with_llm.yaml"])
def test_the_answer_that_is_spoken_is_the_one_that_is_written(example: str, tmp_path: Path) -> None:
    arguments = ("-i", recording(), "--seconds", str(SPOKEN_SECONDS), "-o", "answer.wav", "-o", "-")
    said = remotemedia_run(f"voice_assistant/{example}", *arguments, folder=tmp_path)
    heard = " ".join(re.findall(r"^\[.* s\] (.*)$", said, re.MULTILINE))
    assert word_error_rate(FIRST_SENTENCES, heard) <= 0.25
    answers = " ".join(re.findall(r"^answer: (.*)$", said, re.MULTILINE))
    assert ("I have no language model" in answers) == (example == "pipeline.yaml")
    answer = remotemedia_run("captions/captions.yaml", "-i", "answer.wav", folder=tmp_path)
    spoken = re.sub(r"\[.*?\]", "", answer)
    assert word_error_rate(answers, spoken) <= 0.25, (answers, spoken)
