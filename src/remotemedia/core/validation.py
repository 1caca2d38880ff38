"""Checking a pipeline before anything starts: every mistake at once, or plain data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from remotemedia.core.describe import NodeTarget, Port, describe, is_target
from remotemedia.core.findings import TWO_OF_ID, listed, suggested
from remotemedia.core.graph import feedback, find_cycles
from remotemedia.core.hooks import warn_of_misspelled_hooks
from remotemedia.core.ids import ID_RULE, is_id
from remotemedia.core.multiprocess.config import MultiprocessConfig
from remotemedia.core.multiprocess.plan import MAX_CAPACITY, PolicyName
from remotemedia.core.parameters import bind_parameters, plain_parameters
from remotemedia.core.pipeline import Connection, NodeConfig, Pipeline
from remotemedia.core.pipeline_schema import option_problems
from remotemedia.core.reference import reference_to
from remotemedia.core.registry import (
    NodeTypeNotFound,
    Registry,
    default_registry,
    failed_at,
    module_key,
)
from remotemedia.core.validated import (
    Limits,
    SessionPort,
    ValidatedConnection,
    ValidatedNode,
    ValidatedPipeline,
)
from remotemedia.errors import Finding, NodeDefinitionError, PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from remotemedia.core.graph import Edge
    from remotemedia.core.reference import NodeReference

__all__ = [
    "Limits",
    "SessionPort",
    "ValidatedConnection",
    "ValidatedNode",
    "ValidatedPipeline",
    "validate",
    "validate_connection",
]


def validate(
    pipeline: Pipeline,
    registry: Registry | None = None,
    limits: Limits | None = None,
    *,
    executors: Collection[str] | None = None,
    refer: Callable[[NodeTarget], NodeReference] = reference_to,
    unread: Collection[str] = (),
) -> ValidatedPipeline:
    """Check a pipeline; nothing is started, and modules of nodes are imported at most.

    A method of a node class that looks like a misspelled hook is warned of (`UserWarning`).

    Cycles: one whose connections all block could wait for itself for ever and is refused. In the
    others, connections that do not block are feedback if they close a cycle with the blocking ones
    and those written before them.

    Args:
        pipeline: what was written.
        registry: where names of node types are found; None: the default registry.
        limits: settings of the executor; None: its defaults.
        executors: names of the executors that there are; None: any name is right.
        refer: says where a node type is found; not as usual where no other process has to.
        unread: ids of further nodes, of which something is wrong that the caller knows.

    Returns:
        Plain data: the same for the same pipeline.

    Raises:
        PipelineError: with everything that is wrong.
    """
    limits = limits or MultiprocessConfig()
    checker = _Checker(pipeline, registry or default_registry, limits, refer, unread)
    return checker.check(executors)


def validate_connection(
    pipeline: ValidatedPipeline, connection: Connection, limits: Limits
) -> ValidatedConnection:
    """Check one more connection of a pipeline that passed validation, and may be running.

    Raises:
        PipelineError: with everything that is wrong with it. One of these is that it would make
            feedback of another connection: nodes are told what theirs are when these are made.
    """
    written = Pipeline(pipeline.name)
    checker = _Checker(written, default_registry, limits)
    checker.nodes = {node.node_id: node for node in pipeline.nodes}
    checker.ids = set(checker.nodes)
    checker.connections = list(pipeline.connections)
    checker.check_connection(0, connection)
    checker.check_cycles()
    if not checker.findings:
        checked = checker.result().connections
        checker.check_feedback(checked)
    if checker.findings:
        raise PipelineError(pipeline.name, tuple(checker.findings))
    return checked[-1]


class _Checker:
    """One run of `validate`; collects findings."""

    def __init__(
        self,
        pipeline: Pipeline,
        registry: Registry,
        limits: Limits,
        refer: Callable[[NodeTarget], NodeReference] = reference_to,
        unread: Collection[str] = (),
    ) -> None:
        self.refer = refer
        self.pipeline = pipeline
        self.registry = Registry(registry)
        self.limits = limits
        self.findings: list[Finding] = []
        self.failed_modules: set[str] = set()
        self.ids: set[str] = set()
        self.unread = unread
        self.nodes: dict[str, ValidatedNode] = {}
        self.connections: list[ValidatedConnection] = []
        self.blocking: dict[Edge, int] = {}  # and where it is written, of those that block

    def check(self, executors: Collection[str] | None) -> ValidatedPipeline:
        self.load_modules()
        self.check_size()
        self.ids = {config.node_id for config in self.pipeline.nodes}.union(self.unread)
        seen = set(self.unread)
        for index, config in enumerate(self.pipeline.nodes):
            self.check_node(index, config, is_duplicate=config.node_id in seen)
            self.check_executor(index, config, executors)
            seen.add(config.node_id)
        for index, connection in enumerate(self.pipeline.connections):
            self.check_connection(index, connection)
        self.check_cycles()
        if self.findings:
            raise PipelineError(self.pipeline.name, tuple(self.findings))
        return self.result()

    def find(self, where: str, problem: str, suggestion: str, *place: str | int) -> None:
        self.findings.append(Finding(where, problem, suggestion, self.pipeline.line_of(*place)))

    def load_modules(self) -> None:
        for index, name in enumerate(self.pipeline.modules):
            try:
                self.registry.load_module(name, self.pipeline.folder)
            except ImportError as error:
                self.failed_modules.add(module_key(name))
                at, hint = failed_at(error), ""
                if isinstance(error, ModuleNotFoundError) and at:
                    hint = "import heavy or optional libraries inside of initialize()"
                problem = f"cannot be imported: {error}" + (f" ({at})" if at else "")
                self.find(f"module {name!r}", problem, hint, "modules", index)
            except ValueError as error:
                self.find(f"module {name!r}", str(error), "", "modules", index)

    def check_size(self) -> None:
        count, limit = len(self.pipeline.nodes), self.limits.max_processes_per_session
        if count == 0 and not self.unread:
            self.find("pipeline", "it has no nodes", "add one", "nodes")
        if limit is not None and count > limit:
            self.find(
                "pipeline",
                f"it has {count} nodes, each a process, and the limit is {limit}",
                "raise max_processes_per_session, or set it to None",
                "nodes",
            )

    def check_node(self, index: int, config: NodeConfig, *, is_duplicate: bool) -> None:
        where = f"node {config.node_id!r}"
        place = ("nodes", index)
        if not is_id(config.node_id):
            self.find(where, f"the id must be {ID_RULE}", "", *place, "id")
        if is_duplicate:
            self.find(where, *TWO_OF_ID, *place, "id")
        for option, problem, hint in option_problems(config):
            self.find(f"{where}, {option}", problem, hint, *place, option)
        try:
            target = self.target_of(config)
            described = describe(target)
            warn_of_misspelled_hooks(target)
            reference = self.refer(target)
        except NodeTypeNotFound as error:
            module = str(config.node_type).partition(":")[0]
            if module not in self.failed_modules:  # else that is the finding
                hint = error.suggestion
                if config.node_id in self.registry.names():
                    hint = f"id and type are swapped: the id is {config.node_id!r}, a node type"
                self.find(where, error.problem, hint, *place, "node_type")
            return
        except NodeDefinitionError as error:
            self.find(where, str(error), "", *place, "node_type")
            return
        plain = self.check_parameters(where, target, config, index)
        name = config.node_type if isinstance(config.node_type, str) else described.name
        if not is_duplicate:
            self.nodes[config.node_id] = ValidatedNode(
                replace(config, node_type=name, config=plain),
                replace(described, name=name),
                reference,
            )

    def target_of(self, config: NodeConfig) -> NodeTarget:
        if isinstance(config.node_type, str):
            return self.registry.find(config.node_type)
        if not is_target(config.node_type):
            raise NodeTypeNotFound(
                f"its type is {config.node_type!r}, which is no node",
                "give a registered name, a subclass of Node or an annotated function",
            )
        return config.node_type

    def check_parameters(
        self, where: str, target: NodeTarget, config: NodeConfig, index: int
    ) -> dict[str, object]:
        try:
            plain = plain_parameters(config.config)
        except TypeError as error:
            self.find(where, str(error), "", "nodes", index, "params")
            return {}
        for name, finding in bind_parameters(target, plain, where)[1].items():
            self.find(
                finding.where, finding.problem, finding.suggestion, "nodes", index, "params", name
            )
        return plain

    def check_executor(
        self, index: int, config: NodeConfig, executors: Collection[str] | None
    ) -> None:
        name = config.executor
        if executors is not None and isinstance(name, str) and name not in executors:
            self.find(
                f"node {config.node_id!r}, executor",
                f"there is no executor {name!r}",
                suggested(name, executors) or "register it with the runtime first",
                "nodes",
                index,
                "executor",
            )

    def check_connection(self, index: int, connection: Connection) -> None:
        where = f"connection {connection}"
        place = ("connections", index)
        if wrong := _wrong_names(connection):
            self.find(where, f"{wrong} must be a name", 'such as Connection("a", "out", "b", "in")')
            return
        policy = connection.policy
        if policy is not None and policy not in get_args(PolicyName):
            hint = suggested(str(policy), get_args(PolicyName))
            self.find(where, f"unknown policy {policy!r}", hint, *place, "policy")
        capacity = connection.capacity
        if capacity is not None and not (
            isinstance(capacity, int)
            and not isinstance(capacity, bool)
            and 1 <= capacity <= MAX_CAPACITY
        ):
            problem = f"the capacity is {capacity!r}; it must be from 1 to {MAX_CAPACITY:,}"
            self.find(where, problem, "", *place, "capacity")
        if policy == "latest" and capacity not in (None, 1):
            self.find(
                where,
                f"latest keeps one message, and the capacity is {capacity}",
                "drop the capacity, or use drop_oldest",
                *place,
                "capacity",
            )
        source = self.resolve(
            where, connection.from_node, connection.from_port, "output", *place, "from"
        )
        target = self.resolve(where, connection.to_node, connection.to_port, "input", *place, "to")
        if source is not None and target is not None:
            self.join(where, source, target, connection, index)

    def resolve(
        self, where: str, node: str, port: str | None, direction: str, *place: str | int
    ) -> SessionPort | None:
        """Return the port that an endpoint means; what is wrong with it is found."""
        if port is None:
            prefix, dot, suffix = node.rpartition(".")
            if (
                node in self.ids
                and dot
                and prefix in self.ids
                and self.has(prefix, suffix, direction)
            ):
                self.find(
                    where,
                    f"{node!r} is a node, and also the {direction} {suffix!r} of {prefix!r}",
                    "rename one of the nodes",
                    *place,
                )
                return None
            if node not in self.ids and prefix in self.ids:
                node, port = prefix, suffix
        if node not in self.ids:
            self.find(where, f"there is no node {node!r}", suggested(node, self.ids), *place)
            return None
        if node not in self.nodes:
            return None  # what is wrong with the node is found already
        ports = self.ports(node, direction)
        if port is None:
            return self.only_port(where, node, ports, direction, *place)
        if port not in ports:
            hint = suggested(port, ports) or f"it has no {direction}s"
            self.find(where, f"{node!r} has no {direction} {port!r}", hint, *place)
            return None
        return SessionPort(node, ports[port])

    def only_port(
        self, where: str, node: str, ports: dict[str, Port], direction: str, *place: str | int
    ) -> SessionPort | None:
        default = "out" if direction == "output" else "in"
        if len(ports) == 1:
            default = next(iter(ports))
        if default in ports:
            return SessionPort(node, ports[default])
        if ports:
            problem = f"{node!r} has the {direction}s {listed(ports)}"
            self.find(where, problem, f"say which: {node}.{next(iter(ports))}", *place)
        else:
            self.find(where, f"{node!r} has no {direction}s", "", *place)
        return None

    def ports(self, node: str, direction: str) -> dict[str, Port]:
        described = self.nodes[node].type
        ports = described.outputs if direction == "output" else described.inputs
        return {port.name: port for port in ports}

    def has(self, node: str, port: str, direction: str) -> bool:
        return node in self.nodes and port in self.ports(node, direction)

    def join(
        self,
        where: str,
        source: SessionPort,
        target: SessionPort,
        connection: Connection,
        index: int,
    ) -> None:
        """Add a connection, unless it is there already or its ends do not fit."""
        sent, taken = source.port.kinds, target.port.kinds
        if not set(sent) & set(taken):
            self.find(
                where,
                f"{source} sends {' or '.join(sent)}, and {target} takes {' or '.join(taken)}",
                "put a node between them that converts",
                "connections",
                index,
            )
            return
        ends = (source.node_id, source.port.name, target.node_id, target.port.name)
        for other in self.connections:
            if ends == (other.from_node, other.from_port.name, other.to_node, other.to_port.name):
                self.find(where, "it is there twice", "remove one", "connections", index)
                return
        policy = connection.policy or (
            "block" if self.limits.enable_backpressure else "drop_oldest"
        )
        wish = target.port.capacity or source.port.capacity or self.limits.channel_capacity
        capacity = 1 if policy == "latest" else connection.capacity or wish
        if policy == "block":
            self.blocking[source.node_id, target.node_id] = index
        self.connections.append(
            ValidatedConnection(
                source.node_id, source.port, target.node_id, target.port, policy, capacity
            )
        )

    def check_cycles(self) -> None:
        blocking = [(c.from_node, c.to_node) for c in self.connections if c.policy == "block"]
        for cycle in find_cycles(blocking):
            self.find(
                f"cycle {' -> '.join(cycle)}",
                "every connection of it blocks, so it could wait for itself for ever",
                "give the one that leads back policy drop_oldest, latest or error",
                "connections",
                self.blocking.get((cycle[-2], cycle[-1]), 0),
            )

    def check_feedback(self, checked: Sequence[ValidatedConnection]) -> None:
        """Find the connections that the last one would make feedback, and that are not by now."""
        for before, after in zip(self.connections[:-1], checked, strict=False):
            if after.is_feedback and not before.is_feedback:
                self.find(
                    f"connection {checked[-1]}",
                    f"it blocks and would make feedback of {before}, which is at work and is none",
                    "give it policy drop_oldest, latest or error, so that it is the feedback, or "
                    f"connect it before {before} in another session",
                    "connections",
                )

    def result(self) -> ValidatedPipeline:
        edges = [(c.from_node, c.to_node) for c in self.connections]
        closes = feedback(edges, [c.policy == "block" for c in self.connections])
        connections = tuple(
            replace(connection, is_feedback=is_feedback)
            for connection, is_feedback in zip(self.connections, closes, strict=True)
        )
        sent = {(c.from_node, c.from_port.name) for c in connections}
        taken = {(c.to_node, c.to_port.name) for c in connections}
        return ValidatedPipeline(
            self.pipeline.name,
            tuple(self.nodes.values()),
            connections,
            self.unconnected("input", taken),
            self.unconnected("output", sent),
        )

    def unconnected(
        self, direction: str, connected: Collection[tuple[str, str]]
    ) -> tuple[SessionPort, ...]:
        return tuple(
            SessionPort(node_id, port)
            for node_id in self.nodes
            for name, port in self.ports(node_id, direction).items()
            if (node_id, name) not in connected
        )


def _wrong_names(connection: Connection) -> str:
    """Say which end of a connection is no text; empty if none. What is written in Python may be."""
    nodes = (connection.from_node, connection.to_node)
    ports = (connection.from_port, connection.to_port)
    wrong = [repr(node) for node in nodes if not isinstance(node, str)]
    wrong += [repr(port) for port in ports if not isinstance(port, str | None)]
    return " and ".join(wrong)
