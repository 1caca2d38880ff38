"""`remotemedia doctor`: what the machine has, and what dead programs have left on it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from remotemedia.cli import doctor
from remotemedia.cli.app import app
from remotemedia.core.multiprocess import leftovers, orphans
from remotemedia.core.multiprocess.transport import folder
from remotemedia.nodes.extras import install_command

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("only_ours")

KEEPER = """
import asyncio, sys
from remotemedia.core.multiprocess.transport import folder
folder.PREFIX = sys.argv[1]
import remotemedia as rm
async def main():
    async with rm.MultiprocessExecutor():
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


MARK = f"REMOTEMEDIA_TEST_{os.getpid()}"


@pytest.fixture
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may be young, and processes of others are left alone."""
    monkeypatch.setattr(leftovers, "MIN_AGE_SECONDS", 0.0)
    monkeypatch.setattr(orphans, "MARK", MARK)


def checks(*arguments: str) -> dict[str, dict[str, str]]:
    done = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    found = {check["name"]: check for check in json.loads(done.stdout)}
    problems = [check for check in found.values() if check["state"] == "problem"]
    assert done.exit_code == (1 if problems else 0)
    return found


def test_a_machine_that_has_everything_is_well() -> None:
    found = checks()
    assert found["kernel"]["state"] == found["leftovers"]["state"] == "ok"
    assert "free in /dev/shm" in found["shared memory"]["text"]
    assert "iceoryx2 0.10.0" in found["versions"]["text"]


def test_people_get_a_line_per_check() -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert re.search(r"^ok +leftovers +none$", done.stdout, re.MULTILINE)


def test_what_is_short_is_a_warning_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LOW_BYTES", 1 << 60)
    monkeypatch.setattr(doctor, "LOW_DESCRIPTORS", 1 << 60)
    monkeypatch.setitem(doctor._PROBES, "pidfd_open", lambda: os.open("/nowhere", os.O_RDONLY))
    found = checks()
    assert "--shm-size" in found["shared memory"]["advice"]
    assert found["descriptors"]["state"] == "warning"
    assert found["kernel"]["state"] == "problem"
    assert "no pidfd_open" in found["kernel"]["text"]


def test_a_runtime_folder_that_is_open_to_others_is_a_problem(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = Path(f"/tmp/rmt{os.getpid()}")
    (base / "remotemedia").mkdir(parents=True)
    (base / "remotemedia").chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
    try:
        assert checks()["runtime folder"]["state"] == "problem"
    finally:
        (base / "remotemedia").rmdir()
        base.rmdir()


def test_what_dead_programs_have_left_is_found_and_removed() -> None:
    name = f"{folder.PREFIX}0123456789"
    root = folder.private_folder() / name
    root.mkdir()
    lost = [f"{folder.PREFIX}abcdef0123_{number}" for number in range(5)]
    for file in (f"{name}_of_a_dead_one", *lost):
        Path(f"/dev/shm/{file}").write_bytes(b"x")
    check = checks()["leftovers"]
    assert check["state"] == "problem"
    folders, _, files = check["text"].partition("; ")
    assert folders == f"1 folder in {root.parent}: {name}"
    named = re.fullmatch(r"5 files in /dev/shm: (\S+), (\S+), (\S+) and 2 more", files)
    assert named is not None, files
    assert set(named.groups()) < set(lost)
    assert checks("--clean")["leftovers"]["text"].startswith("removed: 1 folder")
    assert checks()["leftovers"]["text"] == "none"


def test_an_extra_that_is_not_installed_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = [
        "numpy>=1",
        "numpy>=1; extra == 'audio'",
        "no-such-package==1; extra == 'speech'",
        "numpy>=1; extra == 'speech'",
        "numpy>=1; (python_version >= '3.99') and extra == 'lfm2'",
        "no-such-package; extra == 'dev'",
    ]
    monkeypatch.setattr(doctor, "requires", lambda name: needed)
    found = {name: check for name, check in checks().items() if name.startswith("extra ")}
    assert found.keys() == {"extra audio", "extra speech", "extra lfm2"}
    assert found["extra audio"]["state"] == "ok"
    assert found["extra speech"]["state"] == "absent"
    assert found["extra speech"]["text"] == "not installed: no-such-package"
    assert found["extra speech"]["advice"] == f"to use it: {install_command('speech')}"
    assert "Python 3.99 or later" in found["extra lfm2"]["text"]


@pytest.mark.parametrize(("library", "state"), [(None, "warning"), ("libportaudio.so.2", "ok")])
def test_the_extra_for_microphones_needs_a_library_of_the_system(
    monkeypatch: pytest.MonkeyPatch, library: str | None, state: str
) -> None:
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=1; extra == 'mic'"])
    monkeypatch.setattr(doctor, "find_library", lambda name: library)
    found = checks()["extra mic"]
    assert found["state"] == state
    assert ("libportaudio2" in found["advice"]) == (state == "warning")


@pytest.fixture
def runtime_elsewhere() -> Iterator[None]:
    """A runtime of the same user whose folder is not where ours is."""
    base = Path(f"/tmp/rmt{os.getpid()}e")
    base.mkdir(mode=0o700)
    with subprocess.Popen(
        [sys.executable, "-c", KEEPER, folder.PREFIX],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "XDG_RUNTIME_DIR": str(base)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield
        process.communicate(b"", timeout=30)
    (base / "remotemedia").rmdir()
    base.rmdir()


@pytest.mark.usefixtures("runtime_elsewhere")
def test_what_belongs_to_a_runtime_that_lives_is_not_touched() -> None:
    assert list(Path("/dev/shm").glob(f"{folder.PREFIX}*"))
    assert checks("--clean")["leftovers"]["text"] == "none"


def test_a_process_that_no_spawner_is_above_is_found_and_killed() -> None:
    # It is orphaned: its parent, a shell, has gone.
    done = subprocess.run(
        ["sh", "-c", f"{MARK}=dead sleep 600 >/dev/null 2>&1 & echo $!"],
        capture_output=True,
        check=True,
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 30
    while f"process {pid} (sleep)" not in checks()["leftovers"]["text"]:  # until it has exec'd
        assert time.monotonic() < deadline
    checks("--clean")
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline
