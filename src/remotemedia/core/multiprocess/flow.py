"""How messages flow between the nodes of a session: questions to the graph of its pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from remotemedia.core.graph import reachable

if TYPE_CHECKING:
    from remotemedia.core.validation import ValidatedPipeline

__all__ = ["is_fed", "is_single_way", "leads_to", "makers", "reached", "writers_of"]


def reached(pipeline: ValidatedPipeline) -> set[str]:
    """Return the nodes that inputs of the session reach; the others are fed by sources alone.

    Those never say that they have finished with an input.
    """
    return reachable(_forward(pipeline), {one.node_id for one in pipeline.inputs})


def makers(pipeline: ValidatedPipeline) -> set[str]:
    """Return the nodes that outputs of the session come of."""
    backward = [(reader, writer) for writer, reader in _forward(pipeline)]
    return reachable(backward, {one.node_id for one in pipeline.outputs})


def is_fed(pipeline: ValidatedPipeline, node_id: str) -> bool:
    """Whether anything is connected to a node."""
    return any(one.to_node == node_id for one in pipeline.connections) or any(
        one.node_id == node_id for one in pipeline.inputs
    )


def writers_of(pipeline: ValidatedPipeline, node_id: str) -> set[str]:
    """Return the nodes that write to a node."""
    return {one.from_node for one in pipeline.connections if one.to_node == node_id}


def leads_to(pipeline: ValidatedPipeline, node_id: str) -> set[tuple[str, str]]:
    """Return the inputs of the session, as node and port, from which a node is reached."""
    edges = [(one.to_node, one.from_node) for one in pipeline.connections]
    sources = reachable(edges, {node_id})
    return {(one.node_id, one.port.name) for one in pipeline.inputs if one.node_id in sources}


def is_single_way(pipeline: ValidatedPipeline, node_id: str) -> bool:
    """Whether inputs of the session reach a node by one way only, and so in their order."""
    sources = [one.from_node for one in pipeline.connections if one.to_node == node_id]
    count = len(sources) + sum(one.node_id == node_id for one in pipeline.inputs)
    return count == 1 and all(is_single_way(pipeline, source) for source in sources)


def _forward(pipeline: ValidatedPipeline) -> list[tuple[str, str]]:
    """Return which node writes to which, without what closes a cycle."""
    return [(one.from_node, one.to_node) for one in pipeline.connections if not one.is_feedback]
