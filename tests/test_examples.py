"""The examples run as they say, where what they need is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SECONDS = 60


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
