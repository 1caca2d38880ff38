"""How messages flow between the nodes of a session: what its graph and its ledger say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remotemedia.core.graph import reachable
from remotemedia.core.multiprocess.transport.ledger import (
    ConnectionWord,
    PortState,
    PortWord,
    taken,
)

if TYPE_CHECKING:
    from remotemedia.core.multiprocess.channel.registry import Channel, ChannelRegistry
    from remotemedia.core.multiprocess.plan import PortPlan
    from remotemedia.core.validation import ValidatedPipeline

__all__ = ["Flow", "endpoint_of"]


class Flow:
    """The part of a session's wiring that is asked, and changes nothing.

    Args:
        pipeline: as it was validated.
        registry: of the session's channels.

    Attributes:
        pipeline: it grows where nodes are added by hand.
        registry: of the session's channels.
        host_inputs: channels that the session writes, by node and input port.
        host_outputs: node and output port, by the connection that the session reads.
    """

    def __init__(self, pipeline: ValidatedPipeline, registry: ChannelRegistry) -> None:
        self.pipeline = pipeline
        self.registry = registry
        self.host_inputs: dict[tuple[str, str], str] = {}
        self.host_outputs: dict[str, tuple[str, str]] = {}
        self._channels: dict[tuple[str, str], Channel] = {}  # by node and output port
        self._host_channels: dict[tuple[str, str], Channel] = {}  # by node and input port

    def reached(self) -> set[str]:
        """Return the nodes that inputs of the session reach; the others are fed by sources alone.

        Those never say that they have finished with an input.
        """
        return reachable(self._forward(), {one.node_id for one in self.pipeline.inputs})

    def makers(self) -> set[str]:
        """Return the nodes that outputs of the session come of."""
        backward = [(reader, writer) for writer, reader in self._forward()]
        return reachable(backward, {node_id for node_id, _ in self.host_outputs.values()})

    def is_fed(self, node_id: str) -> bool:
        """Whether anything is connected to a node."""
        pipeline = self.pipeline
        return any(one.to_node == node_id for one in pipeline.connections) or any(
            one.node_id == node_id for one in pipeline.inputs
        )

    def writers_of(self, node_id: str) -> set[str]:
        """Return the nodes that write to a node."""
        return {one.from_node for one in self.pipeline.connections if one.to_node == node_id}

    def leads_to(self, node_id: str) -> set[tuple[str, str]]:
        """Return the inputs of the session, as node and port, from which a node is reached."""
        edges = [(one.to_node, one.from_node) for one in self.pipeline.connections]
        sources = reachable(edges, {node_id})
        return {key for key in self.host_inputs if key[0] in sources}

    def is_single_way(self, node_id: str) -> bool:
        """Whether inputs of the session reach a node by one way only, and so in their order."""
        pipeline = self.pipeline
        sources = [one.from_node for one in pipeline.connections if one.to_node == node_id]
        count = len(sources) + sum(one.node_id == node_id for one in pipeline.inputs)
        return count == 1 and all(map(self.is_single_way, sources))

    def slot(self, node_id: str) -> int:
        """First ledger word of a node's endpoint."""
        return self.registry.endpoint_plan(endpoint_of(node_id)).slot

    def has_finished(self, node_id: str) -> bool:
        """Whether an output of a node has finished: nothing will ever come of it again."""
        words = self.registry.ledger.words
        return any(
            words[port.slot + PortWord.STATE] == PortState.FINISHED
            for port in self._outputs_of(node_id)
        )

    def taken(self, key: tuple[str, str]) -> int:
        """Up to which of its messages an input of the session has been read."""
        (connection,) = self._host_channels[key].plan.connections
        return taken(self.registry.ledger.words, connection.slot)

    def lost(self, node_id: str) -> tuple[int, int]:
        """How many messages have been lost on the way to a node, and from it, where none may be."""
        words, me = self.registry.ledger.words, self.registry.index(endpoint_of(node_id))
        lost = [0, 0]
        for port in self._ports():
            for one in port.connections:
                if one.policy.is_lossless and me in (one.reader, port.writer):
                    count = words[one.slot + ConnectionWord.DROPPED_LOST]
                    lost[one.reader != me] += count
        return lost[0], lost[1]

    def room(self, node_id: str) -> tuple[bool, int]:
        """Whether a node waits for room downstream, and how long it has so far, in nanoseconds."""
        words = self.registry.ledger.words
        ports = self._outputs_of(node_id)
        is_waiting = any(
            words[one.slot + ConnectionWord.CREDIT_WANTED]
            for port in ports
            for one in port.connections
        )
        return is_waiting, sum(words[port.slot + PortWord.BLOCKED_NS] for port in ports)

    def _forward(self) -> list[tuple[str, str]]:
        """Return which node writes to which, without what closes a cycle."""
        connections = self.pipeline.connections
        return [(one.from_node, one.to_node) for one in connections if not one.is_feedback]

    def _ports(self) -> list[PortPlan]:
        """Return all ports of the session, as they are planned now."""
        return [one.plan for one in (*self._channels.values(), *self._host_channels.values())]

    def _outputs_of(self, node_id: str) -> list[PortPlan]:
        """Return the output ports of a node."""
        return [one.plan for (node, _), one in self._channels.items() if node == node_id]


def endpoint_of(node_id: str) -> str:
    """Return the name of a node's endpoint."""
    return f"node {node_id}"
