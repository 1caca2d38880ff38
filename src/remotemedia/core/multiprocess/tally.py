"""What the ledger says of the nodes of a session: what they finished, took, lost and wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.transport.ledger import (
    ConnectionWord,
    PortState,
    PortWord,
    taken,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from remotemedia.core.multiprocess.channel.registry import Channel, ChannelRegistry
    from remotemedia.core.multiprocess.plan import PortPlan

__all__ = ["Tally", "endpoint_of"]


class Tally:
    """Reads the ledger by nodes and ports; it changes nothing.

    Args:
        registry: of the session's channels.
        outputs: channels that nodes write, by node and output port; they may grow.
        inputs: channels that the session writes, by node and input port; they may grow.
    """

    def __init__(
        self,
        registry: ChannelRegistry,
        outputs: Mapping[tuple[str, str], Channel],
        inputs: Mapping[tuple[str, str], Channel],
    ) -> None:
        self._registry = registry
        self._outputs = outputs
        self._inputs = inputs

    def ports(self) -> list[PortPlan]:
        """Return all ports of the session, as they are planned now."""
        return [one.plan for one in (*self._outputs.values(), *self._inputs.values())]

    def slot(self, node_id: str) -> int:
        """First ledger word of a node's endpoint."""
        return self._registry.endpoint_plan(endpoint_of(node_id)).slot

    def has_finished(self, node_id: str) -> bool:
        """Whether an output of a node has finished: nothing will ever come of it again."""
        words = self._registry.ledger.words
        return any(
            words[port.slot + PortWord.STATE] == PortState.FINISHED
            for port in self._outputs_of(node_id)
        )

    def taken(self, key: tuple[str, str]) -> int:
        """Up to which of its messages an input of the session has been read."""
        (connection,) = self._inputs[key].plan.connections
        return taken(self._registry.ledger.words, connection.slot)

    def lost(self, node_id: str) -> tuple[int, int]:
        """How many messages have been lost on the way to a node, and from it, where none may be."""
        words, me = self._registry.ledger.words, self._registry.index(endpoint_of(node_id))
        lost = [0, 0]
        for port in self.ports():
            for one in port.connections:
                if one.policy.is_lossless and me in (one.reader, port.writer):
                    count = words[one.slot + ConnectionWord.DROPPED_LOST]
                    lost[one.reader != me] += count
        return lost[0], lost[1]

    def room(self, node_id: str) -> tuple[bool, int]:
        """Whether a node waits for room downstream, and how long it has so far, in nanoseconds."""
        words = self._registry.ledger.words
        ports = self._outputs_of(node_id)
        is_waiting = any(
            words[one.slot + ConnectionWord.CREDIT_WANTED]
            for port in ports
            for one in port.connections
        )
        return is_waiting, sum(words[port.slot + PortWord.BLOCKED_NS] for port in ports)

    def _outputs_of(self, node_id: str) -> list[PortPlan]:
        """Return the output ports of a node."""
        return [one.plan for (node, _), one in self._outputs.items() if node == node_id]


def endpoint_of(node_id: str) -> str:
    """Return the name of a node's endpoint."""
    return f"node {node_id}"
