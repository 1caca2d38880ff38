"""What a node's ports are joined to: the ends of its channels, and what is done with each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from remotemedia.core.ports import DATA_TYPES
from remotemedia.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from remotemedia.core.describe import NodeType
    from remotemedia.core.multiprocess import control
    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.channel.endpoint import Endpoint
    from remotemedia.core.multiprocess.channel.publisher import Publisher
    from remotemedia.core.multiprocess.channel.subscriber import Subscriber
    from remotemedia.core.node import Node
    from remotemedia.data.message import Message

__all__ = ["Handler", "NodePorts", "handler_of"]

Handler: TypeAlias = "Callable[[Message], object]"


@dataclass(frozen=True, slots=True)
class NodePorts:
    """The ports of a node as they are when its work begins.

    Attributes:
        endpoint: its channels.
        handlers: what takes a message, by the connection it comes from.
        counted: the connections whose inputs must have ended before ours have.
        feedback: the connections that close a cycle.
        publishers: its output ports, by name.
        host: rung when an input has been worked off by a node without outputs; None elsewhere.
    """

    endpoint: Endpoint
    handlers: dict[Subscriber, Handler]
    counted: list[Subscriber]
    feedback: list[Subscriber]
    publishers: dict[str, Publisher]
    host: Bell | None

    @classmethod
    def join(
        cls, node: Node, kind: NodeType, endpoint: Endpoint, configuration: control.Configure
    ) -> NodePorts:
        """Join the ports of a node to the channels that its configuration names."""
        names = {port.name: port.handler for port in kind.inputs}
        inputs = [(endpoint.subscribers[one.connection], one) for one in configuration.inputs]
        publishers = {one.port: endpoint.publishers[one.channel] for one in configuration.outputs}
        return cls(
            endpoint,
            handlers={
                subscriber: handler_of(node, names[one.port], one) for subscriber, one in inputs
            },
            counted=[subscriber for subscriber, one in inputs if one.is_counted],
            feedback=[subscriber for subscriber, one in inputs if one.is_feedback],
            publishers=publishers,
            host=None if publishers else endpoint.bells[configuration.host],
        )


def handler_of(node: Node, name: str, binding: control.InputBinding) -> Handler:
    """Return the method of a node that takes what comes by a connection.

    Where messages may come that the port does not take, it is one that raises `DataError` for
    these; elsewhere the method itself, and no message is looked at.
    """
    method: Handler = getattr(node, name)
    if not binding.checked:
        return method
    taken = {DATA_TYPES[kind] for kind in binding.checked}

    def take(message: Message) -> object:
        if type(message) not in taken:
            raise DataError(
                f"connection {binding.connection} brought a {type(message).__name__}, and input "
                f"{binding.port!r} takes {' or '.join(binding.checked)}: send it by an output of "
                f"its own, or have the input take it"
            )
        return method(message)

    return take
