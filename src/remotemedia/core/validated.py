"""A pipeline that passed validation, as plain data; what an executor's plan is made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from remotemedia.core.describe import NodeType, Port
    from remotemedia.core.multiprocess.plan import PolicyName
    from remotemedia.core.pipeline import NodeConfig
    from remotemedia.core.reference import NodeReference

__all__ = ["Limits", "SessionPort", "ValidatedConnection", "ValidatedNode", "ValidatedPipeline"]


class Limits(Protocol):
    """What validation reads from an executor's settings."""

    @property
    def max_processes_per_session(self) -> int | None:
        """Nodes that a session may have; None: any number."""
        ...

    @property
    def channel_capacity(self) -> int:
        """Capacity of connections that neither say one nor have a port that does."""
        ...

    @property
    def enable_backpressure(self) -> bool:
        """Whether connections without a policy block."""
        ...


@dataclass(frozen=True, slots=True)
class ValidatedNode:
    """A node that can be started.

    Attributes:
        config: as it was written, with the name of its type and plain parameters.
        type: its ports and parameters.
        reference: where its process finds the definition.
    """

    config: NodeConfig
    type: NodeType
    reference: NodeReference

    @property
    def node_id(self) -> str:
        """Its name in the pipeline."""
        return self.config.node_id


@dataclass(frozen=True, slots=True)
class ValidatedConnection:
    """A connection between ports that exist and fit, with its policy and capacity settled.

    A message of a type that the input does not take can still arrive where the output sends
    several: there, and only there, the reader checks each before its handler gets it.

    Attributes:
        from_node, from_port: where messages come from.
        to_node, to_port: where they go.
        policy: what happens when it is full.
        capacity: how many messages wait in it.
        is_feedback: it closes a cycle: the ends of inputs and of the stream do not pass it.
    """

    from_node: str
    from_port: Port
    to_node: str
    to_port: Port
    policy: PolicyName
    capacity: int
    is_feedback: bool = False

    def __str__(self) -> str:
        return f"{self.from_node}.{self.from_port.name} -> {self.to_node}.{self.to_port.name}"


@dataclass(frozen=True, slots=True)
class SessionPort:
    """A port that nothing in the pipeline is connected to: an input or output of the session."""

    node_id: str
    port: Port

    def __str__(self) -> str:
        return f"{self.node_id}.{self.port.name}"


@dataclass(frozen=True, slots=True)
class ValidatedPipeline:
    """A pipeline that can be started, as plain data.

    Attributes:
        name: for people.
        nodes, connections: in the order they were written.
        inputs, outputs: the ports that nothing is connected to.
    """

    name: str
    nodes: tuple[ValidatedNode, ...]
    connections: tuple[ValidatedConnection, ...]
    inputs: tuple[SessionPort, ...]
    outputs: tuple[SessionPort, ...]
