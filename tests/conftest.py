"""What all tests share: registries over both transports, and a look at what each test leaves."""

from __future__ import annotations

import contextlib
import gc
import glob
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from remotemedia.core.multiprocess.channel.registry import ChannelRegistry
from remotemedia.core.multiprocess.transport import folder
from remotemedia.core.multiprocess.transport.memory import MemoryTransport
from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def runtime_folder() -> Iterator[Path]:
    """A runtime folder and a prefix of this run's own: others may use the library meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        base = Path(tempfile.mkdtemp(prefix="rmt", dir="/tmp"))
        patch.setenv("XDG_RUNTIME_DIR", str(base))
        patch.setattr(folder, "PREFIX", f"rmt{secrets.token_hex(3)}")
        yield folder.private_folder()
        shutil.rmtree(base)


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest, runtime_folder: Path) -> Iterator[None]:
    """A test leaves no file in shared memory or the runtime folder, no process, no descriptor."""
    before = _children(), _descriptors()
    yield
    request.node.funcargs.clear()  # else what other fixtures gave would still be referred to
    if before != (_children(), _descriptors()) or _files(runtime_folder):
        gc.collect()
    assert _files(runtime_folder) == []
    assert _children() <= before[0]
    assert _descriptors().items() <= before[1].items()


@pytest.fixture(params=["iceoryx", "memory"])
def registry(request: pytest.FixtureRequest) -> Iterator[ChannelRegistry]:
    """A registry over each transport."""
    transport = None if request.param == "iceoryx" else MemoryTransport()
    with ChannelRegistry(transport) as made:
        yield made


def _files(runtime_folder: Path) -> list[str]:
    return glob.glob(f"{SHM_FOLDER}/{folder.PREFIX}*") + [str(p) for p in runtime_folder.iterdir()]


def _children() -> set[str]:
    children: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has ended
            children |= set((task / "children").read_text().split())
    return children


def _descriptors() -> dict[str, str]:
    """Open descriptors and what they are; the one that lists them is closed by then."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found
