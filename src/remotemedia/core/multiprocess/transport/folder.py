"""The private folder of the runtime, and the names of what belongs to one executor."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.transport.locks import FolderLock
from remotemedia.core.multiprocess.transport.pages import SHM_FOLDER
from remotemedia.errors import ChannelError, ExecutorError

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "rm"
_MAX_ROOT_BYTES = 48  # a socket path ends at 108 bytes, and the library adds its own names


def private_folder() -> Path:
    """Return this user's runtime folder, made with mode 0700 if it is missing.

    It lies in `XDG_RUNTIME_DIR`, else in the folder for temporary files, under a name with the
    user's id; where that makes a path too long for sockets, in `/tmp`. An existing one is used only
    if it is a folder, ours, and closed to others.

    Raises:
        ExecutorError: it is somebody else's, or open to others.
    """
    base = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    # A relative one is to be ignored (XDG Base Directory Specification).
    folder = base / "remotemedia" if base.is_absolute() else _temporary()
    if len(os.fsencode(folder)) > _MAX_ROOT_BYTES:
        folder = Path("/tmp") / f"remotemedia-{os.getuid()}"  # noqa: S108 (checked below)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.lstat()
    except OSError as error:
        raise ExecutorError(
            f"the runtime folder {folder} cannot be made: {error}; set XDG_RUNTIME_DIR to a "
            f"private folder of yours, or unset it"
        ) from error
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise ExecutorError(
            f"the runtime folder {folder} is not a folder of yours with mode 0700; remove it, or "
            f"set XDG_RUNTIME_DIR to a private folder"
        )
    return folder


def _temporary() -> Path:
    return Path(tempfile.gettempdir()) / f"remotemedia-{os.getuid()}"


def claim(root: Path) -> FolderLock:
    """Mark a domain's folder, which is new, as that of a living process; return the mark.

    It goes with the process, however that ends, and with its closing.
    """
    mark = FolderLock(root)
    if not mark.try_take():
        raise ExecutorError(f"the domain in {root} is not new: {mark.holder()} has it")
    return mark


def domains(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the folder of each domain, and whether its process lives: then it is claimed.

    A dead one cannot be claimed by others before the next is asked for.
    """
    for root in folder.iterdir():
        with suppress(FileNotFoundError, NotADirectoryError, ChannelError):  # gone, or none of ours
            lock = FolderLock(root)
            try:
                yield root, not lock.try_take()
            finally:
                lock.close()


def sweep_dead(folder: Path) -> None:
    """Remove what domains left whose process is dead.

    A process that was killed together with everybody who would have cleaned up after it leaves its
    files to the next one that starts.
    """
    for root, is_alive in domains(folder):
        if not is_alive:
            sweep(root, f"{root.name}_")


def new_prefix() -> str:
    """Make a name of its own for one executor: all it leaves in shared memory begins with it."""
    return f"{PREFIX}{secrets.token_hex(5)}_"


def restrict(prefix: str) -> None:
    """Take from other users what the library lets them write: its count of nodes is made so."""
    for path in glob.glob(f"{SHM_FOLDER}/{glob.escape(prefix)}*"):
        Path(path).chmod(0o600)


def sweep(root: Path, prefix: str) -> None:
    """Remove all that an executor left. Its processes must be gone. Twice is harmless."""
    for path in glob.glob(f"{SHM_FOLDER}/{glob.escape(prefix)}*"):
        Path(path).unlink(missing_ok=True)
    shutil.rmtree(root, ignore_errors=True)
