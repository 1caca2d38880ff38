"""Every error the library raises on purpose: one tree, defined against its neighbours.

    RemoteMediaError
    |- DataError                 a value that cannot be a message
    |  `- DecodeError            bytes that are not a message of ours
    |- NodeDefinitionError       a class or function that cannot be a node as it is written
    |- PipelineError             a pipeline that cannot run as written: every finding at once
    `- ExecutorError             running it went wrong
       |- SpawnError             a process could not be started
       |- InitTimeout            a node was not ready by its deadline
       |- ProcessCrashed         a process ended before its work did
       |- NodeFailed             a node failed on one input, and lives on
       |- PipelineTerminated     the session ended because of the error in `__cause__`
       |- SessionNotFound        no session of that name
       |- ResourceLimit          a limit that was set would be passed
       |  `- SharedMemoryExhausted   shared memory would not hold it
       `- ChannelError           a message could not be sent or received
          |- ChannelClosed       this side closed the channel
          |- PeerLost            the other side died
          |- MessageLost         messages came that this process could not map
          |- EndOfStream         the other side finished: nothing more will come
          |- BackpressureError   no credit, and the caller asked not to wait
          |- LoanError           a loan was used after it was sent, or too many are out
          `- ReleasedError       a message was used after `release()`

Errors carry data; their text is made from it. Names are the contract's, so not all end in "Error".
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "BackpressureError",
    "ChannelClosed",
    "ChannelError",
    "DataError",
    "DecodeError",
    "EndOfStream",
    "ExecutorError",
    "Finding",
    "InitTimeout",
    "LoanError",
    "MessageLost",
    "NodeDefinitionError",
    "NodeFailed",
    "PeerLost",
    "PipelineError",
    "PipelineTerminated",
    "ProcessCrashed",
    "ReleasedError",
    "RemoteMediaError",
    "ResourceLimit",
    "SessionNotFound",
    "SharedMemoryExhausted",
    "SpawnError",
]


class RemoteMediaError(Exception):
    """Base of every error that the library raises on purpose."""


class DataError(RemoteMediaError, ValueError):
    """A value cannot be a message; the text says what it was and what is allowed."""


class DecodeError(DataError):
    """Bytes are not a message of this version; nothing of them was used."""


class NodeDefinitionError(RemoteMediaError, TypeError):
    """A class or function cannot be a node as it is written.

    Attributes:
        node: its qualified name.
        problem: what is wrong with it, and what to write instead.
    """

    def __init__(self, node: str, problem: str) -> None:
        super().__init__(node, problem)
        self.node = node
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.node} cannot be a node: {self.problem}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a pipeline: where it stands, what is wrong and what to do."""

    where: str
    problem: str
    suggestion: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = self.where if self.line is None else f"line {self.line}, {self.where}"
        hint = f" ({self.suggestion})" if self.suggestion else ""
        return f"{place}: {self.problem}{hint}"


class PipelineError(RemoteMediaError, ValueError):
    """A pipeline cannot run as written. Raised before anything starts, with all findings.

    Attributes:
        pipeline: name of the pipeline, or the path of its file.
        findings: everything that was found, in the order of the file.
    """

    def __init__(self, pipeline: str, findings: tuple[Finding, ...]) -> None:
        super().__init__(pipeline, findings)
        self.pipeline = pipeline
        self.findings = findings

    def __str__(self) -> str:
        count = len(self.findings)
        head = f"pipeline {self.pipeline!r} has {count} problem{'s' if count != 1 else ''}:"
        return "\n  ".join([head, *(str(one).replace("\n", "\n  ") for one in self.findings)])


class ExecutorError(RemoteMediaError):
    """Running a pipeline went wrong. Base of the errors of the executor and its channels."""


class SpawnError(ExecutorError):
    """A process could not be started at all.

    Attributes:
        what: the process, in words.
        problem: why not.
        suggestion: what to do about it; empty if there is nothing to suggest.
        node_id, session_id: the node; empty if the process was not a node's.
    """

    def __init__(
        self,
        what: str,
        problem: str,
        suggestion: str = "",
        *,
        node_id: str = "",
        session_id: str = "",
    ) -> None:
        super().__init__(what, problem, suggestion)
        self.what = what
        self.problem = problem
        self.suggestion = suggestion
        self.node_id = node_id
        self.session_id = session_id

    def __str__(self) -> str:
        hint = f"; {self.suggestion}" if self.suggestion else ""
        return f"{self.what} could not be started: {self.problem}{hint}"


class InitTimeout(ExecutorError, TimeoutError):
    """A node was not ready by its deadline.

    Attributes:
        node_id, session_id: the late node.
        seconds: the deadline that passed.
        phase: the last phase it reported ("starting", "loading", "connecting").
        stack: its Python stack at the deadline, as text; empty if it gave none.
    """

    def __init__(
        self, node_id: str, session_id: str, seconds: float, phase: str, stack: str = ""
    ) -> None:
        super().__init__(node_id, session_id, seconds, phase, stack)
        self.node_id = node_id
        self.session_id = session_id
        self.seconds = seconds
        self.phase = phase
        self.stack = stack

    def __str__(self) -> str:
        text = (
            f"node {self.node_id!r} of session {self.session_id!r} was still {self.phase} "
            f"after {self.seconds:g} s; raise init_timeout_secs if it only needs longer"
        )
        return f"{text}\nits stack at that moment:\n{self.stack}" if self.stack else text


class ProcessCrashed(ExecutorError):
    """A node's process ended before its work did.

    Attributes:
        node_id, session_id: the node; the id is empty if it was no node's but the spawner, with
            which all nodes end.
        code: exit code; negative is the number of the signal that killed it.
        cause: the end in words ("failed in process: ValueError: ...", "exit code 3", "killed by
            SIGSEGV", "out of memory").
        traceback: the Python traceback, or faulthandler's; empty if there was none.
        stderr_tail: last lines of its standard error.
        working_on: the message it was processing; empty if it was idle.
        restarts: how often the node had been restarted before.
    """

    def __init__(
        self,
        node_id: str,
        session_id: str,
        code: int,
        cause: str,
        *,
        traceback: str = "",
        stderr_tail: str = "",
        working_on: str = "",
        restarts: int = 0,
    ) -> None:
        super().__init__(node_id, session_id, code, cause)
        self.node_id = node_id
        self.session_id = session_id
        self.code = code
        self.cause = cause
        self.traceback = traceback
        self.stderr_tail = stderr_tail
        self.working_on = working_on
        self.restarts = restarts

    @property
    def summary(self) -> str:
        """The failure in one line, for those who know which session it was in."""
        return self._summary("")

    def _summary(self, session: str) -> str:
        is_verb = self.cause.startswith("failed ")
        text = f"node {self.node_id!r}{session}{'' if is_verb else ':'} {self.cause}"
        if not self.node_id:
            text = self.cause
        if self.working_on:
            text += f", while processing {self.working_on}"
        if self.restarts:
            times = "once" if self.restarts == 1 else f"{self.restarts} times"
            text += f" (it had been restarted {times})"
        return text

    def __str__(self) -> str:
        parts = [self._summary(f" of session {self.session_id!r}")]
        if self.traceback:
            parts.append(self.traceback.rstrip())
        elif self.stderr_tail:
            parts += ["last lines of its standard error:", self.stderr_tail.rstrip()]
        return "\n".join(parts)


class NodeFailed(ExecutorError):
    """A node failed on one input, and lives on.

    It skipped a message (`on_error: skip`); or it crashed and was restarted, and messages of the
    input were lost with it: then `__cause__` is the `ProcessCrashed`.

    Attributes:
        node_id, session_id: the node.
        cause: the error in one line.
        traceback: its Python traceback.
        working_on: the message, or what is known of those that were lost.
    """

    def __init__(
        self, node_id: str, session_id: str, cause: str, *, traceback: str, working_on: str
    ) -> None:
        super().__init__(node_id, session_id, cause)
        self.node_id = node_id
        self.session_id = session_id
        self.cause = cause
        self.traceback = traceback
        self.working_on = working_on

    def __str__(self) -> str:
        verb = "skipped" if self.__cause__ is None else "was restarted and lost"
        head = f"node {self.node_id!r} {verb} {self.working_on}"
        return f"{head}: {self.cause}\n{self.traceback}".rstrip()


class PipelineTerminated(ExecutorError):
    """The session ended because of a failure; `__cause__` is the failure.

    Attributes:
        session_id: the session.
        reason: the failure in one line.
    """

    def __init__(self, session_id: str, reason: str) -> None:
        super().__init__(session_id, reason)
        self.session_id = session_id
        self.reason = reason

    def __str__(self) -> str:
        return f"session {self.session_id!r} was terminated: {self.reason}"


class SessionNotFound(ExecutorError, LookupError):
    """No session of that name is running.

    Attributes:
        session_id: the name that was asked for.
        known: the sessions that are running.
    """

    def __init__(self, session_id: str, known: tuple[str, ...] = ()) -> None:
        super().__init__(session_id, known)
        self.session_id = session_id
        self.known = known

    def __str__(self) -> str:
        known = ", ".join(repr(name) for name in self.known) or "none"
        return f"no session {self.session_id!r} is running (running: {known})"


class ResourceLimit(ExecutorError):
    """A limit that was set would be passed; nothing was started or sent."""


class SharedMemoryExhausted(ResourceLimit):
    """Shared memory would not hold it. Nothing was written, nothing that was accepted is lost.

    Attributes:
        needed_bytes: what the operation asked for.
        free_bytes: what the file system of the shared memory had left.
        path: where that file system is mounted.
        what: the operation, in words.
    """

    def __init__(self, what: str, needed_bytes: int, free_bytes: int, path: str) -> None:
        super().__init__(what, needed_bytes, free_bytes, path)
        self.what = what
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes
        self.path = path

    def __str__(self) -> str:
        return (
            f"{self.what} needs {self.needed_bytes:,} bytes of shared memory and {self.path} has "
            f"{self.free_bytes:,} free; enlarge it (mount -o remount,size=... {self.path}; in a "
            f"container --shm-size), or lower capacity or max_message_bytes of the connection"
        )


class ChannelError(ExecutorError):
    """A message could not be sent or received."""


class ChannelClosed(ChannelError):
    """This side closed the channel, or never opened it."""


class PeerLost(ChannelError):
    """The process at the other end of the channel died."""


class MessageLost(ChannelError):
    """Messages were sent and this process could not reach them; they are counted as lost.

    Attributes:
        connection: the connection they came by.
        count: how many.
        cause: why.
    """

    def __init__(self, connection: str, count: int, cause: str) -> None:
        super().__init__(connection, count, cause)
        self.connection = connection
        self.count = count
        self.cause = cause

    def __str__(self) -> str:
        messages = "a message" if self.count == 1 else f"{self.count:,} messages"
        return f"connection {self.connection} lost {messages}: {self.cause}"


class EndOfStream(ChannelError):
    """The other side finished: everything it sent has been received and nothing more will come."""


class BackpressureError(ChannelError):
    """A connection is full and the caller asked not to wait; the message was sent to nobody.

    Attributes:
        connection: the connection that is full, as "from -> to".
        capacity: how many messages it holds.
        policy: its policy; "set aside" for outputs that a `stream` has met and nobody received.
        is_open: whether its reader has opened; until then nothing can be sent to it.
    """

    def __init__(
        self, connection: str, capacity: int, policy: str, *, is_open: bool = True
    ) -> None:
        super().__init__(connection, capacity, policy, is_open)
        self.connection = connection
        self.capacity = capacity
        self.policy = policy
        self.is_open = is_open

    def __str__(self) -> str:
        if not self.is_open:
            return (
                f"connection {self.connection} ({self.policy}) has no reader yet: it was planned "
                f"and has not been opened; open it first, or give send a timeout to wait for it"
            )
        if self.policy == "set aside":
            return (
                f"{self.capacity} {self.connection} wait that no stream asked for: receive them by "
                f"recv() or outputs(), or stream the inputs that they come of"
            )
        return (
            f"connection {self.connection} ({self.policy}) is full: {self.capacity} messages wait "
            f"to be read; read faster, raise its capacity, or choose drop_oldest or latest"
        )


class LoanError(ChannelError):
    """A loan was used after it was sent, or more loans are out than the channel lends."""


class ReleasedError(ChannelError):
    """A message was used after `release()`, when its memory may hold another message."""
