"""A pipeline as it is written: nodes and connections, plain data that is checked by `validate`.

pipeline = Pipeline("shout").add_node("upper", Upper).add_node("bang", "suffix", end="!")
pipeline.connect("upper", "bang")
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from remotemedia.core.describe import NodeTarget
    from remotemedia.core.multiprocess.plan import PolicyName

__all__ = ["Connection", "NodeConfig", "OnError", "Pipeline", "Restart"]

OnError: TypeAlias = Literal["fail", "skip"]
"""What an exception in a handler does: end the session, or cost that one message."""


@dataclass(frozen=True, slots=True)
class Restart:
    """Whether a crashed node is started again, in a process that takes the place of the last.

    Not while its session starts or ends, and not where nodes run in threads.

    Attributes:
        policy: "on_failure" restarts, "never" ends the session (the default everywhere).
        max_restarts: how often within the window; one more crash ends the session.
        window_seconds: length of the window.
        backoff_seconds: pause before the first restart and the longest pause; it doubles.
    """

    policy: Literal["never", "on_failure"] = "never"
    max_restarts: int = 3
    window_seconds: float = 30.0
    backoff_seconds: tuple[float, float] = (0.1, 5.0)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node of a pipeline and how its process is run.

    Attributes:
        node_type: registered name, `module:Class`, or the class or function itself.
        node_id: its name in the pipeline: 1 to 64 letters (A-Z, a-z), digits, _ . -
        executor: name of the executor that runs it; None: the runtime's default.
        config: its parameters, plain data.
        python_executable: interpreter to run it with; None: the executor's.
        environment: variables to set for it. Unless they or what it inherits say how many threads
            OpenBLAS is to have, numpy's linear algebra, its OPENBLAS_NUM_THREADS is 1.
        inherit_environment: whether it sees the variables of this process.
        working_directory: None: that of this process.
        cpu_affinity: CPUs that it may run on; None: all.
        memory_limit_bytes: address space that it may use (RLIMIT_AS), or less where this process is
            limited to less; None: no limit of its own.
        cuda_visible_devices: value of CUDA_VISIBLE_DEVICES, such as "0"; None: unchanged.
        restart: whether it is started again after a crash.
        on_error: what an exception in a handler does.
        stall_timeout_seconds: how long one message may take it, without the time that it waits for
            room downstream, up to 1e9; then its process is killed, and the error says where it was.
            None: for ever. Not for sources, and not where nodes run in threads.
    """

    node_type: str | NodeTarget
    node_id: str
    executor: str | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    python_executable: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    inherit_environment: bool = True
    working_directory: str | None = None
    cpu_affinity: tuple[int, ...] | None = None
    memory_limit_bytes: int | None = None
    cuda_visible_devices: str | None = None
    restart: Restart = field(default_factory=Restart)
    on_error: OnError = "fail"
    stall_timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        _check_id(self.node_id, self.node_type, "NodeConfig(node_type=..., node_id=...)")


@dataclass(frozen=True, slots=True)
class Connection:
    """From an output port to an input port.

    With no port given, `from_node` and `to_node` may be written "node" or "node.port", and "node"
    means its only port, or its `out` and `in`.

    Attributes:
        from_node, from_port: where messages come from.
        to_node, to_port: where they go.
        policy: what happens when it is full; None: block, or drop_oldest without backpressure.
        capacity: how many messages wait in it; None: what the ports wish, else the executor's.
    """

    from_node: str
    from_port: str | None
    to_node: str
    to_port: str | None
    policy: PolicyName | None = None
    capacity: int | None = None

    def __str__(self) -> str:
        source = self.from_node if self.from_port is None else f"{self.from_node}.{self.from_port}"
        target = self.to_node if self.to_port is None else f"{self.to_node}.{self.to_port}"
        return f"{source} -> {target}"


def _check_id(node_id: object, node_type: object, form: str) -> None:
    """Raise `TypeError` where the id of a node is none, perhaps its type."""
    if not isinstance(node_id, str):
        is_swapped = callable(node_id) and isinstance(node_type, str)
        hint = "id and type are swapped" if is_swapped else "it must be a str"
        raise TypeError(f"the id of a node is {node_id!r}; {hint}: {form}")


class Pipeline:
    """Nodes and connections in the order they were added. Nothing is checked before `validate`.

    Args:
        name: for people: it appears in errors, logs and process titles.
        modules: Python files and dotted names whose nodes it may use as `module:Class`.
        folder: what `modules` is relative to; None: the working directory.
    """

    def __init__(
        self,
        name: str = "pipeline",
        *,
        modules: tuple[str, ...] = (),
        folder: Path | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of a pipeline is {name!r}; it must be a str")
        if isinstance(modules, str):
            raise TypeError(f"modules is {modules!r}; it must be a tuple: modules=({modules!r},)")
        self.name = name
        self.modules = modules
        self.folder = folder
        self.lines: Mapping[tuple[str | int, ...], int] = {}
        self._nodes: list[NodeConfig] = []
        self._connections: list[Connection] = []

    @property
    def nodes(self) -> tuple[NodeConfig, ...]:
        """The nodes, in the order they were added."""
        return tuple(self._nodes)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections, in the order they were added."""
        return tuple(self._connections)

    @overload
    def add_node(self, node: NodeConfig, /) -> Pipeline: ...

    @overload
    def add_node(self, node: str, node_type: str | NodeTarget, /, **config: object) -> Pipeline: ...

    def add_node(
        self,
        node: NodeConfig | str,
        node_type: str | NodeTarget | None = None,
        /,
        **config: object,
    ) -> Pipeline:
        """Add a node: a `NodeConfig`, or its id, its type and its parameters.

        Returns:
            This pipeline, to go on with.

        Raises:
            TypeError: the arguments are neither of the two.
        """
        if isinstance(node, NodeConfig):
            if node_type is not None or config:
                raise TypeError("a NodeConfig says everything itself: add_node(NodeConfig(...))")
            self._nodes.append(node)
        elif node_type is None:
            if not isinstance(node, str):
                name = getattr(node, "__name__", "NodeType")
                raise TypeError(f'add_node needs an id first: add_node("{name.lower()}", {name})')
            raise TypeError(f"add_node({node!r}) needs a node type: add_node({node!r}, NodeType)")
        else:
            _check_id(node, node_type, "add_node(node_id, node_type)")
            self._nodes.append(NodeConfig(node_type, node, config=config))
        return self

    @overload
    def connect(self, source: Connection, /) -> Pipeline: ...

    @overload
    def connect(
        self,
        source: str,
        target: str,
        /,
        *,
        policy: PolicyName | None = None,
        capacity: int | None = None,
    ) -> Pipeline: ...

    def connect(
        self,
        source: Connection | str,
        target: str | None = None,
        /,
        *,
        policy: PolicyName | None = None,
        capacity: int | None = None,
    ) -> Pipeline:
        """Connect "node" or "node.port" to "node" or "node.port"; both may be added later.

        Args:
            source: where messages come from, or a whole `Connection`.
            target: where they go.
            policy: what happens when it is full.
            capacity: how many messages wait in it.

        Returns:
            This pipeline, to go on with.

        Raises:
            TypeError: there is no target, or an end is not the id of a node.
        """
        if isinstance(source, Connection):
            self._connections.append(source)
        elif not isinstance(source, str) or not isinstance(target, str | None):
            raise TypeError(
                f"connect({source!r}, {target!r}) takes the ids of nodes, with a port if need be: "
                f'connect("a.out", "b")'
            )
        elif target is None:
            raise TypeError(f'connect({source!r}) needs a target: connect({source!r}, "node")')
        else:
            self._connections.append(Connection(source, None, target, None, policy, capacity))
        return self

    def line_of(self, *place: str | int) -> int | None:
        """Return the line that something was written on in the pipeline's file, None if nowhere.

        Args:
            *place: the way to it, such as "nodes", 0, "params", "model"; the line of what holds it
                is given for what was not written at all.
        """
        for end in range(len(place), 0, -1):
            if place[:end] in self.lines:
                return self.lines[place[:end]]
        return None

    def __repr__(self) -> str:
        nodes = ", ".join(node.node_id for node in self._nodes)
        return f"Pipeline({self.name!r}, nodes=[{nodes}], connections={len(self._connections)})"
