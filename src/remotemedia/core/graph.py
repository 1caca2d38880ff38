"""Questions about the graph of a pipeline, answered from (from, to) pairs of node ids."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Edge", "feedback", "find_cycles", "reachable"]

Edge: TypeAlias = tuple[str, str]


def find_cycles(edges: Sequence[Edge]) -> list[list[str]]:
    """Return cycles such that cutting one edge of each leaves none; each ends where it starts."""
    remaining = list(edges)
    cycles = []
    while (cycle := _some_cycle(remaining)) is not None:
        cycles.append(cycle)
        cut = (cycle[-2], cycle[-1])
        remaining = [edge for edge in remaining if edge != cut]
    return cycles


def _some_cycle(edges: Sequence[Edge]) -> list[str] | None:
    core = set(edges)
    while True:  # take off what nothing leads to or that leads nowhere, until only cycles are left
        sources, targets = {source for source, _ in core}, {target for _, target in core}
        kept = {(s, t) for s, t in core if s in targets and t in sources}
        if kept == core:
            break
        core = kept
    following = {source: target for source, target in reversed(edges) if (source, target) in core}
    node = next((source for source, target in edges if (source, target) in core), None)
    if node is None:
        return None
    walk = [node]
    while (node := following[node]) not in walk:
        walk.append(node)
    return [*walk[walk.index(node) :], node]


def feedback(edges: Sequence[Edge], is_firm: Sequence[bool]) -> list[bool]:
    """Say for each edge whether it is feedback: without those, the graph has no cycle.

    Firm edges are never feedback and must have no cycle among themselves. Of the others, in their
    order, an edge is feedback if it would close a cycle with what was kept before it.
    """
    kept: dict[str, list[str]] = defaultdict(list)
    for (source, target), firm in zip(edges, is_firm, strict=True):
        if firm:
            kept[source].append(target)
    answers = []
    for (source, target), firm in zip(edges, is_firm, strict=True):
        closes = not firm and source in _reachable(kept, target)
        if not firm and not closes:
            kept[source].append(target)
        answers.append(closes)
    return answers


def _reachable(following: dict[str, list[str]], start: str) -> set[str]:
    seen, pending = {start}, [start]
    while pending:
        for node in following.get(pending.pop(), ()):
            if node not in seen:
                seen.add(node)
                pending.append(node)
    return seen


def reachable(edges: Iterable[Edge], starts: Iterable[str]) -> set[str]:
    """Return the nodes that are reached from any of these, themselves among them."""
    following: dict[str, list[str]] = defaultdict(list)
    for source, target in edges:
        following[source].append(target)
    return {node for start in starts for node in _reachable(following, start)}
