"""Leftovers of killed processes in a domain that goes on, and their removal.

The library's own cleaning finds a process by the mark that it keeps while it lives. One that was
killed while it made that mark or took it away is not found; of one that was killed while it opened
a port, the mark stays. Such files, which are named after their process, are removed here.
"""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.transport.library import configuration, iox

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

__all__ = ["remove_leftovers"]

_log = logging.getLogger("remotemedia.session")
_NODES = "nodes"  # the library's folder for its marks, in that of the domain
_PID_SHIFT, _PID_MASK = 64, 0xFFFF_FFFF  # where a mark's number has the process


def remove_leftovers(root: Path, prefix: str, pids: Collection[int] | None) -> None:
    """Free what dead processes held, and remove their files.

    Args:
        root: folder of the domain.
        prefix: what its names begin with.
        pids: whose; they have been reaped. None is every dead process of the domain.
    """
    if pids is not None and not any(pid in pids for _, pid in _marks(root / _NODES, prefix)):
        return  # they gave back all that they held
    try:
        nodes = iox.Node.list(iox.ServiceType.Ipc, configuration(root, prefix))
    except iox.NodeListFailure as error:
        # What they held stays until the domain ends, which removes everything.
        _log.warning("what processes left that were killed cannot be looked for: %s", error)
        return
    for state in nodes:
        if isinstance(state, iox.NodeState.Dead):
            dead = state[0]
            if pids is None or _pid_of(dead.id.value) in pids:
                # It fails where a port was being made: by then all that there was is freed, and
                # a second try does nothing.
                with suppress(iox.NodeCleanupFailure):
                    dead.try_remove_stale_resources()
    for path, pid in _marks(root / _NODES, prefix):
        if (pids is None or pid in pids) and not _is_running(pid):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _marks(folder: Path, prefix: str) -> Iterator[tuple[Path, int]]:
    """Yield the files and folders of the processes of a domain, and whose each is."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            number = path.name.removeprefix(prefix).partition(".")[0]
            if number.isdecimal():
                yield path, _pid_of(int(number))


def _pid_of(number: int) -> int:
    return number >> _PID_SHIFT & _PID_MASK


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's by now
        pass
    return True
