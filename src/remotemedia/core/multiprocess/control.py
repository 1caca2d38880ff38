"""What executor and runner say to each other: one MessagePack frame per packet of a socket pair.

    executor                     runner
       |  <- Hello                 |     it runs, and speaks this version
       |  Configure + descriptors->|     what it is to run
       |  <- Progress ...          |     importing, creating, loading, connecting
       |  <- Ready                 |     initialised, and every reader it has is there
       |  Interrupt ->             |     drop what was being made
       |  Join + descriptor ->     |     one more connection of an input port
       |  Attach + descriptor ->   |     one more connection of an output port
       |  Count ->                 |     the session's inputs now come by a connection too
       |  Recount ->               |     a reader has died, and another is to take its place
       |  <- Connected             |     any of these is done, or why it cannot be
       |  Drain ->                 |     sources: make no more
       |  <- NodeFailure ...       |     a message failed, and the node lives on
       |  <- Busy ...              |     a message was begun, said now and then where one may stall
       |  <- Drained               |     everything that came has been worked off
       |  ShowStack ->             |     say where you are, for who asks why it takes so long
       |  <- Stack                 |     the Python stack of the node, even while it is busy
       |  Stop ->                  |     clean up and exit

`Failed` is the runner's last word where something went wrong. End-of-file is death, both ways.
"""

from __future__ import annotations

import array
import socket
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import msgspec

from remotemedia.errors import ExecutorError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "MAX_FRAME_BYTES",
    "PROTOCOL_VERSION",
    "Attach",
    "Busy",
    "Change",
    "Configure",
    "Connected",
    "Count",
    "Drain",
    "Drained",
    "Failed",
    "FromRunner",
    "Hello",
    "InputBinding",
    "Interrupt",
    "Join",
    "NodeFailure",
    "OutputBinding",
    "Phase",
    "Progress",
    "Ready",
    "Recount",
    "ShowStack",
    "Stack",
    "Stop",
    "ToRunner",
    "decode_from_runner",
    "decode_to_runner",
    "new_pair",
    "receive",
    "send",
]

_T = TypeVar("_T")
PROTOCOL_VERSION = 6
MAX_FRAME_BYTES = 192 * 1024
"""The largest packet: what a socket takes with the kernel's default limits."""
MAX_TEXT_BYTES = 48 * 1024
_LARGE_PARTS = {
    "reference": ("the code of a node that was typed in and its constants", "put it into a module"),
    "parameters": ("the parameters of the node", "pass large ones as a path to a file"),
    "ticket": ("the connections of the node", "share them out among several nodes"),
}
"""Of a `Configure`: what may grow large, and what to do then."""
_MAX_FDS = 253  # SCM_MAX_FD of the kernel


class InputBinding(msgspec.Struct, frozen=True):
    """Which input port of the node a connection feeds.

    Attributes:
        connection: name of the connection in the ticket.
        port: name of the node's input port.
        is_counted: the session's inputs come by it, so the end of an input waits for it; not where
            it closes a cycle, nor where all that comes is made by sources.
        is_feedback: it closes a cycle: the end of the stream does not wait for it.
        checked: the kinds that the port takes, where others may come and each message is checked;
            empty where all that can come is taken.
    """

    connection: str
    port: str
    is_counted: bool
    is_feedback: bool = False
    checked: tuple[str, ...] = ()


class OutputBinding(msgspec.Struct, frozen=True):
    """Which channel an output port of the node writes.

    Attributes:
        port: name of the node's output port.
        channel: name of the channel in the ticket.
    """

    port: str
    channel: str


class Configure(msgspec.Struct, frozen=True, tag=True):
    """What the runner is to run; its descriptors come with it.

    Attributes:
        session_id, node_id: the node.
        reference: where its class or function is found, see `NodeReference`.
        parameters: of the node.
        ticket: its channels, see `Ticket`.
        inputs, outputs: how they belong to the node's ports.
        host: index of the executor's endpoint in the ticket; rung when a node without outputs has
            worked off an input.
        on_error: "fail" or "skip".
        spin_ns: how long it looks for news before it sleeps.
        busy_every_ns: it says `Busy` with a message that begins so long after the last `Busy`; 0 is
            never.
    """

    session_id: str
    node_id: str
    reference: msgspec.Raw
    parameters: msgspec.Raw
    ticket: msgspec.Raw
    inputs: tuple[InputBinding, ...]
    outputs: tuple[OutputBinding, ...]
    host: int
    on_error: str
    spin_ns: int
    busy_every_ns: int


class Attach(msgspec.Struct, frozen=True, tag=True):
    """One more connection of an output port; the reader's doorbell comes with it.

    Attributes:
        channel: the channel.
        connection: its plan.
        asleep: ledger word that says whether the reader sleeps.
    """

    channel: str
    connection: msgspec.Raw
    asleep: int


class Join(msgspec.Struct, frozen=True, tag=True):
    """One more connection of an input port; the writer's doorbell comes with it.

    Attributes:
        channel: plan of the channel.
        connection: its plan.
        input: the port that it feeds.
        handler: method of the node that takes what arrives.
        asleep: ledger word that says whether the writer sleeps.
    """

    channel: msgspec.Raw
    connection: msgspec.Raw
    input: InputBinding
    handler: str
    asleep: int


class Count(msgspec.Struct, frozen=True, tag=True):
    """The session's inputs come by this connection from now on; see `InputBinding.is_counted`."""

    connection: str


class Interrupt(msgspec.Struct, frozen=True, tag=True):
    """The epoch was raised: what was being made is not wanted any more."""


class Recount(msgspec.Struct, frozen=True, tag=True):
    """A reader has died and is restarted: credit is to be looked up anew before the next send."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """A source is to make no more, and nothing will be connected to a node without connections."""


class Stop(msgspec.Struct, frozen=True, tag=True):
    """Clean up and exit."""


class ShowStack(msgspec.Struct, frozen=True, tag=True):
    """Say where you are; answered even while the node is busy in Python."""


class Hello(msgspec.Struct, frozen=True, tag=True):
    """The first word of a runner.

    Attributes:
        version: of this protocol.
    """

    version: int


class Phase(StrEnum):
    """What a node's process is doing, one after the other."""

    STARTING = "starting"
    IMPORTING = "importing"
    CREATING = "creating"
    LOADING = "loading"
    CONNECTING = "connecting"
    PROCESSING = "processing"
    CLEANING_UP = "cleaning up"


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How far a node is with its start, or with its work.

    Attributes:
        phase: a `Phase`: importing, creating, loading, connecting or processing.
        fraction: of the phase, 0.0 to 1.0.
        message: what is being done, as the node says it.
    """

    phase: str
    fraction: float
    message: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The node is initialised and every reader it has is there."""


class Stack(msgspec.Struct, frozen=True, tag=True):
    """Where the node is: its Python stack, as text."""

    text: str


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The runner gives up.

    Attributes:
        hook: what of the node it was doing: "start", "import", "__init__", "initialize", "connect",
            "process", "finish" or "cleanup".
        error: the error in one line.
        traceback: the Python traceback.
        working_on: the message it was working on.
    """

    hook: str
    error: str
    traceback: str
    working_on: str = ""


class NodeFailure(msgspec.Struct, frozen=True, tag=True):
    """A message failed and was skipped.

    Attributes:
        correlation_id: the input that it came of.
        error: the error in one line.
        traceback: the Python traceback.
        working_on: the message.
    """

    correlation_id: int
    error: str
    traceback: str
    working_on: str


class Busy(msgspec.Struct, frozen=True, tag=True):
    """A message was begun at this time of `time.monotonic_ns()`; see `Watchdog`."""

    at_ns: int


class Connected(msgspec.Struct, frozen=True, tag=True):
    """A connection is as was asked, or cannot be: the answer to `Join`, `Attach` and `Count`.

    Attributes:
        connection: its name.
        error: why it cannot be, in a few words; empty if it is. The node works on without it.
    """

    connection: str
    error: str = ""


class Drained(msgspec.Struct, frozen=True, tag=True):
    """Every input has ended and everything has been worked off."""


Change: TypeAlias = Join | Attach | Count
"""What changes the connections of a node that is at work."""
ToRunner: TypeAlias = Configure | Change | Interrupt | Recount | Drain | ShowStack | Stop
FromRunner: TypeAlias = (
    Hello | Progress | Ready | Stack | Failed | NodeFailure | Busy | Connected | Drained
)

_encode = msgspec.msgpack.Encoder().encode
_to_runner: msgspec.msgpack.Decoder[ToRunner] = msgspec.msgpack.Decoder(ToRunner)
_from_runner: msgspec.msgpack.Decoder[FromRunner] = msgspec.msgpack.Decoder(FromRunner)


def new_pair() -> tuple[socket.socket, socket.socket]:
    """Make the two ends of a control connection."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def shorten(text: str, limit: int = MAX_TEXT_BYTES) -> str:
    """Make a text one that can be sent: in UTF-8, and where it is too long, its begin and its end.

    Args:
        text: as it is; what UTF-8 does not have is escaped.
        limit: the most bytes that are kept of it.
    """
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= limit:
        return encoded.decode()
    half = limit // 2
    begin, end = (part.decode("utf-8", "ignore") for part in (encoded[:half], encoded[-half:]))
    return f"{begin}\n... [{len(encoded) - 2 * half} bytes left out] ...\n{end}"


def send(end: socket.socket, message: ToRunner | FromRunner, fds: Sequence[int] = ()) -> None:
    """Send one message and duplicates of descriptors.

    Raises:
        ExecutorError: it is larger than a frame.
        OSError: the other end is gone, or does not read (BlockingIOError).
    """
    frame = _encode(message)
    if len(frame) > MAX_FRAME_BYTES:
        raise ExecutorError(
            f"a {type(message).__name__} takes {len(frame):,} bytes and a control frame holds "
            f"{MAX_FRAME_BYTES:,}{_what_is_large(message)}"
        )
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    end.sendmsg([frame], rights, socket.MSG_NOSIGNAL)


def _what_is_large(message: ToRunner | FromRunner) -> str:
    """Say what takes the most room and what to do about it, where there is something to do."""
    if not isinstance(message, Configure):
        return ""
    sizes = {part: len(memoryview(getattr(message, part))) for part in _LARGE_PARTS}
    largest = max(sizes, key=sizes.__getitem__)
    what, advice = _LARGE_PARTS[largest]
    return f": {what} take {sizes[largest]:,} of them; {advice}"


def receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """Receive one frame and the descriptors with it; an empty frame is the end.

    Raises:
        OSError: the connection broke, or there is nothing (BlockingIOError).
    """
    space = socket.CMSG_SPACE(_MAX_FDS * 4)
    frame, ancillary, _, _ = end.recvmsg(MAX_FRAME_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return frame, fds.tolist()


def decode_to_runner(frame: bytes) -> ToRunner:
    """Decode what an executor said.

    Raises:
        ExecutorError: it is no message of this version.
    """
    return _decode(_to_runner, frame)


def decode_from_runner(frame: bytes) -> FromRunner:
    """Decode what a runner said.

    Raises:
        ExecutorError: it is no message of this version.
    """
    return _decode(_from_runner, frame)


def _decode(decoder: msgspec.msgpack.Decoder[_T], frame: bytes) -> _T:
    try:
        message: _T = decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ExecutorError(f"a control frame is damaged: {error}") from error
    return message
