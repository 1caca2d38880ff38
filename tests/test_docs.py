"""What the README and the documentation show is what happens: their files run, as printed.

A listing that begins with its file's name is written to an empty folder; a console transcript is
run there, line by line, and must print what it says, `...` standing for anything.
"""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import remotemedia

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.(?:py|yaml))\n")
SECONDS = 60


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(found[1], found[2]) for found in BLOCK.finditer(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_python_listing_is_python(page: Path) -> None:
    for language, text in blocks(page):
        if language == "python":
            # A fragment may await, yield to nobody, or use what was shown before.
            compile(text, str(page), "exec", flags=0x2000)  # ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def test_every_public_name_is_in_the_reference() -> None:
    pages = "\n".join(page.read_text() for page in ROOT.glob("docs/reference/*.md"))
    shown = set(re.findall(r"^\.\. auto\w+:: remotemedia\.(\w+)$", pages, re.MULTILINE))
    assert {*remotemedia.__all__, "input"} <= shown


@pytest.mark.parametrize(
    "page", [one for one in PAGES if "$ python " in one.read_text()], ids=lambda page: page.stem
)
def test_a_transcript_is_what_is_printed(page: Path, tmp_path: Path) -> None:
    for language, text in blocks(page):
        named = FILE.match(text)
        if named:
            (tmp_path / named[1]).write_text(text)
        if language == "console" and text.startswith("$ python "):
            command, _, wanted = text.partition("\n")
            words = [sys.executable, *shlex.split(command)[2:]]
            run = subprocess.run(
                words, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False
            )
            assert (run.returncode, run.stderr) == (0, ""), f"{command}\n{run.stderr}"
            is_same = doctest.OutputChecker().check_output(wanted, run.stdout, doctest.ELLIPSIS)
            assert is_same, f"{command} printed\n{run.stdout}\nand not\n{wanted}"
