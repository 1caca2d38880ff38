"""What a program has of the things that a session must give back."""

from __future__ import annotations

import gc
import glob
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from remotemedia.core.multiprocess.transport import folder
from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER

__all__ = ["Residue"]


@dataclass(frozen=True, slots=True)
class Residue:
    """What this process has at one moment.

    Attributes:
        processes: ids of its child processes, with the names of their programs.
        files: in shared memory and in the runtime folder, of this library.
        descriptors: open ones, with what they are.
    """

    processes: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    descriptors: dict[str, str] = field(default_factory=dict)

    @classmethod
    def now(cls) -> Residue:
        """Look at this process."""
        return cls(_children(), _files(), _descriptors())

    @classmethod
    def since(cls, before: Residue) -> Residue:
        """Look again and return what was not there before; garbage is collected first if need be.

        What takes the place of another, a descriptor of the same number, is something new.
        """
        left = cls.now()._without(before)
        if not left:
            return left
        gc.collect()
        return cls.now()._without(before)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.processes or self.files or self.descriptors)

    def __str__(self) -> str:
        return "\n".join(
            [f"process {pid}: {name}" for pid, name in self.processes.items()]
            + [f"file {path}" for path in self.files]
            + [f"descriptor {number}: {target}" for number, target in self.descriptors.items()]
        )

    def _without(self, before: Residue) -> Residue:
        return Residue(
            {pid: name for pid, name in self.processes.items() if pid not in before.processes},
            tuple(path for path in self.files if path not in before.files),
            {
                number: target
                for number, target in self.descriptors.items()
                if before.descriptors.get(number) != target
            },
        )


def _children() -> dict[str, str]:
    children: dict[str, str] = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # the thread has ended
            for pid in (task / "children").read_text().split():
                children[pid] = _program(pid)
    return children


def _program(pid: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "ended meanwhile"


def _files() -> tuple[str, ...]:
    here = folder.private_folder()
    return (*glob.glob(f"{SHM_FOLDER}/{folder.PREFIX}*"), *(str(one) for one in here.iterdir()))


def _descriptors() -> dict[str, str]:
    """Open descriptors and what they are; the one that lists them is closed by then."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found
