"""The errors of one node, in the words its user reads: what is wrong, and what is known of it."""

from __future__ import annotations

import re
import signal
import time
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess import control
from remotemedia.core.multiprocess.exits import SPAWNER_DIED
from remotemedia.core.multiprocess.transport.ledger import EndpointWord
from remotemedia.errors import ExecutorError, InitTimeout, ProcessCrashed

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.exits import ProcessExit
    from remotemedia.core.multiprocess.wiring import Wiring
    from remotemedia.core.validation import ValidatedNode

__all__ = ["Diagnosis"]

_NO_SPAWNER = (
    "the spawner, the parent of the nodes' processes, died or was killed, and every node of its "
    "executor was ended with it"
)
_LACKS_US = re.compile(r"^(.+): Error while finding module .*No module named 'remotemedia'", re.M)
"""What an interpreter says that does not find this package."""


class Diagnosis:
    """Makes the errors of one process of a node; whether there is one, others decide.

    Args:
        node: as it was validated.
        wiring: the session's channels; the ledger says what the node works on.
        incarnation: how many processes the node has had before.
    """

    def __init__(self, node: ValidatedNode, wiring: Wiring, incarnation: int) -> None:
        self._node_id = node.node_id
        self._config = node.config
        self._session_id = wiring.session_id
        self._incarnation = incarnation
        self._slot = wiring.tally.slot(node.node_id)
        self._words = wiring.registry.ledger.words

    # A process that ended, or is to end.

    def crash(
        self, end: ProcessExit, stderr_tail: str, phase: str | None, *, has_stalled: bool
    ) -> ProcessCrashed:
        """Return the error of a process that ended and should not have.

        Args:
            end: of the process.
            stderr_tail: last lines of its standard error.
            phase: what it was doing, if it was not ready yet.
            has_stalled: it was found to be stuck before.
        """
        if end.cause == SPAWNER_DIED:
            return ProcessCrashed("", self._session_id, end.code, _NO_SPAWNER)
        cause = self._stall_cause() if has_stalled else end.describe()
        if end.code == 0:
            cause = "it exited with code 0 before its work was done"
        if lacking := _LACKS_US.search(stderr_tail):
            cause = f"{lacking[1]} has no remotemedia: install it there"
            stderr_tail = ""
        elif phase is not None:
            cause = f"{cause}, while {phase}{self._limit_hint()}"
        return ProcessCrashed(
            self._node_id,
            self._session_id,
            end.code,
            cause,
            stderr_tail=stderr_tail,
            working_on=self.working_on(),
            restarts=self._incarnation,
        )

    def failure(self, message: control.Failed) -> ProcessCrashed:
        """Return the error of a process that said itself what went wrong."""
        return ProcessCrashed(
            self._node_id,
            self._session_id,
            1,
            f"failed in {message.hook}: {message.error}" + self._limit_hint(message.error),
            traceback=message.traceback,
            working_on=message.working_on,
            restarts=self._incarnation,
        )

    def stall(self, working_on: str, stack: str, stderr_tail: str) -> ProcessCrashed:
        """Return the error of a process that is killed because it is stuck.

        Args:
            working_on: what `working_on` said when it was found to be.
            stack: of its main thread; empty if it could not say.
            stderr_tail: last lines of its standard error.
        """
        return ProcessCrashed(
            self._node_id,
            self._session_id,
            -signal.SIGKILL,
            self._stall_cause(),
            traceback=stack,
            stderr_tail=stderr_tail,
            working_on=working_on,
            restarts=self._incarnation,
        )

    def working_on(self) -> str:
        """Say which message it works on now, and since when; empty if it is idle."""
        words, slot = self._words, self._slot
        if not words[slot + EndpointWord.BEGAN_NS]:
            return ""
        seconds = (time.monotonic_ns() - words[slot + EndpointWord.BEGAN_NS]) / 1e9
        return (
            f"message {words[slot + EndpointWord.SEQUENCE]} of input "
            f"{words[slot + EndpointWord.CORRELATION]}, begun {seconds:.3f} s ago"
        )

    def _stall_cause(self) -> str:
        return (
            f"stalled: it works on one message for longer than stall_timeout_seconds, "
            f"{self._config.stall_timeout_seconds:g} s"
        )

    def _limit_hint(self, error: str = "MemoryError") -> str:
        """Say the limit of its memory where that may be why it failed."""
        limit = self._config.memory_limit_bytes
        if limit is None or not error.startswith("MemoryError"):
            return ""
        return f" (its memory_limit_bytes is {limit:,})"

    # A start that failed.

    def failed_start(self, error: BaseException) -> ExecutorError:
        """Return the error of a process that could not be started, for a reason not foreseen."""
        what = "restarted" if self._incarnation else "started"
        return ExecutorError(f"node {self._node_id!r} could not be {what}: {error!r}")

    def other_version(self, hello: control.Hello) -> ExecutorError:
        """Return the error of a runner that speaks another version of the protocol."""
        return ExecutorError(
            f"node {self._node_id!r} speaks version {hello.version} of the control protocol and "
            f"this process {control.PROTOCOL_VERSION}: install the same version of remotemedia "
            f"for its interpreter"
        )

    def init_timeout(self, seconds: float, phase: str, stack: str) -> InitTimeout:
        """Return the error of a node that was not ready in time; see `InitTimeout`."""
        return InitTimeout(self._node_id, self._session_id, seconds, phase, stack)

    # A node that cannot be connected.

    def being_restarted(self) -> ExecutorError:
        """Return the error of who connects it now and may again later."""
        return ExecutorError(
            f"node {self._node_id!r} is being restarted: connect nodes when it is ready again"
        )

    def out_of_reach(self, *, is_drained: bool) -> ExecutorError:
        """Return the error of who connects it too late."""
        has = "has finished" if is_drained else "has ended, or is about to"
        return ExecutorError(
            f"node {self._node_id!r} of session {self._session_id!r} {has}: nothing can be "
            f"connected to it any more"
        )

    def not_connected(self, message: control.Connected) -> ExecutorError:
        """Return the error of a connection that could not be changed at its end."""
        return ExecutorError(
            f"{message.connection} of session {self._session_id!r} could not be connected at node "
            f"{self._node_id!r}: {message.error}"
        )
