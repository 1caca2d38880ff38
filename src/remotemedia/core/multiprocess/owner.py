"""What the processes of nodes report, and to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from remotemedia.core.multiprocess import control
    from remotemedia.core.multiprocess.exits import ProcessExit
    from remotemedia.core.multiprocess.node_process import NodeProcess
    from remotemedia.errors import ExecutorError

__all__ = ["Owner"]


class Owner(Protocol):
    """What a session hears of its nodes. All calls come in the session's loop."""

    def node_started(self, node: NodeProcess) -> None:
        """Its process runs."""

    def node_progressed(self, node: NodeProcess, progress: control.Progress) -> None:
        """Its start has come further."""

    def node_ready(self, node: NodeProcess) -> None:
        """It is initialised, and every reader it has is there."""

    def node_skipped(self, node: NodeProcess, failure: control.NodeFailure) -> None:
        """A message failed, and it lives on."""

    def node_drained(self, node: NodeProcess, /) -> None:
        """Every input has ended, and it has worked everything off."""

    def node_failed(self, node: NodeProcess, error: ExecutorError, /) -> bool:
        """It failed; said once, as soon as it is known. Return whether it is to be restarted."""
        ...

    def node_exited(self, node: NodeProcess, end: ProcessExit, *, is_expected: bool) -> None:
        """Its process has ended and been reaped."""
