"""Leftovers: what programs that were killed have left on this machine, and its removal.

A runtime that ends, however it ends, leaves nothing as long as one of its processes is there to
clean up, and the next one removes what is left where none was. So this finds little: what is left
when all processes of a runtime were killed at once and none was started since.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.orphans import all_pids, find_orphans, kill_orphan
from remotemedia.core.multiprocess.transport import folder
from remotemedia.core.multiprocess.transport.locks import MemoryLock
from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Leftovers", "clean", "find_leftovers", "living_domains"]

MIN_AGE_SECONDS = 60.0
"""Files younger than this may belong to a runtime that is just starting."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What nobody owns any more.

    Attributes:
        folders: runtime folders whose process is dead.
        files: in shared memory.
        processes: pids of orphans, with the names of their programs.
    """

    folders: tuple[Path, ...]
    files: tuple[Path, ...]
    processes: dict[int, str]

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.folders or self.files or self.processes)


def find_leftovers() -> Leftovers:
    """Look for what dead runtimes of this user have left; nothing is changed.

    Raises:
        ExecutorError: the runtime folder is not usable.
    """
    here = folder.private_folder()
    folders = tuple(root for root, is_alive in _domains(here) if not is_alive)
    return Leftovers(folders, tuple(_unowned_files(here)), find_orphans())


def living_domains() -> int:
    """Count the runtimes of this user that run now.

    Raises:
        ExecutorError: the runtime folder is not usable.
    """
    return sum(is_alive for _, is_alive in _domains(folder.private_folder()))


def clean(leftovers: Leftovers) -> None:
    """Remove what was found: kill the processes, then unlink the rest."""
    for pid in leftovers.processes:
        kill_orphan(pid)
    here = folder.private_folder()
    MemoryLock(here).run(lambda: folder.sweep_dead(here))
    for path in leftovers.files:
        path.unlink(missing_ok=True)


def _domains(here: Path) -> list[tuple[Path, bool]]:
    """Return the folder of each runtime, and whether its process lives."""
    return MemoryLock(here).run(lambda: list(folder.domains(here)))


def _unowned_files(here: Path) -> Iterator[Path]:
    """Yield our files in shared memory that have no runtime folder and that no process uses.

    A runtime with another `XDG_RUNTIME_DIR` has its folder elsewhere, and holds that open.
    """
    pattern = re.compile(rf"({re.escape(folder.PREFIX)}[0-9a-f]{{10}})(?![0-9a-f])")
    now = time.time()
    found: dict[str, list[Path]] = {}
    young: set[str] = {root.name for root in here.iterdir()}
    for path in Path(SHM_FOLDER).iterdir():
        match = pattern.match(path.name)
        if match is None:
            continue
        with suppress(FileNotFoundError):
            state = path.stat()
            if state.st_uid == os.getuid():
                found.setdefault(match[1], []).append(path)
                if now - state.st_mtime < MIN_AGE_SECONDS:
                    young.add(match[1])
    unknown = found.keys() - young
    if unknown:
        unknown -= _in_use(pattern)
    for prefix in sorted(unknown):
        yield from found[prefix]


def _in_use(pattern: re.Pattern[str]) -> set[str]:
    """Return the names of runtimes of which a process has a file mapped, or anything open."""
    used: set[str] = set()
    for pid in all_pids():
        texts = []
        with suppress(OSError):  # ended meanwhile, or another user's
            texts.append(Path(f"/proc/{pid}/maps").read_text(errors="replace"))
            for fd in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(FileNotFoundError):
                    texts.append(str(fd.readlink()))
        used.update(match[1] for text in texts for match in pattern.finditer(text))
    return used
