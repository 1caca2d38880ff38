"""What a transport is: samples of bytes with a header, from one writer to many readers.

A transport knows nothing of messages, credit or waiting. It never blocks, and a queue that is
full loses its oldest sample: who must not lose one does not send without credit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from remotemedia.core.multiprocess.native.portable import Chunk, Sample
    from remotemedia.core.multiprocess.plan import ConnectionPlan, PortPlan

ALIGNMENT_BYTES = 64


class Writer(Protocol):
    """The sending end of a port. Used by one thread at a time, but for `loan`: any may call it.

    Attributes:
        on_moved: called in `loan` when the port's memory has been replaced.
    """

    on_moved: Callable[[], object]

    def loan(self, nbytes: int) -> tuple[Chunk, object]:
        """Take memory for a sample of `nbytes`; its old content is undefined.

        Returns:
            The chunk, and the token that sends it. Dropping the token gives the memory back.

        Raises:
            SharedMemoryExhausted: there is no memory; nothing was taken.
            ResourceLimit: a limit of the process does not let it have the memory.
            LoanError: too many loans are out.
        """

    def send(self, token: object) -> None:
        """Hand the sample to every reader that is connected; the token is spent.

        Raises:
            ChannelError: it could not be delivered.
        """

    def connect(self) -> None:
        """Find readers that were opened since; must come before what they are to receive."""

    def close(self) -> None:
        """Give the port back; loans and what readers hold stay valid. Twice is harmless."""


class Reader(Protocol):
    """The receiving end of one connection. Used by one thread at a time."""

    def take(self) -> Sample | None:
        """Take the next sample if there is one.

        Raises:
            ChannelError: a sample could not be received.
        """

    def close(self) -> object:
        """Give the queue back. Twice is harmless.

        Returns:
            What to keep for as long as samples are held: the writer takes their memory back when
            it goes.
        """


class Hold(Protocol):
    """Keeps a port's service alive. The service ends with it and the last of its ends."""

    def close(self) -> None:
        """Let go. Twice is harmless."""


class Transport(Protocol):
    """Creates ports and opens their ends."""

    @property
    def address(self) -> tuple[str, str] | None:
        """Folder and prefix by which other processes find it; None if they cannot."""

    async def wait_free(self) -> None:
        """Wait until no other process takes memory, while the event loop goes on.

        What takes memory waits for that too, but by the thread that calls it: right after this it
        waits only for who comes between.

        Raises:
            ChannelError: another process takes memory without end.
            ResourceLimit: too many files are open.
        """

    def create(self, port: PortPlan) -> Hold:
        """Create the service of a port. Done once, by the process that outlives its ends.

        Raises:
            SharedMemoryExhausted: there is no memory for it.
            ResourceLimit: a limit of the process was reached.
            ChannelError: it exists already, or cannot be created.
        """

    def open_writer(self, port: PortPlan) -> Writer:
        """Open the one sending end of a port that exists.

        Raises:
            SharedMemoryExhausted: there is no memory for it.
            ResourceLimit: a limit of the process was reached.
            ChannelError: the port does not exist, or has a writer.
        """

    def open_reader(self, port: PortPlan, connection: ConnectionPlan) -> Reader:
        """Open the receiving end of a connection, planned or in a spare slot.

        Raises:
            SharedMemoryExhausted: there is no memory for it.
            ResourceLimit: a limit of the process was reached.
            ChannelError: the port does not exist, or all its slots are taken.
        """

    def free_leftovers(self, pids: Collection[int] | None = None) -> None:
        """Free what killed processes left behind.

        Args:
            pids: whose; they have been reaped. None is every dead process there is.
        """

    def close(self) -> None:
        """Give everything back. Twice is harmless."""
