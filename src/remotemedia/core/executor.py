"""What an executor is to whoever builds a graph by hand: the contract's four methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from remotemedia.core.describe import NodeTarget
    from remotemedia.core.multiprocess.config import MultiprocessConfig
    from remotemedia.core.multiprocess.plan import PolicyName

__all__ = ["NodeContext", "NodeExecutor", "NodeHandle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeContext:
    """What a node is executed in.

    Attributes:
        session_id: the session that it joins; one that does not run is started, without nodes.
        config: the node's parameters, plain data.
        inputs: those of its input ports that the session itself sends to.
        outputs: those of its output ports that the session itself receives from. What leaves by
            the others goes to what is connected to them, and nowhere before.
    """

    session_id: str
    config: Mapping[str, object] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class NodeHandle(Protocol):
    """A node that an executor runs."""

    @property
    def process_id(self) -> int:
        """The process that it runs in."""
        ...

    @property
    def node_id(self) -> str:
        """Its id."""
        ...

    @property
    def channels(self) -> Mapping[str, str]:
        """Names of the channels that it writes, by output port."""
        ...

    @property
    def executor(self) -> NodeExecutor:
        """What runs it."""
        ...


class NodeExecutor(Protocol):
    """Runs nodes and connects them, while they work."""

    async def initialize(self, config: MultiprocessConfig | None = None) -> None:
        """Get ready to run nodes.

        Args:
            config: the settings; None are those that it has.

        Raises:
            ExecutorError: it is running by other settings, or was shut down.
        """
        ...

    async def execute_node(
        self, node_type: str | NodeTarget, node_id: str, context: NodeContext
    ) -> NodeHandle:
        """Start a node, and return when it is ready.

        Args:
            node_type: registered name, or the class or function itself.
            node_id: its name in its session.
            context: what it is executed in.

        Raises:
            PipelineError: its type, parameters or ports are not right.
            ExecutorError: it could not be started, or its id is taken.
            ResourceLimit: a limit would be passed.
        """
        ...

    async def connect_nodes(
        self,
        from_node: str,
        from_port: str,
        to_node: str,
        to_port: str,
        *,
        session_id: str | None = None,
        policy: PolicyName | None = None,
        capacity: int | None = None,
    ) -> None:
        """Connect an output to an input, while both may be at work.

        What the output sends after this arrives; what it sent before does not.

        Args:
            from_node: where messages come from.
            from_port: its output.
            to_node: where they go.
            to_port: its input.
            session_id: the session of both; None where only one has such nodes.
            policy: what happens when it is full; None is the executor's choice.
            capacity: how many messages wait in it; None is what the output has room for.

        Raises:
            PipelineError: there is no such port, or the ports do not fit.
            ExecutorError: no session, or more than one, has both nodes, or one has finished.
            ChannelError: the output has no room for another connection.
        """
        ...

    async def shutdown(self) -> None:
        """End everything. Twice is harmless."""
        ...
