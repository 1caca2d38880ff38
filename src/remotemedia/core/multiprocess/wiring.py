"""The channels of one session: which there are, who has which end, and what each node gets."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import msgspec

from remotemedia.core.multiprocess import control, flow
from remotemedia.core.multiprocess.channel.registry import Channel, ChannelRegistry
from remotemedia.core.multiprocess.plan import Policy, SpareTaps
from remotemedia.core.multiprocess.tally import Tally, endpoint_of
from remotemedia.core.multiprocess.transport import segments
from remotemedia.core.multiprocess.transport.ledger import EndpointWord
from remotemedia.core.multiprocess.transport.pages import require_free

if TYPE_CHECKING:
    from collections.abc import Sequence

    from remotemedia.core.describe import Port
    from remotemedia.core.multiprocess.channel.bell import Bell
    from remotemedia.core.multiprocess.channel.endpoint import Endpoint
    from remotemedia.core.multiprocess.channel.ticket import Ticket
    from remotemedia.core.multiprocess.config import MultiprocessConfig
    from remotemedia.core.multiprocess.transport.base import Transport
    from remotemedia.core.validation import (
        SessionPort,
        ValidatedConnection,
        ValidatedNode,
        ValidatedPipeline,
    )

__all__ = ["HOST", "NewConnection", "Wiring"]

HOST = "session"
"""Name of the endpoint that is the session itself; those of nodes begin with "node "."""

GROWN_TAPS = 4
GROWN_CAPACITY = 32
"""How many connections an output of a node that was added later takes, and of what capacity."""


@dataclass(frozen=True, slots=True)
class NewConnection:
    """What nodes are to be told of a connection that comes while the session runs, in this order.

    Attributes:
        name: of the connection.
        counts: by whom inputs of the session come now that did not before: reader and connection.
        join: for the node that reads.
        attach: for the node that writes.
    """

    name: str
    counts: tuple[tuple[str, control.Count], ...]
    join: control.Join
    attach: control.Attach


class Wiring:
    """Creates and describes the channels of one session.

    An output port is one channel. An input port without a connection is written by the session, an
    output port without one is read by it.

    Args:
        pipeline: as it was validated.
        session_id: of the session.
        transport: carries the samples.
        config: of the executor.

    Attributes:
        pipeline: it grows where nodes are added by hand.
        registry: of the session's channels.
        host_inputs: channels that the session writes, by node and input port.
        host_outputs: node and output port, by the connection that the session reads.
        tally: what the ledger says of the nodes.

    Raises:
        ResourceLimit: the ledger does not hold so many connections.
        SharedMemoryExhausted: there is no memory for them.
    """

    def __init__(
        self,
        pipeline: ValidatedPipeline,
        session_id: str,
        transport: Transport,
        config: MultiprocessConfig,
    ) -> None:
        registry = ChannelRegistry(
            transport, scope=_scope(session_id), spin_ns=config.spin_microseconds * 1000
        )
        self.pipeline = pipeline
        self.registry = registry
        self.host_inputs: dict[tuple[str, str], str] = {}
        self.host_outputs: dict[str, tuple[str, str]] = {}
        self._channels: dict[tuple[str, str], Channel] = {}  # by node and output port
        self._host_channels: dict[tuple[str, str], Channel] = {}  # by node and input port
        self.tally = Tally(registry, self._channels, self._host_channels)
        self.session_id = session_id
        self._transport = transport
        self._dead_pids: dict[str, set[int]] = {}  # by node; not yet the registry's to free
        self._config = config
        self._inputs: dict[str, list[control.InputBinding]] = {}
        self._outputs: dict[str, list[control.OutputBinding]] = {}
        try:
            self._plan()
        except BaseException:
            registry.cleanup()
            raise

    def _plan(self) -> None:
        self.registry.add_endpoint(HOST)
        for node in self.pipeline.nodes:
            self._add_ends(node, SpareTaps())
        reached = flow.reached(self.pipeline)
        for one in self.pipeline.connections:
            channel = self._channels[one.from_node, one.from_port.name]
            connection = self._join(channel, one.to_node, one.to_port, one.policy, one.capacity)
            self._bind(one, connection, is_counted=_is_counted(one, reached))
        for one_end in self.pipeline.inputs:
            self._add_host_input(one_end)
        for one_end in self.pipeline.outputs:
            self._add_host_output(one_end)

    def add_node(
        self,
        node: ValidatedNode,
        inputs: tuple[SessionPort, ...],
        outputs: tuple[SessionPort, ...],
    ) -> None:
        """Plan a node that comes while the session runs, and which of its ports are the session's.

        Its output ports have more room for connections that come later than those planned with the
        session have.
        """
        capacity = min(self._config.channel_capacity, GROWN_CAPACITY)
        self._add_ends(node, SpareTaps(GROWN_TAPS, capacity, self._config.max_held_messages))
        for one in inputs:
            self._add_host_input(one)
        for one in outputs:
            self._add_host_output(one)
        before = self.pipeline
        self.pipeline = replace(
            before,
            nodes=(*before.nodes, node),
            inputs=(*before.inputs, *inputs),
            outputs=(*before.outputs, *outputs),
        )

    def connect(self, one: ValidatedConnection, capacity: int | None) -> NewConnection:
        """Plan a connection that comes while the session runs.

        Args:
            one: as it was validated.
            capacity: what was asked for; None is what the output port has room for.

        Raises:
            ChannelError: the output port has no room for it.
        """
        channel = self._channels[one.from_node, one.from_port.name]
        policy = Policy(one.policy)
        plan = self.registry.connect(
            channel,
            endpoint_of(one.to_node),
            name=str(one),
            policy=policy,
            capacity=1 if policy is Policy.LATEST else capacity,
            is_told=True,
        )
        before, reached_before = self.pipeline.connections, flow.reached(self.pipeline)
        self.pipeline = replace(self.pipeline, connections=(*before, one))
        reached = flow.reached(self.pipeline)
        counts = tuple(
            (other.to_node, control.Count(str(other)))
            for other in before
            if _is_counted(other, reached) and not _is_counted(other, reached_before)
        )
        # For the next process of a node that is restarted.
        binding = self._bind(one, plan.name, is_counted=_is_counted(one, reached))
        for reader, count in counts:
            self._inputs[reader] = [
                msgspec.structs.replace(binding, is_counted=True)
                if binding.connection == count.connection
                else binding
                for binding in self._inputs[reader]
            ]
        encode = msgspec.msgpack.encode
        raw = msgspec.Raw(encode(plan))
        join = control.Join(
            msgspec.Raw(encode(channel.plan)),
            raw,
            binding,
            one.to_port.handler,
            self.bell(one.from_node).asleep,
        )
        attach = control.Attach(channel.name, raw, self.bell(one.to_node).asleep)
        return NewConnection(plan.name, counts, join, attach)

    def has_planned(self, node_id: str) -> bool:
        """Whether channels of a node were planned, be it that not all of them could be."""
        return node_id in self._inputs

    def bell(self, node_id: str) -> Bell:
        """Return the doorbell of a node; its descriptor stays ours."""
        return self.registry.bell(endpoint_of(node_id))

    def channels_of(self, node_id: str) -> dict[str, str]:
        """Return the channel of each output port of a node."""
        return {one.port: one.channel for one in self._outputs[node_id]}

    def _add_ends(self, node: ValidatedNode, taps: SpareTaps) -> None:
        self.registry.add_endpoint(endpoint_of(node.node_id))
        self._inputs[node.node_id] = []
        self._outputs[node.node_id] = []
        for port in node.type.outputs:
            self._add_output(node, port, taps)

    def _add_host_input(self, one: SessionPort) -> None:
        name = f"input {one}"
        channel = self.registry.create_channel(name, writer=HOST, taps=SpareTaps())
        self._host_channels[one.node_id, one.port.name] = channel
        self.host_inputs[one.node_id, one.port.name] = name
        connection = self._join(channel, one.node_id, one.port, None, one.port.capacity)
        binding = control.InputBinding(connection, one.port.name, is_counted=True)
        self._inputs[one.node_id].append(binding)

    def _add_host_output(self, one: SessionPort) -> None:
        connection = self.registry.connect(
            self._channels[one.node_id, one.port.name],
            HOST,
            policy=self._policy(None),
            capacity=one.port.capacity or self._config.channel_capacity,
            max_held=self._config.max_held_messages,
        )
        self.host_outputs[connection.name] = one.node_id, one.port.name

    def _add_output(self, node: ValidatedNode, port: Port, taps: SpareTaps) -> None:
        name = f"{node.node_id}.{port.name}"
        self._channels[node.node_id, port.name] = self.registry.create_channel(
            name,
            writer=endpoint_of(node.node_id),
            max_message_bytes=port.max_message_bytes,
            taps=taps,
        )
        self._outputs[node.node_id].append(control.OutputBinding(port.name, name))

    def _join(
        self,
        channel: Channel,
        node_id: str,
        port: Port,
        policy: str | None,
        capacity: int | None,
    ) -> str:
        chosen = self._policy(policy)
        connection = self.registry.connect(
            channel,
            endpoint_of(node_id),
            name=f"{channel.name} -> {node_id}.{port.name}",
            policy=chosen,
            capacity=1 if chosen is Policy.LATEST else capacity or self._config.channel_capacity,
            max_held=self._config.max_held_messages,
        )
        return connection.name

    def _bind(
        self, one: ValidatedConnection, name: str, *, is_counted: bool
    ) -> control.InputBinding:
        taken = one.to_port.kinds
        checked = () if set(one.from_port.kinds) <= set(taken) else taken
        binding = control.InputBinding(name, one.to_port.name, is_counted, one.is_feedback, checked)
        self._inputs[one.to_node].append(binding)
        return binding

    def _policy(self, policy: str | None) -> Policy:
        if policy is not None:
            return Policy(policy)
        return Policy.BLOCK if self._config.enable_backpressure else Policy.DROP_OLDEST

    def require_memory(self) -> None:
        """Check that shared memory holds all ports, as they are when they open, before any does.

        That is all there will ever be for ports that declare `max_message_bytes`. The others grow
        by what is sent, and each growth is checked by itself.

        Raises:
            SharedMemoryExhausted: it does not; with what the largest ports need.
        """
        if not self.registry.crosses_processes:
            return
        needed: dict[str, int] = {}
        for port in self.tally.ports():
            queues = len(port.connections) * segments.connection_bytes(port)
            needed[port.name] = segments.first_segment_bytes(port) + queues
        largest = sorted(needed, key=lambda name: needed[name], reverse=True)[:3]
        told = ", ".join(f"{name} {needed[name]:,}" for name in largest)
        more = "" if len(needed) <= len(largest) else ", ..."
        what = f"session {self.session_id!r} (bytes by port: {told}{more})"
        require_free(sum(needed.values()), what)

    async def wait_free(self) -> None:
        """Wait, before channels are opened, as `Transport.wait_free` does."""
        await self._transport.wait_free()

    def open_host(self) -> Endpoint:
        """Open the session's own end of its channels, in this process."""
        return self.registry.open(HOST)

    def open_node(self, node_id: str) -> Endpoint:
        """Open a node's end of its channels, in this process."""
        return self.registry.open(endpoint_of(node_id))

    def configure(
        self, node: ValidatedNode, stall_timeout_seconds: float | None
    ) -> tuple[control.Configure, Sequence[int]]:
        """Write down what a node's runner needs, and the descriptors that go with it."""
        ticket: Ticket | None = None
        if self.registry.crosses_processes:
            ticket = self.registry.ticket(endpoint_of(node.node_id), rings=(HOST,))
        encode = msgspec.msgpack.encode
        configuration = control.Configure(
            session_id=self.session_id,
            node_id=node.node_id,
            reference=msgspec.Raw(encode(node.reference)),
            parameters=msgspec.Raw(encode(node.config.config)),
            ticket=msgspec.Raw(encode(ticket)),
            inputs=tuple(self._inputs[node.node_id]),
            outputs=tuple(self._outputs[node.node_id]),
            host=self.registry.index(HOST),
            on_error=node.config.on_error,
            spin_ns=self._config.spin_microseconds * 1000,
            busy_every_ns=int((stall_timeout_seconds or 0) * 1e9),
        )
        return configuration, () if ticket is None else ticket.fds

    def note_exit(self, node_id: str, pid: int) -> None:
        """A process of a node ended. What it did not give back is freed later.

        One that was killed has given back nothing; one that exited all but the messages that its
        node still held.
        """
        if pid != os.getpid():  # else the node ran in a thread
            self._dead_pids.setdefault(node_id, set()).add(pid)

    def close(self) -> None:
        """Close the channels, and free what dead processes held: of this session, of no other."""
        self.registry.cleanup()
        pids = set().union(*self._dead_pids.values())
        if pids:
            self._transport.free_leftovers(pids)

    def vacate(self, node_id: str) -> int:
        """Have all wait for the next process of a node; see `ChannelRegistry.endpoint_restarts`."""
        processed = self.registry.ledger.words[self.tally.slot(node_id) + EndpointWord.PROCESSED]
        # The registry's to free, from here on. Not those of other nodes: until they are vacated
        # too, it does not know that their readers have something to take from a dead process.
        pids = self._dead_pids.pop(node_id, set())
        return self.registry.endpoint_restarts(endpoint_of(node_id), processed=processed, pids=pids)


def _is_counted(one: ValidatedConnection, reached: set[str]) -> bool:
    """Whether the end of an input waits for a connection."""
    return one.from_node in reached and not one.is_feedback


def _scope(session_id: str) -> str:
    """Make a name that no other session has, nor an earlier one of the same name."""
    return f"{session_id} {next(_numbers)}"


_numbers = itertools.count(1)
