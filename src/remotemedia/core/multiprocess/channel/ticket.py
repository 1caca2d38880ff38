"""What a process is told so that it can take part in channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from remotemedia.core.multiprocess.plan import ConnectionPlan, EndpointPlan, PortPlan
from remotemedia.errors import ChannelError

if TYPE_CHECKING:
    from collections.abc import Sequence


class Ticket(msgspec.Struct, frozen=True):
    """All that a process needs to take part, as plain data beside a few descriptors.

    Attributes:
        root, prefix: the domain in shared memory.
        endpoint: the process's own plan.
        ports: the ports it writes.
        inputs: the connections it reads, each with its port.
        peers: doorbells it rings: index, plan and descriptor of the endpoint.
        ledger_fd, doorbell_fd: descriptors; like those of the peers, numbers in the process that
            opens the ticket.
    """

    root: str
    prefix: str
    endpoint: EndpointPlan
    ports: tuple[PortPlan, ...]
    inputs: tuple[tuple[PortPlan, ConnectionPlan], ...]
    peers: tuple[tuple[int, EndpointPlan, int], ...]
    ledger_fd: int
    doorbell_fd: int

    @property
    def fds(self) -> tuple[int, ...]:
        """The descriptors to hand over, in the order that `with_fds` wants."""
        return (self.ledger_fd, self.doorbell_fd, *(fd for _, _, fd in self.peers))

    def with_fds(self, fds: Sequence[int]) -> Ticket:
        """The same ticket where the descriptors have other numbers.

        Raises:
            ChannelError: there are not as many as the ticket needs.
        """
        if len(fds) != len(self.fds):
            raise ChannelError(f"the ticket needs {len(self.fds)} descriptors and got {len(fds)}")
        ledger_fd, doorbell_fd, *rest = fds
        peers = tuple(
            (index, plan, fd) for (index, plan, _), fd in zip(self.peers, rest, strict=True)
        )
        return msgspec.structs.replace(
            self, ledger_fd=ledger_fd, doorbell_fd=doorbell_fd, peers=peers
        )

    def to_json(self) -> str:
        """Write the ticket as text, for a command line or a pipe."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Ticket:
        """Read what `to_json` wrote.

        Raises:
            ChannelError: it is no ticket.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise ChannelError(f"this is no ticket: {error}") from error


def require_ticket(ticket: object) -> None:
    """Raise `TypeError` unless it is a ticket."""
    if not isinstance(ticket, Ticket):
        hint = "; read it first: Ticket.from_json(text)" if isinstance(ticket, str | bytes) else ""
        raise TypeError(f"a Ticket is expected, and this is a {type(ticket).__name__}{hint}")
