"""A domain of iceoryx2 from its first file to its last: who makes it, and who cleans up."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.transport.folder import (
    claim,
    new_prefix,
    private_folder,
    restrict,
    sweep,
    sweep_dead,
)
from remotemedia.core.multiprocess.transport.iceoryx import IceoryxTransport
from remotemedia.core.multiprocess.transport.limits import limits_named
from remotemedia.core.multiprocess.transport.locks import FolderLock, MemoryLock

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Domain", "new_domain"]


class Domain(IceoryxTransport):
    """The share of the process that made a domain, and removes it.

    Args:
        root: as for `IceoryxTransport`.
        prefix: as for `IceoryxTransport`.
        mark: marks the domain as alive; owned.

    Raises:
        ChannelError: iceoryx2 cannot start on this machine, and why.
    """

    def __init__(self, root: Path, prefix: str, mark: FolderLock) -> None:
        self._mark = mark
        super().__init__(root, prefix)

    def close_and_sweep(self) -> None:
        """Give everything back, and remove all that is left of the whole domain.

        For when all other processes are gone. A forked child leaves it alone.
        """
        if self._pid != os.getpid():
            return
        self.close()
        sweep(self._root, self._prefix)
        self._mark.close()


def new_domain() -> Domain:
    """Start a domain that nobody else has: a private folder and a prefix of its own.

    What domains of this user left whose processes are all dead is removed first.

    Raises:
        ChannelError, ExecutorError: iceoryx2 cannot start on this machine, and why.
    """
    folder = private_folder()
    prefix = new_prefix()
    root = folder / prefix.rstrip("_")
    mark = None
    try:
        # Under the lock, so that nobody takes it for dead before it is claimed.
        mark = MemoryLock(folder).run(partial(_claim_new, folder, root))
        transport = Domain(root, prefix, mark)
        restrict(prefix)
    except BaseException:
        if mark is not None:
            mark.close()  # first: to sweep takes descriptors
        sweep(root, prefix)
        raise
    return transport


def _claim_new(folder: Path, root: Path) -> FolderLock:
    with limits_named("looking for what dead processes left"):
        sweep_dead(folder)
    root.mkdir(mode=0o700)
    return claim(root)
