"""Graphs that are built by hand while they run: what `execute_node` and `connect_nodes` decide."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from remotemedia.core.findings import suggested
from remotemedia.core.pipeline import NodeConfig, Pipeline
from remotemedia.core.validation import SessionPort, ValidatedNode, ValidatedPipeline, validate
from remotemedia.errors import ExecutorError, Finding, PipelineError, ResourceLimit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from remotemedia.core.describe import NodeTarget, Port
    from remotemedia.core.executor import NodeContext, NodeExecutor
    from remotemedia.core.multiprocess.config import MultiprocessConfig
    from remotemedia.core.multiprocess.session import Session
    from remotemedia.core.reference import NodeReference
    from remotemedia.core.registry import Registry

__all__ = [
    "MultiprocessHandle",
    "PlannedNode",
    "empty_pipeline",
    "plan_node",
    "require_room",
    "session_of",
]


@dataclass(frozen=True, slots=True)
class MultiprocessHandle:
    """A node that was started by hand; see `NodeHandle`.

    Attributes:
        process_id: of its process as it became ready, which `session.pids` knows if another takes
            its place; that of this one, where it runs in a thread.
        node_id: its id.
        channels: names of the channels that it writes, by output port.
        executor: what runs it.
        session: what it runs in: sends to its inputs, receives from its outputs, ends it.
    """

    process_id: int
    node_id: str
    channels: Mapping[str, str]
    executor: NodeExecutor
    session: Session


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """A node that can be added, and which of its ports are the session's own."""

    node: ValidatedNode
    inputs: tuple[SessionPort, ...]
    outputs: tuple[SessionPort, ...]


def empty_pipeline(name: str) -> ValidatedPipeline:
    """Return a pipeline without nodes: the beginning of a graph that is built by hand."""
    return ValidatedPipeline(name, (), (), (), ())


def plan_node(
    node_type: str | NodeTarget,
    node_id: str,
    context: NodeContext,
    registry: Registry | None,
    config: MultiprocessConfig,
    refer: Callable[[NodeTarget], NodeReference],
) -> PlannedNode:
    """Check a node that is to be added; nothing is started.

    Raises:
        PipelineError: its id, type, parameters or ports are not right.
    """
    written = Pipeline(context.session_id)
    written.add_node(NodeConfig(node_type=node_type, node_id=node_id, config=context.config))
    (node,) = validate(written, registry, config, refer=refer).nodes
    findings: list[Finding] = []
    inputs = _own(node, "input", context.inputs, node.type.inputs, findings)
    outputs = _own(node, "output", context.outputs, node.type.outputs, findings)
    if findings:
        raise PipelineError(context.session_id, tuple(findings))
    return PlannedNode(node, inputs, outputs)


def require_room(session: Session, config: MultiprocessConfig) -> None:
    """Raise `ResourceLimit` if a session has as many nodes as it may."""
    limit = config.max_processes_per_session
    if limit is not None and len(session.nodes) >= limit:
        raise ResourceLimit(
            f"session {session.session_id!r} has {len(session.nodes)} nodes, each a process, and "
            f"the limit is {limit}; raise max_processes_per_session, or set it to None"
        )


def session_of(
    sessions: Mapping[str, Session], from_node: str, to_node: str, session_id: str | None
) -> Session:
    """Return the session that has both nodes.

    Raises:
        ExecutorError: none has, or more than one.
    """
    found = [
        session
        for name, session in sessions.items()
        if session_id in (None, name) and {from_node, to_node} <= session.nodes.keys()
    ]
    if len(found) == 1:
        return found[0]
    both = f"the nodes {from_node!r} and {to_node!r}"
    if found:
        names = ", ".join(session.session_id for session in found)
        raise ExecutorError(f"the sessions {names} have {both}; say which by session_id")
    known = sorted({node for session in sessions.values() for node in session.nodes})
    hint = suggested(from_node if from_node not in known else to_node, known) or "there are none"
    where = "no session has" if session_id is None else f"session {session_id!r} does not have"
    raise ExecutorError(f"{where} {both} ({hint})")


def _own(
    node: ValidatedNode,
    direction: str,
    names: Iterable[str],
    ports: tuple[Port, ...],
    findings: list[Finding],
) -> tuple[SessionPort, ...]:
    known = {port.name: port for port in ports}
    for name in names:
        if name not in known:
            hint = suggested(name, known) or f"it has no {direction}s"
            problem = f"there is no {direction} {name!r}"
            findings.append(Finding(f"node {node.node_id!r}", problem, hint))
    return tuple(SessionPort(node.node_id, known[name]) for name in names if name in known)
