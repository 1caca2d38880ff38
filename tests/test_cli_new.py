"""`remotemedia new`: a project whose pipeline runs and whose tests pass."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

import remotemedia as rm
from remotemedia.cli.app import app
from tests.cli_helpers import remotemedia

if TYPE_CHECKING:
    from pathlib import Path


def test_a_new_project_runs_and_its_tests_pass(tmp_path: Path) -> None:
    done = remotemedia("new", "my-voice.app", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    project = tmp_path / "my-voice.app"
    assert sorted(path.name for path in project.iterdir()) == [
        *("README.md", "nodes.py", "pipeline.yaml", "test_my_voice_app.py")
    ]
    assert f"{next(project.glob('test_*')).name}" in (project / "README.md").read_text()
    ran = remotemedia("run", "pipeline.yaml", "--text", "hello", "-q", cwd=project)
    assert (ran.returncode, ran.stdout) == (0, "HELLO!\n")
    shown = remotemedia("nodes", "-m", "nodes.py", "nodes:Shout", cwd=project)
    assert "mark: str = '!'  what is put behind it." in shown.stdout
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "2 passed" in tested.stdout, tested.stdout + tested.stderr


def test_a_new_project_is_formatted_as_the_linter_likes_it(tmp_path: Path) -> None:
    CliRunner().invoke(app, ["new", str(tmp_path / "neat")])
    for check in (["format", "--check"], ["check", "--select", "E,F,W,UP,B"]):
        ruff = [sys.executable, "-m", "ruff", *check, "--isolated", "--line-length", "100"]
        done = subprocess.run([*ruff, tmp_path / "neat"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["true", "FALSE", "Null", "yes", "No", "on", "class", "asyncio"])
def test_a_project_may_have_a_name_that_means_something_else_in_a_file(
    tmp_path: Path, name: str
) -> None:
    assert CliRunner().invoke(app, ["new", str(tmp_path / name)]).exit_code == 0
    pipeline = rm.load_pipeline(tmp_path / name / "pipeline.yaml")
    assert pipeline.name == name
    for file in (tmp_path / name).glob("*.py"):
        compile(file.read_text(), file, "exec")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nodes.py").write_text("precious")
    done = CliRunner().invoke(app, ["new", str(tmp_path / "mine")])
    assert done.exit_code == 2
    assert "is not empty" in done.stderr
    assert (tmp_path / "mine" / "nodes.py").read_text() == "precious"


@pytest.mark.parametrize("name", ["-x", "1st", "a b", "\N{SNOWMAN}", "x" * 65])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    done = CliRunner().invoke(app, ["new", "--", str(tmp_path / name)])
    assert done.exit_code == 2
    assert "is no name for a project" in done.stderr


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, ["new", str(tmp_path / "file" / "inside")])
    assert done.exit_code == 3
    assert "Not a directory" in done.stderr
