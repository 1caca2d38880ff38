"""The runtime folder: private, short, and refused when it is not ours."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.transport import library
from remotemedia.core.multiprocess.transport.domain import new_domain
from remotemedia.core.multiprocess.transport.folder import new_prefix, private_folder, sweep
from remotemedia.core.multiprocess.transport.ledger import Ledger
from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER
from remotemedia.data import Text
from remotemedia.errors import ExecutorError, ResourceLimit, SharedMemoryExhausted
from tests.channel_helpers import leftovers, open_fds

if TYPE_CHECKING:
    from collections.abc import Iterator

OUR_OWN = f"/tmp/remotemedia-{os.getuid()}"


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a short path, as XDG_RUNTIME_DIR."""
    path = Path(f"/tmp/rmb{os.getpid()}")
    path.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    yield path
    shutil.rmtree(path)


def use_channels() -> None:
    with ChannelRegistry() as registry:
        channel = registry.create_channel("out", 4)
        reader, writer = registry.create_subscriber(channel), registry.create_publisher(channel)
        writer.send(Text("x"))
        assert reader.receive(1) == Text("x")


def test_the_folder_is_made_closed_to_others(base: Path) -> None:
    old = os.umask(0)
    try:
        folder = private_folder()
    finally:
        os.umask(old)
    assert folder == base / "remotemedia"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert private_folder() == folder


def test_without_a_runtime_dir_it_lies_in_the_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, base: Path
) -> None:
    for unset in ("", "relative/path"):
        monkeypatch.setenv("XDG_RUNTIME_DIR", unset)
        monkeypatch.setattr("tempfile.tempdir", str(base))
        monkeypatch.chdir(tmp_path)
        assert private_folder() == base / f"remotemedia-{os.getuid()}"
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", ["XDG_RUNTIME_DIR", "TMPDIR"])
def test_a_long_path_is_left_for_a_short_one_and_channels_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long) if variable == "XDG_RUNTIME_DIR" else "")
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert str(private_folder()) == OUR_OWN
    use_channels()
    assert list(long.iterdir()) == []


def test_the_longest_path_that_is_taken_works(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    long = base / ("x" * (48 - len(str(base)) - len("//remotemedia")))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert private_folder() == long / "remotemedia"
    assert len(str(private_folder())) == 48
    use_channels()


def test_a_folder_open_to_others_is_refused(base: Path) -> None:
    folder = base / "remotemedia"
    folder.mkdir()
    for mode in (0o755, 0o770, 0o701):
        folder.chmod(mode)
        with pytest.raises(ExecutorError, match=r"not a folder of yours with mode 0700.*XDG_RUNTI"):
            private_folder()
        with pytest.raises(ExecutorError, match="mode 0700"):
            ChannelRegistry()
    folder.chmod(0o700)
    assert private_folder() == folder


def test_a_registry_that_gets_no_domain_keeps_no_descriptor(base: Path) -> None:
    (base / "remotemedia").mkdir(mode=0o755)
    before = open_fds()
    with pytest.raises(ExecutorError, match="mode 0700") as caught:
        ChannelRegistry()
    assert open_fds() == before, caught


def test_a_registry_that_gets_no_ledger_leaves_no_domain(
    monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    def refuse() -> Ledger:
        raise ResourceLimit("too many files are open")

    monkeypatch.setattr(Ledger, "create", refuse)
    with pytest.raises(ResourceLimit):
        ChannelRegistry()
    assert list(base.glob("remotemedia/*/*")) == []


def test_a_link_and_a_file_are_refused(base: Path, tmp_path: Path) -> None:
    folder = base / "remotemedia"
    folder.symlink_to(tmp_path)
    with pytest.raises(ExecutorError, match="not a folder of yours"):
        private_folder()
    folder.unlink()
    folder.write_text("")
    with pytest.raises(ExecutorError, match=r"cannot be made|not a folder"):
        private_folder()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to somebody else")
def test_a_folder_of_somebody_else_is_refused(base: Path) -> None:
    folder = base / "remotemedia"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(ExecutorError, match="not a folder of yours"):
        private_folder()


def test_a_runtime_dir_that_cannot_be_made_is_an_error_that_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/proc/nowhere")
    with pytest.raises(
        ExecutorError,
        match=r"/proc/nowhere/remotemedia cannot be made: .*; set XDG_RUNTIME_DIR to a private",
    ):
        private_folder()


def test_prefixes_differ_and_are_safe_in_a_file_name() -> None:
    prefixes = {new_prefix() for _ in range(1000)}
    assert len(prefixes) == 1000
    assert all(prefix.replace("_", "").isalnum() for prefix in prefixes)


def test_what_is_left_is_listed_and_swept_and_nothing_else(base: Path) -> None:
    prefix, root = "rmt[x]_", base / "domain"
    mine = [Path(SHM_FOLDER, f"{prefix}{name}") for name in ("a", "b.data")]
    other = Path(SHM_FOLDER, "rmtx_other")
    root.joinpath("nodes").mkdir(parents=True)
    for path in (*mine, other):
        path.touch()
    assert sorted(leftovers(root, prefix)) == sorted([*map(str, mine), str(root)])
    for _ in range(2):
        sweep(root, prefix)
        assert leftovers(root, prefix) == []
    assert other.exists()
    other.unlink()


def test_a_domain_that_cannot_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise SharedMemoryExhausted("starting", 1, 0, SHM_FOLDER)

    monkeypatch.setattr(library, "require_free", refuse)
    with pytest.raises(SharedMemoryExhausted):
        new_domain()
    assert list(private_folder().iterdir()) == []


def test_a_folder_that_was_removed_meanwhile_is_an_error_not_a_crash(base: Path) -> None:
    code = """
import shutil, sys
from remotemedia.errors import ChannelError
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.data import Text
with ChannelRegistry() as registry:
    channel = registry.create_channel("out", 4)
    reader, writer = registry.create_subscriber(channel), registry.create_publisher(channel)
    shutil.rmtree(sys.argv[1] + "/remotemedia")
    writer.send(Text("x"))
    assert reader.receive(1) == Text("x")
    try:
        registry.create_subscriber(channel)
    except ChannelError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, base], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "the runtime folder is gone" in done.stdout


DOMAIN = """
import os, signal
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
registry = ChannelRegistry()
channel = registry.create_channel("out", 4)
ends = registry.create_subscriber(channel), registry.create_publisher(channel)
print(*registry._transport.address, flush=True)
"""


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "del registry, channel"])
def test_a_registry_that_nobody_closed_leaves_nothing_when_the_program_exits(ending: str) -> None:
    code = f"import sys\n{DOMAIN}{ending}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    root, prefix = done.stdout.split()
    assert leftovers(Path(root), prefix) == []


def test_the_next_domain_removes_what_a_killed_one_left_and_nothing_of_a_living_one() -> None:
    addresses, processes = [], []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", f"{DOMAIN}signal.pause()"], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        root, prefix = process.stdout.readline().split()
        addresses.append((Path(root), prefix))
    killed, living = processes
    killed.kill()
    killed.wait()
    assert all(len(leftovers(*address)) > 4 for address in addresses)
    use_channels()
    assert leftovers(*addresses[0]) == []
    assert len(leftovers(*addresses[1])) > 4
    living.kill()
    living.wait()
    use_channels()
    assert leftovers(*addresses[1]) == []
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()


def test_domains_that_start_at_once_never_take_each_other_for_dead() -> None:
    code = """
import os
from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
pids = []
for _ in range(4):
    pids.append(os.fork())
    if pids[-1] == 0:
        for _ in range(15):
            with ChannelRegistry() as registry:
                registry.create_subscriber(registry.create_channel("out", 4))
        os._exit(7)
print([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[7, 7, 7, 7]\n", "")
