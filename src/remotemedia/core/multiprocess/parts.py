"""What a session is made of, in one hand: for those who start, restart, add and end its nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from remotemedia.core.multiprocess.node_process import NodeProcess
from remotemedia.core.uncancelled import begin_task

if TYPE_CHECKING:
    import asyncio
    import socket

    from remotemedia.core.multiprocess.config import MultiprocessConfig
    from remotemedia.core.multiprocess.events import EventBus
    from remotemedia.core.multiprocess.launch import Launcher
    from remotemedia.core.multiprocess.owner import Owner
    from remotemedia.core.multiprocess.wiring import Wiring
    from remotemedia.core.validation import ValidatedNode

__all__ = ["SessionParts"]


@dataclass(frozen=True, slots=True)
class SessionParts:
    """What a session is made of. Which parts it has never changes, only what they hold.

    Attributes:
        wiring: its channels.
        launcher: starts and ends its processes; not owned.
        config: of the executor.
        bus: is told all that happens.
        nodes: the nodes, by id; each next process takes the place of the last.
        starts: of processes that are just being started; an end waits for them.
    """

    wiring: Wiring
    launcher: Launcher
    config: MultiprocessConfig
    bus: EventBus
    nodes: dict[str, NodeProcess] = field(default_factory=dict)
    starts: list[asyncio.Task[None]] = field(default_factory=list)

    def put(
        self,
        node: ValidatedNode,
        owner: Owner,
        ends: tuple[socket.socket, socket.socket],
        incarnation: int = 0,
    ) -> NodeProcess:
        """Give a node a process that can be started; the arguments are those of `NodeProcess`."""
        process = NodeProcess(node, self.wiring, self.launcher, owner, ends, incarnation)
        self.nodes[node.node_id] = process
        return process

    def begin(self, process: NodeProcess) -> asyncio.Task[None]:
        """Begin to start a process, which hears itself if that fails."""
        # Begun now and not when it is awaited: an end that comes between the two must know of it.
        start = begin_task(process.start())
        self.starts.append(start)
        start.add_done_callback(self.starts.remove)
        start.add_done_callback(process.note_start)
        return start
