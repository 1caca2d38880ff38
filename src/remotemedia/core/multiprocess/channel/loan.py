"""Producing a message in place, in the memory that its readers will read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np

from remotemedia.core.multiprocess.native import LoanBase
from remotemedia.data.memory import (
    OWN_REFERENCES,
    count_references,
    empty_out,
    has_exports,
    keep_until_unused,
)
from remotemedia.data.message import ArrayMessage
from remotemedia.errors import LoanError

if TYPE_CHECKING:
    from types import TracebackType
    from typing import SupportsIndex

    from numpy.typing import NDArray

    from remotemedia.core.multiprocess.channel.publisher import Publisher

M = TypeVar("M", bound=ArrayMessage)


class Loan(LoanBase[M]):
    """A message under construction in shared memory. Sent when its `with` block ends.

    Attributes:
        publisher: sends it; set when it is lent.
        message: the message to fill; its array holds whatever was there before. Set its
            `timestamp_ns`, `correlation_id` and `metadata` as you like.

    An exception inside the block, or in sending, gives the memory back unsent. After the block
    the message is dead: its array raises, and the array taken from it has become empty and
    read-only. A slice or a memoryview of the array that is still referred to then cannot be made
    harmless: the message is copied out of its reach, and the copy is counted. (What is made of the
    array itself without its buffer, such as `torch.from_numpy(audio.samples)` or a view of another
    array class, is beyond our sight: drop it before the block ends, or make it of a slice.)
    """

    __slots__ = ()

    if TYPE_CHECKING:
        publisher: Publisher

    def send(self, timeout_seconds: float | None = None) -> None:
        """Send the message now; see `Publisher.send` for waiting and errors.

        Raises:
            LoanError: it was sent or given back before.
        """
        self.publisher.send_loan(self, timeout_seconds)

    def discard(self) -> None:
        """Give the memory back unsent. Twice is harmless."""
        if self.token is not None:
            self.withdraw("discarded")

    def withdraw(self, gone: str) -> NDArray[np.generic] | None:
        """Make the message dead and the token unreachable.

        Returns:
            The array, if somebody still refers to a slice of it. Then its memory must not be sent,
            and is kept for as long as they do.

        Raises:
            LoanError: it was sent or given back before.
        """
        token, self.token = self.token, None
        if token is None:
            raise LoanError("this loan was sent or given back before; take another")
        message = self.message
        given = message._array
        message._array = None
        message._gone = gone
        # Ours are the local name and the argument: the message has let go. A buffer of the array
        # would outlast its emptying; with one it counts as in use, as with a slice.
        is_shared = given is not None and count_references(given) > OWN_REFERENCES - 1
        if given is not None and is_shared and not has_exports(given):
            empty_out(given)
        given = None
        array = self.chunk.array
        if array is None or count_references(array) == OWN_REFERENCES:
            return None
        self.chunk.array = self.chunk.layout = None
        keep_until_unused(array, token)
        return array

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"a loan cannot be copied or pickled: its memory is sent once; fill it, or send a copy "
            f"of the {type(self.message).__name__}"
        )

    def _view(self) -> None:
        """View the chunk as its layout says."""
        layout, chunk = self.layout, self.chunk
        # The layout last: whoever is interrupted before leaves no array that passes for its own.
        chunk.array = np.ndarray(layout.shape, layout.dtype, chunk.body)
        chunk.layout = layout

    async def __aenter__(self) -> M:
        return self.message

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self.token is not None:
                await self.publisher.send_loan_async(self)
        finally:
            self.discard()
